"""The facts in a node's own files, which may have any content."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.formats.kubeconfig import Kubeconfig, parse_kubeconfig
from certmond.formats.manifest import (
    Manifest,
    Variable,
    containers,
    flag_values,
    init_containers,
    kubelet_environment,
    node_facts,
    parse_manifest,
)
from certmond.pki.catalog.field_types import FACTS
from tests.node import Node

MANIFESTS = "etc/kubernetes/manifests"


def pod(name: str, *words: str, args: Any = None) -> Manifest:
    container = {"name": name, "command": [name, *words], "args": args}
    return parse_manifest(yaml.safe_dump({"kind": "Pod", "spec": {"containers": [container]}}).encode(), "/m.yaml")


def conf(user: str = "", server: str = "", **cluster: str) -> Kubeconfig:
    document = {
        "users": [{"name": user}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "contexts": [{"name": "x", "context": {"user": user, "cluster": "c"}}],
        "current-context": "x",
    }
    return parse_kubeconfig(yaml.safe_dump(document).encode(), "/k.conf")


FILES = ("apiserver", "etcd", "kubelet_config", "kubelet_flags")


def fact(name: str, **files: Any) -> str | None:
    nothing = dict.fromkeys((*FILES, "kubelet_conf", "admin_conf"))
    return node_facts(**{**nothing, "hostname": "", **files}).get(name)


# --- manifests --------------------------------------------------------------------------------------------------------


def test_the_flags_of_a_real_static_pod_are_read(node: Node) -> None:
    """Its name is that of the container."""
    found = parse_manifest(node.read(f"{MANIFESTS}/kube-apiserver.yaml"), "/m.yaml")
    flags = found.flags["kube-apiserver"]
    assert flags["tls-cert-file"] == "/etc/kubernetes/pki/apiserver.crt"
    assert flags["service-cluster-ip-range"] == "10.96.0.0/12"
    assert "/etc/kubernetes/pki/apiserver.crt" in found.text


def test_a_manifest_may_be_json() -> None:
    """The kubelet takes both."""
    document = {"spec": {"containers": [{"name": "etcd", "command": ["etcd", "--name=a"], "args": ["--name", "b"]}]}}
    assert parse_manifest(json.dumps(document).encode(), "/m.json").flags == {"etcd": {"name": "b"}}


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--a=1", "--b", "2"], [("a", "1"), ("b", "2")]),
        (["--a", "--b=x=y"], [("a", "true"), ("b", "x=y")]),
        (["--a=", "-v", "--c"], [("a", ""), ("c", "true")]),
        (["--a", "-1"], [("a", "true")]),
        (["--a_b_c=d_e"], [("a-b-c", "d_e")]),
        (["a", "b"], []),
        ([], []),
    ],
)
def test_flags_are_written_in_two_ways(words: list[str], flags: list[tuple[str, str]]) -> None:
    """`--name=value` and `--name value`; without a value it is switched on."""
    assert list(flag_values(words)) == flags


def test_of_a_flag_that_is_given_twice_the_last_counts() -> None:
    """As in spf13/pflag; arguments come after the command."""
    assert pod("etcd", "--name=a", args=["--name=b"]).flags == {"etcd": {"name": "b"}}


@pytest.mark.parametrize(
    "document",
    [
        {}, {"spec": None}, {"spec": []}, {"spec": {"containers": {}}}, {"spec": {"containers": ["x", None]}},
        {"spec": {"containers": None}},
    ],
)  # fmt: skip
def test_another_document_has_no_flags(document: Any) -> None:
    """Any other YAML is read for its fields."""
    found = parse_manifest(yaml.safe_dump(document).encode(), "/m.yaml")
    assert (found.flags, found.fields) == ({}, document)


def test_text_that_is_no_yaml_is_kept_as_text() -> None:
    """The kubelet's environment file, for one; bytes that are no UTF-8 do no harm."""
    found = parse_manifest(b'KUBELET_KUBEADM_ARGS="--a=1\n --b\xff"\n', "/f.env")
    assert (found.flags, found.fields) == ({}, {})
    assert "--a=1" in found.text


def test_the_environment_has_the_known_values() -> None:
    """A variable has its last value. Variables that etcd reads as flags, and values of other objects, are absent."""
    values = [("A", "1"), ("B", "$(A)2"), ("A", "3"), ("ETCD_CERT_FILE", "/c.crt"), ("D", 1)]
    env = [*({"name": name, "value": value} for name, value in values), {"name": "C", "valueFrom": {}}]
    (container,) = containers({"spec": {"containers": [{"name": "etcd", "command": ["etcd"], "env": env}]}})
    assert container.variables == (Variable("A", "3"), Variable("B", "12"))
    assert container.flags == (("cert-file", "/c.crt"),)


@pytest.mark.parametrize(
    ("path", "within", "place"),
    [
        ("/etc/pki", "etcd", "/etc/pki/etcd/ca.crt"),
        ("/etc/pki/", None, "/etc/pki/ca.crt"),
        ("/", None, "/ca.crt"),
        ("etc/pki", None, None),
        ("", None, None),
        ("/etc/pki", "/root", None),
        (1, None, None),
    ],
)
def test_a_volume_of_the_host_is_at_an_absolute_path(path: object, within: str | None, place: str | None) -> None:
    """The kubelet starts no Pod with a relative path, or with an absolute one within a volume: such a path resolves to
    nothing, and never to certmond's working directory.
    """
    mount = {"name": "v", "mountPath": "/in"} | ({"subPath": within} if within else {})
    spec = {"containers": [{"volumeMounts": [mount]}], "volumes": [{"name": "v", "hostPath": {"path": path}}]}
    (container,) = containers({"spec": spec})
    assert container.on_host("/in/ca.crt") == place


def test_a_path_is_below_its_deepest_mount() -> None:
    """The root of the host can be a mount, and a mount can be below another one."""
    names = ["/", "/etc/pki", "/etc/pki/deep/er"]
    mounts = [{"name": "v", "mountPath": name, "subPath": str(number)} for number, name in enumerate(names)]
    volumes = [{"name": "v", "hostPath": {"path": "/host"}}]
    (container,) = containers({"spec": {"containers": [{"volumeMounts": mounts}], "volumes": volumes}})
    paths = {"/a": "/host/0/a", "/etc/pki": "/host/1", "//etc/pki/../pki/deep/x": "/host/1/deep/x",
             "/etc/pki/deep/er/y": "/host/2/y", "/etc/pkix": "/host/0/etc/pkix"}  # fmt: skip
    assert {path: container.on_host(path) for path in paths} == paths
    assert [container.mount_of(path) for path in paths] == ["", "/etc/pki", "/etc/pki", "/etc/pki/deep/er", ""]
    (bare,) = containers({"spec": {"containers": [{}]}})
    assert (bare.mount_of("/a"), bare.on_host("/a")) == (None, "/a")


def test_aliases_have_bounded_cost() -> None:
    """The kubelet refuses a text that represents too many values, so this text has no flags."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 40)]
    for anchor, flags in (("*a3", {"": {"a": "1"}}), ("*a39", {})):
        last = [f"clusterDomain: {anchor}", f"spec: {{containers: [{{name: {anchor}, args: [{anchor}, --a=1]}}]}}"]
        found = parse_manifest("\n".join([*lines[: 40 if anchor == "*a39" else 4], *last]).encode(), "/m.yaml")
        assert found.flags == flags
        assert fact("dns_domain", kubelet_config=found) is None


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest(data: bytes) -> None:
    """The parser never fails: the result has flags or none."""
    for text in (data, b"spec:\n  containers:\n" + data, b"spec: {containers: [{name: a, command: [" + data + b"]}]}"):
        found = parse_manifest(text, "/m.yaml")
        assert all(isinstance(value, str) for flags in found.flags.values() for value in flags.values())
        assert all(fact(name, **dict.fromkeys(FILES, found)) != "" for name in FACTS)


@pytest.mark.parametrize("rest", ["---\n", "---\nkind: Pod\n", "---\n{\n", "...\n"])
def test_only_the_first_document_counts(rest: str) -> None:
    """The kubelet runs the Pod of the first document, whatever follows."""
    text = f"spec: {{containers: [{{name: etcd, command: [etcd, --name=a]}}]}}\n{rest}"
    assert parse_manifest(text.encode(), "/m.yaml").flags == {"etcd": {"name": "a"}}


@pytest.mark.parametrize(
    ("word", "value"),
    [("$(CA)/x", "/etc/x"), ("$(ALL)", "/etc/y"), ("$$(CA)", "$(CA)"), ("$(SECRET)/x", "$(SECRET)/x"), ("$(", "$(")],
)
def test_a_known_variable_of_the_container_is_substituted(word: str, value: str) -> None:
    """The kubelet replaces $(NAME) in a command. A variable that a secret or another object sets stays."""
    variables = [
        {"name": "CA", "value": "/etc"}, {"name": "ALL", "value": "$(CA)/y"}, {"name": "SECRET", "valueFrom": {}},
    ]  # fmt: skip
    (container,) = containers({"spec": {"containers": [{"command": ["a", f"--b={word}"], "env": variables}]}})
    assert container.values("b") == [value]


def test_variables_have_bounded_cost() -> None:
    """A word that would become long keeps its variables."""
    word = f"--a={'$(A)' * 1000}"
    container = {"command": ["x", word], "env": [{"name": "A", "value": "y" * 1000}]}
    (found,) = containers({"spec": {"containers": [container]}})
    assert found.values("a") == [word.removeprefix("--a=")]


def test_a_long_text_has_bounded_cost() -> None:
    """The time to read a megabyte of open variables does not grow with the square of its size."""
    word = f"--a={'$(' * 500_000}"
    (found,) = containers({"spec": {"containers": [{"command": ["x", word]}]}})
    assert found.values("a") == [word.removeprefix("--a=")]


def test_a_mount_whose_path_the_environment_decides_is_unknown() -> None:
    """A path below a mount with subPathExpr has no known path on the host."""
    mount = {"name": "v", "mountPath": "/in", "subPathExpr": "$(D)"}
    spec = {"containers": [{"volumeMounts": [mount]}], "volumes": [{"name": "v", "hostPath": {"path": "/etc"}}]}
    (container,) = containers({"spec": spec})
    assert container.on_host("/in/ca.crt") is None


# --- facts ------------------------------------------------------------------------------------------------------------


def test_where_nothing_is_known_there_are_no_facts() -> None:
    """Rather than empty ones: nothing is then demanded that depends on them."""
    files = dict.fromkeys((*FILES, "kubelet_conf", "admin_conf"))
    assert node_facts(**files, hostname="") == {}
    assert node_facts(**files, hostname="Worker-1") == {"node_name": "worker-1"}


def test_the_nodes_name_is_what_the_kubelet_calls_itself() -> None:
    """By its kubeconfig, or else its flags, etcd's own name, and at last the host's."""
    flags = parse_manifest(b'KUBELET_KUBEADM_ARGS="--v=2 --hostname-override=by-flag"\n', "/f.env")
    sources: dict[str, Any] = {
        "kubelet_conf": conf("system:node:by-conf"), "kubelet_flags": flags, "etcd": pod("etcd", "--name=by-etcd"),
        "hostname": "By-Host",
    }  # fmt: skip
    for expected in ("by-conf", "by-flag", "by-etcd", "by-host"):
        assert fact("node_name", **sources) == expected
        del sources[next(iter(sources))]
    assert fact("node_name", kubelet_conf=conf("default-auth")) is None
    assert fact("node_name", etcd=pod("other", "--name=x")) is None


@pytest.mark.parametrize(
    ("ranges", "address"),
    [
        ("10.96.0.0/12", "10.96.0.1"), ("10.96.7.7/12", "10.96.0.1"), ("10.96.0.0/12,fd00::/108", "10.96.0.1"),
        ("fd00:1::/108", "fd00:1::1"), ("10.96.0.5/32", None), ("", None), ("default", None),
    ],
)  # fmt: skip
def test_the_service_address_is_the_first_of_the_first_range(ranges: str, address: str | None) -> None:
    """As kubeadm reckons it."""
    assert fact("service_ip", apiserver=pod("kube-apiserver", f"--service-cluster-ip-range={ranges}")) == address


@pytest.mark.parametrize(
    ("issuer", "domain"),
    [
        ("https://kubernetes.default.svc.cluster.local", "cluster.local"),
        ("https://kubernetes.default.svc.k8s.example.com:443/x", "k8s.example.com"),
        ("https://issuer.example.com", "by-kubelet"),
        ("https://[", "by-kubelet"),
        ("", "by-kubelet"),
    ],
)
def test_the_dns_domain_is_in_the_issuer_of_tokens(issuer: str, domain: str) -> None:
    """Or, where that is the operator's own, in the kubelet's configuration."""
    apiserver = pod("kube-apiserver", f"--service-account-issuer={issuer}")
    kubelet = parse_manifest(b"clusterDomain: by-kubelet\n", "/c.yaml")
    assert fact("dns_domain", apiserver=apiserver, kubelet_config=kubelet) == domain
    assert fact("dns_domain", apiserver=apiserver) == (None if domain == "by-kubelet" else domain)


@pytest.mark.parametrize(
    ("server", "more", "name"),
    [
        ("https://k8s.example.com:6443", {}, "DNS:k8s.example.com"),
        ("https://10.0.0.1:6443", {}, "IP:10.0.0.1"),
        ("https://[fd00:0::1]:6443", {}, "IP:fd00::1"),
        ("https://10.0.0.1:6443", {"tls-server-name": "api"}, "DNS:api"),
        ("", {}, None),
        ("https://localhost:6443", {}, None),
        ("https://127.0.0.1:6443", {}, None),
        ("https://[::1]:6443", {}, None),
    ],
)
def test_the_control_plane_has_the_name_by_which_clients_reach_it(server: str, more: Any, name: str | None) -> None:
    """As the administrator's kubeconfig has it, or else the kubelet's. A tunnel or proxy of this host demands none."""
    assert fact("control_plane_name", admin_conf=conf("a", server, **more), kubelet_conf=conf("b", "")) == name
    assert fact("control_plane_name", kubelet_conf=conf("b", server, **more)) == name
    both = {"admin_conf": conf("a", server, **more), "kubelet_conf": conf("b", "https://other")}
    assert fact("control_plane_name", **both) == (name or "DNS:other")
    assert fact("control_plane_name", admin_conf=Kubeconfig((), (), None, None, ())) is None


def test_a_real_nodes_facts(node: Node) -> None:
    """All five of them."""
    read = node.read

    def manifest(name: str) -> Manifest:
        return parse_manifest(read(f"{MANIFESTS}/{name}.yaml"), f"/{name}.yaml")

    assert node_facts(
        apiserver=manifest("kube-apiserver"),
        etcd=manifest("etcd"),
        kubelet_conf=parse_kubeconfig(read("etc/kubernetes/kubelet.conf"), "/etc/kubernetes/kubelet.conf"),
        admin_conf=parse_kubeconfig(read("etc/kubernetes/admin.conf"), "/etc/kubernetes/admin.conf"),
        kubelet_config=None,
        kubelet_flags=None,
        hostname="",
    ).keys() == {"node_name", "advertise_address", "service_ip", "dns_domain", "control_plane_name"}


def test_the_environment_of_etcd_has_the_meaning_of_flags() -> None:
    """Only for etcd, ETCD_CERT_FILE has the meaning of --cert-file. The flag takes precedence."""
    env = [{"name": "ETCD_CERT_FILE", "value": "/e.crt"}, {"name": "ETCD_KEY_FILE", "value": "/e.key"}, {"name": "X"}]
    command = ["/usr/local/bin/etcd", "--key-file=/f.key"]
    listed = [{"name": "main", "command": command, "env": env}, {"name": "other", "command": ["x"], "env": env}]
    etcd, other = containers({"spec": {"containers": listed}})
    assert (etcd.program, dict(etcd.flags)) == ("etcd", {"cert-file": "/e.crt", "key-file": "/f.key"})
    assert (other.program, other.flags) == ("x", ())


def test_the_flags_in_the_script_of_a_shell_are_read() -> None:
    """The flags of a component that `sh -c` starts are the words of the script."""
    script = "exec /usr/local/bin/kube-apiserver --tls-cert-file=/a.crt '--oidc-ca-file=/b.crt' >>/var/log/a.log 2>&1"
    command = ["/bin/sh", "-c", script]
    (shell,) = containers({"spec": {"containers": [{"name": "main", "command": command}]}})
    assert shell.program == "kube-apiserver"
    assert (shell.values("tls-cert-file"), shell.values("oidc-ca-file")) == (["/a.crt"], ["/b.crt"])


def test_the_program_that_go_runner_starts_has_the_flags() -> None:
    """The flags of go-runner, before the path of the program, are no flags of the program."""
    arguments = ["--log-file=/a.log", "--also-stdout", "/usr/local/bin/kube-apiserver", "--tls-cert-file=/a.crt"]
    listed = [{"name": "main", "command": ["/go-runner"], "args": words} for words in (arguments, ["--also-stdout"])]
    runner, idle = containers({"spec": {"containers": listed}})
    assert (runner.program, runner.flags) == ("kube-apiserver", (("tls-cert-file", "/a.crt"),))
    assert (idle.program, idle.flags) == ("go-runner", ())


def test_etcd_accepts_flags_with_one_dash() -> None:
    """Only for etcd, `-name` has the meaning of `--name`."""
    words = ["-cert-file=/a.crt", "-key-file", "/a.key", "--peer-cert-file=/p.crt"]
    listed = [{"name": name, "command": [name, *words]} for name in ("etcd", "kube-apiserver")]
    etcd, other = containers({"spec": {"containers": listed}})
    assert dict(etcd.flags) == {"cert-file": "/a.crt", "key-file": "/a.key", "peer-cert-file": "/p.crt"}
    assert dict(other.flags) == {"peer-cert-file": "/p.crt"}


def test_etcd_with_a_configuration_file_ignores_other_flags() -> None:
    """The flag --config-file, or its variable, hides all other flags and variables of etcd."""
    env = [{"name": "ETCD_CONFIG_FILE", "value": "/e.yaml"}, {"name": "ETCD_CERT_FILE", "value": "/e.crt"}]
    listed = [
        {"name": "a", "command": ["etcd", "--config-file=/f.yaml", "--cert-file=/f.crt"], "env": env},
        {"name": "b", "command": ["etcd", "--cert-file=/f.crt"], "env": env},
    ]
    both, variable = containers({"spec": {"containers": listed}})
    assert both.values("config-file")[-1] == "/f.yaml"
    assert variable.values("config-file") == ["/e.yaml"]
    assert not [*both.values("cert-file"), *variable.values("cert-file")]


def test_init_containers_are_read_separately() -> None:
    """A container never has the flags of an init container."""
    spec = {"containers": [{"name": "a", "command": ["a"]}], "initContainers": [{"name": "i", "args": ["--x=/x.crt"]}]}
    assert [each.name for each in containers({"spec": spec})] == ["a"]
    assert [(each.name, each.values("x")) for each in init_containers({"spec": spec})] == [("i", ["/x.crt"])]


def test_an_environment_file_of_empty_lines_is_read_in_linear_time() -> None:
    """An environment file of the kubelet with many empty lines has its flags. A quadratic search would not end."""
    text = "\n" * 1_000_000 + 'KUBELET_KUBEADM_ARGS="--cert-dir=/x"\n'
    assert kubelet_environment(text).flags == (("cert-dir", "/x"),)
