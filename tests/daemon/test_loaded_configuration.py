"""The configuration of the daemon over several reloads."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from certmond.config.model import Config
from certmond.daemon.loaded_configuration import LoadedConfiguration
from certmond.errors import ConfigError
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
    assert not found.reload(journal, telemetry)
    assert (found.current, found.problems) == (OLD, ("one", "two"))
    assert "certmond_config_last_reload_successful 0" in telemetry.text()
    assert found.reload(journal, telemetry)
    assert (found.current, found.problems) == (NEW, ())
    assert "certmond_config_last_reload_successful 1" in telemetry.text()


def test_the_first_configuration_must_be_valid() -> None:
    """Without a valid configuration, there is nothing to continue with."""
    with pytest.raises(ConfigError, match="one"):
        LoadedConfiguration(loader(ConfigError(("one",))), "/srv")
