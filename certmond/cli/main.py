"""The command line of certmond: commands, options and exit codes.

The exit codes are those of monitoring plugins: 0 OK, 1 warning, 2 critical, 3 unknown. Each command imports only the
modules that the command needs. Therefore, `version` is fast, and `serve` does not load cryptography.
"""

from __future__ import annotations

import atexit
import gc
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from certmond.cli.completion import certificate_names, completion, explained_names
from certmond.cli.help import EPILOG, GroupedCommands
from certmond.cli.options import (
    UNKNOWN,
    assess_node,
    at_option,
    display,
    global_options,
    globals_of,
    output_file_option,
    output_option,
    refuse_unread_files,
    runtime_option,
    selected,
)
from certmond.cli.stdio import output_fails, prepare
from certmond.cli.version_option import version_option, version_text
from certmond.daemon.python_gc import uncollected
from certmond.errors import CertmondError, NotRunningError, defect
from certmond.pki.findings import printable
from certmond.redaction import redacted

_SHORT = frozenset({"check", "config", "discover", "explain", "forecast", "metrics", "plan", "status"})
"""Commands that only read, and end after at most one pass."""


@click.group(
    cls=GroupedCommands,
    deferred={
        "archive": "certmond.cli.archive:archive",
        "config": "certmond.cli.configuration:config",
        "forecast": "certmond.cli.plan:forecast",
        "init": "certmond.cli.pki_init:init",
        "plan": "certmond.cli.plan:plan",
        "renew": "certmond.cli.renew:renew",
        "restart": "certmond.cli.renew:restart",
        "root-ca": "certmond.cli.root_ca.inspection:root_ca",
    },
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@global_options
@version_option
@click.pass_context
def cli(context: click.Context) -> None:
    """Watch, verify and renew the certificates of this Kubernetes node."""
    if context.invoked_subcommand in _SHORT:
        context.with_resource(uncollected())  # loaded modules are never garbage, and the process ends soon


@cli.command()
@global_options
@runtime_option
@click.option(
    "--log", type=click.Choice(("auto", "journal", "plain", "json")), default="auto", help="Format of log events"
)
@click.pass_context
def run(context: click.Context, runtime_dir: Path, log: str) -> None:
    """Run the daemon: watch and assess the node, and in enforce mode renew certificates that are due."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))  # until the daemon has its handler of this signal
    gc.disable()  # loaded modules are never garbage; the daemon enables the collection after its first pass
    options = globals_of(context)
    load = options.start_loading()
    from certmond.daemon.loop import Daemon
    from certmond.notify.event_log import Journal
    from certmond.notify.library_log import log_to

    journal = Journal(log, verbose=options.verbose)
    log_to(journal)
    daemon = Daemon(load, root=options.root, runtime_dir=runtime_dir, state_dir=options.state_dir, journal=journal)
    sys.exit(daemon.run())


@cli.command()
@global_options
@runtime_option
@click.option(
    "--listen", metavar="ADDR:PORT", help="Listen on this address instead of the configured address [127.0.0.1:9964]"
)
@click.option(
    "--web-config",
    type=click.Path(path_type=Path),
    help="Read the settings for TLS, client certificates and passwords from this file instead of the configured "
    "file (see docs/web.md) [none]",
)
@click.pass_context
def serve(context: click.Context, runtime_dir: Path, listen: str | None, web_config: Path | None) -> None:
    """Serve the output of the daemon over HTTP: a page at /, /metrics, /healthz, /readyz, /api/v1/status,
    /api/v1/activity.
    """
    from certmond.expose.http import server
    from certmond.notify.event_log import Journal
    from certmond.notify.library_log import log_to

    log_to(Journal("serve"))
    if listen is None or web_config is None:
        configured = globals_of(context).serving()
        ignored = "`certmond serve` ignores this problem, because it uses only `listen` and `web_config`"
        for problem in configured.problems:
            click.echo(f"certmond: {problem}; {ignored}", err=True)
        listen = listen or configured.listen
        web_config = web_config or (Path(configured.web_config) if configured.web_config else None)
    gate = None
    if web_config is not None:
        from certmond.expose.http.access_control import Gate  # imports OpenSSL, bcrypt and pydantic

        gate = Gate(web_config)
    sys.exit(server.serve(runtime_dir, listen, gate))


@cli.command()
@global_options
@click.argument("names", nargs=-1, metavar="NAME…", shell_complete=certificate_names)
@at_option
@output_option
@click.pass_context
def check(context: click.Context, names: tuple[str, ...], at: datetime | None, output: str) -> None:
    """Check the node once without the daemon. Exit: 0 nothing above info; 1 a warning; 2 a critical finding; 3 unknown.

    With NAME, print only these certificates, and exit with the status of their findings.

    If a certificate and its key do not match, another process might still be writing these files. In this case, unless
    --at is given, certmond waits up to two seconds and reads both files again.
    """
    options = globals_of(context)
    load = options.start_loading()
    from certmond.cli.fitted_tables import status_table
    from certmond.config.renewal_policy import policy_of
    from certmond.daemon import enforcer  # noqa: F401 - import it meanwhile
    from certmond.discovery.distribution import advice, hint
    from certmond.expose.documents.status import anchor_entry, status_document
    from certmond.pki.planning.forecast import next_event

    config = load()
    assessment = assess_node(config, options.root, at, state_dir=options.state_dir, check_api=True)
    following, whole = next_event(assessment, policy_of(config)), assessment
    if names:
        assessment, following = selected(assessment, names), None  # the next event of the node can be another one
    if assessment.catalogued or output in {"json", "yaml"}:
        document = status_document(assessment, config.mode, following)
        if names:  # the table names the CA of a certificate by its entry
            document["trust_anchors"] = [anchor_entry(status) for status in whole.trust_anchors]
        display(document, output, status_table, options.root)
    refuse_unread_files(assessment, options.root)
    if not assessment.catalogued:
        raise CertmondError(
            f"no certificate of the profile {config.profile!r} exists below {options.root}; "
            f"{advice(options.root, config.profile)}"
        )
    if better := hint(options.root, config.profile):
        click.echo(f"certmond: {better}", err=True)
    sys.exit(assessment.severity.rank if assessment.severity else 0)


@cli.command()
@global_options
@runtime_option
@output_option
@click.pass_context
def status(context: click.Context, runtime_dir: Path, output: str) -> None:
    """Print the last assessment of the running daemon. Exit: the codes of `check`; 3 also if no daemon runs.

    The daemon of this host watches /. With --root, give the --runtime-dir of the daemon that watches this directory.
    """
    from certmond.cli.fitted_tables import status_table
    from certmond.expose.documents.status_reader import read_status
    from certmond.expose.http.heartbeat_check import silence

    given = context.get_parameter_source("runtime_dir") is not ParameterSource.DEFAULT
    if (root := globals_of(context).root) != "/" and not given:
        raise CertmondError(
            f"the daemon of this host does not watch {root}; to check {root} without a daemon, run: certmond check"
        )
    document = read_status(runtime_dir)
    display(document, output, status_table, root)
    if reason := silence(runtime_dir):
        raise NotRunningError(f"the assessment of {document['taken_at']} might be outdated; {reason}")
    if not document.get("coverage", {}).get("catalogued", 1):  # an older daemon does not write it
        raise CertmondError(
            "the daemon finds no certificate of its profile; to find the profile that fits, run: certmond check"
        )
    sys.exit(_exit_code(document))


@cli.command()
@global_options
@at_option
@output_file_option
@click.pass_context
def metrics(context: click.Context, at: datetime | None, output_file: Path | None) -> None:
    """Check the node once and print the metrics, for the textfile collector of node_exporter."""
    from certmond.cli.output_file import replace_file
    from certmond.expose.metrics.exposition import Renderer
    from certmond.expose.metrics.own_metrics import Telemetry
    from certmond.expose.metrics.x509_exporter_names import Compatible
    from certmond.pki.findings import printable

    options = globals_of(context)
    config = options.load()
    assessment = assess_node(config, options.root, at, state_dir=options.state_dir)
    own = Telemetry(config.mode).text() + (Compatible().text(assessment) if config.compatibility else "")
    text = Renderer().metrics(assessment, own)
    if output_file is not None:
        replace_file(output_file, text.encode(errors="backslashreplace"))
        return
    if sys.stdout.isatty():  # a terminal must not interpret control characters in names
        text = "\n".join(map(printable, text.split("\n")))
    click.echo(text, nl=False, color=True)  # otherwise click removes color codes, even from a name


@cli.command()
@global_options
@click.pass_context
def discover(context: click.Context) -> None:
    """Print a configuration for this node: the profile of its distribution, or the configured profile, and the
    differences from this profile.
    """
    from certmond.config.shipped_profiles import DEFAULT_PROFILE
    from certmond.discovery.configuration import discover as discover_configuration
    from certmond.discovery.distribution import distributions

    options = globals_of(context)
    (config, tree), found = options.load_tree(), distributions(options.root)
    named = "profile" in tree.fields
    if len(found) == 1 and not named:  # no profile is configured, and one distribution fits
        config = replace(options, profile=found[0].profile).load()
    for each in found:
        if len(found) > 1 or {each.profile, config.profile} != {DEFAULT_PROFILE}:
            click.echo(f"# {each}: `profile: {each.profile}`")
    click.echo(discover_configuration(config, options.root), nl=False)


@cli.command()
@click.argument("reason", required=False, shell_complete=explained_names)
def explain(reason: str | None) -> None:
    """Print the section of the runbook about a REASON or an alert: meaning, inspection and remedy.

    Without REASON, list all sections, each with its first sentence.
    """
    from certmond.cli.runbook_search import contents
    from certmond.cli.runbook_search import explain as look_up

    click.echo(contents() if reason is None else look_up(reason))


@cli.command()
@click.option("--keep", is_flag=True, help="Keep the directory of the demonstration")
def demo(keep: bool) -> None:
    """Demonstrate faults of a node's certificates and their repair, in a temporary directory."""
    from certmond.demo import run as run_demo

    sys.exit(run_demo(keep=keep))


@cli.command()
def version() -> None:
    """Print the version."""
    click.echo(version_text())


cli.add_command(completion)


def _exit_code(document: dict[str, Any]) -> int:
    ranks = {"info": 0, "warning": 1, "critical": 2}
    found = [item for entry in document["certificates"] for item in entry["findings"]] + document["findings"]
    return max((ranks[item["severity"]] for item in found), default=0)


def main() -> None:
    """Run the command. After an error, print one message to stderr and exit with the code 3.

    An interrupt causes the exit code 130. A bug causes the exit code 3, because the code 1 means a warning. The
    traceback of a bug omits the text of the exception, because this text might quote a key.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would contain the private keys in memory
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if the caller ignores it, a child process has no exit status
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # otherwise pydantic searches all packages for plugins
    atexit.register(gc.freeze)  # otherwise the interpreter searches all loaded modules for garbage at its exit
    prepare()
    stdout = sys.stdout
    try:
        cli.main(standalone_mode=False)
    except SystemExit:
        if sys.stdout is stdout:
            raise
        sys.exit(UNKNOWN)  # the reader closed the pipe: click has replaced the stream, and exits with 1
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        with suppress(OSError):  # the exit code remains if stderr is closed
            error.show()
        sys.exit(UNKNOWN)
    except CertmondError as error:
        _print_error(str(error))
        sys.exit(UNKNOWN)
    except OSError as error:
        if not output_fails():
            _print_error(f"cannot read or write {_file(error)} ({error.strerror}); check the permissions of the file")
            sys.exit(UNKNOWN)
        _print_error(f"cannot write the output ({error.strerror}); check the file or program that receives it")
        os._exit(UNKNOWN)  # not sys.exit: the flush of the buffer would fail again
    except MemoryError:
        _print_error(
            "not enough memory; check `MemoryMax=` of the unit, `ulimit -v`, and the other processes of the host"
        )
        sys.exit(UNKNOWN)
    except Exception as error:  # noqa: BLE001 - as the docstring explains
        with suppress(Exception):  # for example because no descriptor is available for a module of `traceback`
            click.echo(f"Traceback:\n{''.join(traceback.format_tb(error.__traceback__))}", err=True, nl=False)
        _print_error(defect(error))
        sys.exit(UNKNOWN)


def _file(error: OSError) -> str:
    return printable(str(error.filename)) if error.filename else "a file"


def _print_error(text: str) -> None:
    with suppress(OSError):
        lines = map(printable, redacted(text).split("\n"))
        click.echo("certmond: " + "\n".join(lines), err=True)
