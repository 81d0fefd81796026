"""The table of flags, compared with the flags that the sources of Kubernetes and etcd define."""

from __future__ import annotations

import re

import pytest

from certmond.pki.catalog.component_certificate_flags import FLAGS, PROGRAMS, REQUESTED, Flag, Role
from certmond.pki.catalog.entries import CertificateSpec

SERVING = "tls-cert-file tls-private-key-file tls-sni-cert-key cert-dir client-ca-file requestheader-client-ca-file"
KUBECONFIGS = "kubeconfig authentication-kubeconfig authorization-kubeconfig"
SIGNERS = " ".join(
    f"cluster-signing{usage}-{part}-file"
    for usage in ("", "-kubelet-serving", "-kubelet-client", "-kube-apiserver-client", "-legacy-unknown")
    for part in ("cert", "key")
)
DATASTORE = """datastore-cafile datastore-certfile datastore-keyfile
    datastore-endpoint.sslcert datastore-endpoint.sslkey datastore-endpoint.sslrootcert"""
SOURCES = {
    "kube-apiserver": f"""{SERVING} etcd-certfile etcd-keyfile etcd-cafile kubelet-client-certificate kubelet-client-key
        kubelet-certificate-authority proxy-client-cert-file proxy-client-key-file peer-ca-file oidc-ca-file
        service-account-key-file service-account-signing-key-file service-account-signing-endpoint
        authentication-token-webhook-config-file
        authorization-webhook-config-file audit-webhook-config-file authentication-config authorization-config
        egress-selector-config-file admission-control-config-file""",
    "kube-controller-manager": f"{SERVING} {KUBECONFIGS} root-ca-file service-account-private-key-file {SIGNERS}",
    "kube-scheduler": f"{SERVING} {KUBECONFIGS} config",
    "cloud-controller-manager": f"""{SERVING} {KUBECONFIGS} webhook-tls-cert-file webhook-tls-private-key-file
        webhook-tls-sni-cert-key""",
    "kube-proxy": "kubeconfig config",
    "kubelet": """tls-cert-file tls-private-key-file cert-dir client-ca-file kubeconfig bootstrap-kubeconfig tlsCertFile
        tlsPrivateKeyFile clientCAFile""",
    "etcd": """cert-file key-file client-cert-file client-key-file trusted-ca-file peer-cert-file peer-key-file
        peer-client-cert-file peer-client-key-file peer-trusted-ca-file discovery-cert discovery-key discovery-cacert
        config-file""",
    "konnectivity-server": "server-cert server-key server-ca-cert cluster-cert cluster-key cluster-ca-cert kubeconfig",
    "konnectivity-agent": "agent-cert agent-key ca-cert",
    "k3s": f"{DATASTORE} etcd-s3-endpoint-ca private-registry",
    "rke2": f"{DATASTORE} etcd-s3-endpoint-ca private-registry",
}
"""Component -> its flags and fields for files with a certificate or key, listed from the sources and not the code.

kubernetes v1.36, the files of `Flag.source`; etcd v3.6, server/embed/config.go; apiserver-network-proxy v0.34;
k3s pkg/cli/cmds, and kine pkg/drivers/pgsql/pgsql.go. It omits
files without certificates: policies, CRLs, tokens, encryption and tracing configurations.
"""


@pytest.mark.parametrize("component", SOURCES)
def test_the_table_has_the_flags_of_the_sources(component: str) -> None:
    """The table has a row or a key for each flag of a component that names a certificate or a key, and no other.

    `REQUESTED` is no flag, but the second file in --cert-dir.
    """
    rows = [row for row in FLAGS if row.component == component]
    named = [name for row in rows for name in (row.name, row.key_flag) if name not in {"", REQUESTED}]
    assert sorted(named) == sorted(SOURCES[component].split())


def test_every_component_of_the_table_has_a_program() -> None:
    """certmond recognizes each component of the table by its program."""
    assert {row.component for row in FLAGS} == set(PROGRAMS.values()) == set(SOURCES)


@pytest.mark.parametrize("row", FLAGS, ids=lambda row: f"{row.component} {row.name}")
def test_a_row_names_its_source_and_an_entry(row: Flag) -> None:
    """Each row has a Go file as its source, a valid name of an entry, and for a CA an existing row with CAs."""
    assert re.search(r"[a-z_]+\.go$", row.source)
    assert CertificateSpec(name=f"{row.entry}.9", path="/x").name.startswith(row.component)
    assert (row.role is Role.CONFIGURATION) == (row.kind is not None)
    if row.verified_by:
        assert [each.role for each in FLAGS if (each.component, each.name) == row.verified_by] == [Role.TRUST]
    if row.role in {Role.TRUST, Role.KUBECONFIG, Role.CONFIGURATION, Role.KEY, Role.SOCKET}:
        assert not row.key_flag
    else:
        # The value of a repeated pair contains its key, and a directory contains both files.
        assert row.key_flag or row.repeated or row.pair


def test_names_of_entries_are_unique() -> None:
    """Two rows never give the same name to an entry."""
    names = [row.entry for row in FLAGS]
    assert len(names) == len(set(names))
