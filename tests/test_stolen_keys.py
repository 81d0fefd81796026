"""Users who can write beside a file of an entry, and their attempts to get a private key of another user."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from certmond.errors import KeyUnusableError, RefusedError, WriteError
from certmond.formats.kubeconfig_edit import Files, new_kubeconfig
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm, Kind
from certmond.pki.planning.bootstrap_steps import MakeKeyPair
from certmond.pki.planning.steps import Issue, Plan
from certmond.renewal.bootstrap import Bootstrapper
from certmond.renewal.renewal_file_builder import present_key, stale_reason
from certmond.state.archive import Archive
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import DAY, YEAR, Issued, make_leaf
from tests.cli.test_pki_init import Host as BareHost
from tests.conftest import unavailable
from tests.test_renewal import Host, kubeconfig, now

APP, MALLORY = 64_999, 64_998
"""Users of the host: the owner of an entry's files, and an uninvolved one."""
PLACE = "/srv/app"

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        unavailable("only root can give files away")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A node with the directory of an application, which belongs to that application's user."""
    made = Host(tmp_path / "node", "apiserver", now=now())
    made.entries = {}
    made.at(PLACE).mkdir(parents=True)
    give(made.at(PLACE), APP)
    return made


def give(path: Path, user: int) -> None:
    os.chown(path, user, user, follow_symlinks=False)


def due(host: Host, name: str) -> Issued:
    """A certificate of the node's CA that ends tomorrow."""
    return make_leaf(
        host.ca, name, extended_usages=["client auth"], not_before=host.now - YEAR, not_after=host.now + DAY
    )


# A kept key


def keeping(host: Host, form: str) -> tuple[Issue, Path, Issued]:
    """Return the planned renewal of the application's certificate, which keeps its key in one file with it."""
    path, issued = f"{PLACE}/app", due(host, "app")
    entry = {"path": path, "owner": str(APP), "keep_key": True, "subject": "CN=app", "usages": ["client auth"]}
    host.entries["app"] = entry | ({"kind": "kubeconfig"} if form == "kubeconfig" else {"key": path})
    host.put(path, content(host, form, issued), 0o600)
    give(host.at(path), APP)
    (step,) = host.plan().writes
    assert isinstance(step, Issue)
    assert step.keep_key
    return step, host.at(path), issued


def content(host: Host, form: str, issued: Issued, key: bytes | None = None) -> bytes:
    if form == "kubeconfig":
        return kubeconfig(host.ca, issued, key)
    return issued.pem + (key or issued.key_pem)


FORMS = pytest.mark.parametrize("form", ["pem", "kubeconfig"])


@FORMS
def test_a_key_is_kept_only_of_the_certificate_that_is_replaced(host: Host, form: str) -> None:
    """A key that was written into the file after the scan is not kept: neither the CA's nor any other."""
    step, path, issued = keeping(host, form)
    files = NodeFiles(str(host.root))
    assert present_key(step, files).public_key() == issued.key.public_key()
    path.write_bytes(content(host, form, issued, host.ca.key_pem))
    with pytest.raises(KeyUnusableError, match="does not contain the key of app"):
        present_key(step, files)


@FORMS
def test_a_key_is_not_read_through_a_link_of_another_user(host: Host, form: str) -> None:
    """certmond does not use its rights as root for a symlink of the entry's owner: the key would be copied."""
    step, path, _ = keeping(host, form)
    host.put("/root/moved", path.read_bytes(), 0o600)
    path.unlink()
    path.symlink_to("/root/moved")
    give(path, APP)
    with pytest.raises(WriteError, match=f"symlink of user {APP}"):
        present_key(step, NodeFiles(str(host.root)))


@FORMS
def test_a_key_that_was_exchanged_in_one_file_ends_the_step(host: Host, form: str) -> None:
    """If only the key in the file changed, the step is overtaken, although the certificate is the same."""
    step, path, issued = keeping(host, form)
    assert stale_reason(step, NodeFiles(str(host.root))) is None
    path.write_bytes(content(host, form, issued, host.ca.key_pem))
    assert "another process has changed" in str(stale_reason(step, NodeFiles(str(host.root))))
    before = path.read_bytes()
    assert [outcome.result for outcome in host.enforcer().executor.execute(Plan((step,)))] == ["failed"]
    assert path.read_bytes() == before


def test_a_new_file_belongs_to_the_owner_of_its_entry(host: Host) -> None:
    """The dated PEM of the kubelet's form is a new file each time. It belongs to `owner`, not to the user of
    certmond.
    """
    path, conf, issued = f"{PLACE}/client-current.pem", "/etc/kubernetes/app.conf", due(host, "app")
    pem = {"kind": "kubelet", "path": path, "key": path, "kubeconfig": conf, "owner": f"{APP}:12"}
    host.entries["app"] = pem | {"subject": "CN=app", "usages": ["client auth"]}
    referring = new_kubeconfig(
        cluster="one", server="https://127.0.0.1:6443", user="app", trust_pem=host.ca.pem, credentials=Files(path, path)
    )
    host.put(conf, referring, 0o600)
    host.put(f"{PLACE}/client-2025-01-01-00-00-00.pem", issued.pem + issued.key_pem, 0o600)
    host.at(path).symlink_to(f"{PLACE}/client-2025-01-01-00-00-00.pem")
    assert [outcome.result for outcome in host.start_once()] == ["done"]
    dated = host.at(f"{PLACE}/{host.at(path).readlink().name}")
    assert dated.name > "client-2026"
    assert (dated.stat().st_uid, dated.stat().st_gid) == (APP, 12)


# A derived file


def derived(host: Host, kind: str, owner: int | None) -> Path:
    """The configuration of a copy of a renewed kubeconfig or pair, in the application's directory."""
    user = due(host, "user")
    fixed = {"subject": "CN=user", "usages": ["client auth"]}
    if kind == "kubeconfig":
        host.put("/etc/kubernetes/user.conf", kubeconfig(host.ca, user), 0o600)
        host.entries["user"] = {"path": "/etc/kubernetes/user.conf", "kind": "kubeconfig", **fixed}
    else:
        host.put("/etc/kubernetes/user.crt", user.pem)
        host.put("/etc/kubernetes/user.key", user.key_pem, 0o600)
        host.entries["user"] = {"path": "/etc/kubernetes/user.crt", "key": "/etc/kubernetes/user.key", **fixed}
    copy = {"name": "copy", "kind": kind, "source": "user", "path": f"{PLACE}/copy", "mode": "0640"}
    host.settings["derived"] = [copy | ({"owner": str(owner)} if owner else {})]
    return host.at(f"{PLACE}/copy")


KINDS = pytest.mark.parametrize("kind", ["kubeconfig", "pem-bundle"])


@KINDS
@pytest.mark.parametrize("owner", [None, APP])
@pytest.mark.parametrize("planted", ["nothing", "an empty file"])
def test_no_derived_file_where_another_user_can_take_it(host: Host, kind: str, owner: int | None, planted: str) -> None:
    """If a user other than root and the `owner` of a derived file can replace it, it is not made, and the plan names
    the owner of the directory. Its source is renewed.
    """
    copy = derived(host, kind, owner)
    give(host.at(PLACE), MALLORY)
    if planted != "nothing":
        copy.write_bytes(b"")
        give(copy, MALLORY)
    assert [(outcome.step.target, outcome.result) for outcome in host.start_once()] == [("user", "done")]
    assert (copy.read_bytes() if copy.exists() else b"") == b""
    held = {each.target: each.because for each in host.plan().held}
    assert f"certmond writes no private key to {PLACE}/copy: {PLACE} belongs to user {MALLORY}" in held["copy"]


@KINDS
def test_a_derived_file_is_made_in_its_owners_directory(host: Host, kind: str) -> None:
    """The directory may be that of the derived file's `owner`, whom the file then belongs to."""
    copy = derived(host, kind, APP)
    assert {(outcome.step.target, outcome.result) for outcome in host.start_once()} == {
        ("user", "done"), ("copy", "done"),
    }  # fmt: skip
    assert (copy.stat().st_uid, copy.stat().st_mode & 0o777) == (APP, 0o640)


# A file of the archive


def test_no_generation_is_restored_where_another_user_can_take_its_key(host: Host) -> None:
    """`archive restore`, also with `--dry-run`, refuses if a user other than root and the entry's `owner` can replace a
    file of the generation. When the directory belongs to root again, it restores the generation.
    """
    host.entries["app"] = {"path": f"{PLACE}/tls.crt", "key": f"{PLACE}/tls.key"}
    files = [host.at(f"{PLACE}/tls.key"), host.at(f"{PLACE}/tls.crt")]
    issued = due(host, "app")
    host.put(f"{PLACE}/tls.key", issued.key_pem, 0o600)
    host.put(f"{PLACE}/tls.crt", issued.pem)
    Archive(host.state).store("app", {f"{PLACE}/{file.name}": file for file in files}, host.now, {})
    for file in files:
        file.unlink()
    give(host.at(PLACE), MALLORY)
    for dry_run in (True, False):
        with pytest.raises(
            WriteError, match=f"certmond writes no private key to {PLACE}/tls.key: {PLACE} belongs to user"
        ):
            host.restoration().restore("app", None, dry_run=dry_run)
    assert not any(file.exists() for file in files)
    host.entries["app"]["owner"] = str(MALLORY)
    host.restoration().restore("app", None, dry_run=True)
    del host.entries["app"]["owner"]
    give(host.at(PLACE), 0)
    host.restoration().restore("app", None, dry_run=False)
    assert [file.read_bytes() for file in files] == [issued.key_pem, issued.pem]


# The first files of a node


@pytest.mark.parametrize(
    ("directory", "keys"),
    [
        ("/etc/kubernetes/pki/etcd", {"ca.key", "server.key", "peer.key", "healthcheck-client.key"}),
        ("/var/lib/kubelet/pki", {"kubelet-client-current.pem"}),
    ],
)
def test_init_creates_nothing_where_another_user_can_take_a_key(tmp_path: Path, directory: str, keys: set[str]) -> None:
    """If a directory of one key belongs to another user, `init` refuses before it writes anything, also with
    `--dry-run`, and names each key. After the directory belongs to root, all files are created and belong to root.
    """
    bare = BareHost(tmp_path / "bare")
    bare.at(directory).mkdir(parents=True)
    give(bare.at(directory), MALLORY)
    for more in ((), ("--dry-run",)):
        said = "\n".join(bare.refused(*more))
        assert f"{directory} belongs to user {MALLORY}, who could read the key" in said
        named = re.findall(rf"certmond writes no private key to {directory}/([^:]*):", said)
        assert {*named} == keys
    give(bare.at(directory), 0)
    bare.made()
    assert {path.lstat().st_uid for path in bare.root.rglob("*")} == {0}


def test_the_first_files_belong_to_the_owner_of_their_entry(tmp_path: Path) -> None:
    """In a directory that only root and `owner` can write, the key is created and belongs to that owner. If the
    directory was given to another user after the plan, nothing is created, also not in other directories.
    """
    state, audit = tmp_path / "state", Audit(Journal("none"), tmp_path / "state", "init")
    maker = Bootstrapper(root=str(tmp_path), state_dir=state, audit=audit, clock=lambda: datetime.now(UTC))
    (home := tmp_path / "app").mkdir()
    steps = tuple(
        MakeKeyPair(
            CertificateSpec(
                name=name, path=f"/{name}/sa.pub", key=f"/{name}/sa.key", kind=Kind.KEY_PAIR, owner=str(APP)
            ),
            KeyAlgorithm.ECDSA_P256,
            "is made",
        )
        for name in ("root", "app")
    )
    give(home, MALLORY)
    with pytest.raises(RefusedError, match=f"/app/sa.key: /app belongs to user {MALLORY}, who could read the key"):
        maker.execute(steps, 0)
    assert not (tmp_path / "root").exists()
    give(home, APP)
    maker.execute(steps, 0)
    assert {(path.name, path.stat().st_uid) for path in home.iterdir()} == {("sa.pub", APP), ("sa.key", APP)}
