"""The command lines of processes, which name certificates that no file of the node names."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from certmond.files.catalog_observer import Store
from certmond.files.references import component_sources
from certmond.files.references.component_processes import component_processes
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Reason
from tests.builders import make_ca, make_leaf
from tests.distributions import Tree
from tests.node import NOW
from tests.proc_tree import ROOT, ProcTree

K0S = "k0scontroller.service"
UNITS = "/etc/systemd/system"
CONTAINER = "22 1 0:99 / / rw - overlay overlay rw"
CHROOT = "22 1 8:1 /srv/chroot / rw,relatime - ext4 /dev/sda1 rw"
UNMOUNTED = "22 1 0:4 / /proc rw - proc proc rw"


@pytest.fixture
def proc(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path / "processes")


def found(proc: ProcTree) -> list[tuple[str, str]]:
    return [(each.unit, each.component) for each in component_processes(str(proc))]


@pytest.mark.parametrize(
    ("words", "component"),
    [
        (["/var/lib/k0s/bin/kube-apiserver", "--secure-port=6443"], "kube-apiserver"),
        (["/hyperkube", "apiserver"], "kube-apiserver"),
        (["/go-runner", "--log-file=/x", "/usr/bin/kube-proxy"], "kube-proxy"),
        (["proxy-server"], "konnectivity-server"),
        (["/opt/bin/etcd-v3.5.21"], "etcd"),
        (["/opt/bin/etcdctl-v3.5.21"], ""),
        (["hyperkube", "help"], ""),
        (["nginx", "etcd"], ""),
        (["/bin/sh", "-c", "etcd --cert-file=/x"], ""),
        ([], ""),
    ],
)
def test_a_process_of_a_component_is_found_by_its_program(proc: ProcTree, words: list[str], component: str) -> None:
    """A shell that starts a component has the component as a child, which is a separate process."""
    proc.add("7", *words)
    assert found(proc) == ([(K0S, component)] if component else [])


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/etcd.service\n", "etcd.service"),
        ("0::/system.slice/system-etcd.slice/etcd@a.service\n", "etcd@a.service"),
        ("2:cpu:/\n1:name=systemd:/system.slice/etcd.service\n0::/\n", "etcd.service"),
        ("1:name=systemd:/system.slice/etcd.service\n0::/system.slice/etcd.service\n", "etcd.service"),
        ("2:cpu:/a.service\n1:name=systemd:/\n0::/system.slice/etcd.service\n", "etcd.service"),
        ("1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n", ""),
        ("1:name=systemd:/user.slice/user-0.slice/session-2.scope\n0::/system.slice/etcd.service\n", ""),
        ("0::/user.slice/user-0.slice/session-2.scope\n", ""),
        ("0::/user.slice/user-0.slice/user@0.service/app.slice/etcd.service\n", ""),
        ("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope\n", ""),
        ("0::/system.slice/containerd.service/kubepods-besteffort-pod1:cri-containerd:abc\n", ""),
        ("0::/machine.slice/machine-x.scope/payload/system.slice/etcd.service\n", ""),
        ("0::/system.slice/certmond.service\n", ""),
        ("0::/\n", ""),
        ("", ""),
        ("garbage", ""),
    ],
)
def test_only_a_process_of_another_service_counts(proc: ProcTree, cgroup: str, unit: str) -> None:
    """Processes of containers, of login sessions and of certmond's own service do not count."""
    proc.add("7", "etcd", cgroup=cgroup)
    assert found(proc) == ([(unit, "etcd")] if unit else [])


@pytest.mark.parametrize("mounts", [CONTAINER, CHROOT, UNMOUNTED, "garbage"])
def test_a_process_with_another_root_directory_does_not_count(proc: ProcTree, mounts: str) -> None:
    """In a container or a chroot, the same path is another file. A mount namespace of a unit keeps the root."""
    proc.add("7", "etcd", mounts=mounts)
    proc.add("8", "kubelet", mounts=f"{ROOT.replace('22 1', '941 800')}\n942 941 0:26 / /tmp rw - tmpfs tmpfs rw")
    assert found(proc) == [(K0S, "kubelet")]


def test_without_an_own_root_directory_no_process_counts(proc: ProcTree) -> None:
    """certmond must know that the paths of a process are its own paths."""
    proc.add("7", "etcd")
    for pid in ("self", "7"):
        proc.remove(pid, "mountinfo")
    assert not found(proc)


@pytest.mark.parametrize("name", ["cmdline", "cgroup", "mountinfo", "status", ""])
def test_a_process_that_ends_is_left_out(proc: ProcTree, name: str) -> None:
    """Each file of a process can vanish between two reads. Without its user, the flags are not trusted."""
    proc.add("7", "etcd")
    proc.remove("7", *filter(None, [name]))
    assert [each.obstacle for each in component_processes(str(proc))] == (
        ["the user who runs this process is unknown"] if name == "status" else []
    )


def test_hidden_processes_are_no_error(tmp_path: Path) -> None:
    """Without /proc, or with hidepid, no process counts."""
    assert component_processes(str(tmp_path / "none")) == ()


def test_a_long_command_line_is_unread(proc: ProcTree) -> None:
    """Arguments can have megabytes. A long word is cut, because it names no file."""
    proc.add("7", "etcd", "--cert-file=" + "x" * (1 << 17))
    proc.add("8", "kubelet", "--kubeconfig=" + "y" * 8000)
    etcd, kubelet = component_processes(str(proc))
    assert (etcd.flags, etcd.unread) == ((), "the command line of this process has more than 131072 bytes")
    assert len(kubelet.flags[0][1]) < 4096
    assert not kubelet.unread


def test_processes_of_other_users_are_limited_for_each_service(proc: ProcTree) -> None:
    """Many processes of a user do not delay certmond, and hide no process of root or of another service."""
    for pid in range(10, 60):
        proc.add(str(pid), "etcd", f"--name={pid}", unit="cron.service", user=1000)
    for pid in range(60, 70):
        proc.add(str(pid), "etcd", f"--name={pid}", unit="cron.service")
    proc.add("99", "etcd", "--name=99", user=996)
    seen = component_processes(str(proc))
    assert [len(each.flags) for each in seen if each.unit == "cron.service" and each.obstacle] == [1, 1, 1, 1]
    assert [each.unread for each in seen if each.unread] == ["users other than root run more than 4 such processes"]
    assert len([each for each in seen if not (each.obstacle or each.unread)]) == 10
    assert [each.unit for each in seen if ("name", "99") in each.flags] == [K0S]


class Controller:
    """A controller of k0s, which starts the components as its children. Each certificate ends five days later."""

    def __init__(self, root: Path) -> None:
        self.tree, self.proc = Tree(root / "root"), ProcTree(root / "processes")
        self._ca = make_ca("extra", not_after=NOW + timedelta(days=5), not_before=NOW - timedelta(days=300))

    def pair(self, name: str) -> tuple[str, str]:
        leaf = make_leaf(self._ca, extended_usages=["client auth", "server auth"], not_after=NOW + timedelta(days=5))
        certificate, key = f"/etc/extra/{name}.crt", f"/etc/extra/{name}.key"
        self.tree.write(certificate, leaf.pem)
        self.tree.write(key, leaf.key_pem, 0o600)
        return certificate, key

    def trust(self, name: str) -> str:
        self.tree.write(f"/etc/extra/{name}.crt", self._ca.pem)
        return f"/etc/extra/{name}.crt"

    def unit(self, name: str, content: str, *, enabled: bool = False, mode: int = 0o644) -> None:
        self.tree.write(f"{UNITS}/{name}", f"[Service]\n{content}\n", mode)
        if enabled:
            link = self.tree.at(f"{UNITS}/multi-user.target.wants/{name}")
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(f"{UNITS}/{name}")

    def store(self) -> Store:
        return Store((), str(self.tree.root), references=True, proc=str(self.proc))

    def named(self) -> list[Observation]:
        return [*self.store().observe().observations]

    def unwatched(self) -> list[str]:
        loose = assess(self.store().observe(), NOW).loose_findings
        return [each.message for each in loose if each.reason is Reason.NOT_WATCHED]


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def test_the_flags_of_a_process_are_followed(controller: Controller) -> None:
    """The entry names the flag, the program and the service, but no PID, so that a restart changes no entry."""
    certificate, key = controller.pair("etcd")
    extra = controller.trust("extra")
    words = ["/var/lib/k0s/bin/kube-apiserver", f"--etcd-certfile={certificate}", f"--etcd-keyfile={key}"]
    controller.proc.add("7", *words, "--of-fork", extra)
    first, second = controller.named()
    assert (first.name, first.path, first.key_path) == ("kube-apiserver.etcd-certfile", certificate, key)
    assert first.named_by == f"--etcd-certfile of the process kube-apiserver in {K0S}"
    assert (second.name, second.path) == ("kube-apiserver.of-fork", extra)
    store = controller.store()
    before = store.observe().observations
    controller.proc.remove("7")
    controller.proc.add("8", *words, "--of-fork", extra)
    revision = store._sources.revision()
    after = store.observe().observations
    assert all(one is other for one, other in zip(revision, store._sources.revision(), strict=True))
    assert all(one is other for one, other in zip(before, after, strict=True))


def test_processes_are_read_at_full_scans_and_on_request(controller: Controller) -> None:
    """A pass after a change of a file does not read /proc, unless the services have changed."""
    store, path = controller.store(), controller.trust("ca")
    assert not store.observe().observations
    controller.proc.add("7", "kube-apiserver", f"--oidc-ca-file={path}")
    assert not store.observe(frozenset()).observations
    store.read_processes()
    assert [each.path for each in store.observe(frozenset()).observations] == [path]
    controller.proc.remove("7")
    assert [each.path for each in store.observe(frozenset()).observations] == [path]
    assert not store.observe().observations


def test_a_flag_that_a_unit_has_gives_no_second_entry(controller: Controller) -> None:
    """Of an enabled unit, only the flags count that the unit does not have, with the key of the unit."""
    old, new = controller.trust("old"), controller.trust("new")
    (certificate, key), (second, _) = controller.pair("a"), controller.pair("b")
    flags = [f"--trusted-ca-file={old}", f"--key-file={key}", "--of-fork=/x/[a].pem", "--discovery-cacert=none"]
    controller.unit("etcd.service", f"ExecStart=/usr/bin/etcd --cert-file={second} {' '.join(flags)}", enabled=True)
    words = [*flags, f"--cert-file={certificate}", f"--peer-trusted-ca-file={new}"]
    controller.proc.add("7", "etcd", *words, unit="etcd.service")
    seen = {each.path: each for each in controller.named() if each.is_watched}
    assert seen[old].named_by == f"--trusted-ca-file in {UNITS}/etcd.service"
    assert seen[new].named_by == "--peer-trusted-ca-file of the process etcd in etcd.service"
    assert seen[certificate].key_path == key
    for value in ("none", "/x/[a].pem"):
        assert [f": {value} is not the path" in each for each in controller.unwatched()].count(True) == 1


def _unit(controller: Controller, path: str, lines: str = "", mode: int = 0o644) -> None:
    command = f"{lines}\nExecStart=/usr/bin/etcd --trusted-ca-file={path}"
    controller.unit("a.service", command, enabled=True, mode=mode)


@pytest.mark.parametrize(
    "give",
    [
        lambda node, path: _unit(node, path, mode=0o666),
        lambda node, path: _unit(node, path, "RootDirectory=/srv"),
        lambda node, path: _unit(node, path, "BindPaths=/srv:/etc/extra"),
        lambda node, path: node.tree.write("/etc/rancher/k3s/config.yaml", f"etcd-arg: trusted-ca-file={path}", 0o666),
        lambda node, path: node.tree.write(
            "/etc/kubernetes/manifests/e.yaml",
            f"spec: {{containers: [{{name: etcd, command: [etcd, --trusted-ca-file={path}]}}]}}",
        ),
    ],
    ids=["changeable unit", "root directory", "mount", "changeable configuration", "image"],
)  # fmt: skip
def test_a_file_with_the_same_flag_hides_no_process(controller: Controller, give: Callable[..., None]) -> None:
    """Another user can write the flag into a file, or the flag names another file. The process of root still counts."""
    path = controller.trust("ca")
    give(controller, path)
    controller.proc.add("7", "etcd", f"--trusted-ca-file={path}")
    assert [each.path for each in controller.named() if each.is_watched and each.path == path] == [path]


def test_a_flag_of_the_kubelet_in_a_file_gives_no_second_entry(controller: Controller) -> None:
    """kubeadm gives the kubelet the flags in kubeadm-flags.env, and the process has the same flags."""
    flag = "--client-ca-file=ca.crt"
    controller.tree.write("/var/lib/kubelet/kubeadm-flags.env", f'KUBELET_KUBEADM_ARGS="{flag}"')
    controller.proc.add("7", "/usr/bin/kubelet", flag, unit="kubelet.service")
    (seen,) = controller.named()
    assert seen.named_by == "--client-ca-file in /var/lib/kubelet/kubeadm-flags.env"


def test_a_certificate_that_the_kubelet_does_not_serve_is_ignored(controller: Controller) -> None:
    """A kubelet that requests its certificate does not use kubelet.crt in --cert-dir, also in the flags of its process.
    certmond watches the requested file in this directory.
    """
    flags = ["--rotate-server-certificates=true", "--cert-dir=/etc/extra"]
    controller.tree.write("/var/lib/kubelet/kubeadm-flags.env", f'KUBELET_KUBEADM_ARGS="{" ".join(flags)}"')
    controller.pair("kubelet")
    controller.proc.add("7", "/usr/bin/kubelet", *flags, unit="kubelet.service")
    assert [each.path for each in controller.named()] == ["/etc/extra/kubelet-server-current.pem"]


def test_the_process_of_another_user_is_named_and_not_followed(controller: Controller) -> None:
    """A user can change the command line of an own process, and never decides which files certmond reads."""
    controller.proc.add("7", "kube-apiserver", f"--oidc-ca-file={controller.trust('ca')}", user=996)
    assert not any(each.is_watched for each in controller.named())
    (message,) = controller.unwatched()
    assert f"--oidc-ca-file of the process kube-apiserver in {K0S}: user 996 runs this process" in message


def test_one_finding_names_the_files_of_a_process_of_another_user(controller: Controller) -> None:
    """A long command line of another user gives one finding with some of the files and the number of the others."""
    path = controller.trust("ca")
    words = [f"--x={','.join(f'/{number}{each}.crt' for each in 'abcdefghi')}" for number in range(100)]
    controller.proc.add("7", "kube-apiserver", f"--oidc-ca-file={path}", *words, user=996)
    (message,) = controller.unwatched()
    assert f"files of the process kube-apiserver in {K0S} ({path}, /0a.crt, /0b.crt" in message
    assert "user 996 runs this process" in message
    assert "certmond watches at most 100 of these files, and ignores 800" in message
    assert len(message) < 1000


def test_a_process_that_certmond_does_not_read_is_named(controller: Controller) -> None:
    """A finding names the program and the service of a process beyond a limit."""
    controller.proc.add("7", "etcd", "--cert-file=" + "x" * (1 << 17))
    (message,) = controller.unwatched()
    assert (
        f"any flag of the process etcd in {K0S}: the command line of this process has more than 131072 bytes" in message
    )


@pytest.mark.parametrize("of_process", [True, False])
def test_many_processes_of_a_user_do_not_hide_another(controller: Controller, *, of_process: bool) -> None:
    """The component of a different service keeps its finding."""
    for pid in range(10, 60 if of_process else 10):
        controller.proc.add(str(pid), "kube-apiserver", f"--name={pid}", unit="cron.service", user=1000)
    controller.proc.add("99", "kube-apiserver", f"--oidc-ca-file={controller.trust('ca')}", user=996)
    messages = controller.unwatched()
    assert any(f"--oidc-ca-file of the process kube-apiserver in {K0S}" in each for each in messages)
    assert len(messages) == 1 + of_process


def test_a_file_that_root_also_names_is_followed(controller: Controller) -> None:
    """A reference that is not followed does not hide another."""
    flag = f"--oidc-ca-file={controller.trust('ca')}"
    controller.proc.add("7", "kube-apiserver", flag, user=996)
    controller.proc.add("8", "kube-apiserver", flag, unit="other.service")
    (seen,) = controller.named()
    assert seen.is_watched
    assert not controller.unwatched()


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize(
    ("content", "unit_mode", "file_mode", "culprit"),
    [
        ("ExecStart=/usr/bin/etcd", 0o646, 0o600, f"{UNITS}/etcd.service"),
        ("EnvironmentFile=-/etc/etcd.env\nExecStart=/usr/bin/etcd $ARGS", 0o644, 0o606, "/etc/etcd.env"),
    ],
)
def test_a_command_line_that_another_user_can_change_is_not_followed(
    controller: Controller, content: str, unit_mode: int, file_mode: int, culprit: str, *, enabled: bool
) -> None:
    """A user who can change the unit or its environment file decides the command line of the process."""
    flag = f"--trusted-ca-file={controller.trust('ca')}"
    controller.tree.write("/etc/etcd.env", f"ARGS={flag}\n", file_mode)
    controller.unit("etcd.service", content, enabled=enabled, mode=unit_mode)
    controller.proc.add("7", "etcd", flag, unit="etcd.service")
    assert not any(each.is_watched for each in controller.named())
    assert any(f"{culprit} can be changed by other users" in each for each in controller.unwatched())


def test_a_path_in_the_mount_namespace_of_a_process_is_mapped_to_the_host(controller: Controller) -> None:
    """The unit of the process sets the mounts, also if the unit is not enabled."""
    certificate = controller.trust("ca")
    content = f"LoadCredential=ca:{certificate}\nTemporaryFileSystem=/etc/hidden\nExecStart=/usr/bin/start"
    controller.unit("etcd.service", content, enabled=False)
    flags = ("--trusted-ca-file=/run/credentials/etcd.service/ca", "--peer-trusted-ca-file=/etc/hidden/ca.crt")
    controller.proc.add("7", "etcd", *flags, unit="etcd.service")
    assert [each.path for each in controller.named() if each.is_watched] == [certificate]
    (message,) = controller.unwatched()
    assert "/etc/hidden/ca.crt is not the path of a file on this host" in message


def test_a_drop_in_that_another_user_can_change_is_an_obstacle(controller: Controller) -> None:
    """A drop-in can replace the command line at the next start."""
    controller.unit("etcd.service", "ExecStart=/usr/bin/etcd")
    controller.unit("etcd.service.d/limits.conf", "LimitNOFILE=1", mode=0o646)
    controller.proc.add("7", "etcd", f"--trusted-ca-file={controller.trust('ca')}", unit="etcd.service")
    (message,) = controller.unwatched()
    assert "etcd.service.d/limits.conf can be changed by other users" in message


@pytest.mark.parametrize(("root", "references", "read"), [("/", True, ["/proc"]), ("/", False, []), ("", True, [])])
def test_below_another_root_no_process_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, read: list[str], *, references: bool
) -> None:
    """The processes of this host are not those of a mounted disk. Without references, certmond reads none."""
    opened = list[str]()

    def no_processes(proc: str) -> tuple[()]:
        opened.append(proc)
        return ()

    monkeypatch.setattr(component_sources, "component_processes", no_processes)
    Store((), root or str(tmp_path), references=references).observe()
    assert opened == read
