"""The program that a command line starts."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certmond.formats.manifest import flag_values
from certmond.formats.started_program import mentioned_component, only_prints, program_name, program_of, subcommand_of
from certmond.pki.catalog.component_certificate_flags import PROGRAMS


@pytest.mark.parametrize("length", [9, 1 << 15])
def test_the_flags_in_a_script_are_read(length: int) -> None:
    """certmond splits a long script at white space only, because the exact way needs quadratic time."""
    script = f"echo '{'x' * length}'; exec kube-scheduler --client-ca-file=/a.crt"
    found = program_of(["/bin/sh", "-ec", script])
    assert (found[0], dict(flag_values(found[1]))) == ("kube-scheduler", {"client-ca-file": "/a.crt"})


@pytest.mark.parametrize(
    ("command", "program", "flags"),
    [
        (["/bin/sh", "-ec", "exec kube-proxy --a=/x; echo done"], "kube-proxy", {"a": "/x"}),
        (["sh", "-c", "kube-proxy --a=/x>/var/log/x 2>&1"], "kube-proxy", {"a": "/x"}),
        (["sh", "-c", "kube-proxy --a=\"/x y\" --b='/z' # --c=1"], "kube-proxy", {"a": "/x y", "b": "/z"}),
        (["sh", "-c", "kube-proxy \\\n--a=/x \\\n  --b=/y"], "kube-proxy", {"a": "/x", "b": "/y"}),
        (["sh", "-c", "kube-proxy --a=/x --b='/open"], "kube-proxy", {"a": "/x"}),
        (["/usr/bin/env", "-i", "A=b", "/bin/kube-proxy", "--a=/x"], "kube-proxy", {"a": "/x"}),
        (["nice", "-n", "5", "env", "sh", "-c", "kubelet --a=/x"], "kubelet", {"a": "/x"}),
        (["/hyperkube", "kubelet", "--a=/x"], "kubelet", {"a": "/x"}),
        (["/hyperkube", "apiserver", "--a=/x"], "kube-apiserver", {"a": "/x"}),
        (["env"], "env", {}),
        (["env", "-S"], "env", {}),
        (["env", "-S", "A=b etcd --a=/x", "--b=/y"], "etcd", {"a": "/x", "b": "/y"}),
        (["env", "-iSetcd --a=/x"], "etcd", {"a": "/x"}),
        (["env", "--split-string=etcd --a=/x"], "etcd", {"a": "/x"}),
        (["env", "-u", "A", "--chdir", "/b", "--", "B=c", "etcd", "--a=/x"], "etcd", {"a": "/x"}),
        (["/usr/bin/timeout", "-k", "5", "--signal=KILL", "10m", "etcd", "--a=/x"], "etcd", {"a": "/x"}),
        (["taskset", "-c", "0-3", "etcd", "--a=/x"], "etcd", {"a": "/x"}),
        (["nice", "-n", "-5", "ionice", "-c2", "-n0", "etcd", "--a=/x"], "etcd", {"a": "/x"}),
        (["chrt", "-f", "10", "etcd", "--a=/x"], "etcd", {"a": "/x"}),
        (["systemd-cat", "-t", "etcd", "sh", "-c", "etcd --a=/x"], "etcd", {"a": "/x"}),
        (["bash", "-e", "-c", "etcd --a=/x"], "etcd", {"a": "/x"}),
        (["bash", "-euo", "pipefail", "--rcfile", "/b", "-c", "etcd --a=/x"], "etcd", {"a": "/x"}),
        (["sh", "-c", 'exec etcd "$@"', "--", "--a=/x"], "etcd", {"a": "/x"}),
        (["bash", "-c"], "bash", {}),
        (["sh", "/etc/x.sh", "-c", "etcd"], "sh", {}),
        (["nice"] * 99, "nice", {}),
    ],
)
def test_the_program_behind_a_wrapper_is_found(command: list[str], program: str, flags: dict[str, str]) -> None:
    """Shells, env, nice and hyperkube start another program, and operators of a shell are no part of a value."""
    found = program_of(command[:1], command[1:])
    assert (found[0], dict(flag_values(found[1]))) == (program, flags)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/local/bin/kube-apiserver-v1.33.2", "kube-apiserver"),
        ("/opt/kubelet_1.33.2-0ubuntu1~24.04", "kubelet"),
        ("k3s-v1.33.2+k3s1", "k3s"),
        ("etcd-3.5.21-linux-amd64", "etcd"),
        ("etcd.3", "etcd"),
        ("/usr/bin/kube-apiserver.real", "kube-apiserver"),
        ("proxy-agent-v0.32", "proxy-agent"),
        ("kube-apiserver-network-proxy", "kube-apiserver-network-proxy"),
        ("kube-apiserver-proxy-v1", "kube-apiserver-proxy-v1"),
        ("etcdctl", "etcdctl"),
        ("etcdctl-3.5", "etcdctl-3.5"),
        ("etcd-backup", "etcd-backup"),
        ("etcd-vault", "etcd-vault"),
        ("kubelet-csr-approver", "kubelet-csr-approver"),
        ("python3.11", "python3.11"),
        ("kube-apiserver-", "kube-apiserver-"),
        ("-3", "-3"),
        ("/", ""),
    ],
)
def test_a_component_with_a_version_in_its_name_is_found(path: str, name: str) -> None:
    """A version begins with a digit, with or without "v". Other programs keep their names."""
    assert program_of([path, "--a=/x"]) == (name, [path, "--a=/x"])
    assert program_of(["sh", "-c", f"exec {path} --a=/x"])[0] == (name if name in PROGRAMS else "sh")
    assert mentioned_component(["sudo", path]) == PROGRAMS.get(name, "")


@pytest.mark.parametrize(
    ("line", "component"),
    [
        ("podman run --rm --name x quay.io/coreos/etcd:v3 --trusted-ca-file=/x", "etcd"),
        ("sudo -u etcd -- /usr/bin/etcd", "etcd"),
        ("etcd --a=/x", ""),
        ("systemctl restart kubelet", ""),
        ("mount --make-rshared /var/lib/kubelet", ""),
        ("etcdctl snapshot save /srv/etcd.db", ""),
    ],
)
def test_a_component_that_an_unknown_program_starts_is_mentioned(line: str, component: str) -> None:
    """A word of the command line names the program of the component, with or without a directory or a tag."""
    assert mentioned_component(line.split()) == component


def test_a_script_of_an_unknown_program_mentions_its_component() -> None:
    """The words of an argument with spaces count separately."""
    assert mentioned_component(["/usr/sbin/chroot", "/host", "sh", "-c", "exec /usr/bin/kubelet --a=/x"]) == "kubelet"
    assert mentioned_component([], ["kubelet"]) == "kubelet"
    assert mentioned_component([]) == ""


@settings(deadline=None)
@given(st.lists(st.sampled_from(["env", "-S", "timeout", "sh", "-c", "-o", "--", "A=b", "$@", "etcd", "-", "+", '"'])))
def test_any_words_have_a_program(words: list[str]) -> None:
    """The result is the base name of a word, or "" for no word."""
    assert bool(program_of(words)[0]) == bool(words)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("k3s-arm64", "k3s"),
        ("rke2.linux-amd64", "rke2"),
        ("kubelet-amd64-v1.33.2", "kubelet"),
        ("etcd-linux", "etcd"),
        ("etcd-v3.5.21-linux-amd64", "etcd"),
        ("kubelet.bak", "kubelet"),
        ("kubelet-1.33.orig", "kubelet"),
        *((other, other) for other in ("kubelet-csr-approver", "etcdctl", "kube-apiserver-network-proxy", "etcd-arms")),
    ],
)
def test_an_architecture_and_a_copy_are_omitted_from_the_name(name: str, found: str) -> None:
    """Other programs whose name begins with the name of a component are no components."""
    assert program_name(f"/opt/{name}") == found


@pytest.mark.parametrize(
    ("command", "prints"),
    [
        ("/usr/bin/kubelet --config=/a.yaml --version", True),
        ("kubelet --version=true", True),
        ("kubelet -h", True),
        ("kubelet --help", True),
        ("kubelet --version=v1.36.0 --config=/a.yaml", False),
        ("kubelet --version=false", False),
        ("kubelet --config=/a.yaml", False),
        ("sh -c 'kubelet --version'", True),
        ("sh -c 'kubelet --version; exec kubelet --config=/a.yaml'", False),
        ("sh -c 'kubelet --version && true'", False),
    ],
)
def test_a_component_can_only_print_its_version_or_help(command: str, *, prints: bool) -> None:
    """A component with --version, --help or -h reads no file. A script with several commands can also start it."""
    assert only_prints(program_of(shlex.split(command))[1]) == prints


@pytest.mark.parametrize(
    ("command", "subcommand"),
    [
        ("/bin/k3s", ""),
        ("/bin/k3s --debug -d /data server --config=/a.yaml", "server"),
        ("sh -c 'k3s etcd-snapshot save; exec /bin/k3s agent'", "agent"),
        ("k3s etcd-snapshot save", "etcd-snapshot"),
    ],
)
def test_the_subcommand_follows_the_program_and_its_options(command: str, subcommand: str) -> None:
    """`server` or `agent` takes precedence over another subcommand in the same script."""
    assert subcommand_of("k3s", program_of(shlex.split(command))[1]) == subcommand
