"""Shared parts of the commands: global options, the format of a time, the output of a document."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click
from click.shell_completion import CompletionItem

from certmond.errors import CertmondError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from certmond.config.model import Config
    from certmond.pki.assessment.assess import Assessment

COULD_NOT_TELL = 3
OUTPUTS = ("table", "wide", "json", "yaml")
RUNTIME_DIR = Path("/run/certmond")
STATE_DIR = Path("/var/lib/certmond")

F = TypeVar("F", bound=Callable[..., Any])


class Serving(NamedTuple):
    """Where `serve` listens, the file that controls access (None: no access control), and problems elsewhere."""

    listen: str
    web_config: str | None
    problems: Sequence[str] = ()


@dataclass(frozen=True)
class Globals:
    """The options that every command accepts, before or after its name."""

    config: Path | None = None
    root: str = "/"
    given_state_dir: Path | None = None
    profile: str | None = None
    verbose: bool = False

    @property
    def state_dir(self) -> Path:
        """Return the directory of certmond's state. By default it is below the root, like every file of the node."""
        return self.given_state_dir or Path(self.root) / STATE_DIR.relative_to("/")

    def load(self, *, acting: bool = False) -> Config:
        """Return the configuration in force. `acting`: the command writes on the node. Raises ConfigError."""
        from certmond.config.source_files import load

        return load(self.config, profile=self.profile, explicit=self.config is not None, acting=acting)

    def serving(self) -> Serving:
        """Return the configuration of `serve`, despite problems in other keys. Raises CertmondError.

        A child process reads it and exits, so that the process that listens does not load the code for that.
        """
        receiving, sending = os.pipe()
        if child := os.fork():
            os.close(sending)
            with os.fdopen(receiving, encoding="utf-8") as pipe:
                told = json.loads(pipe.read() or '{"error": "the configuration could not be read"}')
            os.waitpid(child, 0)
            if "error" in told:
                raise CertmondError(told["error"])
            return Serving(**told)
        with (
            suppress(BaseException),
            os.fdopen(sending, "w", encoding="utf-8") as pipe,
        ):  # the child exits in any case
            try:
                json.dump(self._serving()._asdict(), pipe)
            except CertmondError as error:
                json.dump({"error": str(error)}, pipe)
        os._exit(0)

    def _serving(self) -> Serving:
        from certmond.config.source_files import load
        from certmond.errors import ConfigError

        problems: tuple[str, ...] = ()
        try:
            config = self.load()
        except ConfigError as error:
            problems = error.problems
            try:  # even then, a file that other users can change is refused
                config = load(self.config, explicit=self.config is not None, acting=True, keys={"listen", "web_config"})
            except ConfigError as needed:
                raise ConfigError(tuple(dict.fromkeys((*problems, *needed.problems)))) from error
        return Serving(config.listen, config.web_config, problems)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name:
        known = context.find_object(Globals) or Globals()
        context.obj = replace(known, **{parameter.name: value})


def _profile_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the completions of --profile."""
    from certmond.config.model import NO_PROFILE, profiles

    return [CompletionItem(name) for name in (*profiles(), NO_PROFILE) if name.startswith(incomplete.casefold())]


def global_options(function: F) -> F:
    """Add the global options to the group and to each command. An option after the command takes precedence."""
    options = (
        click.option(
            "--config", type=click.Path(path_type=Path), help="Configuration file [/etc/certmond/config.yaml]"
        ),
        click.option(
            "--root", type=click.Path(exists=True, file_okay=False), help="Read every path of the node below DIR"
        ),
        click.option(
            "--state-dir",
            "given_state_dir",
            type=click.Path(path_type=Path, readable=False),
            help=f"Own state [{STATE_DIR} below DIR]",
        ),
        click.option(
            "--profile",
            shell_complete=_profile_names,
            help="Profile in place of the configured one: kubeadm, k3s, …, none",
        ),
        click.option("-v", "--verbose", is_flag=True, default=None, help="`run` tells each pass as well"),
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


output_option = click.option("-o", "--output", type=click.Choice(OUTPUTS), default="table", help="How to print it")
runtime_option = click.option(
    "--runtime-dir",
    type=click.Path(path_type=Path),
    default=RUNTIME_DIR,
    show_default=True,
    help="Where the daemon renders",
)


at_option = click.option("--at", callback=instant, help="As of this RFC 3339 time in place of now")


def globals_of(context: click.Context) -> Globals:
    """Return the global options of this call."""
    return context.find_object(Globals) or Globals()


def look(
    config: Config,
    root: str,
    at: datetime | None,
    *,
    state_dir: Path = Path("/var/lib/certmond"),
    asking: bool = False,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    pause: Callable[[float], None] = time.sleep,
) -> Assessment:
    """Scan files and running services as of `at` or of now, and return the verdicts that the daemon would have.

    With `asking`, also check whether the Kubernetes API and this node accept each other, where an API is configured.

    A certificate and a key that do not match, and changed in the last two seconds, may be partly written. Then `pause`
    waits for the rest of that time, and the second scan counts. With `at`, there is no wait.
    """
    from certmond.daemon.enforcer import Enforcer
    from certmond.notify.audit import Audit, caller
    from certmond.notify.journal import Journal
    from certmond.notify.library_log import log_to

    log_to(Journal("message"))
    audit, private = Audit(Journal("none"), state_dir, caller()), _may_enter(state_dir)
    enforcer = Enforcer(config, root=root, state_dir=state_dir, audit=audit, clock=lambda: at or clock())
    if asking and private and at is None and root == "/":
        enforcer.rotating.ask()

    def see(*, waits: bool) -> Assessment:
        assessment, around = enforcer.see(everything=False, private=private, waits=waits)
        if enforcer.standing.broken and not around.told:  # the catalogue has no anchor for the finding
            raise CertmondError(enforcer.standing.broken)
        return assessment

    assessment = see(waits=at is None)
    if (until := assessment.waits_until) is None:
        return assessment
    _say_what_is_waited_for(assessment)
    pause((until - assessment.taken_at).total_seconds())
    return see(waits=False)


def _say_what_is_waited_for(assessment: Assessment) -> None:
    from certmond.pki.findings import printable

    for status in assessment.statuses:
        if status.mismatch and status.mismatch.waits_until:
            key, path = printable(status.seen.key_path or ""), printable(status.seen.path)
            click.echo(f"certmond: {key} is not the private key of {path}: being written? looking again", err=True)


def _may_enter(state_dir: Path) -> bool:
    """Return whether the caller may read the state of a rotation. Without permission it is unknown, not unreadable."""
    try:
        (state_dir / "rotation").stat()
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def display(document: dict[str, Any], output: str, table: Callable[[dict[str, Any], bool], RenderableType]) -> None:
    """Print a document in the format `output`, or as the table that `table` returns."""
    if output == "json":
        click.echo(json.dumps(document, indent=2))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(document, sort_keys=False), nl=False)
    else:
        from rich.console import Console

        # Wide enough for every row: a narrow terminal wraps lines, where rich would truncate columns.
        console = Console(soft_wrap=True, width=400, highlight=False)
        with console.capture() as text:  # rich would exit with 1, a warning, on a closed pipe
            console.print(table(document, output == "wide"))
        click.echo(text.get(), nl=False, color=True)  # keep the colors that rich has added, as with FORCE_COLOR
