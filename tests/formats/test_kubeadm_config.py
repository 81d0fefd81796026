"""kubeadm's configuration files: the used fields, the ignored fields, and every mistake reported at once."""

from __future__ import annotations

import contextlib
import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.errors import ConfigError
from certmond.formats.kubeadm_config import KubeadmConfig, is_node_name, parse_kubeadm_config
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.catalog.init_cluster_spec import InitSpec
from certmond.pki.planning.bootstrap_steps import facts_of

PATH = "kubeadm.yaml"
REAL = Path(__file__).parents[1] / "data" / "kubeadm-1.24.config.yaml"
SECRETS = ("abcdef.0123456789abcdef", "e6a2eb8581237ab72a4f494f30285ec12a9694d750b9785706a83bfcbbbd2204")
V1BETA3 = """
apiVersion: kubeadm.k8s.io/v1beta3
kind: InitConfiguration
bootstrapTokens: [{token: abcdef.0123456789abcdef, ttl: 24h0m0s}]
certificateKey: e6a2eb8581237ab72a4f494f30285ec12a9694d750b9785706a83bfcbbbd2204
localAPIEndpoint: {advertiseAddress: 192.0.2.10, bindPort: 8443}
nodeRegistration:
  name: Controller-0
  kubeletExtraArgs: {v: "4"}
---
apiVersion: kubeadm.k8s.io/v1beta3
kind: ClusterConfiguration
kubernetesVersion: v1.27.3
clusterName: shop
controlPlaneEndpoint: k8s.example.com:443
networking: {serviceSubnet: 10.128.0.0/16, podSubnet: 10.244.0.0/16, dnsDomain: shop.internal}
apiServer: {certSANs: [k8s.example.com, 198.51.100.7, "*.shop.example.com"], extraArgs: {v: "4"}}
etcd: {local: {dataDir: /var/lib/etcd, serverCertSANs: [etcd.example.com], peerCertSANs: ["2001:db8::7"]}}
certificatesDir: /srv/pki/
featureGates: {PublicKeysECDSA: true}
"""
V1BETA4 = """
# of `kubeadm config print init-defaults`, and what is new in it
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens: [{token: abcdef.0123456789abcdef, ttl: 24h0m0s, usages: [signing]}]
localAPIEndpoint: {advertiseAddress: "2001:db8::10"}
nodeRegistration: {name: node, kubeletExtraArgs: [{name: v, value: "4"}], taints: null}
timeouts: {controlPlaneComponentHealthCheck: 4m0s}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
apiServer: {}
caCertificateValidityPeriod: 87600h0m0s
certificateValidityPeriod: 8760h0m0s
certificatesDir: /etc/kubernetes/pki
clusterName: kubernetes
controllerManager: {}
dns: {}
encryptionAlgorithm: RSA-3072
etcd: {external: {endpoints: ["https://192.0.2.3:2379"], caFile: /a, certFile: /b, keyFile: /c}}
imageRepository: registry.k8s.io
kubernetesVersion: 1.36.0
networking: {dnsDomain: cluster.local, serviceSubnet: "fd00:10::/108,10.96.0.0/12"}
proxy: {}
scheduler: {}
---
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
clusterDNS: [10.96.0.10]
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ResetConfiguration
"""
JOIN = """
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
controlPlane:
  localAPIEndpoint: {advertiseAddress: 192.0.2.11, bindPort: 7443}
  certificateKey: e6a2eb8581237ab72a4f494f30285ec12a9694d750b9785706a83bfcbbbd2204
discovery: {bootstrapToken: {apiServerEndpoint: "k8s.example.com:6443", token: abcdef.0123456789abcdef}}
nodeRegistration: {name: controller-1}
"""
ALGORITHMS = ("RSA-2048", "RSA-3072", "RSA-4096", "ECDSA-P256", "ECDSA-P384")
CLUSTER = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n"
INIT = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n"


def parse(text: str) -> KubeadmConfig:
    return parse_kubeadm_config(text.encode(), PATH)


def problems(text: str | bytes) -> list[str]:
    """Return all problems of the text, after asserting that none quotes a token."""
    with pytest.raises(ConfigError) as caught:
        parse_kubeadm_config(text if isinstance(text, bytes) else text.encode(), PATH)
    assert all(problem.startswith(f"{PATH}:") for problem in caught.value.problems)
    assert not any(secret in str(caught.value) for secret in SECRETS)
    return [problem.removeprefix(f"{PATH}: ") for problem in caught.value.problems]


# Used fields


def test_v1beta3() -> None:
    """Everything that certificates are made from is taken from a v1beta3 file."""
    assert parse(V1BETA3) == KubeadmConfig(
        init=InitSpec(
            advertise_address="192.0.2.10",
            bind_port=8443,
            control_plane_endpoint="k8s.example.com:443",
            service_subnet="10.128.0.0/16",
            dns_domain="shop.internal",
            cluster_name="shop",
            kubernetes_version="v1.27.3",
            cert_sans=("k8s.example.com", "198.51.100.7", "*.shop.example.com"),
            etcd_server_cert_sans=("etcd.example.com",),
            etcd_peer_cert_sans=("2001:db8::7",),
            certificates_dir="/srv/pki",
        ),
        node_name="controller-0",
        key_algorithm=KeyAlgorithm.ECDSA_P256,
    )


def test_v1beta4() -> None:
    """And from one of v1beta4, which says more; what else is in the file is passed over."""
    assert parse(V1BETA4) == KubeadmConfig(
        init=InitSpec(
            advertise_address="2001:db8::10",
            service_subnet="fd00:10::/108,10.96.0.0/12",
            kubernetes_version="1.36.0",
            external_etcd=True,
            ca_validity=timedelta(days=3650),
        ),
        node_name="node",
        validity=timedelta(days=365),
        key_algorithm=KeyAlgorithm.RSA_3072,
    )


def test_the_configuration_of_the_real_tree() -> None:
    """The file that a real kubeadm v1.24 was given is understood."""
    found = parse_kubeadm_config(REAL.read_bytes(), PATH)
    assert (found.node_name, found.init.kubernetes_version, found.joins) == ("controller-0", "v1.24.0", False)
    assert facts_of(found.init, "controller-0", "192.0.2.10") == {
        "node_name": "controller-0", "advertise_address": "192.0.2.10", "service_ip": "10.96.0.1",
        "dns_domain": "cluster.local", "control_plane_name": "DNS:k8s.example.com",
    }  # fmt: skip


@pytest.mark.parametrize("value", ["!!binary aGk=", "[a.example, !!binary aGk=]", "!!set {a.example: , b.example: }"])
def test_a_tag_does_not_make_a_name(value: str) -> None:
    """A byte string or a set is a problem of its field, and not a name in a certificate."""
    with pytest.raises(ConfigError) as refused:
        parse(f"{CLUSTER}apiServer: {{certSANs: {value}}}")
    (problem,) = refused.value.problems
    assert "ClusterConfiguration: apiServer.certSANs: must be text or a list of texts, without the tag" in problem


def test_an_absent_field_is_unset() -> None:
    """An absent field is unset, so that certmond's own configuration applies."""
    found = parse(CLUSTER)
    assert found == KubeadmConfig(InitSpec())
    assert found.given == frozenset()


@pytest.mark.parametrize(("mapping", "text"), [("", ""), ("null", "null"), ("{}", "''")])
def test_empty_is_not_said(mapping: str, text: str) -> None:
    """An empty value says nothing, as kubeadm's defaulting has it."""
    text = f"{CLUSTER}controlPlaneEndpoint: {text}\nnetworking: {mapping}\nclusterName: {text}\netcd: {mapping}\n"
    assert parse(text).given == frozenset()


def test_init_configuration_alone() -> None:
    """An InitConfiguration will do, too."""
    assert parse(f"{INIT}nodeRegistration: {{name: a}}").node_name == "a"


def test_join_configuration() -> None:
    """A control plane that joins has its address in a JoinConfiguration, beside the configuration of the cluster."""
    found = parse(f"{JOIN}---\n{CLUSTER}dnsDomain: ignored\ncontrolPlaneEndpoint: k8s.example.com\n")
    assert found.joins
    assert found.node_name == "controller-1"
    assert found.init == InitSpec(
        advertise_address="192.0.2.11", bind_port=7443, control_plane_endpoint="k8s.example.com"
    )


def test_an_init_configuration_counts_more() -> None:
    """Where both are in a file, it is that of `kubeadm init`."""
    found = parse(f"{JOIN}---\n{INIT}nodeRegistration: {{name: first}}")
    assert (found.joins, found.node_name, found.init.advertise_address) == (False, "first", None)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_encryption_algorithms(algorithm: str) -> None:
    """Every algorithm of kubeadm's is known by its name, and counts more than the feature gate."""
    found = parse(f"{CLUSTER}encryptionAlgorithm: {algorithm}\nfeatureGates: {{PublicKeysECDSA: true}}")
    assert found.key_algorithm == algorithm


@pytest.mark.parametrize("gate", ["false", "'true'", "null"])
def test_feature_gate_that_is_off(gate: str) -> None:
    """Without the feature gate the kind of keys is unset."""
    assert parse(f"{CLUSTER}featureGates: {{PublicKeysECDSA: {gate}}}").key_algorithm is None


@pytest.mark.parametrize(
    ("written", "meant", "name"),
    [
        ("k8s.example.com", "k8s.example.com", "DNS:k8s.example.com"),
        ("k8s.example.com:443", "k8s.example.com:443", "DNS:k8s.example.com"),
        ("192.0.2.1", "192.0.2.1", "IP:192.0.2.1"),
        ("192.0.2.1:443", "192.0.2.1:443", "IP:192.0.2.1"),
        ("2001:DB8::1", "[2001:DB8::1]", "IP:2001:db8::1"),
        ("[2001:db8::1]", "[2001:db8::1]", "IP:2001:db8::1"),
        ("[2001:db8::1]:443", "[2001:db8::1]:443", "IP:2001:db8::1"),
    ],
)
def test_endpoints(written: str, meant: str, name: str) -> None:
    """An endpoint is a name or an address, with a port or without one; an IPv6 address may go without brackets."""
    init = parse(f'{CLUSTER}controlPlaneEndpoint: "{written}"').init
    assert init.control_plane_endpoint == meant
    assert facts_of(init, "node", "192.0.2.9")["control_plane_name"] == name


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "0:0:0:0:0:0:0:0"])  # noqa: S104 - nothing is bound
def test_any_address_is_none(address: str) -> None:
    """The unspecified address asks for the default, as with kubeadm."""
    assert parse(f"{INIT}localAPIEndpoint: {{advertiseAddress: '{address}'}}").init.advertise_address is None


@pytest.mark.parametrize(
    ("label", "meant"),
    [("stable-1.28", "v1.28"), ("latest-1.34", "v1.34"), ("ci/latest-1.35", "v1.35"), ("stable", None),
     ("stable-1", None), ("latest", None), ("v1.34.0-rc.1", "v1.34.0-rc.1"), ("1.34", "1.34")],
)  # fmt: skip
def test_versions(label: str, meant: str | None) -> None:
    """A label represents the version in it, or a current one without it."""
    assert parse(f"{CLUSTER}kubernetesVersion: '{label}'").init.kubernetes_version == meant


@pytest.mark.parametrize(
    ("subnet", "first"),
    [("10.96.0.0/12", "10.96.0.1"), ("10.0.0.0/16,fd00::/108", "10.0.0.1"), ("fd00:1::/112,10.0.0.0/16", "fd00:1::1"),
     ("10.96.0.8/30", "10.96.0.9")],
)  # fmt: skip
def test_service_networks(subnet: str, first: str) -> None:
    """The API server has the first address of the first network of Services."""
    init = parse(f"{CLUSTER}networking: {{serviceSubnet: '{subnet}'}}").init
    assert facts_of(init, "node", "192.0.2.9")["service_ip"] == first


# Error messages


@pytest.mark.parametrize("version", ["v1alpha1", "v1beta1", "v1beta2", "v1", "v1beta5", ""])
def test_other_versions(version: str) -> None:
    """Another version of the API is reported with the remedy, for each document."""
    text = f"apiVersion: kubeadm.k8s.io/{version}\nkind: InitConfiguration\n"
    reported = (
        "has a version of kubeadm.k8s.io other than v1beta3 and v1beta4; convert the file: kubeadm config migrate "
        f"--old-config {PATH}"
    )
    assert problems(f"{text}---\n{text}") == [f"document 1: {reported}", f"document 2: {reported}"]


def test_everything_at_once() -> None:
    """Each mistake is reported with its place in the file, all of them at once, whatever their kind."""
    found = problems(
        """
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
bootstrapTokens: [{token: abcdef.0123456789abcdef}]
localAPIEndpoint: {advertiseAddress: abcdef.0123456789abcdef, bindPort: 70000}
nodeRegistration: {name: Not_A_Name}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
apiServer: {certSANs: [good.example.com, Bad.example.com, 7, "abcdef.0123456789abcdef_"]}
caCertificateValidityPeriod: 3600
certificateValidityPeriod: -1h
certificatesDir: pki
clusterName: [a]
controlPlaneEndpoint: https://k8s.example.com
encryptionAlgorithm: Ed25519
etcd: {local: {serverCertSANs: {a: b}, peerCertSANs: [null]}}
kubernetesVersion: 1.34
networking: {serviceSubnet: 10.96.0.0/32, dnsDomain: "*"}
"""
    )
    host = "must be an IP address, or a DNS name of lowercase letters, digits, '-' and '.'"
    assert sorted(found) == sorted([
        "InitConfiguration: localAPIEndpoint.advertiseAddress: must be an IP address",
        "InitConfiguration: localAPIEndpoint.bindPort: must be a port from 1 to 65535",
        "InitConfiguration: nodeRegistration.name: must be a DNS name of lowercase letters, digits, '-' and '.'",
        f"ClusterConfiguration: apiServer.certSANs[1]: {host}",
        "ClusterConfiguration: apiServer.certSANs[2]: must be text",
        f"ClusterConfiguration: apiServer.certSANs[3]: {host}",
        "ClusterConfiguration: caCertificateValidityPeriod: must be a duration such as 8760h0m0s",
        "ClusterConfiguration: certificateValidityPeriod: must be a duration such as 8760h0m0s",
        "ClusterConfiguration: certificatesDir: must be an absolute path",
        "ClusterConfiguration: clusterName: must be text",
        (
            "ClusterConfiguration: controlPlaneEndpoint: must be HOST or HOST:PORT, and an IPv6 address must be in "
            "brackets"
        ),
        f"ClusterConfiguration: encryptionAlgorithm: must be one of {', '.join(ALGORITHMS)}",
        "ClusterConfiguration: etcd.local.serverCertSANs: must be a list",
        "ClusterConfiguration: etcd.local.peerCertSANs[0]: must be text",
        "ClusterConfiguration: kubernetesVersion: must be text",
        "ClusterConfiguration: networking.serviceSubnet: must have at least two addresses",
        "ClusterConfiguration: networking.dnsDomain: must be a DNS name of lowercase letters, digits, '-' and '.'",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("networking: 7", "networking: must be a mapping"),
        ("networking: {serviceSubnet: 10.96.0.0}", "must have at least two addresses"),
        ("networking: {serviceSubnet: none}", "must be a network such as 10.96.0.0/12"),
        ("networking: {serviceSubnet: [10.96.0.0/12]}", "networking.serviceSubnet: must be text"),
        ("etcd: {local: [a]}", "etcd.local: must be a mapping"),
        ("apiServer: {certSANs: 7}", "apiServer.certSANs: must be a list"),
        ("kubernetesVersion: v2.0.0", "kubernetesVersion: must be a version such as v1.34.0"),
        ("kubernetesVersion: {a: b}", "kubernetesVersion: must be text"),
        ("controlPlaneEndpoint: k8s.example.com:0", "must have a port from 1 to 65535 after the colon"),
        ("controlPlaneEndpoint: under_score", "must be an IP address, or a DNS name"),
        ("controlPlaneEndpoint: '[fe80::1%eth0]'", "must be an IP address, or a DNS name"),
        ("apiServer: {certSANs: ['fe80::1%eth0']}", "apiServer.certSANs[0]: must be an IP address, or a DNS name"),
        ("controlPlaneEndpoint: [a]", "controlPlaneEndpoint: must be text"),
        ("encryptionAlgorithm: [RSA-2048]", "encryptionAlgorithm: must be one of"),
        ("certificateValidityPeriod: {a: b}", "must be a duration"),
    ],
)
def test_invalid_values_of_the_cluster(text: str, reported: str) -> None:
    """A value of the wrong type or kind is reported with its place."""
    (problem,) = problems(CLUSTER + text)
    assert problem.startswith("ClusterConfiguration: ")
    assert reported in problem


@pytest.mark.parametrize("address", ["[a]", "{a: b}", "7", "host", "fe80::1%eth0", "192.0.2.0/24"])
def test_addresses(address: str) -> None:
    """A text that is no address is reported as such, and so is a value that is no text."""
    (problem,) = problems(f"{INIT}localAPIEndpoint: {{advertiseAddress: {address}}}")
    assert re.fullmatch(r"InitConfiguration: localAPIEndpoint.advertiseAddress: must be (an IP address|text)", problem)


@pytest.mark.parametrize("port", ["0", "65536", "-1", "yes", "1.5", "x", "[1]", "'70000'"])
def test_ports(port: str) -> None:
    """A value that is no port is reported as such."""
    (problem,) = problems(f"{INIT}localAPIEndpoint: {{bindPort: {port}}}")
    assert problem == "InitConfiguration: localAPIEndpoint.bindPort: must be a port from 1 to 65535"


@pytest.mark.parametrize("name", ["7", "[a]", "-a", "a b", "ü", "'a,O=system:masters'", "a_b", "'${node_name}'"])
def test_node_names(name: str) -> None:
    """Subjects and names contain a node's name, so an invalid one is reported."""
    (problem,) = problems(f"{INIT}nodeRegistration: {{name: {name}}}")
    assert problem.startswith("InitConfiguration: nodeRegistration.name: must be a DNS name of")


def test_a_node_name_may_be_long() -> None:
    """A name has 253 characters at most."""
    assert is_node_name("a" * 253)
    assert not is_node_name("a" * 254)


def test_invalid_values_of_a_node_that_joins() -> None:
    """Mistakes in a JoinConfiguration are reported with their places."""
    text = JOIN.replace("192.0.2.11", "here").replace("7443", "0").replace("controller-1", "-")
    assert problems(f"{text}---\n{CLUSTER}") == [
        "JoinConfiguration: controlPlane.localAPIEndpoint.advertiseAddress: must be an IP address",
        "JoinConfiguration: controlPlane.localAPIEndpoint.bindPort: must be a port from 1 to 65535",
        "JoinConfiguration: nodeRegistration.name: must be a DNS name of lowercase letters, digits, '-' and '.'",
    ]


def test_workers_are_not_made() -> None:
    """A JoinConfiguration without controlPlane is that of a worker, which has nothing that `init` makes."""
    text = "apiVersion: kubeadm.k8s.io/v1beta3\nkind: JoinConfiguration\n"
    reported = (
        "JoinConfiguration: contains no controlPlane, so the node is a worker; use the file of a control-plane node"
    )
    assert problems(text) == [reported]
    assert problems(f"{text}controlPlane: null\n---\n{CLUSTER}") == [reported]
    assert parse(f"{text}controlPlane: {{}}\n---\n{CLUSTER}").joins


def test_a_node_that_joins_needs_the_cluster() -> None:
    """A node that joins needs the cluster's own configuration: defaults would fit another cluster."""
    assert problems(JOIN) == [
        "contains only a JoinConfiguration; add the ClusterConfiguration of the cluster that the node joins"
    ]


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("", "contains neither InitConfiguration nor ClusterConfiguration of kubeadm.k8s.io"),
        ("---\n---\n", "contains neither InitConfiguration nor ClusterConfiguration"),
        ("apiVersion: v1\nkind: Secret\n", "contains neither InitConfiguration nor ClusterConfiguration"),
        ("apiVersion: kubeadm.k8s.io/v1beta4\nkind: [InitConfiguration]\n", "contains neither InitConfiguration"),
        ("apiVersion: [kubeadm.k8s.io/v1beta4]\nkind: InitConfiguration\n", "contains neither InitConfiguration"),
        ("apiVersion: kubeadm.k8s.io/v1beta4\nkind: ResetConfiguration\n", "contains neither InitConfiguration"),
        ("text", "document 1: is not a mapping; correct this document"),
        ("[1, 2]", "document 1: is not a mapping; correct this document"),
        (f"{CLUSTER}---\n{CLUSTER}", "document 2: is a second ClusterConfiguration; remove one of the two documents"),
        ("a: b: c", "is not YAML; correct the file"),
        ("a: !!python/object:os.system {}", "is not YAML; correct the file"),
        ("token: 'abcdef.0123456789abcdef", "is not YAML; correct the file"),
        ("[" * 100_000, "is not YAML; correct the file"),
    ],
)
def test_other_documents(text: str, reported: str) -> None:
    """A document that is no kubeadm configuration is reported with its place, and without its content."""
    (problem,) = problems(text)
    assert reported in problem


def test_the_line_of_a_syntax_error() -> None:
    """A YAML error has its line."""
    assert problems(f"{CLUSTER}clusterName: 'unfinished\n") == [f"{PATH}:4: is not YAML; correct the file"]


def test_aliases_cannot_eat_memory() -> None:
    """Aliases of aliases are no trouble, wherever they stand."""
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
    bomb = f"a0: &a0 [x]\n{levels}"
    for place in ("apiVersion", "kind", "clusterName", "encryptionAlgorithm", "kubernetesVersion", "certificatesDir"):
        head = "" if place in {"apiVersion", "kind"} else CLUSTER
        assert problems(f"{head}{bomb}{place}: *a11\n")


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_arbitrary_bytes(data: bytes) -> None:
    """Any bytes are a configuration or problems."""
    assert problems(data)


PLACES = ("kubernetesVersion", "clusterName", "controlPlaneEndpoint", "certificatesDir", "encryptionAlgorithm", "etcd",
          "certificateValidityPeriod", "caCertificateValidityPeriod", "networking", "apiServer", "localAPIEndpoint",
          "nodeRegistration", "controlPlane", "featureGates", "apiVersion", "kind")  # fmt: skip
INNER = ("serviceSubnet", "dnsDomain", "certSANs", "local", "external", "serverCertSANs", "peerCertSANs", "name",
         "advertiseAddress", "bindPort", "localAPIEndpoint", "PublicKeysECDSA")  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.binary(max_size=5) | st.text(max_size=20)
    | st.sampled_from(["k8s.example.com", "10.96.0.0/12", "1h", "v1.34.0", "::", "fe80::1%eth0", "RSA-2048", "/a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.long
@given(
    st.sampled_from(["InitConfiguration", "ClusterConfiguration", "JoinConfiguration"]),
    st.dictionaries(st.sampled_from(PLACES), VALUES, max_size=6),
)
@settings(max_examples=300, deadline=None)
def test_arbitrary_values(kind: str, fields: dict[str, object]) -> None:
    """Any values give a configuration with readable facts, or problems that quote no token."""
    fields = {"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": kind, "token": SECRETS[0], **fields}
    text = yaml.safe_dump(fields)
    text = f"{text}---\n{CLUSTER}" if kind == "JoinConfiguration" else text
    with contextlib.suppress(ConfigError):
        found = parse(text)
        facts = facts_of(found.init, found.node_name or "node", found.init.advertise_address or "192.0.2.1")
        assert all(facts.values())
        return
    assert problems(text)
