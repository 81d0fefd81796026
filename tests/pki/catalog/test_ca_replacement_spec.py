"""The section `ca_replacement`: its paths, and the conditions of a complete section."""

from __future__ import annotations

import pytest

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.errors import ConfigError
from certmond.pki.catalog.ca_replacement_spec import CAReplacementSpec

COMMAND = ("/usr/local/bin/k3s", "certificate", "rotate-ca")


@pytest.mark.parametrize("given", ["", ", present: /tls", ", staged: /new"])
def test_a_command_needs_both_directories(given: str) -> None:
    """An error at the section names both keys if the section has a command, and lacks one of the two directories."""
    text = f"profile: none\nca_replacement: {{command: [/k3s]{given}}}"
    with pytest.raises(ConfigError, match=r"a:2: ca_replacement: must contain `present` and `staged` for `command`"):
        parse([Source("a", text)])


def test_the_paths_of_the_new_files() -> None:
    """A new file has the same path below `staged` as the present file below `present`."""
    spec = CAReplacementSpec(command=COMMAND, present="/data/tls", staged="/data/new/tls")
    assert spec.program == "k3s"
    assert spec.staged_path("/data/tls/etcd/peer-ca.crt") == "/data/new/tls/etcd/peer-ca.crt"
    assert [spec.replaces(path) for path in ("/data/tls/ca.crt", "/data/tls-old/ca.crt")] == [True, False]


def test_without_a_command() -> None:
    """This is the default, with which no file belongs to the section."""
    spec = CAReplacementSpec()
    assert (spec.program, spec.command, spec.replaces("/data/tls/ca.crt")) == ("", (), False)
    assert spec.staged_path("/ca.crt") == "/ca.crt"


@pytest.mark.parametrize("profile", ["k3s", "rke2"])
def test_the_profiles(profile: str) -> None:
    """`--path` names the parent of `staged`, as k3s requires. The command replaces all CAs of a server."""
    config = parse((), profile=profile)
    spec, server = config.ca_replacement, f"/var/lib/rancher/{profile}/server"
    assert spec.command == (profile, "certificate", "rotate-ca", f"--path={server}/rotate-ca")
    assert (spec.present, spec.staged) == (f"{server}/tls", f"{server}/rotate-ca/tls")
    replaced = {each.name for each in config.certificates if each.authority and spec.replaces(each.path)}
    assert replaced == {"client-ca", "server-ca", "request-header-ca", "etcd-server-ca", "etcd-peer-ca"}
    assert not parse(()).ca_replacement.command
