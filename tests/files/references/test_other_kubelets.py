"""The configuration of kubelets whose flags a process, k3s, RKE2, an argument file or another unit has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.files.references.flag_source import Source
from certmond.files.references.node_kubelet_reader import CONFIG
from certmond.files.references.other_kubelets import OtherKubelets
from certmond.pki.catalog.component_certificate_flags import KUBELET
from certmond.pki.catalog.observation import Observation
from tests.files.references.test_component_processes import Controller

KIND = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
FILE, DROP_INS, PODS = "/etc/extra/kubelet.yaml", "/etc/extra/kubelet.d", "/etc/extra/pods"
WORKER = "k0sworker.service"
K3S, ARGS = "/etc/rancher/k3s/config.yaml", "/var/snap/microk8s/current/args/kubelet"


class Worker(Controller):
    """A node with a kubelet that no enabled unit starts. Each certificate ends five days later."""

    def configure(self, path: str = FILE, mode: int = 0o644, /, **fields: Any) -> None:
        self.tree.write(path, yaml.safe_dump({**KIND, **fields}), mode)

    def run(self, *flags: str, user: int = 0, unit: str = WORKER) -> None:
        self.proc.add(str(len([*self.proc.path.iterdir()])), "/usr/bin/kubelet", *flags, unit=unit, user=user)

    def pod(self, path: str, ca: str) -> None:
        mounts = [{"name": "extra", "mountPath": "/etc/extra"}]
        command = ["kube-scheduler", f"--client-ca-file={ca}"]
        spec = {
            "containers": [{"name": "x", "command": command, "volumeMounts": mounts}],
            "volumes": [{"name": "extra", "hostPath": {"path": "/etc/extra"}}],
        }
        self.tree.write(path, yaml.safe_dump({"kind": "Pod", "spec": spec}))

    def watched(self) -> dict[str, Observation]:
        return {each.path: each for each in self.named() if each.is_watched}


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path)


def by_process(worker: Worker, *flags: str) -> None:
    worker.run(*(f"--{flag}" for flag in flags))


def by_second_unit(worker: Worker, *flags: str) -> None:
    worker.unit("kubelet.service", "ExecStart=/usr/bin/kubelet", enabled=True)
    worker.unit("my-kubelet.service", f"ExecStart=/opt/kubelet --{' --'.join(flags)}", enabled=True)


def by_k3s(worker: Worker, *flags: str) -> None:
    worker.tree.write(K3S, yaml.safe_dump({"kubelet-arg": [*flags]}))


def by_drop_in_of_rke2(worker: Worker, *flags: str) -> None:
    worker.tree.write("/etc/rancher/rke2/config.yaml.d/1.yaml", yaml.safe_dump({"kubelet-arg+": [*flags]}))


def by_unit_of_k3s(worker: Worker, *flags: str) -> None:
    arguments = " ".join(f"--kubelet-arg={flag}" for flag in flags)
    worker.unit("k3s.service", f"ExecStart=/usr/local/bin/k3s server {arguments}", enabled=True)


def by_argument_file(worker: Worker, *flags: str) -> None:
    worker.tree.write(ARGS, "".join(f"--{flag}\n" for flag in flags))


def by_canonical_kubernetes(worker: Worker, *flags: str) -> None:
    worker.tree.write("/var/snap/k8s/common/args/kubelet", "".join(f'--{flag}"\n'.replace("=", '="') for flag in flags))


WAYS = [
    by_process, by_second_unit, by_k3s, by_drop_in_of_rke2, by_unit_of_k3s, by_argument_file, by_canonical_kubernetes
]  # fmt: skip
OF_RANCHER = [by_k3s, by_drop_in_of_rke2, by_unit_of_k3s]


@pytest.mark.parametrize("way", WAYS)
def test_the_fields_of_the_file_and_of_its_drop_ins_are_followed(worker: Worker, way: Callable[..., None]) -> None:
    """A drop-in replaces fields of the file, and the manifests in `staticPodPath` name further certificates."""
    (old, _), (certificate, key) = worker.pair("old"), worker.pair("serving")
    clients, of_pod = worker.trust("clients"), worker.trust("of-pod")
    worker.configure(tlsCertFile=old, tlsPrivateKeyFile="old.key", staticPodPath="pods", authentication={
        "x509": {"clientCAFile": "clients.crt"}})  # fmt: skip
    worker.configure(f"{DROP_INS}/10/a.conf", tlsCertFile=certificate, tlsPrivateKeyFile=key)
    worker.pod(f"{PODS}/scheduler.yaml", of_pod)
    way(worker, f"config={FILE}", f"config-dir={DROP_INS}")
    seen = worker.watched()
    assert {path: each.named_by for path, each in seen.items()} == {
        certificate: f"tlsCertFile in {DROP_INS}/10/a.conf",
        clients: f"clientCAFile in {FILE}",
        of_pod: f"--client-ca-file in {PODS}/scheduler.yaml",
    }
    assert (seen[certificate].name, seen[certificate].key_path) == ("kubelet.tlsCertFile", key)
    assert not worker.unwatched()


@pytest.mark.parametrize("way", WAYS)
def test_a_new_drop_in_and_a_new_manifest_are_followed(worker: Worker, way: Callable[..., None]) -> None:
    """The next pass follows them without another full scan, also in a directory that did not exist."""
    way(worker, f"config-dir={DROP_INS}", f"pod-manifest-path={PODS}")
    store, (first, second) = worker.store(), map(worker.trust, ("first", "second"))
    assert not any(each.is_watched for each in store.observe().observations)

    def change(path: str) -> list[str]:
        touched = {str(place) for place in (worker.tree.at(path), *worker.tree.at(path).parents)}
        return [each.path for each in store.observe(frozenset(touched)).observations if each.is_watched]

    worker.configure(f"{DROP_INS}/a.conf", authentication={"x509": {"clientCAFile": first}})
    assert change(f"{DROP_INS}/a.conf") == [first]
    worker.configure(f"{DROP_INS}/b/c.conf", authentication={"x509": {"clientCAFile": second}})
    assert change(f"{DROP_INS}/b/c.conf") == [second]
    worker.pod(f"{PODS}/p.yaml", first)
    assert sorted(change(f"{PODS}/p.yaml")) == [first, second]


def test_a_new_drop_in_of_an_existing_directory_is_followed(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass reads the configuration again only if a name in a directory, or a file, has changed."""
    first, second = map(worker.trust, ("first", "second"))
    worker.configure(f"{DROP_INS}/b/a.conf", authentication={"x509": {"clientCAFile": first}})
    by_k3s(worker, f"config-dir={DROP_INS}")
    counted, read = list[OtherKubelets](), OtherKubelets.read

    def count(self: OtherKubelets, sources: Iterable[Source]) -> None:
        counted.append(self)
        read(self, sources)

    monkeypatch.setattr(OtherKubelets, "read", count)
    store = worker.store()
    store.observe()
    assert [each.path for each in store.observe(frozenset()).observations] == [first]
    assert len(counted) == 1
    path = f"{DROP_INS}/b/b.conf"
    worker.configure(path, authentication={"x509": {"clientCAFile": second}})
    assert [each.path for each in store.observe(frozenset({str(worker.tree.at(path))})).observations] == [second]
    assert len(counted) == 2


@pytest.mark.parametrize(
    ("way", "flag"),
    [
        (by_process, f"--config of the process kubelet in {WORKER}"),
        (by_k3s, f"--config in {K3S}"),
        (by_argument_file, f"--config in {ARGS}"),
    ],
)
@pytest.mark.parametrize(
    ("content", "fact"), [(None, f"{FILE} does not exist"), ("a: [", f"{FILE} is not YAML"), ("- a", "not a YAML map")]
)
def test_a_file_that_certmond_cannot_read_is_named(
    worker: Worker, way: Callable[..., None], flag: str, content: str | None, fact: str
) -> None:
    """The finding has the file, the flag with its place, and the reason."""
    if content:
        worker.tree.write(FILE, content)
    way(worker, f"config={FILE}")
    (message,) = worker.unwatched()
    assert f"any field in {FILE}, which {flag} names: " in message
    assert fact in message


def test_the_kubelet_of_the_enabled_unit_gives_no_second_entry(worker: Worker) -> None:
    """The process has the flags of its unit, and an unreadable drop-in has one finding."""
    path = worker.trust("ca")
    worker.configure(authentication={"x509": {"clientCAFile": path}})
    worker.tree.write(f"{DROP_INS}/a.conf", "a: [")
    flags = [f"--config={FILE}", f"--config-dir={DROP_INS}"]
    worker.unit("kubelet.service", f"ExecStart=/usr/bin/kubelet {' '.join(flags)}", enabled=True)
    worker.run(*flags, unit="kubelet.service")
    worker.run(f"--config-dir={DROP_INS}", unit="second.service")
    assert worker.watched().keys() == {path}
    (message,) = worker.unwatched()
    assert f"{DROP_INS}/a.conf is not YAML" in message


def test_the_process_of_another_user_decides_no_file(worker: Worker) -> None:
    """certmond reads no file that only the flags of this process name, and names these flags in one finding."""
    path = worker.trust("ca")
    worker.configure(authentication={"x509": {"clientCAFile": path}})
    worker.pod(f"{PODS}/p.yaml", path)
    worker.run(f"--config={FILE}", f"--config-dir={DROP_INS}", f"--pod-manifest-path={PODS}", user=996)
    assert not worker.watched()
    (message,) = worker.unwatched()
    assert f"--config of the process kubelet in {WORKER}: user 996 runs this process" in message


def test_the_process_of_another_user_hides_no_file(worker: Worker) -> None:
    """If root also names the file, or a flag of root names another one, certmond follows the file."""
    first, second = map(worker.trust, ("first", "second"))
    worker.configure(authentication={"x509": {"clientCAFile": first}})
    worker.configure(f"{DROP_INS}/a.conf", authentication={"x509": {"clientCAFile": second}})
    worker.run(f"--config={FILE}", "--client-ca-file=/none.crt", user=996)
    worker.run(f"--config={FILE}")
    worker.run(f"--config-dir={DROP_INS}", unit="other.service")
    assert worker.watched().keys() == {first, second}
    (message,) = worker.unwatched()
    assert f"--client-ca-file of the process kubelet in {WORKER}" in message


@pytest.mark.parametrize("of_unit", [True, False])
def test_a_file_that_root_also_names_is_no_finding(worker: Worker, *, of_unit: bool) -> None:
    """The process of another user adds no finding about a file that certmond reads because of a flag of root."""
    path = worker.trust("first")
    worker.configure(authentication={"x509": {"clientCAFile": path}})
    worker.run(f"--config={FILE}", user=996)
    if of_unit:
        worker.unit("kubelet.service", f"ExecStart=/usr/bin/kubelet --config={FILE}", enabled=True)
    else:
        worker.run(f"--config={FILE}", unit="other.service")
    assert worker.watched().keys() == {path}
    assert not worker.unwatched()


def test_the_unit_of_another_user_decides_no_file(worker: Worker) -> None:
    """A user who can change the unit decides the flags of its process, enabled or not."""
    worker.configure(authentication={"x509": {"clientCAFile": worker.trust("ca")}})
    worker.unit("my-kubelet.service", f"ExecStart=/usr/bin/kubelet --config={FILE}", mode=0o646, enabled=True)
    worker.run(f"--config={FILE}", unit="my-kubelet.service")
    assert not worker.watched()
    messages = worker.unwatched()
    assert len(messages) == 2
    assert all("my-kubelet.service can be changed by other users" in each for each in messages)


def test_a_flag_in_a_file_of_another_user_overrides_no_field(worker: Worker) -> None:
    """Flags of k3s can come from several files. A file that another user can change hides no field of the others."""
    certificate, key = worker.pair("serving")
    worker.configure(tlsCertFile=certificate, tlsPrivateKeyFile=key)
    by_k3s(worker, f"config={FILE}")
    arguments = {"kubelet-arg+": ["tls-cert-file=/none.crt", f"config-dir={DROP_INS}"]}
    worker.tree.write(f"{K3S}.d/1.yaml", yaml.safe_dump(arguments), 0o646)
    assert worker.watched().keys() == {certificate}
    assert all(f"{K3S}.d/1.yaml can be changed by other users" in each for each in worker.unwatched())
    assert len(worker.unwatched()) == 2


def test_a_flag_overrides_a_field(worker: Worker) -> None:
    """The kubelet parses its flags again after the file, and each of two kubelets with one file counts."""
    (given, _), (certificate, _) = worker.pair("given"), worker.pair("serving")
    worker.configure(tlsCertFile=certificate, tlsPrivateKeyFile="serving.key")
    flags = [f"--config={FILE}", f"--tls-cert-file={given}", "--tls-private-key-file=/etc/extra/given.key"]
    worker.run(*flags)
    assert worker.watched().keys() == {given}
    worker.run(f"--config={FILE}", unit="second.service")
    assert worker.watched().keys() == {given, certificate}


@pytest.mark.parametrize(
    ("fields", "flag", "used"),
    [
        ({}, "", True),
        ({"serverTLSBootstrap": True}, "", False),
        ({"tlsCertFile": "/etc/extra/serving.crt"}, "", False),
        ({}, "--rotate-server-certificates", False),
    ],
)
@pytest.mark.parametrize("path", [FILE, CONFIG])
def test_the_directory_of_the_pair_counts_without_other_certificates(
    worker: Worker, path: str, fields: dict[str, Any], flag: str, *, used: bool
) -> None:
    """A kubelet with another serving certificate does not use kubelet.crt in --cert-dir."""
    (pair, _), _ = worker.pair("kubelet"), worker.pair("serving")
    worker.configure(path, **fields)
    worker.run(f"--config={path}", "--cert-dir=/etc/extra", *filter(None, [flag]))
    assert (pair in worker.watched()) is used


@pytest.mark.parametrize("way", WAYS)
def test_the_requested_certificate_in_the_directory_is_watched(worker: Worker, way: Callable[..., None]) -> None:
    """The kubelet requests it from the Kubernetes API, and stores the certificate and the key in one file."""
    pair = worker.pair("kubelet")
    content = b"".join(worker.tree.at(path).read_bytes() for path in pair)
    worker.tree.write("/etc/extra/kubelet-server-current.pem", content, 0o600)
    way(worker, "cert-dir=/etc/extra", "rotate-server-certificates=true")
    ((path, seen),) = worker.watched().items()
    assert (path, seen.key_path, seen.faults) == ("/etc/extra/kubelet-server-current.pem", path, ())
    assert str(seen.named_by).startswith("--cert-dir ")


@pytest.mark.parametrize("way", WAYS)
def test_a_requested_certificate_that_is_missing_is_reported(worker: Worker, way: Callable[..., None]) -> None:
    """k3s and RKE2 give the kubelet a certificate, so this kubelet needs no other."""
    way(worker, "cert-dir=/etc/extra", "rotate-server-certificates=true")
    missing = {} if way in OF_RANCHER else {"/etc/extra/kubelet-server-current.pem": ["missing"]}
    assert {path: [each.reason for each in seen.faults] for path, seen in worker.watched().items()} == missing


@pytest.mark.parametrize(("requests", "name"), [(True, "kubelet.crt"), (False, "kubelet-server-current.pem")])
def test_a_file_that_only_another_component_uses_is_watched(worker: Worker, name: str, *, requests: bool) -> None:
    """The kubelet does not use its old certificate, but the flag of a static Pod names this file."""
    worker.tree.write(f"/etc/extra/{name}", worker.tree.at(worker.trust("ca")).read_bytes())
    worker.configure(CONFIG, serverTLSBootstrap=requests)
    command = f"ExecStart=/usr/bin/kubelet --config={CONFIG} --cert-dir=/etc/extra"
    worker.unit("kubelet.service", command, enabled=True)
    worker.pod("/etc/kubernetes/manifests/scheduler.yaml", f"/etc/extra/{name}")
    assert worker.watched()[f"/etc/extra/{name}"].named_by == (
        "--client-ca-file in /etc/kubernetes/manifests/scheduler.yaml"
    )


def test_a_running_store_follows_the_mode_of_the_kubelet(worker: Worker) -> None:
    """After a change of the mode, the store observes a file of another component again."""
    path = "/var/lib/kubelet/pki/kubelet-server-current.pem"
    worker.unit("kube-scheduler.service", f"ExecStart=/usr/bin/kube-scheduler --client-ca-file={path}", enabled=True)
    store = worker.store()
    for requests in (True, False, True):
        worker.configure(CONFIG, serverTLSBootstrap=requests)
        assert {each.requested for each in store.observe().observations if each.path == path} == {requests}


def test_the_trust_anchor_of_the_api_server_is_the_one_of_the_own_kubelet(worker: Worker) -> None:
    """The CA of another kubelet does not judge the client certificate of the API server, and keeps no name."""
    certificate, key = worker.pair("client")
    worker.configure(authentication={"x509": {"clientCAFile": worker.trust("other")}})
    worker.run(f"--config={FILE}")
    flags = [f"--kubelet-client-certificate={certificate}", f"--kubelet-client-key={key}"]
    worker.proc.add("99", "kube-apiserver", *flags)
    assert worker.watched()[certificate].spec.ca == ("kubelet.clientCAFile",)
    worker.configure(CONFIG, authentication={"x509": {"clientCAFile": worker.trust("own")}})
    seen = worker.watched()
    assert seen["/etc/extra/own.crt"].name == "kubelet.clientCAFile"
    assert seen[certificate].spec.ca == ("kubelet.clientCAFile",)


def test_a_configuration_that_another_user_can_change_is_not_followed(worker: Worker) -> None:
    """certmond names each field with a file, and the path of the static Pods."""
    path = worker.trust("ca")
    worker.configure(FILE, 0o646, authentication={"x509": {"clientCAFile": path}}, staticPodPath=PODS)
    worker.pod(f"{PODS}/p.yaml", path)
    worker.run(f"--config={FILE}")
    assert not worker.watched()
    messages = worker.unwatched()
    assert [any(f"{field} in {FILE}: {FILE} can be" in each for each in messages) for field in ("clientCAFile",
            "staticPodPath")] == [True, True]  # fmt: skip


def test_drop_ins_that_a_former_k3s_has_left_are_not_followed(worker: Worker) -> None:
    """Without an enabled unit and a configuration file, no k3s may use them, so a deleted CA is not critical."""
    directory = "/var/lib/rancher/k3s/agent/etc/kubelet.conf.d"
    worker.configure(f"{directory}/00-k3s-defaults.conf", authentication={"x509": {"clientCAFile": "/none.crt"}})
    worker.tree.write("/etc/rancher/k3s/registries.yaml", "mirrors: {}")
    assert not worker.watched()
    (message,) = worker.unwatched()
    assert "--config-dir of the kubelet of k3s" in message
    assert f"{directory} might be unused: no enabled unit starts k3s, and {K3S} does not exist" in message


@pytest.mark.parametrize("data", ["", "/srv/k3s"])
@pytest.mark.parametrize("unit", [True, False])
def test_the_drop_ins_of_k3s_are_followed(worker: Worker, data: str, *, unit: bool) -> None:
    """k3s passes the directory in its data directory to the kubelet, which runs in the process of k3s."""
    path = worker.trust("ca")
    directory = f"{data or '/var/lib/rancher/k3s'}/agent/etc/kubelet.conf.d"
    if unit:
        worker.unit("k3s.service", f"ExecStart=/usr/bin/k3s agent {data and f'-d {data}'}", enabled=True)
    else:
        worker.tree.write(K3S, f"data-dir: {data}\n")
    store = worker.store()
    assert not store.observe().observations
    worker.configure(f"{directory}/99.conf", authentication={"x509": {"clientCAFile": path}})
    (seen,) = store.observe().observations
    assert (seen.name, seen.named_by) == (f"{KUBELET}.clientCAFile", f"clientCAFile in {directory}/99.conf")
    worker.tree.write(f"{directory}/98.conf", "a: [")
    (message,) = worker.unwatched()
    assert f"any field in {directory}/98.conf, which --config-dir of the kubelet of k3s names" in message


@pytest.mark.parametrize("name", ["kubelet.service", "my-kubelet.service"])
def test_a_path_in_the_mount_namespace_of_the_unit_is_followed_on_the_host(worker: Worker, name: str) -> None:
    """The file at the same path on the host is not the file that the kubelet reads."""
    wanted, other, of_pod = map(worker.trust, ("wanted", "other", "of-pod"))
    worker.configure("/srv/kubelet/kubelet.yaml", staticPodPath="/etc/pods", authentication={
        "x509": {"clientCAFile": wanted}})  # fmt: skip
    worker.configure("/etc/my/kubelet.yaml", authentication={"x509": {"clientCAFile": other}})
    worker.pod("/srv/pods/a.yaml", of_pod)
    if name != "kubelet.service":
        worker.unit("kubelet.service", "ExecStart=/usr/bin/kubelet", enabled=True)
    mounts = "BindPaths=/srv/kubelet:/etc/my /srv/pods:/etc/pods"
    worker.unit(name, f"{mounts}\nExecStart=/usr/bin/kubelet --config=/etc/my/kubelet.yaml", enabled=True)
    assert worker.watched().keys() == {wanted, of_pod}
    assert not worker.unwatched()


@pytest.mark.parametrize("flag", ["config", "config-dir", "pod-manifest-path"])
def test_a_path_that_is_not_on_the_host_is_not_watched(worker: Worker, flag: str) -> None:
    """The file in a tmpfs of the unit is unknown."""
    worker.configure("/etc/my/file", authentication={"x509": {"clientCAFile": worker.trust("other")}})
    command = f"TemporaryFileSystem=/etc/my\nExecStart=/usr/bin/kubelet --{flag}=/etc/my/file"
    worker.unit("kubelet.service", command, enabled=True)
    assert not worker.watched()
    (message,) = worker.unwatched()
    assert f"--{flag} in /etc/systemd/system/kubelet.service: /etc/my/file is not the path of a file" in message


@pytest.mark.parametrize(
    ("command", "named_by", "path"),
    [
        *(
            (f"kubelet --{flag}=/etc/%H", f"--{flag} in /etc/systemd/system/kubelet.service", "/etc/%H")
            for flag in ("config", "config-dir", "pod-manifest-path")
        ),
        *(
            (f"{program} server --config={path}", f"any flag in {path}", path)
            for program in ("k3s", "rke2")
            for path in ("/etc/rancher/%H.yaml", "/${CONFIGURATION_DIRECTORY}/k.yaml")
        ),
        (
            "k3s server --data-dir=/srv/%H", "--config-dir of the kubelet of k3s",
            "/srv/%H/agent/etc/kubelet.conf.d",
        ),
    ],
)  # fmt: skip
def test_a_path_that_only_systemd_knows_is_not_watched(worker: Worker, command: str, named_by: str, path: str) -> None:
    """certmond does not know the value of a specifier such as %H, and of a variable that systemd sets."""
    unit = f"{command.split(maxsplit=1)[0]}.service"
    worker.unit(unit, f"ExecStart=/usr/bin/{command}", enabled=True)
    assert not worker.watched()
    (message,) = worker.unwatched()
    assert f"the file of {named_by}: {path} is not the path of a file on this host" in message


def test_two_kubelets_with_one_file_and_different_mounts_are_both_followed(worker: Worker) -> None:
    """The same path in the file is another file on the host for each of these kubelets."""
    worker.configure(authentication={"x509": {"clientCAFile": "/etc/extra/ca.crt"}})
    worker.trust("ca")
    worker.tree.write("/srv/a/ca.crt", worker.tree.at("/etc/extra/ca.crt").read_bytes())
    worker.unit("a.service", "ExecStart=/usr/bin/kubelet", enabled=True)
    for name, mounts in {"b": "BindPaths=/srv/a/ca.crt:/etc/extra/ca.crt\n", "c": ""}.items():
        worker.unit(f"{name}.service", f"{mounts}ExecStart=/usr/bin/kubelet --config={FILE}", enabled=True)
    assert worker.watched().keys() == {"/etc/extra/ca.crt", "/srv/a/ca.crt"}


def test_the_directories_of_k3s_are_followed_through_the_mounts_of_its_unit(worker: Worker) -> None:
    """The configuration with its drop-ins, and the drop-ins of the kubelet in the data directory, are on the host."""
    paths = [*map(worker.trust, ("a", "b", "c"))]
    worker.tree.write("/srv/k3s/config.yaml", f"kubelet-arg: [client-ca-file={paths[0]}]\n")
    worker.tree.write("/srv/k3s/config.yaml.d/1.yaml", f"kube-apiserver-arg: [oidc-ca-file={paths[1]}]\n")
    worker.configure("/srv/data/agent/etc/kubelet.conf.d/1.conf", authentication={"x509": {"clientCAFile": paths[2]}})
    mounts = "BindPaths=/srv/k3s:/etc/rancher/k3s /srv/data:/var/lib/rancher/k3s"
    worker.unit("k3s.service", f"{mounts}\nExecStart=/usr/bin/k3s server", enabled=True)
    assert worker.watched().keys() == {*paths}


def test_the_configuration_of_k3s_in_a_tmpfs_is_not_watched(worker: Worker) -> None:
    """certmond does not follow the files at the same paths on the host."""
    worker.tree.write(K3S, f"kubelet-arg: [client-ca-file={worker.trust('a')}]\n")
    tmpfs = "TemporaryFileSystem=/etc/rancher /var/lib/rancher"
    worker.unit("k3s.service", f"{tmpfs}\nExecStart=/usr/bin/k3s server", enabled=True)
    assert not worker.watched()
    assert sorted("/etc/rancher/k3s/config.yaml is not the path" in each for each in worker.unwatched())[-1:] == [True]


@pytest.mark.parametrize("way", WAYS)
def test_an_empty_flag_overrides_a_field(worker: Worker, way: Callable[..., None]) -> None:
    """The kubelet then has no CA of clients, and uses no certificate of its configuration."""
    (old, _), (pair, _) = worker.pair("old"), worker.pair("kubelet")
    worker.configure(tlsCertFile=old, authentication={"x509": {"clientCAFile": worker.trust("ca")}})
    way(worker, f"config={FILE}", "tls-cert-file=", "client-ca-file=", "cert-dir=/etc/extra")
    assert worker.watched().keys() == {pair}


def test_each_flag_in_a_changeable_file_is_named(worker: Worker) -> None:
    """Two flags in one file that another user can change give two findings."""
    flags = "--config=/etc/extra/a.yaml --config-dir=/etc/extra/d"
    worker.tree.write("/var/lib/kubelet/kubeadm-flags.env", f'KUBELET_KUBEADM_ARGS="{flags}"')
    worker.tree.at("/var/lib/kubelet/kubeadm-flags.env").chmod(0o666)
    named = " ".join(each.faults[0].detail for each in worker.named() if each.faults)
    assert "--config in " in named
    assert "--config-dir in " in named
