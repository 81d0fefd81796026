"""What could go wrong beside a renewal, and does not: keys keep to themselves, and nothing good gives way to worse."""

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

from certmond.errors import WriteError
from certmond.host.audit import Audit
from certmond.host.execute import Executor
from certmond.host.journal import Event, Journal
from certmond.pki.encoding import decode
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
def test_each_file_of_a_pattern_keeps_a_key_of_its_own(tmp_path: Path, key: str | None) -> None:
    """Whether `key` is left out or repeats the pattern, each file is renewed with its key in it; no other is made."""
    host = Host(tmp_path / "host", "apiserver")
    host.entries["app"] = GLOB | ({"key": key} if key else {})
    for number in (1, 2):
        combined(host, f"/etc/app/{number}.pem")
    assert {outcome.result for outcome in host.start()} == {"done"}
    assert sorted(path.name for path in host.at("/etc/app").iterdir()) == ["1.pem", "2.pem"]
    assert all(b"PRIVATE KEY" in path.read_bytes() for path in host.at("/etc/app").iterdir())
    assert host.unwell() == []


def test_a_name_that_is_no_text_is_renewed_as_any_other(tmp_path: Path) -> None:
    """A file whose name is not UTF-8 is renewed, and keeps nobody else from it."""
    host = Host(tmp_path / "host", "apiserver")
    host.entries["app"] = dict(GLOB)
    combined(host, "/etc/app/a\udcff.pem")
    combined(host, "/etc/app/b.pem")
    assert [outcome.result for outcome in host.start()] == ["done"] * 3
    assert host.unwell() == []


@pytest.mark.parametrize("present", [None, b"", b"\n"])
def test_a_derived_file_is_no_more_open_than_its_entry_says(tmp_path: Path, present: bytes | None) -> None:
    """A bundle, or a copy of a kubeconfig, does not get a key into a file that others can read, whoever made that."""
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
    """Where `owner` is given, no key is put into a file that belongs to somebody else, and that is told until it is his
    whom the entry says.
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
        f"/etc/b.pem does not belong to {owner}, as its entry says; chown it, or move it away, and it is made anew"
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
def test_who_may_write_in_a_directory_is_given_no_key(
    tmp_path: Path, planted: str, shared: str, owner: str | None
) -> None:
    """Where another user than root and the entry's `owner` can write in the directory, no key is made: neither in a
    file that this user has put there, nor where there is none.
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
    why, taken = (
        ("the CA's key does not sign it", "the key of a new certificate") if planted == "file"
        else (f"no private key is written to {path}", "it;")
    )  # fmt: skip
    assert held.because.startswith(f"{why}: {PKI} ")
    assert f"who could take {taken}" in held.because


@pytest.mark.parametrize("owner", ["root:root", "nobody", None])
def test_a_component_that_runs_as_a_user_of_its_own_keeps_its_key(tmp_path: Path, owner: str | None) -> None:
    """Root gave it the file, as only root can write in the directory; or the entry says that it is this user's."""
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
def test_nobody_elses_symlink_says_what_a_derived_file_is_made_from(tmp_path: Path, link: str) -> None:
    """A symlink that belongs neither to root nor to certmond is not followed to the source of a derived file: its owner
    would have any key on the node copied to where he can read it.
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
        f"/srv/app/b.pem is not made: /srv/app/{link} could not be read (/srv/app/{link} is a symlink of user 65534): "
        "give its target's path, or let root own the link"
    )
    assert not host.at("/srv/app/b.pem").exists()


def test_a_restored_key_is_no_more_open_than_it_was(tmp_path: Path) -> None:
    """What is put back from the archive has the mode that it had, whatever is in its place now; where that belongs to
    somebody else, nothing is put back, and it is said what to do.
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
        with pytest.raises(WriteError, match=f"kept as 0:0's, and belongs to others now; .*chown 0:0 {PKI}/apiserver"):
            host.restoration().restore("apiserver", None, dry_run=dry_run)
    assert key.read_bytes() == b""
    os.chown(key, 0, 0)
    host.restoration().restore("apiserver", None, dry_run=False)
    assert (mode(host, ENTRIES["apiserver"]["key"]), key.read_bytes()) == (0o600, before)


def test_a_derived_file_among_those_of_a_pattern_is_made_from_its_source_alone(tmp_path: Path) -> None:
    """It is not renewed by the entry of the pattern as well: each would be written over the other, hour after hour."""
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
    """Where the names of certificate and key lead to one file, that gets both, is kept once, and can be put back."""
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
    """Two entries of one pair, one of them by the way of a symlink: one step, and none that fails."""
    host = Host(tmp_path / "host", "apiserver")
    host.at("/etc/alias").symlink_to("kubernetes/pki")
    host.entries["two"] = ENTRIES["apiserver"] | {"path": "/etc/alias/apiserver.crt", "key": "/etc/alias/apiserver.key"}
    assert [(outcome.step.target, outcome.result) for outcome in host.start()] == [("apiserver", "done")]
    assert host.unwell() == []


def test_a_certificate_alone_does_not_become_a_bundle(tmp_path: Path) -> None:
    """A file with a certificate and no key was not made by certmond: no key is put into it."""
    bundle = {"name": "bundle", "kind": "pem-bundle", "source": "apiserver", "path": "/etc/bundle.pem"}
    host = Host(tmp_path / "host", "apiserver", derived=[bundle])
    host.put("/etc/bundle.pem", host.at(ENTRIES["apiserver"]["path"]).read_bytes())
    host.start()
    [held] = host.plan().held
    assert "is not a certificate with its key" in held.because
    assert b"PRIVATE KEY" not in host.at("/etc/bundle.pem").read_bytes()


def test_a_renewed_key_is_no_more_open_than_its_entry_permits(tmp_path: Path) -> None:
    """A key file, or a kubeconfig, that was readable by all is not so any more when it holds a new key."""
    host = Host(tmp_path / "host", "apiserver", "admin.conf")
    host.at(ENTRIES["apiserver"]["key"]).chmod(0o644)
    host.at(ENTRIES["admin.conf"]["path"]).chmod(0o644)
    assert {outcome.result for outcome in host.start()} == {"done"}
    assert mode(host, ENTRIES["apiserver"]["key"]) == mode(host, ENTRIES["admin.conf"]["path"]) == 0o600
    assert mode(host, ENTRIES["apiserver"]["path"]) == 0o644


def helped(tmp_path: Path, days: int) -> tuple[Host, Helper]:
    """A node whose one certificate, good for ten days more, is signed by a helper that issues for so many days."""
    signer = {"name": "site", "kind": "command", "command": [str(tmp_path / "helper" / "helper")]}
    soon = now() + timedelta(minutes=1)  # this node's clock stands, and openssl's goes on
    host = Host(tmp_path / "host", "apiserver", now=soon, signers=[signer])
    host.entries["apiserver"] |= {"signer": "site"}
    helper = Helper(tmp_path / "helper", host.ca)
    helper.script.write_text(helper.script.read_text().replace("-days 90", f"-days {days}"))
    helper.answers(0)
    return host, helper


@pytest.mark.real("openssl")
def test_a_certificate_that_ends_sooner_replaces_none(tmp_path: Path) -> None:
    """What a signer gives has to end later than what is there; asked for by hand, it is taken nevertheless."""
    host, _ = helped(tmp_path, 5)
    before = host.serials()
    [outcome] = host.start()
    assert outcome.result == "failed"
    assert "no later than the one that is there" in outcome.message
    assert host.serials() == before
    enforcer = host.enforcer()
    [outcome] = enforcer.executor.execute(enforcer.plan(host.look(), frozenset({"apiserver"})))
    assert (outcome.result, host.serials() == before) == ("done", False)


@pytest.mark.real("openssl")
def test_a_ca_that_is_replaced_meanwhile_is_looked_at_again(tmp_path: Path) -> None:
    """Where the CA on the node became another while a signer was at it, what it signed is not put in place."""
    host, helper = helped(tmp_path, 90)
    before = host.at(ENTRIES["apiserver"]["path"]).read_bytes()
    (helper.place / "other.crt").write_bytes(make_ca().pem)
    ca = host.at("/etc/kubernetes/pki/ca.crt")
    helper.script.write_text(helper.script.read_text() + f"cp {helper.place}/other.crt {ca}\n")
    [outcome] = host.start_once()
    assert outcome.result == "failed"
    assert "changed while apiserver was signed" in outcome.message
    assert host.at(ENTRIES["apiserver"]["path"]).read_bytes() == before


@pytest.mark.real("openssl")
@pytest.mark.parametrize("other", [{"path": "/etc/site/*.crt"}, {"password_file": "/etc/site/password"}])
def test_a_ca_that_no_plain_file_holds_is_no_obstacle(tmp_path: Path, other: dict[str, str]) -> None:
    """Where the anchors are those of a pattern, or of a file with a password, what a signer gives is put in place."""
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
def test_a_key_that_another_entry_reaches_by_another_way_is_not_replaced(tmp_path: Path, called: str) -> None:
    """By a symlink or a detour: the other's certificate would be left without its key."""
    host = Host(tmp_path / "host", "apiserver")
    before, entry = host.serials(), ENTRIES["apiserver"]
    other = make_leaf(host.ca, "app", not_before=host.now - DAY, not_after=host.now + YEAR, key=host.keys[-1])
    host.put("/etc/app.crt", other.pem)
    host.at("/etc/link.key").symlink_to(entry["key"])
    host.entries["app"] = {"path": "/etc/app.crt", "key": called, "ca": "ca", "usages": ["client auth"]}
    assert host.start() == []
    [held] = host.plan().held
    assert held.because == f"shares its key {entry['key']} with app: set keep_key on both"
    assert host.serials() == before | {"app": other.facts.serial}


def test_a_kubeconfig_that_embeds_a_certificate_and_refers_to_its_key_is_not_broken(tmp_path: Path) -> None:
    """Its certificate would not follow; one that refers to both files does, and keeps nobody from being renewed."""
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
        f"shares its key {entry['key']} with kc: set keep_key on both"
    ]
    del user["client-certificate-data"]
    user["client-certificate"] = entry["path"]
    host.put("/etc/u.conf", yaml.safe_dump(document).encode(), 0o600)
    assert [outcome.result for outcome in host.start()] == ["done"]


@pytest.mark.parametrize("name", ["apiserver", "kubelet-client"])
def test_an_anchor_beside_the_certificate_is_no_obstacle(tmp_path: Path, name: str) -> None:
    """A certificate is renewed whose own file holds the CA as well, as the last of its chain."""
    host = Host(tmp_path / "host", name)
    path = host.at(DATED if name == "kubelet-client" else ENTRIES[name]["path"])
    path.write_bytes(path.read_bytes() + host.ca.pem)
    [outcome] = host.start()
    assert outcome.result == "done", outcome.message
    assert host.unwell() == []


def test_nothing_is_renewed_that_could_not_be_remembered(tmp_path: Path) -> None:
    """Where the memory cannot be written, a renewal fails before anything is signed: else it would be made again."""
    host = Host(tmp_path / "host", "apiserver")
    before = host.serials()
    (host.state / "renewals.json").mkdir(parents=True)
    os.chmod(host.state, 0o700)
    [outcome] = host.start_once()
    assert outcome.result == "failed"
    assert "renewals.json" in outcome.message or str(host.state) in outcome.message
    assert host.serials() == before


def test_a_defect_in_one_step_is_told_and_does_not_stop_the_next(tmp_path: Path, monkeypatch: Any) -> None:
    """An error that nobody foresaw fails its own step, by its type and place alone: its words may hold a secret."""
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


def test_two_derived_files_that_are_one_are_not_written_over_each_other(tmp_path: Path) -> None:
    """Where a symlink makes two derived files one, the second is left alone and told, and all comes to rest."""
    derived = [
        {"name": name, "kind": "pem-bundle", "source": source, "path": f"/etc/{name}.pem"}
        for name, source in (("one", "apiserver"), ("two", "etcd-server"))
    ]
    host = Host(tmp_path / "host", "apiserver", "etcd-server", derived=derived)
    host.at("/etc/two.pem").symlink_to("one.pem")
    host.start()
    [held] = host.plan().held
    assert (held.target, held.because) == (
        "two", "/etc/two.pem leads to the file of the derived file one; give it another path",
    )  # fmt: skip


def test_a_damaged_key_of_a_ca_is_told_as_such(tmp_path: Path) -> None:
    """A CA's RSA key whose numbers do not fit each other fails the renewal by its name, and with what to do."""
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
    assert "ca.key is damaged: nothing can be signed with it" in outcome.message
    assert host.serials() == before


def test_a_line_of_the_trail_that_is_written_in_part_is_an_error(tmp_path: Path) -> None:
    """Where the disk becomes full in the middle of a line, the step must not go on; the next line is one of its own."""
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


def test_whoever_gave_the_command_is_told_on_one_line(tmp_path: Path) -> None:
    """An actor whose name is no text, or has control characters, is written as an escape."""
    audit = Audit(Journal("none"), tmp_path / "state", "al\udcff\nice")
    audit.note(Event.STEP_BEGUN, datetime(2026, 11, 24, tzinfo=UTC), "x")
    (line,) = (tmp_path / "state/audit.log").read_text().splitlines()
    assert json.loads(line)["by"] == r"al\udcff\nice"
