"""The served file of each endpoint, from the flags of a node's components."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from certmond.formats.manifest import Components, Manifest, parse_manifest
from certmond.services.endpoints import endpoints_of, endpoints_without_file
from tests.node import Node

CRT, PEM = "/etc/kubernetes/pki/a.crt", "/var/lib/kubelet/pki/kubelet-server-current.pem"


def manifest(document: object) -> Manifest:
    return parse_manifest(yaml.safe_dump(document).encode(), "/m.yaml")


def pod(name: str, *words: str, **spec: Any) -> Manifest:
    volumes = {
        "volumes": [{"name": "pki", "hostPath": {"path": "/etc/kubernetes/pki"}}, {"name": "here", "emptyDir": {}}]
    }
    mounts = [{"name": "pki", "mountPath": "/certs"}, {"name": "here", "mountPath": "/generated"}]
    container = {"name": name, "command": [name, *words], "volumeMounts": mounts}
    return manifest({"kind": "Pod", "spec": {"containers": [container], "hostNetwork": True} | volumes | spec})


def served(*pods: Manifest, kubelet: object = None, flags: str | None = None) -> dict[str, str]:
    """By the text of the endpoint."""
    config = None if kubelet is None else manifest(kubelet)
    environment = None if flags is None else parse_manifest(flags.encode(), "/flags.env")
    found = endpoints_of(Components(pods, config, environment))
    return {str(endpoint): path for endpoint, (_, path) in found.items()}


def without_file(*pods: Manifest) -> dict[str, tuple[str, bool]]:
    """The endpoints without a certificate file, by their text."""
    return {str(endpoint): found for endpoint, found in endpoints_without_file(Components(pods)).items()}


def test_a_real_control_plane_node_serves_in_three_places(node: Node) -> None:
    """The files are the catalogue's. The controller-manager and the scheduler serve what no file holds."""
    place = "etc/kubernetes/manifests"
    pods = [parse_manifest(path.read_bytes(), "/m.yaml") for path in sorted(node.path(place).iterdir())]
    assert len(pods) == 4
    assert served(*pods) == {
        "127.0.0.1:2379": "/etc/kubernetes/pki/etcd/server.crt",
        "192.0.2.10:2380": "/etc/kubernetes/pki/etcd/peer.crt",
        "127.0.0.1:6443": "/etc/kubernetes/pki/apiserver.crt",
    }
    assert without_file(*pods) == {
        "127.0.0.1:10257": ("kube-controller-manager", True),
        "127.0.0.1:10259": ("kube-scheduler", True),
    }


@pytest.mark.parametrize(
    ("words", "endpoint"),
    [
        ([], "127.0.0.1:6443"),
        (["--bind-address=0.0.0.0", "--advertise-address=192.0.2.99"], "127.0.0.1:6443"),
        (["--bind-address=::", "--secure-port=16443"], "[::1]:16443"),
        (["--bind-address=192.0.2.10"], "192.0.2.10:6443"),
        (["--bind-address", "2001:db8::a", "--secure-port", "443"], "[2001:db8::a]:443"),
        (["--secure-port=1", "--secure-port=2"], "127.0.0.1:2"),
    ],
)
def test_a_component_is_asked_on_this_node(words: list[str], endpoint: str) -> None:
    """Where it listens everywhere, on the loopback: what it advertises may be a load balancer's."""
    assert served(pod("kube-apiserver", f"--tls-cert-file={CRT}", *words)) == {endpoint: CRT}


@pytest.mark.parametrize(
    ("name", "port"), [("kube-apiserver", 6443), ("kube-controller-manager", 10257), ("kube-scheduler", 10259)]
)
def test_a_component_that_is_given_a_file_serves_it_at_its_own_port(name: str, port: int) -> None:
    """A file on this host, by its name there; without one it serves what it makes itself."""
    assert served(pod(name, "--tls-cert-file=/certs/a.crt")) == {f"127.0.0.1:{port}": CRT}
    assert served(pod(name)) == {}
    assert served(pod(name, "--tls-cert-file=/generated/a.crt")) == {}
    assert served(pod(name, "--tls-cert-file=a.crt")) == {}


@pytest.mark.parametrize(
    ("name", "words", "in_memory"),
    [
        ("kube-scheduler", [], True),
        ("cloud-controller-manager", [], True),
        ("kube-scheduler", ["--cert-dir=/certs"], False),
        ("kube-scheduler", ["--tls-cert-file=/generated/a.crt"], False),
        ("kube-apiserver", [], False),
    ],
)
def test_a_component_without_a_file_of_this_host_has_an_endpoint(name: str, words: list[str], in_memory: bool) -> None:
    """A component creates its certificate in memory if it has neither a file nor a directory for it. Only the API
    server has a default directory.
    """
    ports = {"kube-scheduler": 10259, "cloud-controller-manager": 10258, "kube-apiserver": 6443}
    assert without_file(pod(name, *words)) == {f"127.0.0.1:{ports[name]}": (name, in_memory)}


def test_a_listener_with_a_file_precedes_one_without() -> None:
    """Two components cannot listen at one endpoint, so one of the manifests is not in use."""
    pods = pod("kube-scheduler"), pod("kube-scheduler", f"--tls-cert-file={CRT}")
    assert served(*pods) == {"127.0.0.1:10259": CRT}
    assert without_file(*pods) == {}
    assert without_file(pod("kube-scheduler", "--secure-port=0"), pod("kube-scheduler", hostNetwork=False)) == {}


@pytest.mark.parametrize("port", ["0", "65536", "https", "", "-1"])
def test_a_port_that_is_none_is_no_endpoint(port: str) -> None:
    """0 switches the listener off; with any other of these the component does not start."""
    assert served(pod("kube-scheduler", f"--tls-cert-file={CRT}", f"--secure-port={port}")) == {}


def test_names_that_have_a_certificate_of_their_own_are_endpoints_of_their_own() -> None:
    """Those that are spelled out: a pattern, or a name that only the certificate has, cannot be asked for."""
    given = ["/certs/b.crt,/certs/b.key:b.example,B2.example,*.b.example,192.0.2.1", "/certs/c.crt,/certs/c.key"]
    assert served(pod("kube-apiserver", "--bind-address=::1", *(f"--tls-sni-cert-key={each}" for each in given))) == {
        "b.example@[::1]:6443": "/etc/kubernetes/pki/b.crt",
        "b2.example@[::1]:6443": "/etc/kubernetes/pki/b.crt",
    }


@pytest.mark.parametrize(
    ("urls", "endpoints"),
    [
        ("https://192.0.2.10:2379,https://127.0.0.1:2379", ["192.0.2.10:2379"]),
        ("http://127.0.0.1:2379,https://[2001:db8::a]:12379", ["[2001:db8::a]:12379"]),
        ("https://0.0.0.0:2379", ["127.0.0.1:2379"]),
        ("https://[::]:2379", ["[::1]:2379"]),
        ("https://localhost:2379", ["127.0.0.1:2379"]),
        ("http://127.0.0.1:2379", []),
        ("https://127.0.0.1", []),
        ("https://127.0.0.1:port", []),
        ("https://[127.0.0.1:2379", []),
        ("https://etcd.example:2379", []),
        ("unixs://socket:2379", []),
        ("", []),
    ],
)
def test_etcd_is_asked_at_the_first_url_that_is_https(urls: str, endpoints: list[str]) -> None:
    """All of its URLs for one purpose have one certificate; for clients and peers it can be two."""
    client = pod("etcd", f"--listen-client-urls={urls}", f"--cert-file={CRT}")
    peer = pod("etcd", f"--listen-peer-urls={urls}", f"--peer-cert-file={CRT}", "--cert-file=/certs/other.crt")
    assert served(client) == served(peer) == dict.fromkeys(endpoints, CRT)


def test_etcd_that_makes_its_certificates_itself_has_no_file() -> None:
    """As with --auto-tls. etcd stores this certificate in its data directory, and reads it again at its next start."""
    auto = pod("etcd", "--listen-client-urls=https://127.0.0.1:2379", "--auto-tls")
    assert served(auto) == {}
    assert without_file(auto) == {"127.0.0.1:2379": ("etcd", False)}


@pytest.mark.parametrize(
    ("fields", "flags", "expected"),
    [
        ({}, None, ("127.0.0.1:10250", "/var/lib/kubelet/pki/kubelet.crt")),
        ({"serverTLSBootstrap": True}, None, ("127.0.0.1:10250", PEM)),
        ({}, "--rotate-server-certificates=true", ("127.0.0.1:10250", PEM)),
        ({"tlsCertFile": CRT, "serverTLSBootstrap": True}, None, ("127.0.0.1:10250", CRT)),
        ({"tlsCertFile": "pki/b.crt"}, None, ("127.0.0.1:10250", "/var/lib/kubelet/pki/b.crt")),
        ({"tlsCertFile": "/b.crt"}, f"--tls-cert-file={CRT}", ("127.0.0.1:10250", CRT)),
        ({}, 'KUBELET_EXTRA_ARGS="--cert-dir=/srv/pki"', ("127.0.0.1:10250", "/srv/pki/kubelet.crt")),
        ({"port": 11250, "address": "192.0.2.10"}, None, ("192.0.2.10:11250", "/var/lib/kubelet/pki/kubelet.crt")),
        ({"address": "::"}, "--port=5", ("[::1]:5", "/var/lib/kubelet/pki/kubelet.crt")),
        ({"address": "::"}, "--address=192.0.2.9", ("192.0.2.9:10250", "/var/lib/kubelet/pki/kubelet.crt")),
        ({"port": "11250", "address": [1]}, None, ("127.0.0.1:10250", "/var/lib/kubelet/pki/kubelet.crt")),
    ],
)
def test_the_kubelet_serves_what_it_is_given_or_what_it_has_signed_or_what_it_signs(
    fields: dict[str, Any], flags: str | None, expected: tuple[str, str]
) -> None:
    """Its flags precede its configuration."""
    assert served(kubelet={"kind": "KubeletConfiguration"} | fields, flags=flags) == dict([expected])


def test_without_its_configuration_nothing_is_known_of_a_kubelet() -> None:
    """It may not even run here."""
    assert served(flags="--port=10250") == {}
    assert endpoints_of(Components((), parse_manifest(b"{", "/config.yaml"))) == {}


def test_a_pod_with_a_network_of_its_own_is_passed_over() -> None:
    """What answers on this node is something else."""
    assert served(pod("kube-apiserver", f"--tls-cert-file={CRT}", hostNetwork=False)) == {}
    assert served(pod("nginx", f"--tls-cert-file={CRT}"), manifest({"kind": "Pod"})) == {}


@pytest.mark.long
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["spec", "hostNetwork", "containers", "port", "address"]), inner, max_size=3
            )
        ),
        max_leaves=10,
    ),
    st.sampled_from(["bind-address", "secure-port", "tls-sni-cert-key", "listen-client-urls", "cert-file"]),
    st.text(max_size=30),
)
def test_a_manifest_can_say_anything(document: object, flag: str, value: str) -> None:
    """Then there are fewer endpoints."""
    some = Manifest("", {}, document) if isinstance(document, dict) else manifest(document)
    words = [f"--tls-cert-file={CRT}", f"--listen-client-urls=https://{value}", f"--{flag}={value}"]
    found = endpoints_of(Components((some, pod("kube-apiserver", *words), pod("etcd", *words)), some, manifest({})))
    assert all(path.startswith("/") for _, path in found.values())
