"""Options and output that the commands share."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from certmond.cli.messages import print_message, record_root
from certmond.errors import CertmondError
from certmond.immutable_class import immutable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich.console import RenderableType

    from certmond.config.model import Config
    from certmond.config.parser import Parsed
    from certmond.config.parser_process import ForkedLoad
    from certmond.pki.assessment.assess import Assessment

UNKNOWN = 3
OUTPUTS = ("table", "wide", "json", "yaml")
RUNTIME_DIR = Path("/run/certmond")
STATE_DIR = Path("/var/lib/certmond")

F = TypeVar("F", bound=Callable[..., Any])


class Serving(NamedTuple):
    """Settings of `serve`, and the problems of other settings."""

    listen: str
    web_config: str | None
    problems: Sequence[str] = ()


@immutable(slots=False)
class Globals:
    """Global options, which certmond accepts before a command and after most commands."""

    config: Path | None = None
    root: str = "/"
    given_state_dir: Path | None = None
    profile: str | None = None
    verbose: bool = False
    quiet: bool = False
    no_color: bool = False

    @property
    def state_dir(self) -> Path:
        """The state directory, by default /var/lib/certmond below `root`."""
        return self.given_state_dir or Path(self.root) / STATE_DIR.relative_to("/")

    def load(self, *, acting: bool = False) -> Config:
        """Return the effective configuration. `acting` is True for a command that changes the node.

        Raises ConfigError if the configuration is invalid.
        """
        from certmond.config.loader import load

        return load(self.config, profile=self.profile, explicit=self.config is not None, acting=acting)

    def start_loading(self) -> ForkedLoad:
        """Start to load the configuration in a child process. Return the function that returns the configuration.

        Meanwhile, this process can import the modules that it needs.
        """
        from certmond.config.parser_process import ForkedLoad

        return ForkedLoad(self.load)

    def load_tree(self) -> Parsed:
        """Return the effective configuration with its tree. Raises ConfigError if the configuration is invalid."""
        from certmond.config.loader import load_tree

        return load_tree(self.config, profile=self.profile, explicit=self.config is not None)

    def serving(self) -> Serving:
        """Return the settings of `serve`, even if other settings are invalid.

        A child process parses the configuration, so that the listening process does not load a parser. Raises
        CertmondError if a setting of `serve` is invalid or unreadable.
        """
        from certmond.config.parser_process import ParserProcess

        process = ParserProcess(lambda: json.dumps(self._serving()._asdict()).encode())
        return Serving(**json.loads(process.result()))

    def _serving(self) -> Serving:
        from certmond.config.loader import load
        from certmond.errors import ConfigError

        problems: tuple[str, ...] = ()
        try:
            config = self.load()
        except ConfigError as error:
            problems = error.problems
            try:  # even then, certmond refuses a file that other users can change
                config = load(self.config, explicit=self.config is not None, acting=True, keys={"listen", "web_config"})
            except ConfigError as needed:
                raise ConfigError(tuple(dict.fromkeys((*problems, *needed.problems)))) from error
        return Serving(config.listen, config.web_config, problems)


def _store_option(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name:
        if parameter.name == "no_color":
            os.environ["NO_COLOR"] = "1"  # rich and the programs that certmond starts read this variable
        if parameter.name == "root":
            record_root(context, value)
        known = context.find_object(Globals) or Globals()
        context.obj = replace(known, **{parameter.name: value})


def _profile_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of profiles that start with `incomplete`, including `none`."""
    from click.shell_completion import CompletionItem

    from certmond.config.shipped_profiles import NO_PROFILE, profiles

    return [CompletionItem(name) for name in (*profiles(), NO_PROFILE) if name.startswith(incomplete.casefold())]


def global_options(function: F) -> F:
    """Add the global options to a group or a command.

    An option after the command overrides the same option before the command.
    """
    options = (
        click.option(
            "--config", type=click.Path(path_type=Path), help="Configuration file [/etc/certmond/config.yaml]"
        ),
        click.option(
            "--root",
            type=click.Path(exists=True, file_okay=False),
            help="Treat this directory as the root of the node's file system",
        ),
        click.option(
            "--state-dir",
            "given_state_dir",
            type=click.Path(path_type=Path, readable=False),
            help=f"State directory of certmond [{STATE_DIR} below the directory of --root]",
        ),
        click.option(
            "--profile",
            shell_complete=_profile_names,
            help="Use this profile instead of the configured profile: kubeadm, k3s, …, none",
        ),
        click.option("-v", "--verbose", is_flag=True, default=None, help="Log every pass of the daemon"),
        click.option("-q", "--quiet", is_flag=True, default=None, help="Print no table; the exit code is the result"),
        click.option("--no-color", is_flag=True, default=None, help="Print no colors, as with NO_COLOR=1"),
    )
    for option in reversed(options):
        function = _without_argument(option)(function)
    return function


def _without_argument(option: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        decorated = option(function)
        parameters: list[click.Parameter] = (
            decorated.params if isinstance(decorated, click.Command) else decorated.__click_params__  # type: ignore[attr-defined]
        )
        parameters[-1].callback, parameters[-1].expose_value = _store_option, False
        return decorated

    return decorate


def instant(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(value)
        if instant.tzinfo is None:
            raise click.BadParameter("must have a time zone, as in 2027-11-10T00:00:00Z")
        return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise click.BadParameter("must be an RFC 3339 time such as 2027-11-10T00:00:00Z") from None


output_option = click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", help="Output format")
output_file_option = click.option(
    "--output-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to FILE atomically instead of to stdout",
)
runtime_option = click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path),
    default=RUNTIME_DIR,
    show_default=True,
    help="Runtime directory of the daemon",
)


at_option = click.option("--at", callback=instant, help="Assess the node as of this RFC 3339 time")


def globals_of(context: click.Context) -> Globals:
    """Return the global options of this invocation."""
    return context.find_object(Globals) or Globals()


def assess_node(
    config: Config,
    root: str,
    at: datetime | None,
    *,
    state_dir: Path = Path("/var/lib/certmond"),
    check_api: bool = False,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    pause: Callable[[float], None] = time.sleep,
) -> Assessment:
    """Return the assessment of the node at the time `at`, by default now.

    With `check_api`, also check that the node and the configured API server authenticate each other. Skip this check if
    `at` is set, if `root` is not /, or if the caller cannot read the state of a rotation.

    If `at` is None and a key does not match its certificate, a process might still be writing these files. In this
    case, scan again after at most two seconds.

    Raises CertmondError if the state of a rotation is unusable, and no entry can show this finding.
    """
    from certmond.daemon.enforcer import Enforcer
    from certmond.notify.audit import Audit, caller
    from certmond.notify.event_log import Journal
    from certmond.notify.library_log import log_to

    log_to(Journal("message"))
    audit, private = Audit(Journal("none"), state_dir, caller()), _is_state_readable(state_dir)
    enforcer = Enforcer(config, root=root, state_dir=state_dir, audit=audit, clock=lambda: at or clock())
    if check_api and private and at is None and root == "/":
        enforcer.ask()

    def scan(*, waits: bool) -> Assessment:
        assessment, around = enforcer.see(everything=False, private=private, waits=waits)
        if enforcer.rotation_state.broken and not around.findings:  # no entry can show the finding
            raise CertmondError(enforcer.rotation_state.broken)
        return assessment

    assessment = scan(waits=at is None)
    if (until := assessment.waits_until) is None:
        return assessment
    _report_wait(assessment)
    pause((until - assessment.taken_at).total_seconds())
    return scan(waits=False)


def selected(assessment: Assessment, names: Sequence[str]) -> Assessment:
    """Return the assessment with only the certificates of the entries `names`.

    Raises UsageError for a name that is neither an entry nor a certificate of the node.
    """
    known = {name for each in assessment.statuses for name in (each.seen.name, each.seen.spec.name)}
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(
            f"this node has no certificate {', '.join(unknown)}; the certificates are: {', '.join(sorted(known))}"
        )
    chosen = [each for each in assessment.statuses if not {each.seen.name, each.seen.spec.name}.isdisjoint(names)]
    return replace(assessment, statuses=tuple(chosen))


def refuse_unread_files(assessment: Assessment, root: str) -> None:
    """Raise CertmondError if the user of this process was not permitted to read all files of the node."""
    from certmond.pki.findings import Reason

    unread = {
        item.message for each in assessment.statuses for item in each.findings if item.reason is Reason.NOT_PERMITTED
    }
    if unread:
        files = "1 file" if len(unread) == 1 else f"{len(unread)} files"
        fact = f"user {os.geteuid()} is not permitted to read {files} of the node, so certmond does not know its state"
        ask = ", or ask the daemon: certmond status" if root == "/" else ""
        raise CertmondError(f"{fact}; run this command as root{ask}")


def _report_wait(assessment: Assessment) -> None:
    from certmond.pki.findings import printable

    for status in assessment.statuses:
        if status.mismatch and status.mismatch.waits_until:
            key, path = printable(status.seen.key_path or ""), printable(status.seen.path)
            print_message(
                f"certmond: {key} is not the private key of {path}; "
                "certmond waits, because a process might still be writing these files",
                err=True,
            )


def _is_state_readable(state_dir: Path) -> bool:
    """Return whether the caller may read the state of a rotation."""
    try:
        (state_dir / "rotation").stat()
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def display(
    document: dict[str, Any], output: str, table: Callable[[dict[str, Any], bool], RenderableType], root: str = "/"
) -> None:
    """Print a document as JSON or YAML, or as the table that `table` returns.

    The messages of the document contain the real paths of files below `root`.
    """
    from certmond.expose.documents.message_paths import rooted

    context = click.get_current_context(silent=True)
    if output in {"table", "wide"} and context and globals_of(context).quiet:
        return
    document = rooted(document, root)
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
    else:
        from rich.console import Console

        # Wide enough for every row: a narrow terminal wraps lines. With the width of the terminal, rich would truncate
        # columns.
        console = Console(soft_wrap=True, width=400, highlight=False, emoji=False)
        with console.capture() as text:  # rich would exit with 1, a warning, on a closed pipe
            console.print(table(document, output == "wide"))
        click.echo(text.get(), nl=False, color=True)  # keep the colors that rich has added, as with FORCE_COLOR
