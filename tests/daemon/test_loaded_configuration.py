"""The configuration of the daemon over several reloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from certmond.config.model import Config
from certmond.daemon.loaded_configuration import LoadedConfiguration
from certmond.errors import ConfigError, StateError
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.notify.event_log import Journal

OLD, NEW = Config(profile="none"), Config(profile="k3s")


def loader(*results: Config | ConfigError) -> Callable[[], Config]:
    left: Iterator[Config | ConfigError] = iter(results)

    def load() -> Config:
        found = next(left)
        if isinstance(found, ConfigError):
            raise found
        return found

    return load


def test_a_refused_configuration_leaves_the_old_one_in_force() -> None:
    """After a reload of an invalid configuration, `current` is the old one, and `problems` contains each problem. A
    later reload without a problem ends this.
    """
    found = LoadedConfiguration(loader(OLD, ConfigError(("one", "two")), NEW), "/srv")
    journal, telemetry = Journal("none"), Telemetry("observe")
    assert found.reload(journal, telemetry, profile_of) is None
    assert (found.current, found.problems) == (OLD, ("one", "two"))
    assert "certmond_config_last_reload_successful 0" in telemetry.text()
    assert found.reload(journal, telemetry, profile_of) == "k3s"
    assert (found.current, found.problems) == (NEW, ())
    assert "certmond_config_last_reload_successful 1" in telemetry.text()


def profile_of(config: Config) -> str:
    """Return something that the daemon makes of a configuration."""
    return config.profile


@pytest.mark.parametrize("error", [ImportError("no name"), OSError(24, "too many"), TypeError("an argument")])
def test_a_configuration_that_the_daemon_cannot_apply_is_refused(error: Exception) -> None:
    """If the daemon cannot import a module that the new configuration needs, or fails in another way, the old
    configuration stays, and the problem contains the command that restarts certmond.
    """
    found, journal = LoadedConfiguration(loader(OLD, NEW), "/srv"), Journal("none")

    def construct(_: Config) -> str:
        raise error

    assert found.reload(journal, Telemetry("observe"), construct) is None
    assert found.current == OLD
    fact = f"the running daemon cannot apply this configuration ({type(error).__name__}: {error})"
    assert found.problems == (f"{fact}; restart certmond: systemctl restart certmond",)


def test_an_error_of_certmond_is_the_problem() -> None:
    """If certmond itself reports why the configuration cannot be applied, this message is the problem."""
    found = LoadedConfiguration(loader(OLD, NEW), "/srv")

    def construct(_: Config) -> str:
        raise StateError("the state directory is unusable; repair it")

    assert found.reload(Journal("none"), Telemetry("observe"), construct) is None
    assert (found.current, found.problems) == (OLD, ("the state directory is unusable; repair it",))


def test_the_first_configuration_must_be_valid() -> None:
    """Without a valid configuration, there is nothing to continue with."""
    with pytest.raises(ConfigError, match="one"):
        LoadedConfiguration(loader(ConfigError(("one",))), "/srv")
