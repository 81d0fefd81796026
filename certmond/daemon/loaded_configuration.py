"""The configuration of the daemon, and the problems of a newer configuration that the daemon refused at a reload."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from certmond.config.model import Config
from certmond.daemon.enforce_rights import missing_rights
from certmond.errors import CertmondError, ConfigError, WriteError
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.event_log import Event, Journal
from certmond.pki.assessment.refused_configuration import RESTART
from certmond.pki.findings import printable

T = TypeVar("T")


class LoadedConfiguration:
    """The configuration that `load` returned last.

    Raises ConfigError if the first configuration is invalid, or needs permissions that certmond does not have.
    """

    def __init__(self, load: Callable[[], Config], root: str) -> None:
        self._load, self._root = load, root
        self.current = self._permitted()
        self.problems: tuple[str, ...] = ()
        """The problems of the configuration at the last reload, or an empty tuple if the daemon uses it."""

    def reload(self, journal: Journal, telemetry: Telemetry, construct: Callable[[Config], T]) -> T | None:
        """Read the configuration again, and return what `construct` makes of it.

        If certmond cannot read or use the new configuration, or if `construct` fails, log the problems, keep the old
        configuration, and return None.
        """
        try:
            config = self._permitted()
            made = _constructed(construct, config)
        except CertmondError as error:
            self.problems = error.problems if isinstance(error, ConfigError | WriteError) else (str(error),)
            telemetry.config_ok.set(0)
            for problem in self.problems:
                journal.tell(Event.RELOAD_REFUSED, f"{problem}; the old configuration stays in force", "error")
            return None
        self.current, self.problems = config, ()
        telemetry.config_ok.set(1)
        telemetry.set_mode(config.mode)
        return made

    def _permitted(self) -> Config:
        config = self._load()
        if problem := missing_rights(config, self._root):
            raise ConfigError((problem,))
        return config


def _constructed(construct: Callable[[Config], T], config: Config) -> T:
    """Return the result of `construct`. Raises CertmondError if `construct` fails, such as after an upgrade."""
    try:
        return construct(config)
    except CertmondError:
        raise
    except Exception as error:  # also for a lack of descriptors; modules of two versions can raise any exception
        fact = f"the running daemon cannot apply this configuration ({type(error).__name__}: {error})"
        raise ConfigError((f"{printable(fact)}; {RESTART}",)) from error
