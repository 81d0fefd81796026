"""The command line: the verbs, their options, their exit codes. The only place where the parts are wired together.

Exit codes are those of monitoring plugins: 0 all well, 1 a warning, 2 a critical finding, 3 could not tell (a broken
configuration, a wrong option, nothing to look at). What a verb needs is imported when it runs, so that `serve` stays
without cryptography and `version` is quick.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from certmond.errors import CertmondError, NotRunningError

if TYPE_CHECKING:
    from certmond.config import Config
    from certmond.pki.assess import Assessment

COULD_NOT_TELL = 3
OUTPUTS = ("table", "wide", "json", "yaml")
RUNTIME_DIR = Path("/run/certmond")

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Globals:
    """The options that every verb takes, before or after its name."""

    config: Path | None = None
    root: str = "/"
    state_dir: Path = Path("/var/lib/certmond")
    profile: str | None = None
    verbose: bool = False

    def load(self) -> Config:
        """The configuration in force. Raises ConfigError."""
        from certmond.config import load

        return load(self.config, profile=self.profile, explicit=self.config is not None)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name:
        known = context.find_object(Globals) or Globals()
        context.obj = replace(known, **{parameter.name: value})


def global_options(function: F) -> F:
    """The same options on the group and on each verb; what stands after the verb wins."""
    options = (
        click.option(
            "--config", type=click.Path(path_type=Path), help="Configuration file [/etc/certmond/config.yaml]"
        ),
        click.option(
            "--root", type=click.Path(exists=True, file_okay=False), help="Read every path of the node below DIR"
        ),
        click.option("--state-dir", type=click.Path(path_type=Path), help="Own state [/var/lib/certmond]"),
        click.option("--profile", help="Profile in place of the configured one: kubeadm, none"),
        click.option("-v", "--verbose", is_flag=True, default=None, help="Tell more"),
    )
    for option in reversed(options):
        function = _hidden_value(option)(function)
    return function


def _hidden_value(option: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        decorated = option(function)
        parameters: list[click.Parameter] = (
            decorated.params if isinstance(decorated, click.Command) else decorated.__click_params__  # type: ignore[attr-defined]
        )
        parameters[-1].callback, parameters[-1].expose_value = _remember, False
        return decorated

    return decorate


def _instant(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is None:
            raise click.BadParameter("must have a time zone, as in 2027-11-10T00:00:00Z")
        return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("must be an RFC 3339 time such as 2027-11-10T00:00:00Z") from None


output_option = click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", help="How to print it")
runtime_option = click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path),
    default=RUNTIME_DIR,
    show_default=True,
    help="Where the daemon renders",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@global_options
def cli() -> None:
    """Know every certificate that this Kubernetes node lives by, prove it, and say what is wrong before it hurts."""


@cli.command()
@global_options
@runtime_option
@click.option(
    "--log", type=click.Choice(("auto", "journal", "plain", "json")), default="auto", help="How to write events"
)
@click.pass_context
def run(context: click.Context, runtime_dir: Path, log: str) -> None:
    """The daemon: watch, judge, and render what `serve` and `status` show."""
    from certmond.daemon import Daemon
    from certmond.host.journal import Journal

    options = _globals(context)
    daemon = Daemon(
        options.load, root=options.root, runtime_dir=runtime_dir, journal=Journal(log, verbose=options.verbose)
    )
    sys.exit(daemon.run())


@cli.command()
@global_options
@runtime_option
@click.option("--listen", default="127.0.0.1:9964", show_default=True, help="ADDR:PORT to serve on")
def serve(runtime_dir: Path, listen: str) -> None:
    """Serve over HTTP what the daemon rendered: /metrics, /healthz, /readyz, /api/v1/status."""
    from certmond.expose import serve as server

    sys.exit(server.serve(runtime_dir, listen))


@cli.command()
@global_options
@click.option("--at", callback=_instant, help="Judge as of this RFC 3339 time in place of now")
@output_option
@click.pass_context
def check(context: click.Context, at: datetime | None, output: str) -> None:
    """Look once, without a daemon. Exit: 0 all well, 1 a warning, 2 a critical finding, 3 could not tell."""
    from certmond.expose.document import status_document

    options = _globals(context)
    config = options.load()
    assessment = _look(config, options.root, at)
    _print(status_document(assessment, config.mode), output)
    if not assessment.statuses:
        raise CertmondError(
            f"there is no certificate of the profile {config.profile!r} below {options.root}; "
            "name another with --profile, or list certificates in the configuration (`certmond discover` helps)"
        )
    sys.exit(assessment.severity.rank if assessment.severity else 0)


@cli.command()
@global_options
@runtime_option
@output_option
def status(runtime_dir: Path, output: str) -> None:
    """What the running daemon last found; exit 3 where none runs, else as `check`."""
    from certmond.expose.render import read_status
    from certmond.expose.site import silence

    document = read_status(runtime_dir)
    _print(document, output)
    if reason := silence(runtime_dir):
        raise NotRunningError(f"this is what the daemon found at {document['taken_at']}, but {reason}")
    sys.exit(_exit_code(document))


@cli.command()
@global_options
@click.option("--at", callback=_instant, help="Judge as of this RFC 3339 time in place of now")
@click.pass_context
def metrics(context: click.Context, at: datetime | None) -> None:
    """Look once and print the metrics: for node_exporter's textfile collector, from a timer."""
    from certmond.expose.render import Renderer
    from certmond.expose.telemetry import Telemetry

    options = _globals(context)
    config = options.load()
    click.echo(Renderer().metrics(_look(config, options.root, at), Telemetry(config.mode).text()), nl=False)


@cli.group()
@global_options
def config() -> None:
    """Validate, show or describe the configuration."""


@config.command()
@global_options
@click.pass_context
def validate(context: click.Context) -> None:
    """Say everything that is wrong with the configuration. Exit: 0 nothing, 3 something."""
    found = _globals(context).load()
    click.echo(
        f"the configuration is good: profile {found.profile}, {len(found.certificates)} entries, mode {found.mode}"
    )


@config.command()
@global_options
@click.pass_context
def show(context: click.Context) -> None:
    """The configuration in force: profile, files and options joined."""
    from certmond.config import dump

    click.echo(dump(_globals(context).load()), nl=False)


@config.command()
@global_options
def schema() -> None:
    """The JSON Schema of the configuration file, for editors."""
    from certmond.config import schema as describe

    click.echo(json.dumps(describe(), indent=2))


@cli.command()
@global_options
@click.pass_context
def discover(context: click.Context) -> None:
    """Print the configuration that fits this node, marking where it differs from the profile."""
    from certmond.host.discover import discover as look

    options = _globals(context)
    click.echo(look(options.load(), options.root), nl=False)


@cli.command()
@click.argument("reason")
def explain(reason: str) -> None:
    """The runbook for a REASON or an alert: what it means, how to see it, what to do."""
    from certmond.explain import explain as look_up

    click.echo(look_up(reason))


@cli.command()
@click.option("--keep", is_flag=True, help="Keep the demo's directory")
def demo(keep: bool) -> None:
    """A node's certificates going wrong and being put right, in a directory of its own, in half a minute."""
    from certmond.demo import run as run_demo

    sys.exit(run_demo(keep=keep))


@cli.command()
def version() -> None:
    """The version."""
    from importlib.metadata import version as of

    click.echo(f"certmond {of('certmond')}")


def _globals(context: click.Context) -> Globals:
    return context.find_object(Globals) or Globals()


def _look(config: Config, root: str, at: datetime | None) -> Assessment:
    """One pass, as of `at` or of now."""
    from certmond.host.store import Store
    from certmond.pki.assess import assess

    given = {"node_name": config.node_name} if config.node_name else {}
    inventory = Store(config.certificates, root, given).observe()
    return assess(inventory, at or datetime.now(UTC), renew_before=config.renew_before)


def _print(document: dict[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
    else:
        from rich.console import Console

        from certmond.expose.table import status_table

        # Wide enough for every row: a narrow terminal wraps lines, where rich would cut columns away.
        console = Console(soft_wrap=True, width=400, highlight=False)
        console.print(status_table(document, wide=output == "wide"))


def _exit_code(document: dict[str, Any]) -> int:
    ranks = {"info": 0, "warning": 1, "critical": 2}
    found = [item for entry in document["certificates"] for item in entry["findings"]] + document["findings"]
    return max((ranks[item["severity"]] for item in found), default=0)


def main() -> None:
    """The console script: every failure that is not a bug is one clear text on stderr and exit code 3."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no text at all
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(COULD_NOT_TELL)
    except CertmondError as error:
        click.echo(f"certmond: {error}", err=True)
        sys.exit(COULD_NOT_TELL)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe has gone: nobody is left to be told
        sys.exit(COULD_NOT_TELL)
    except OSError as error:
        click.echo(f"certmond: the output could not be written ({error})", err=True)
        os._exit(COULD_NOT_TELL)  # not sys.exit: what is still buffered would fail once more on the way out
