"""The files of each service, the certificates that it serves, and its health endpoints: from a node's own manifests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.config.loader import load
from certmond.formats.manifest import Components, Manifest, parse_manifest
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.served_entries import Listener, renewed_by_operator
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.services.service_observation import Survey, Use
from certmond.services.file_usage import pod_name, runtime_endpoint, survey
from tests.node import Node

PKI = "/etc/kubernetes/pki"
PROFILE = load(None).services
ETCD = ServiceSpec(name="store", kind="systemd", unit="etcd.service")


def manifest(document: object) -> Manifest:
    return parse_manifest(yaml.safe_dump(document).encode(), "/m.yaml")


def static(name: str, **fields: Any) -> ServiceSpec:
    return ServiceSpec(name=name, kind="static-pod", pod=name, **fields)


def pod(name: str, *words: str, mounts: Mapping[str, str] | None = None, **container: Any) -> Manifest:
    """A pod on the host's network, with host paths by their place inside."""
    paths = mounts if mounts is not None else {PKI: PKI}
    own = {"name": name, "command": [name, *words]} | container
    own["volumeMounts"] = [{"name": str(number), "mountPath": inside} for number, inside in enumerate(paths)]
    volumes = [{"name": str(number), "hostPath": {"path": host}} for number, host in enumerate(paths.values())]
    return manifest({"kind": "Pod", "spec": {"containers": [own], "hostNetwork": True, "volumes": volumes}})


def surveyed(*pods: Manifest, services: Sequence[ServiceSpec] = (), commands: Any = None, **files: Any) -> Survey:
    return survey(Components(pods, **files), services, commands or {})


@pytest.fixture
def real(node: Node) -> Components:
    """What a kubeadm of v1.24 has made."""
    place = node.path("etc/kubernetes/manifests")
    return Components(tuple(parse_manifest(path.read_bytes(), str(path)) for path in sorted(place.iterdir())))


# --- which files it uses ----------------------------------------------------------------------------------------------


def test_a_real_control_plane_has_the_files_that_it_reloads(real: Components) -> None:
    """The API server reloads its own pair and its client pairs, and etcd both pairs. No component reloads kubeconfigs
    and etcd's CA.
    """
    uses = survey(real, PROFILE, {}).uses
    reported = {name: {path.removeprefix("/etc/kubernetes/"): use.reloads for path, use in each.items()
                   if path.startswith("/etc/kubernetes/")} for name, each in uses.items()}  # fmt: skip
    assert reported == {
        "kube-apiserver": {
            "pki/ca.crt": True, "pki/etcd/ca.crt": False, "pki/apiserver-etcd-client.crt": True,
            "pki/apiserver-etcd-client.key": True, "pki/apiserver-kubelet-client.crt": True,
            "pki/apiserver-kubelet-client.key": True, "pki/front-proxy-client.crt": True,
            "pki/front-proxy-client.key": True, "pki/front-proxy-ca.crt": True, "pki/sa.pub": False,
            "pki/sa.key": False, "pki/apiserver.crt": True, "pki/apiserver.key": True,
        },
        "kube-controller-manager": {
            "controller-manager.conf": False, "pki/ca.crt": False, "pki/ca.key": True, "pki/front-proxy-ca.crt": True,
            "pki/sa.key": False,
        },
        "kube-scheduler": {"scheduler.conf": False},
        "etcd": {
            "pki/etcd/server.crt": True, "pki/etcd/server.key": True, "pki/etcd/peer.crt": True,
            "pki/etcd/peer.key": True, "pki/etcd/ca.crt": False,
        },
    }  # fmt: skip


def test_of_two_flags_for_one_file_the_one_that_is_read_once_counts() -> None:
    """Whichever comes first."""
    flags = [f"--client-ca-file={PKI}/ca.crt", f"--kubelet-certificate-authority={PKI}/ca.crt"]
    for words in (flags, flags[::-1]):
        found = surveyed(pod("kube-apiserver", *words), services=[static("kube-apiserver")])
        assert found.uses["kube-apiserver"] == {f"{PKI}/ca.crt": Use(False, "--kubelet-certificate-authority")}


def test_a_file_that_is_mounted_by_itself_is_never_read_again() -> None:
    """The mount keeps the inode that a rename has replaced; one of its whole directory does not."""
    flag = "--tls-cert-file=/certs/a.crt"
    services = [static("kube-scheduler")]
    alone = pod("kube-scheduler", flag, mounts={"/certs/a.crt": f"{PKI}/a.crt"})
    whole = pod("kube-scheduler", flag, mounts={"/certs": PKI})
    for each, reloads in ((alone, False), (whole, True)):
        assert surveyed(each, services=services).uses["kube-scheduler"] == {
            f"{PKI}/a.crt": Use(reloads, "--tls-cert-file")
        }


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("10s", 10), ("1m30s", 90), ("1.5s", 1.5), ("1500ms", 1.5), ("2h", 7200), ("0", 0), ("0s", 0), ("10", None),
     ("ten", None), ("", None)],
)  # fmt: skip
def test_the_time_that_a_stopping_server_listens(value: str, seconds: float | None) -> None:
    """--shutdown-delay-duration is a duration as Go writes it. An invalid one is ignored."""
    reported = surveyed(
        pod("kube-apiserver", f"--shutdown-delay-duration={value}"), services=[static("kube-apiserver")]
    )
    assert {name: each.total_seconds() for name, each in reported.delays.items()} == (
        {} if seconds is None else {"kube-apiserver": seconds}
    )


def test_a_pair_for_names_is_two_files() -> None:
    """A path that is no file of this host does not count."""
    found = surveyed(
        pod("kube-apiserver", f"--tls-sni-cert-key={PKI}/a.crt,{PKI}/a.key:b.example", "--v=2", "--x=rel/a.crt"),
        services=[static("kube-apiserver")],
    )
    assert found.uses["kube-apiserver"] == {
        f"{PKI}/a.{end}": Use(True, "--tls-sni-cert-key") for end in ("crt", "key")
    }  # fmt: skip


def test_a_unit_is_known_by_its_command_line() -> None:
    """etcd outside of a pod; where it serves is under the service's name. Of other programs nothing is known."""
    words = ["/usr/bin/etcd", f"--cert-file={PKI}/etcd/server.crt", f"--trusted-ca-file={PKI}/etcd/ca.crt",
             "--listen-client-urls=https://127.0.0.1:2379"]  # fmt: skip
    found = surveyed(services=[ETCD], commands={"store": words})
    assert found.uses == {
        "store": {
            f"{PKI}/etcd/server.crt": Use(True, "--cert-file"),
            f"{PKI}/etcd/ca.crt": Use(False, "--trusted-ca-file"),
        }
    }
    assert found.serving == {Endpoint("127.0.0.1", 2379): ("store", f"{PKI}/etcd/server.crt")}
    others: tuple[dict[str, list[str]], ...] = ({"store": ["/usr/sbin/nginx", "--cert-file=/a"]}, {"store": []}, {})
    for other in others:
        assert surveyed(services=[ETCD], commands=other) == Survey()


def test_a_component_without_a_service_serves() -> None:
    """It is probed, but not restarted."""
    api = pod("kube-apiserver", f"--tls-cert-file={PKI}/a.crt")
    assert surveyed(api).serving == {Endpoint("127.0.0.1", 6443): ("", f"{PKI}/a.crt")}
    mine = surveyed(api, services=[replace(static("kube-apiserver"), name="api")])
    assert mine.serving == {Endpoint("127.0.0.1", 6443): ("api", f"{PKI}/a.crt")}


def test_a_real_control_plane_has_two_listeners_without_a_file(real: Components) -> None:
    """The remedy is the restart of the service. For a component without a service it has no command."""
    at = {name: Endpoint("127.0.0.1", port) for name, port in
          (("kube-controller-manager", 10257), ("kube-scheduler", 10259))}  # fmt: skip
    assert survey(real, PROFILE, {}).listeners == {
        endpoint: Listener(name, f"{name}, when it starts; run: certmond restart {name}")
        for name, endpoint in at.items()
    }
    assert survey(real, (), {}).listeners == {
        endpoint: Listener(name, f"{name}, when it starts; restart it") for name, endpoint in at.items()
    }


def test_the_operator_renews_a_certificate_outside_this_host() -> None:
    """Such as one in the image of the container."""
    found = surveyed(pod("kube-scheduler", "--cert-dir=/srv"), services=PROFILE).listeners
    assert found == {Endpoint("127.0.0.1", 10259): Listener("kube-scheduler", renewed_by_operator("kube-scheduler"))}


def test_the_kubelets_own_endpoint_is_that_of_its_unit() -> None:
    """Whatever the service is called."""
    config = manifest({"port": 10250, "tlsCertFile": "/k.crt"})
    kubelet = ServiceSpec(name="agent", kind="systemd", unit="kubelet.service")
    for services, name in (([kubelet], "agent"), ([ETCD], "")):
        assert surveyed(services=services, kubelet_config=config).serving == {
            Endpoint("127.0.0.1", 10250): (name, "/k.crt")
        }


# --- health endpoints -------------------------------------------------------------------------------------------------


def health(*pods: Manifest, services: Sequence[ServiceSpec], **files: Any) -> dict[str, tuple[str, ...]]:
    return dict(surveyed(*pods, services=services, **files).health)


def test_a_real_node_has_health_endpoints(real: Components) -> None:
    """The API server is probed at its advertised address. A component without a readiness probe is probed by its
    liveness.
    """
    assert survey(real, PROFILE, {}).health == {
        "kube-apiserver": ("https://192.0.2.10:6443/readyz",),
        "kube-controller-manager": ("https://127.0.0.1:10257/healthz",),
        "kube-scheduler": ("https://127.0.0.1:10259/healthz",),
        "etcd": ("http://127.0.0.1:2381/health",),
    }


def test_the_configuration_precedes_the_probes() -> None:
    """All its addresses are used."""
    own = static("etcd", health=("tcp://127.0.0.1:2379", "http://127.0.0.1:1/"))
    assert health(pod("etcd", livenessProbe={"httpGet": {"port": 2381}}), services=[own]) == {"etcd": own.health}


@pytest.mark.parametrize(
    ("probe", "address"),
    [
        ({"port": 2381}, "http://127.0.0.1:2381/"),
        ({"port": "2381", "path": "health?serializable=true"}, "http://127.0.0.1:2381/health?serializable=true"),
        ({"port": "probe", "path": "/livez", "scheme": "HTTPS"}, "https://127.0.0.1:8443/livez"),
        ({"port": 1, "host": "2001:db8::1", "scheme": "https"}, "https://[2001:db8::1]:1/"),
        ({"port": 1, "host": "0.0.0.0"}, "http://127.0.0.1:1/"),  # noqa: S104 - nothing is bound
        ({"port": "nowhere"}, None),
        ({"port": None}, None),
        ({"port": [1]}, None),
        ({}, None),
        ("junk", None),
        (None, None),
    ],
)
def test_a_probe_has_an_address(probe: Any, address: str | None) -> None:
    """A port may be the name of a container port. Without an address in the probe there is no endpoint."""
    ports = [{"name": "other", "containerPort": 1}, {"name": "probe", "containerPort": 8443}, "junk"]
    found = health(pod("etcd", livenessProbe={"httpGet": probe}, ports=ports), services=[static("etcd")])
    assert found == {"etcd": (address,) if address else ()}


def test_readiness_precedes_liveness() -> None:
    """A probe that is no request does not count."""
    live, ready = ({"httpGet": {"port": port}} for port in (1, 2))
    both = pod("etcd", livenessProbe=live, readinessProbe=ready)
    assert health(both, services=[static("etcd")]) == {"etcd": ("http://127.0.0.1:2/",)}
    other = pod("etcd", livenessProbe=live, readinessProbe={"exec": {"command": ["true"]}}, ports="junk")
    assert health(other, services=[static("etcd")]) == {"etcd": ("http://127.0.0.1:1/",)}
    beside = {"name": "beside", "livenessProbe": {"httpGet": {"port": 3}}}
    two = manifest({"spec": {"containers": [beside, {"name": "etcd", "livenessProbe": live}]}})
    assert health(two, services=[static("etcd")]) == {"etcd": ("http://127.0.0.1:1/",)}


@pytest.mark.parametrize(
    ("fields", "addresses"),
    [
        ({}, ("http://127.0.0.1:10248/healthz",)),
        ({"healthzPort": 1, "healthzBindAddress": "::1"}, ("http://[::1]:1/healthz",)),
        ({"healthzPort": 0}, ()),
        ({"healthzPort": "junk"}, ()),
    ],
)
def test_the_kubelet_has_an_address_or_does_not_listen(fields: Any, addresses: tuple[str, ...]) -> None:
    """A port of 0 disables it."""
    kubelet = ServiceSpec(name="kubelet", kind="systemd", unit="kubelet.service")
    assert health(services=[kubelet], kubelet_config=manifest({"kind": "K"} | fields)) == {"kubelet": addresses}
    assert health(services=[kubelet]) == {}
    assert health(services=[ETCD], kubelet_config=manifest({"kind": "K"} | fields)) == {}


# --- which pod, which runtime -----------------------------------------------------------------------------------------


def test_a_real_pod_has_its_name_and_its_program(real: Components) -> None:
    """As its manifest has them."""
    reported = {service.name: pod_name(service, real) for service in PROFILE if service.kind == "static-pod"}
    assert reported == {name: ("kube-system", name, name) for name in reported}
    assert len(reported) == 4


def test_a_pod_without_a_command_runs_what_it_is_called() -> None:
    """And of none that there is no manifest of, nothing is known."""
    bare = {"metadata": {"name": "etcd-0"}, "spec": {"containers": [{"name": "other"}, "junk", {"name": "etcd"}]}}
    assert pod_name(static("etcd"), Components((manifest(bare),))) == ("default", "etcd-0", "etcd")
    assert pod_name(static("etcd"), Components((manifest({"spec": bare["spec"]}),))) is None
    assert pod_name(static("etcd"), Components()) is None


@pytest.mark.parametrize(
    ("flags", "config", "endpoint"),
    [
        ('KUBELET_KUBEADM_ARGS="--container-runtime-endpoint=unix:///a.sock --v=2"', {}, "unix:///a.sock"),
        ("X='--container-runtime-endpoint unix:///a.sock'", {"containerRuntimeEndpoint": "b"}, "unix:///a.sock"),
        ("", {"containerRuntimeEndpoint": "unix:///b.sock"}, "unix:///b.sock"),
        ("", {"containerRuntimeEndpoint": 1}, None),
        (None, None, None),
    ],
)
def test_the_kubelet_has_the_runtime_endpoint(flags: Any, config: Any, endpoint: str | None) -> None:
    """Its flag precedes its configuration, as in the kubelet itself."""
    components = Components(
        (),
        None if config is None else manifest(config),
        None if flags is None else parse_manifest(flags.encode(), "/flags.env"),
    )
    assert runtime_endpoint(components) == endpoint


# --- garbage ----------------------------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    ["spec", "containers", "name", "command", "args", "livenessProbe", "readinessProbe", "httpGet", "port", "path",
     "host", "scheme", "ports", "containerPort", "volumes", "hostPath", "volumeMounts", "mountPath", "metadata",
     "namespace", "healthzPort", "healthzBindAddress", "hostNetwork"]
)  # fmt: skip
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["etcd", "kube-apiserver", "/a", "--cert-file=/a", "--tls-cert-file=a:b,c", "::1", "[", "99999999"]
    )
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
CONTAINERS = st.fixed_dictionaries(
    {"name": st.just("etcd")},
    optional=dict.fromkeys(("command", "args", "ports", "volumeMounts", "livenessProbe", "readinessProbe"), VALUES),
)
PODS = st.fixed_dictionaries(
    {"spec": st.fixed_dictionaries({"containers": st.lists(CONTAINERS | VALUES, max_size=3) | VALUES,
                                    "hostNetwork": st.just(True), "volumes": VALUES}) | VALUES},
    optional={"metadata": VALUES},
)  # fmt: skip


@pytest.mark.long
@settings(deadline=None)
@given(PODS, st.dictionaries(KEYS, VALUES, max_size=4), st.lists(st.text(max_size=8), max_size=4))
def test_no_manifest_is_an_error(document: Any, config: Any, words: list[str]) -> None:
    """They are files of this node, which anything may have written; what has no shape says nothing."""
    components = Components((Manifest("", {}, document),), Manifest("", {}, config), Manifest(" ".join(words), {}, {}))
    services = [*PROFILE, ETCD]
    found = survey(components, services, {"store": ["etcd", *words]})
    assert all(isinstance(path, str) for uses in found.uses.values() for path in uses)
    assert all(isinstance(address, str) for each in found.health.values() for address in each)
    for service in services:
        pod_name(service, components)
    runtime_endpoint(components)
