"""The configuration as a value: what follows from its settings."""

from __future__ import annotations

import pytest

from certmond.config.model import EVERY_KEY, Config
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.settings import HoldSpec, HookSpec, SignerSpec


def test_the_default_configuration_changes_nothing() -> None:
    """By default, certmond observes, sets no fact and runs no program."""
    found = Config()
    assert (found.mode, found.acts, found.given_facts, found.commands) == ("observe", False, {}, {})
    assert found.follows_references
    assert not Config(profile="none").follows_references


@pytest.mark.parametrize(
    ("found", "purpose"),
    [
        (Config(hold=HoldSpec(command=("/x",))), "hold"),
        (Config(hooks=(HookSpec(name="h", command=("/x",)),)), "hook h"),
        (Config(signers=(SignerSpec(name="s", kind="command", command=("/x",)),)), "signer s"),
        (Config(services=(ServiceSpec(name="w", kind="command", command=("/x",)),)), "service w"),
    ],
)
def test_a_program_makes_a_configuration_act(found: Config, purpose: str) -> None:
    """Each program of the configuration has a purpose, and certmond acts with the configuration."""
    assert found.commands == {purpose: ("/x",)}
    assert found.acts


def test_enforce_mode_acts() -> None:
    """In enforce mode, certmond acts without a program."""
    assert Config(mode="enforce").acts


def test_the_name_of_the_node_is_a_fact() -> None:
    """The configured name is the fact `node_name`."""
    assert Config(node_name="n").given_facts == {"node_name": "n"}


def test_the_keys_are_the_settings() -> None:
    """The keys of a configuration file are the settings of the model."""
    assert {"mode", "certificates", "web_config"} < EVERY_KEY
    assert "acts" not in EVERY_KEY
