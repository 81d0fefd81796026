"""Merging the texts of a configuration without the models of its values."""

from __future__ import annotations

import subprocess
import sys

import pytest

from certmond.config.parser import parse
from certmond.config.rules import SECTIONS
from certmond.config.shipped_profiles import NO_PROFILE, profiles
from certmond.config.source_merger import LISTS, Source, entry_names


def test_the_lists_are_those_of_the_models() -> None:
    """The merger merges exactly the sections whose entries have a model."""
    assert set(LISTS) == SECTIONS.keys()


@pytest.mark.parametrize("profile", [*profiles(), NO_PROFILE])
@pytest.mark.parametrize("section", LISTS)
def test_the_names_are_those_of_the_configuration(section: str, profile: str) -> None:
    """The names of a section are those of the valid configuration, in its order."""
    known = [entry.name for entry in parse([], profile=profile).certificates[:1]]
    changed = "".join(f"\n- {{name: {name}, optional: true}}" for name in known)
    sources = [Source("a", f"certificates:\n- {{name: own, path: /a.crt}}{changed}"), Source("b", "poll: 5s")]
    config = parse(sources, profile=profile)
    assert list(entry_names(sources, section, profile)) == [entry.name for entry in getattr(config, section)]


def test_errors_hide_no_name() -> None:
    """A text that is not YAML, and an entry with a wrong value or without a name, hide no other name."""
    sources = [
        Source("a", "a: ["),
        Source("b", "services: 5\ncertificates: [{name: own, mode: x}, {name: 7}, {path: /b}, 3]"),
    ]
    assert list(entry_names(sources, "certificates", NO_PROFILE)) == ["own", "7"]
    assert list(entry_names(sources, "services", NO_PROFILE)) == []
    assert "apiserver" in entry_names(sources, "certificates")


def test_names_need_no_model() -> None:
    """pydantic, which takes longer to load than a user of completion wants to wait, is not loaded for names."""
    script = (
        "import sys; from certmond.config.source_merger import entry_names;"
        " print(len(list(entry_names([], 'certificates'))), 'pydantic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    names, loaded = done.stdout.split()
    assert (int(names) > 10, loaded) == (True, "False")
