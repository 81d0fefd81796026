"""The configuration of the daemon, and the problems of a newer configuration that the daemon refused at a reload."""

from __future__ import annotations

from collections.abc import Callable

from certmond.config.model import Config
from certmond.daemon.enforce_rights import missing_rights
from certmond.errors import ConfigError
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.event_log import Event, Journal


class LoadedConfiguration:
    """The configuration that `load` returned last.

    Raises ConfigError if the first configuration is invalid, or needs permissions that certmond does not have.
    """

    def __init__(self, load: Callable[[], Config], root: str) -> None:
        self._load, self._root = load, root
        self.current = self._permitted()
        self.problems: tuple[str, ...] = ()
        """The problems of the configuration at the last reload, or an empty tuple if the daemon uses it."""

    def reload(self, journal: Journal, telemetry: Telemetry) -> bool:
        """Read the configuration again, and return whether it is valid.

        If the new configuration is invalid, log its problems and keep the old configuration.
        """
        try:
            self.current, self.problems = self._permitted(), ()
        except ConfigError as error:
            self.problems = error.problems
            telemetry.config_ok.set(0)
            for problem in error.problems:
                journal.tell(Event.RELOAD_REFUSED, f"{problem}; the old configuration stays in force", "error")
            return False
        telemetry.config_ok.set(1)
        telemetry.set_mode(self.current.mode)
        return True

    def _permitted(self) -> Config:
        config = self._load()
        if problem := missing_rights(config, self._root):
            raise ConfigError((problem,))
        return config
