"""Side effects that a renewal must not have: no key reaches another reader, and no valid file gives way to a worse
one.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from certmond.controllers.executor import Executor
from certmond.errors import WriteError
from certmond.notify.audit import Audit
from certmond.notify.event_log import Event, Journal
from certmond.pki.x509.certificate_file_parser import decode
from tests.builders import DAY, YEAR, integer, make_ca, make_leaf, pem_block, tlv
from tests.conftest import unavailable
from tests.test_renewal import DATED, ENTRIES, PKI, Helper, Host, kubeconfig, now

GLOB = {"path": "/etc/app/*.pem", "ca": "ca", "usages": ["client auth"]}


def combined(host: Host, path: str) -> None:
    leaf = make_leaf(host.ca, "app", not_before=host.now - YEAR, not_after=host.now + 10 * DAY)
    host.put(path, leaf.pem + leaf.key_pem, 0o600)


def mode(host: Host, path: str) -> int:
    return stat.S_IMODE(host.at(path).stat().st_mode)


@pytest.mark.parametrize("key", [None, "/etc/app/*.pem"])
def test_each_file_of_a_pattern_keeps_its_own_key(tmp_path: Path, key: str | None) -> None:
    """Whether `key` is omitted or repeats the pattern, each file is renewed with its key in it, and no other file is
    created.
    """
    host = Host(tmp_path / "host", "apiserver")
    host.entries["app"] = GLOB | ({"key": key} if key else {})
    for number in (1, 2):
        combined(host, f"/etc/app/{number}.pem")
    assert {outcome.result for outcome in host.start()} == {"done"}
    assert sorted(path.name for path in host.at("/etc/app").iterdir()) == ["1.pem", "2.pem"]
    assert all(b"PRIVATE KEY" in path.read_bytes() for path in host.at("/etc/app").iterdir())
    assert host.unwell() == []


def test_a_name_that_is_no_text_is_renewed_as_any_other(tmp_path: Path) -> None:
    """A file whose name is not UTF-8 is renewed, and blocks no other renewal."""
    host = Host(tmp_path / "host", "apiserver")
    host.entries["app"] = dict(GLOB)
    combined(host, "/etc/app/a\udcff.pem")
    combined(host, "/etc/app/b.pem")
    assert [outcome.result for outcome in host.start()] == ["done"] * 3
    assert host.unwell() == []


@pytest.mark.parametrize("present", [None, b"", b"\n"])
def test_a_derived_file_is_no_more_open_than_its_entry_says(tmp_path: Path, present: bytes | None) -> None:
    """certmond never writes a key of a bundle or of a copied kubeconfig into a file that others can read."""
    derived = [
        {"name": "bundle", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/bundle.pem", "mode": "0640"},
        {"name": "copy", "kind": "kubeconfig", "source": "admin.conf", "path": "/etc/copy.conf"},
    ]
    host = Host(tmp_path / "host", "apiserver", "admin.conf", derived=derived)
    if present is not None:
        host.put("/etc/bundle.pem", present, 0o644)
        host.put("/etc/copy.conf", present, 0o666)
    assert {outcome.result for outcome in host.start()} == {"done"}
    assert (mode(host, "/etc/bundle.pem"), mode(host, "/etc/copy.conf")) == (0o640, 0o600)


@pytest.mark.parametrize("owner", ["root", "root:root"])
def test_a_derived_file_of_another_owner_is_left_alone(tmp_path: Path, owner: str) -> None:
    """With `owner`, no key is written to a file of another owner. The plan reports it until the file has the configured
    owner.
    """
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    bundle = {"name": "b", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/b.pem", "owner": owner}
    host = Host(tmp_path / "host", "apiserver", derived=[bundle])
    host.put("/etc/b.pem", b"", 0o600)
    os.chown(host.at("/etc/b.pem"), 65534, 0)
    assert [outcome.result for outcome in host.start()] == ["done"]
    [held] = host.plan().held
    assert held.because == (
        f"/etc/b.pem does not belong to {owner}, the owner in its entry; move the file away, so that "
        f"certmond creates it again, or run: chown {owner} /etc/b.pem"
    )
    assert host.at("/etc/b.pem").read_bytes() == b""
    os.chown(host.at("/etc/b.pem"), 0, 0)
    assert [outcome.result for outcome in host.start()] == ["done"]
    assert host.unwell() == []
    os.chown(host.at("/etc/b.pem"), 65534, 0)
    assert "does not belong" in host.plan().held[0].because


@pytest.mark.parametrize("planted", ["file", "nothing"])
@pytest.mark.parametrize("shared", ["theirs", "group-writable"])
@pytest.mark.parametrize("owner", ["root:root", None])
def test_no_key_is_made_in_a_directory_that_another_user_can_write(
    tmp_path: Path, planted: str, shared: str, owner: str | None
) -> None:
    """If a user other than root and the entry's `owner` can write in the directory, no key is written: neither to a
    file that this user created, nor as a new file.
    """
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    host = Host(tmp_path / "host", "apiserver")
    host.entries["apiserver"]["owner"] = owner
    key, before = host.at(ENTRIES["apiserver"]["key"]), host.serials()
    if planted == "file":
        os.chown(key, 65534, 65534)
    else:
        key.unlink()
    os.chown(key.parent, 65534 if shared == "theirs" or planted == "nothing" else 0, 65534)
    key.parent.chmod(0o775)
    enforcer = host.enforcer()
    made = enforcer.plan(enforcer.see()[0])
    assert (enforcer.executor.execute(made), host.serials()) == ((), before)
    (held,) = made.held
    path = ENTRIES["apiserver"]["path"]
    fact, access = (
        ("certmond does not sign the certificate with the CA's key", "who could take the key of a new certificate")
        if planted == "file"
        else (f"certmond writes no private key to {path}", "who could read the key;")
    )  # fmt: skip
    assert held.because.startswith(f"{fact}: {PKI} ")
    assert access in held.because


@pytest.mark.parametrize("owner", ["root:root", "nobody", None])
def test_a_component_with_its_own_user_keeps_its_key(tmp_path: Path, owner: str | None) -> None:
    """Root gave the file to the user, since only root can write in the directory, or the entry declares the user."""
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    host = Host(tmp_path / "host", "apiserver")
    host.entries["apiserver"]["owner"] = owner
    key = host.at(ENTRIES["apiserver"]["key"])
    os.chown(key, 65534, 65534)
    if owner == "nobody":
        os.chown(key.parent, 65534, 65534)
    assert [outcome.result for outcome in host.start()] == ["done"]
    assert key.stat().st_uid == 65534


@pytest.mark.parametrize("link", ["tls.crt", "tls.key"])
def test_a_link_of_another_user_does_not_choose_the_source_of_a_derived_file(tmp_path: Path, link: str) -> None:
    """certmond does not follow a symlink of another unprivileged user to the source of a derived file. Its owner could
    otherwise have any key of the node copied to a readable place.
    """
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    bundle = {"name": "b", "kind": "pem-bundle", "source": "app", "path": "/srv/app/b.pem", "owner": "nobody"}
    host = Host(tmp_path / "host", "apiserver", derived=[bundle])
    host.entries["app"] = {"path": "/srv/app/tls.crt", "key": "/srv/app/tls.key", "ca": "ca", "signer": "none"}
    host.at("/srv/app").mkdir(parents=True)
    for name, secret in (("tls.crt", "ca.crt"), ("tls.key", "ca.key")):
        host.at(f"/srv/app/{name}").symlink_to(f"/etc/kubernetes/pki/{secret}")
    os.lchown(host.at(f"/srv/app/{link}"), 65534, 65534)
    host.start()
    [held] = host.plan().held
    assert held.because == (
        f"certmond does not write /srv/app/b.pem: /srv/app/{link} could not be read "
        f"(/srv/app/{link} is a symlink of user 65534): "
        "configure the path of its target, or chown the symlink to root"
    )
    assert not host.at("/srv/app/b.pem").exists()


def test_a_restored_key_is_no_more_open_than_it_was(tmp_path: Path) -> None:
    """A restored file has the mode of its generation, whatever the present file has. If the present file belongs to
    another user, nothing is restored, and the error has the remedy.
    """
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    host = Host(tmp_path / "host", "apiserver")
    before = host.at(ENTRIES["apiserver"]["key"]).read_bytes()
    host.start()
    key = host.at(ENTRIES["apiserver"]["key"])
    key.write_bytes(b"")
    key.chmod(0o666)
    os.chown(key, 65534, 65534)
    for dry_run in (True, False):
        with pytest.raises(WriteError, match=f"had the owner 0:0 in .*another owner now; .*chown 0:0 {PKI}/apiserver"):
            host.restoration().restore("apiserver", None, dry_run=dry_run)
    assert key.read_bytes() == b""
    os.chown(key, 0, 0)
    host.restoration().restore("apiserver", None, dry_run=False)
    assert (mode(host, ENTRIES["apiserver"]["key"]), key.read_bytes()) == (0o600, before)


def test_a_derived_file_among_those_of_a_pattern_is_made_from_its_source_alone(tmp_path: Path) -> None:
    """The entry of the pattern does not renew it as well: each step would overwrite the other, hour after hour."""
    bundle = {"name": "b", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/app/b.pem"}
    host = Host(tmp_path / "host", "apiserver", derived=[bundle])
    host.entries["app"] = GLOB | {"usages": ["server auth"]}
    host.entries["apiserver"]["signer"] = "none"
    host.at("/etc/app").mkdir()
    assert [outcome.step.target for outcome in host.start()] == ["b"]
    for _ in range(3):
        host.now += timedelta(hours=2)
        assert host.start() == []


def test_a_pair_that_is_one_file_is_renewed_as_one(tmp_path: Path) -> None:
    """If the paths of certificate and key resolve to one file, that file gets both, is archived once, and can be
    restored.
    """
    host = Host(tmp_path / "host", "apiserver")
    pair = [host.at(ENTRIES["apiserver"][field]) for field in ("path", "key")]
    host.put(f"{PKI}/both.pem", b"".join(path.read_bytes() for path in pair), 0o600)
    for path in pair:
        path.unlink()
        path.symlink_to("both.pem")
    before = pair[0].read_bytes()
    [outcome] = host.start()
    assert outcome.result == "done", outcome.message
    assert [path.is_symlink() for path in pair] == [True, True]
    assert host.unwell() == []
    host.restoration().restore("apiserver", None, dry_run=False)
    assert pair[0].read_bytes() == before


def test_a_certificate_with_two_names_is_renewed_once(tmp_path: Path) -> None:
    """Two entries of one pair, one of them by a symlink, give one step, and none that fails."""
    host = Host(tmp_path / "host", "apiserver")
    host.at("/etc/alias").symlink_to("kubernetes/pki")
    host.entries["two"] = ENTRIES["apiserver"] | {"path": "/etc/alias/apiserver.crt", "key": "/etc/alias/apiserver.key"}
    assert [(outcome.step.target, outcome.result) for outcome in host.start()] == [("apiserver", "done")]
    assert host.unwell() == []


def test_a_certificate_alone_does_not_become_a_bundle(tmp_path: Path) -> None:
    """certmond did not write a file with a certificate and no key: no key is put into it."""
    bundle = {"name": "bundle", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/bundle.pem"}
    host = Host(tmp_path / "host", "apiserver", derived=[bundle])
    host.put("/etc/bundle.pem", host.at(ENTRIES["apiserver"]["path"]).read_bytes())
    host.start()
    [held] = host.plan().held
    assert "is not a certificate with its key" in held.because
    assert b"PRIVATE KEY" not in host.at("/etc/bundle.pem").read_bytes()


def test_a_renewed_key_is_no_more_open_than_its_entry_permits(tmp_path: Path) -> None:
    """A key file or kubeconfig that all users could read is closed when it gets a new key."""
    host = Host(tmp_path / "host", "apiserver", "admin.conf")
    host.at(ENTRIES["apiserver"]["key"]).chmod(0o644)
    host.at(ENTRIES["admin.conf"]["path"]).chmod(0o644)
    assert {outcome.result for outcome in host.start()} == {"done"}
    assert mode(host, ENTRIES["apiserver"]["key"]) == mode(host, ENTRIES["admin.conf"]["path"]) == 0o600
    assert mode(host, ENTRIES["apiserver"]["path"]) == 0o644


def helped(tmp_path: Path, days: int) -> tuple[Host, Helper]:
    """Return a node whose only certificate, valid for ten more days, is signed by a helper that issues for so many
    days.
    """
    command = [str(tmp_path / "helper" / "helper")]
    signer = {"name": "site", "kind": "command", "command": command, "time_limit": "10m"}
    soon = now() + timedelta(minutes=10)  # this node's clock does not run, and openssl's does
    host = Host(tmp_path / "host", "apiserver", now=soon, signers=[signer])
    host.entries["apiserver"] |= {"signer": "site"}
    helper = Helper(tmp_path / "helper", host.ca)
    helper.script.write_text(helper.script.read_text().replace("-days 90", f"-days {days}"))
    helper.answers(0)
    return host, helper


@pytest.mark.real("openssl")
def test_a_certificate_that_ends_sooner_replaces_none(tmp_path: Path) -> None:
    """A signed certificate has to end later than the present one. A command accepts an earlier end."""
    host, _ = helped(tmp_path, 5)
    before = host.serials()
    [outcome] = host.start()
    assert outcome.result == "failed"
    assert "not later than the present certificate" in outcome.message
    assert host.serials() == before
    enforcer = host.enforcer()
    [outcome] = enforcer.executor.execute(enforcer.plan(host.look(), frozenset({"apiserver"})))
    assert (outcome.result, host.serials() == before) == ("done", False)


@pytest.mark.real("openssl")
def test_a_ca_that_is_replaced_meanwhile_is_read_again(tmp_path: Path) -> None:
    """If the CA on the node changed while a signer worked, the signed certificate is not installed."""
    host, helper = helped(tmp_path, 90)
    before = host.at(ENTRIES["apiserver"]["path"]).read_bytes()
    (helper.place / "other.crt").write_bytes(make_ca().pem)
    ca = host.at("/etc/kubernetes/pki/ca.crt")
    helper.script.write_text(helper.script.read_text() + f"cp {helper.place}/other.crt {ca}\n")
    [outcome] = host.start_once()
    assert outcome.result == "failed"
    assert "changed while the signer signed apiserver" in outcome.message
    assert host.at(ENTRIES["apiserver"]["path"]).read_bytes() == before


@pytest.mark.real("openssl")
@pytest.mark.parametrize("other", [{"path": "/etc/site/*.crt"}, {"password_file": "/etc/site/password"}])
def test_a_ca_without_a_plain_file_is_no_obstacle(tmp_path: Path, other: dict[str, str]) -> None:
    """If the anchors are those of a pattern, or of a file with a password, the signed certificate is installed."""
    host, _ = helped(tmp_path, 90)
    host.entries["site-ca"] = {"path": "/etc/site/ca.crt", "authority": True, "ca": []} | other
    host.entries["apiserver"]["ca"] = "site-ca"
    sealed = serialize_key_and_certificates(None, None, None, [host.ca.cert], BestAvailableEncryption(b"secret"))
    host.at("/etc/site").mkdir()
    host.put("/etc/site/password", b"secret\n", 0o600)
    host.put("/etc/site/ca.crt", sealed if "password_file" in other else host.ca.pem)
    [outcome] = host.start_once()
    assert outcome.result == "done", outcome.message
    in_place = decode(host.at(ENTRIES["apiserver"]["path"]).read_bytes(), "apiserver.crt")
    assert in_place.certificates == (outcome.issued,)


@pytest.mark.parametrize("called", ["/etc/link.key", "/etc/kubernetes/pki/../pki/apiserver.key"])
def test_a_key_that_another_entry_reaches_by_another_path_is_not_replaced(tmp_path: Path, called: str) -> None:
    """The path may have a symlink or a detour. The other entry's certificate would be left without its key."""
    host = Host(tmp_path / "host", "apiserver")
    before, entry = host.serials(), ENTRIES["apiserver"]
    other = make_leaf(host.ca, "app", not_before=host.now - DAY, not_after=host.now + YEAR, key=host.keys[-1])
    host.put("/etc/app.crt", other.pem)
    host.at("/etc/link.key").symlink_to(entry["key"])
    host.entries["app"] = {"path": "/etc/app.crt", "key": called, "ca": "ca", "usages": ["client auth"]}
    assert host.start() == []
    [held] = host.plan().held
    assert held.because == f"the entry shares its key {entry['key']} with app; set `keep_key: true` in both entries"
    assert host.serials() == before | {"app": other.facts.serial}


def test_a_kubeconfig_that_embeds_a_certificate_and_refers_to_its_key_stays_whole(tmp_path: Path) -> None:
    """certmond does not renew the key of such a kubeconfig, because the embedded certificate would not follow. A
    kubeconfig that refers to both files blocks no renewal.
    """
    host = Host(tmp_path / "host", "apiserver")
    entry = ENTRIES["apiserver"]
    host.entries["kc"] = {"kind": "kubeconfig", "path": "/etc/u.conf", "ca": "ca"}
    document = yaml.safe_load(kubeconfig(host.ca, make_leaf(host.ca, "user")))
    user = document["users"][0]["user"]
    del user["client-key-data"]
    user["client-key"] = entry["key"]
    user["client-certificate-data"] = base64.b64encode(host.at(entry["path"]).read_bytes()).decode()
    host.put("/etc/u.conf", yaml.safe_dump(document).encode(), 0o600)
    assert host.start() == []
    assert [held.because for held in host.plan().held] == [
        f"the entry shares its key {entry['key']} with kc; set `keep_key: true` in both entries"
    ]
    del user["client-certificate-data"]
    user["client-certificate"] = entry["path"]
    host.put("/etc/u.conf", yaml.safe_dump(document).encode(), 0o600)
    assert [outcome.result for outcome in host.start()] == ["done"]


@pytest.mark.parametrize("name", ["apiserver", "kubelet-client"])
def test_an_anchor_beside_the_certificate_is_no_obstacle(tmp_path: Path, name: str) -> None:
    """A certificate is renewed if its own file has the CA as the last of its chain."""
    host = Host(tmp_path / "host", name)
    path = host.at(DATED if name == "kubelet-client" else ENTRIES[name]["path"])
    path.write_bytes(path.read_bytes() + host.ca.pem)
    [outcome] = host.start()
    assert outcome.result == "done", outcome.message
    assert host.unwell() == []


def test_nothing_is_renewed_that_could_not_be_recorded(tmp_path: Path) -> None:
    """If the ledger cannot be written, a renewal fails before anything is signed. Otherwise it would be repeated."""
    host = Host(tmp_path / "host", "apiserver")
    before = host.serials()
    (host.state / "renewals.json").mkdir(parents=True)
    os.chmod(host.state, 0o700)
    [outcome] = host.start_once()
    assert outcome.result == "failed"
    assert "renewals.json" in outcome.message or str(host.state) in outcome.message
    assert host.serials() == before


def test_a_defect_in_one_step_is_reported_and_does_not_stop_the_next(tmp_path: Path, monkeypatch: Any) -> None:
    """An unexpected error fails only its own step. The message has its type and place, but not its text, which may
    contain a secret.
    """
    host = Host(tmp_path / "host", "apiserver", "etcd-server")
    make = Executor._key

    def broken(self: Executor, step: Any) -> Any:
        if step.target == "apiserver":
            raise ZeroDivisionError("a secret")
        return make(self, step)

    monkeypatch.setattr(Executor, "_key", broken)
    first, second = host.start_once()
    assert (first.result, second.result) == ("failed", "done")
    assert "an unexpected ZeroDivisionError in test_caution.py:" in first.message
    assert "secret" not in (host.state / "audit.log").read_text()
    assert host.attempts()["apiserver"].retry_at == host.now + timedelta(minutes=1)


def test_two_derived_files_that_are_one_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """If a symlink makes two derived files one, certmond leaves the second and reports it, and the plan becomes
    empty.
    """
    derived = [
        {"name": name, "kind": "pem-bundle", "source": source, "path": f"/etc/{name}.pem"}
        for name, source in (("one", "apiserver"), ("two", "etcd-server"))
    ]
    host = Host(tmp_path / "host", "apiserver", "etcd-server", derived=derived)
    host.at("/etc/two.pem").symlink_to("one.pem")
    host.start()
    [held] = host.plan().held
    assert (held.target, held.because) == (
        "two", "/etc/two.pem refers to the file of the derived file one; set another path for the derived file",
    )  # fmt: skip


def test_a_damaged_key_of_a_ca_is_reported_as_such(tmp_path: Path) -> None:
    """An RSA key of a CA whose numbers do not match fails the renewal. The message names the key and the remedy."""
    host = Host(tmp_path / "host", "apiserver", key="rsa")
    assert isinstance(host.ca.key, rsa.RSAPrivateKey)
    key = host.ca.key.private_numbers()
    public = key.public_numbers
    numbers = (0, public.n, public.e, key.d, key.p, key.q + 1, key.dmp1, key.dmq1, key.iqmp)  # RFC 8017, A.1.2
    pem = pem_block("RSA PRIVATE KEY", tlv(0x30, *map(integer, numbers)))
    host.put("/etc/kubernetes/pki/ca.key", pem, 0o600)
    before = host.serials()
    [outcome] = host.start_once()
    assert outcome.result == "failed"
    assert "ca.key is damaged and cannot sign" in outcome.message
    assert host.serials() == before


def test_a_line_of_the_trail_that_is_written_in_part_is_an_error(tmp_path: Path) -> None:
    """If the disk becomes full in the middle of a line, the step fails. The next entry begins on a new line."""
    audit, trail, at = Audit(Journal("none"), tmp_path, "x"), tmp_path / "audit.log", datetime(2026, 11, 24, tzinfo=UTC)
    audit.note(Event.STEP_BEGUN, at, "the first")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (trail.stat().st_size + 10, usual[1]))
    try:
        with pytest.raises(WriteError, match=r"audit\.log could not be written"):
            audit.note(Event.STEP_BEGUN, at, "the second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    audit.note(Event.STEP_BEGUN, at, "the third")
    first, torn, third = trail.read_text().splitlines()
    assert (json.loads(first)["message"], len(torn), json.loads(third)["message"]) == ("the first", 10, "the third")


def test_an_actor_is_written_on_one_line(tmp_path: Path) -> None:
    """The name of an actor that is not UTF-8 or has control characters is escaped."""
    audit = Audit(Journal("none"), tmp_path / "state", "al\udcff\nice")
    audit.note(Event.STEP_BEGUN, datetime(2026, 11, 24, tzinfo=UTC), "x")
    (line,) = (tmp_path / "state/audit.log").read_text().splitlines()
    assert json.loads(line)["by"] == r"al\udcff\nice"
