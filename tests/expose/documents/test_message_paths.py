"""Paths and commands in messages about a node whose root is another directory."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from certmond.expose.documents.message_paths import rooted, rooted_message


@pytest.fixture
def root(tmp_path: Path) -> str:
    (tmp_path / "etc/kubernetes/pki").mkdir(parents=True)
    return str(tmp_path)


def test_a_path_in_a_message_is_the_real_path(root: str) -> None:
    """Each path of the node begins with the root, whether or not the file exists."""
    key = "/etc/kubernetes/pki/apiserver.key"
    message = f"{key} has mode 0644, but the maximum is 0600; run: chmod 0600 {key}"
    assert rooted_message(message, root) == message.replace(key, f"{root}{key}")


def test_a_command_of_certmond_names_the_root(root: str) -> None:
    """A remedy with a command of certmond has the option --root. `certmond explain` needs no node."""
    message = "the certificate is due; renew it: certmond renew ca"
    assert rooted_message(message, root) == f"the certificate is due; renew it: certmond --root {root} renew ca"
    assert rooted_message("run `certmond archive list`", root) == f"run `certmond --root {root} archive list`"
    assert rooted_message("see: certmond status", root) == f"see: certmond --root {root} check"  # no daemon watches it
    several = "run: certmond archive restore a && certmond archive restore b"
    assert rooted_message(several, root) == several.replace("certmond", f"certmond --root {root}")
    for same in (
        "see: certmond explain expired",
        "certmond cannot read the file",
        "run certmond as root",
        "apiserver: certmond cannot renew it",
        "kubelet: certmond restarts no service",
        "`certmond init` replaces no file",
    ):
        assert rooted_message(same, root) == same


def test_a_path_of_the_host_stays(root: str) -> None:
    """A path that the caller names as a path of the host does not change, and neither do the configuration and the
    runtime directory of certmond.
    """
    of_certmond = ("/etc/certmond/config.yaml is broken", "/run/certmond/a is old")
    for same in ("/tmp/new/ca.crt.new", "/tmp/new/ca.crt is the present CA", *of_certmond):
        assert rooted_message(same, root, ("/tmp/new/ca.crt",)) == same
    assert rooted_message("/tmp/new/ca.crt2: no", root, ("/tmp/new/ca.crt",)) == f"{root}/tmp/new/ca.crt2: no"


def test_only_programs_in_usr_are_of_the_host(root: str) -> None:
    """A node can have certificates and units in /usr. The programs that certmond runs are those of this host."""
    for path in ("/usr/share/a/a.key", "/usr/local/share/a.crt", "/usr/lib/systemd/system/kubelet.service"):
        assert rooted_message(f"run: chmod 0600 {path}", root) == f"run: chmod 0600 {root}{path}"
    for path in ("/usr/bin/kubeadm", "/usr/local/bin/crictl", "/usr/share/certmond/enforce.conf"):
        assert rooted_message(f"{path} has failed", root) == f"{path} has failed"


@pytest.mark.parametrize("name", ["my node", "it's", "a,1", "a:1", "(a)", "a;b", "a[1]", "a.d", "a b/c d"])
def test_a_path_of_the_host_can_contain_any_character(name: str) -> None:
    """The root and a path of the host stay as they are, alone, with a further part, and in quotes for a shell."""
    root, file = f"/srv/{name}", f"/tmp/{name}"
    for path in (root, file, f"{root}/etc/a", f"{file}.new", shlex.quote(root), shlex.quote(f"{file}/a.crt")):
        for same in (path, f"{path} is broken", f"below {path}; read {path}", f"({path}), `{path}`"):
            assert rooted_message(same, root, (file, "")) == same
    assert rooted_message("/etc/a is broken", root, (file, "")) == f"{shlex.quote(f'{root}/etc/a')} is broken"


@pytest.mark.parametrize(
    "message",
    [
        "see https://127.0.0.1:6443/etc/kubernetes/pki/x",
        "GET /readyz failed",
        "CN=a/etc/kubernetes/pki/x",
        "--root=/etc/x/y",
    ],
)
def test_other_texts_with_a_slash_stay(root: str, message: str) -> None:
    """A URL, a path of an API, an option and a file of certmond in /usr do not change."""
    assert rooted_message(message, root) == message


def test_a_root_with_a_space_is_quoted(tmp_path: Path) -> None:
    """A shell reads the path and the option as one word."""
    root = tmp_path / "my node"
    (root / "etc").mkdir(parents=True)
    assert rooted_message("run: chmod 600 /etc/a; certmond plan", str(root)) == (
        f"run: chmod 600 '{root}/etc/a'; certmond plan"
    )
    assert rooted_message("see: certmond plan", str(root)) == f"see: certmond --root '{root}' plan"


def test_only_messages_change(root: str) -> None:
    """In a document, `message`, `detail` and `because` change. `path` keeps the path on the node."""
    path = "/etc/kubernetes/pki/ca.crt"
    entry = {"path": path, "findings": [{"message": f"{path} expired"}], "detail": f"of {path}", "because": path}
    assert rooted({"certificates": [entry]}, root) == {
        "certificates": [
            {
                "path": path,
                "findings": [{"message": f"{root}{path} expired"}],
                "detail": f"of {root}{path}",
                "because": f"{root}{path}",
            }
        ]
    }


def test_the_steps_of_a_preview_are_messages(root: str) -> None:
    """In the preview of a rotation, the texts in `steps` change. The steps of a plan are documents."""
    path = "/etc/kubernetes/pki/ca.crt"
    preview = {"phases": [{"steps": [f"{path} will contain the new CA"], "restarts": ["kubelet"]}]}
    assert rooted(preview, root) == {
        "phases": [{"steps": [f"{root}{path} will contain the new CA"], "restarts": ["kubelet"]}]
    }
    plan = {"steps": [{"path": path, "detail": path}]}
    assert rooted(plan, root) == {"steps": [{"path": path, "detail": f"{root}{path}"}]}


def test_the_root_of_the_host_changes_nothing() -> None:
    """With the root /, the document stays as it is."""
    document = {"message": "run: chmod 600 /etc/passwd"}
    assert rooted(document, "/") is document
