"""The configuration file of k0s."""

from __future__ import annotations

import pytest
import yaml

from certmond.formats.k0s_config import parse_k0s_config


def test_the_flags_of_each_component_are_found() -> None:
    """The fields `extraArgs` and `rawArgs` add flags to a component."""
    extra = {"oidc-ca-file": "/a.crt", "v": 2}
    fields = {
        "spec": {
            "api": {"extraArgs": extra, "rawArgs": ["--peer-ca-file=/b.crt", "--x", 5]},
            "controllerManager": {"extraArgs": {"root_ca_file": "/c.crt"}}, "scheduler": {"rawArgs": "none"},
            "storage": {"etcd": {"extraArgs": {"trusted-ca-file": "/d.crt"}}},
        }
    }  # fmt: skip
    assert parse_k0s_config(yaml.safe_dump(fields).encode(), "").flags == {
        "kube-apiserver": (("oidc-ca-file", "/a.crt"), ("v", ""), ("peer-ca-file", "/b.crt"), ("x", "")),
        "kube-controller-manager": (("root-ca-file", "/c.crt"),), "etcd": (("trusted-ca-file", "/d.crt"),),
    }  # fmt: skip


def test_an_external_etcd_gives_flags_to_the_api_server() -> None:
    """k0s then starts no etcd, so the arguments of etcd have no effect. The same applies to kine."""
    external = {"endpoints": ["https://a"], "caFile": "/ca.crt", "clientCertFile": "/c.crt", "clientKeyFile": "/c.key"}
    etcd = {"extraArgs": {"trusted-ca-file": "/d.crt"}, "externalCluster": external}
    data = yaml.safe_dump({"spec": {"storage": {"type": "etcd", "etcd": etcd}}}).encode()
    assert parse_k0s_config(data, "").flags == {
        "kube-apiserver": (("etcd-cafile", "/ca.crt"), ("etcd-certfile", "/c.crt"), ("etcd-keyfile", "/c.key"))
    }
    assert not parse_k0s_config(data.replace(b"type: etcd", b"type: kine"), "").flags


@pytest.mark.parametrize(
    ("data", "fault"), [(b"", ""), (b"kind: ClusterConfig", ""), (b"spec: []", ""), (b"{", "is not YAML")]
)
def test_a_file_without_flags(data: bytes, fault: str) -> None:
    """k0s has defaults for each field. A file that is not YAML has a fault."""
    config = parse_k0s_config(data, "")
    assert not config.flags
    assert config.fault[: len(fault)] == fault
    assert bool(config.fault) == bool(fault)
