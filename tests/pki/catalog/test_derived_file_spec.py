"""The entries of derived files: which paths they can have."""

from __future__ import annotations

import re

import pytest

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.errors import ConfigError


@pytest.mark.parametrize("path", ["/opt/config/*/*/etcd", "/opt/config/a*/etcd", "/opt/config/**/etcd"])
def test_only_one_whole_component_can_be_a_pattern(path: str) -> None:
    """The path of a copy has one component `*` at most, and the path of another kind none."""
    for kind, given in (("copy", path), ("pem-bundle", "/opt/config/*/etcd")):
        text = f"derived: [{{name: x, kind: {kind}, source: etcd-server, path: '{given}'}}]"
        with pytest.raises(ConfigError, match=re.escape("one component `*`")):
            parse([Source("x.yaml", text)])
