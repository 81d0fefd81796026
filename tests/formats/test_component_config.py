"""The files that configuration files of components name, and arbitrary content in place of these files."""

from __future__ import annotations

import base64
from contextlib import suppress
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.errors import MalformedError
from certmond.formats.component_config import named_files
from certmond.pki.catalog.component_certificate_flags import FileKind, NamedFile, Role

PEM = "-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n"
KINDS = st.sampled_from(list(FileKind))
FIELDS = """kind plugins path configuration kubeConfigFile imagePolicy jwt issuer certificateAuthority authorizers
    connectionInfo webhook egressSelections connection transport tcp tlsConfig caBundle clientCert clientKey extenders
    caData clientConnection kubeconfig client-transport-security peer-transport-security cert-file
    certData certFile keyFile"""
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([*map(str, FileKind), "/a.crt", "b.crt", PEM, "\x00", "YQ=="]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS.split()), inner, max_size=4),
    max_leaves=20,
)


def read(kind: FileKind, **fields: Any) -> tuple[NamedFile, ...]:
    declared = {} if kind in {FileKind.ETCD, FileKind.ADMISSION_PLUGIN} else {"kind": kind.value}
    return named_files(yaml.safe_dump({**declared, **fields}).encode(), kind)


def test_the_ca_of_an_issuer_is_embedded() -> None:
    """AuthenticationConfiguration contains the CA of each issuer as PEM, not as a path."""
    jwt = [{"issuer": {"url": "https://a", "certificateAuthority": PEM}}, {"issuer": {"url": "https://b"}}, 7]
    assert read(FileKind.AUTHENTICATION, jwt=jwt) == (NamedFile("certificateAuthority", Role.TRUST, pem=PEM.encode()),)


def test_an_authorizer_names_a_kubeconfig() -> None:
    """AuthorizationConfiguration names the kubeconfig of each webhook; other authorizers name no file."""
    webhook = {"connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "/a.conf"}}
    authorizers = [{"type": "Webhook", "webhook": webhook}, {"type": "Node"}]
    assert read(FileKind.AUTHORIZATION, authorizers=authorizers) == (
        NamedFile("kubeConfigFile", Role.KUBECONFIG, "/a.conf"),
    )


def test_an_egress_selection_names_a_ca_and_a_pair() -> None:
    """EgressSelectorConfiguration names the CA of the proxy, and the client certificate of the API server."""
    tls = {"caBundle": "/ca.crt", "clientCert": "/c.crt", "clientKey": "/c.key"}
    selection = {"name": "cluster", "connection": {"transport": {"tcp": {"tlsConfig": tls}}}}
    assert read(FileKind.EGRESS_SELECTOR, egressSelections=[selection]) == (
        NamedFile("caBundle", Role.TRUST, "/ca.crt"),
        NamedFile("clientCert", Role.CLIENT, "/c.crt", "/c.key"),
    )


def test_admission_plugins_name_kubeconfigs_and_files() -> None:
    """A plugin has its configuration in the file, or in another file. `configuration` takes precedence."""
    plugins = [
        {"name": "ValidatingAdmissionWebhook", "configuration": {"kubeConfigFile": "/w.conf"}, "path": "/unused"},
        {"name": "ImagePolicyWebhook", "configuration": {"imagePolicy": {"kubeConfigFile": "/i.conf"}}},
        {"name": "ImagePolicyWebhook", "path": "image.yaml"},
        {"name": "PodNodeSelector", "configuration": {"clusterDefaultNodeSelectors": {}}},
    ]
    assert read(FileKind.ADMISSION, plugins=plugins) == (
        NamedFile("kubeConfigFile", Role.KUBECONFIG, "/w.conf"),
        NamedFile("kubeConfigFile", Role.KUBECONFIG, "/i.conf"),
        NamedFile("path", Role.CONFIGURATION, "image.yaml", kind=FileKind.ADMISSION_PLUGIN),
    )
    assert read(FileKind.ADMISSION_PLUGIN, imagePolicy={"kubeConfigFile": "/i.conf"}) == (
        NamedFile("kubeConfigFile", Role.KUBECONFIG, "/i.conf"),
    )


def test_an_admission_file_without_a_kind_is_the_configuration_of_one_plugin() -> None:
    """Kubernetes accepts the configuration of ImagePolicyWebhook in place of AdmissionConfiguration."""
    text = yaml.safe_dump({"imagePolicy": {"kubeConfigFile": "/i.conf"}}).encode()
    assert named_files(text, FileKind.ADMISSION) == (NamedFile("kubeConfigFile", Role.KUBECONFIG, "/i.conf"),)


def test_the_scheduler_names_its_kubeconfig_and_the_files_of_extenders() -> None:
    """The data in the configuration of an extender take precedence over files."""
    files = {"certFile": "/e.crt", "keyFile": "/e.key", "caFile": "/e-ca.crt"}
    data = files | {"caData": base64.b64encode(PEM.encode()).decode(), "certData": "not base64"}
    found = read(
        FileKind.SCHEDULER,
        clientConnection={"kubeconfig": "/s.conf"},
        extenders=[{"tlsConfig": files}, {"tlsConfig": data}],
    )
    assert found == (
        NamedFile("kubeconfig", Role.KUBECONFIG, "/s.conf"),
        NamedFile("caFile", Role.TRUST, "/e-ca.crt"),
        NamedFile("certFile", Role.CLIENT, "/e.crt", "/e.key"),
        NamedFile("caData", Role.TRUST, pem=PEM.encode()),
        NamedFile("certData", Role.CLIENT, pem=b""),
    )


def test_etcd_and_kube_proxy_name_their_files() -> None:
    """etcd has a section for clients and one for peers; kube-proxy names its kubeconfig."""
    assert read(FileKind.PROXY, clientConnection={"kubeconfig": "/p.conf"}) == (
        NamedFile("kubeconfig", Role.KUBECONFIG, "/p.conf"),
    )
    security = {"cert-file": "/s.crt", "key-file": "/s.key", "trusted-ca-file": "/ca.crt"}
    found = read(FileKind.ETCD, **{"client-transport-security": security, "peer-transport-security": security})
    assert found == (
        NamedFile("cert-file", Role.SERVER, "/s.crt", "/s.key"),
        NamedFile("trusted-ca-file", Role.TRUST, "/ca.crt"),
        NamedFile("peer-cert-file", Role.SERVER, "/s.crt", "/s.key"),
        NamedFile("peer-trusted-ca-file", Role.TRUST, "/ca.crt"),
    )


def test_a_key_in_place_of_a_path_is_no_path() -> None:
    """certmond never reads PEM text as a path, because certmond publishes paths."""
    tls = {"caBundle": PEM, "clientCert": "/c.crt", "clientKey": "-----BEGIN PRIVATE KEY-----"}
    selection = {"connection": {"transport": {"tcp": {"tlsConfig": tls}}}}
    assert read(FileKind.EGRESS_SELECTOR, egressSelections=[selection]) == (
        NamedFile("clientCert", Role.CLIENT, "/c.crt"),
    )


def test_a_file_of_another_kind_is_malformed() -> None:
    """A file that the component refuses raises MalformedError."""
    with pytest.raises(MalformedError, match="is not of kind AuthorizationConfiguration"):
        named_files(b"kind: AuthenticationConfiguration", FileKind.AUTHORIZATION)


@given(st.binary(max_size=200), KINDS)
def test_arbitrary_bytes_are_malformed_or_name_nothing(data: bytes, kind: FileKind) -> None:
    """Arbitrary content raises no exception except MalformedError."""
    with suppress(MalformedError):
        named_files(data, kind)


@pytest.mark.long
@settings(max_examples=200)
@given(VALUES, KINDS)
def test_arbitrary_values_in_the_fields_are_skipped(value: Any, kind: FileKind) -> None:
    """A field whose value is not a text, or has a null byte, names no file."""
    data = yaml.safe_dump({"kind": str(kind), **value} if isinstance(value, dict) else value).encode()
    try:
        found = named_files(data, kind)
    except MalformedError:
        return
    assert all(each.path or each.pem is not None for each in found)
    assert not any("\x00" in each.path or "BEGIN" in each.path for each in found)
