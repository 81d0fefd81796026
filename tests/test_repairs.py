"""The repair of broken files: from the archive, or as a new certificate of the entry; by the daemon, by a command,
killed at any call.
"""

from __future__ import annotations

import base64
import copy
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.daemon.loop import Daemon
from certmond.expose.documents.plan import step_name
from certmond.notify.event_log import Journal
from certmond.pki.assessment.key_mismatch_delay import REPAIR_WAIT
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.findings import Reason
from certmond.pki.planning.steps import Plan, Restore
from certmond.state.archive import Archive
from certmond.state.last_subjects import LastSubjects
from certmond.state.renewals import Ledger
from tests.builders import DAY, YEAR, make_ca, make_leaf, make_server, new_key
from tests.daemon.test_enforcer import Shifted, in_process
from tests.daemon_harness import Output, Running, running
from tests.sampling import sample
from tests.test_renewal import (
    CA,
    CURRENT,
    DATED,
    ENTRIES,
    Host,
    certmond,
    copies,
    kubeconfig,
    kubelet_conf,
    now,
    readable,
)
from tests.tracing import distinct, kill_at, record

API, ADMIN = ENTRIES["apiserver"], ENTRIES["admin.conf"]
SCHEDULER = "/etc/kubernetes/scheduler.conf"
MINUTE = timedelta(minutes=1)
Damage = Callable[[Host], object]


def cut(path: str) -> Damage:
    """The file ends in the middle."""

    def damage(host: Host) -> None:
        file = host.real(path)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    return damage


def gone(*paths: str) -> Damage:
    def damage(host: Host) -> None:
        for path in paths:
            host.at(path).unlink()

    return damage


def written(path: str, content: bytes) -> Damage:
    return lambda host: host.real(path).write_bytes(content)


def der_key(host: Host) -> bytes:
    return make_leaf(host.ca).key_as(PrivateFormat.PKCS8, encoding=Encoding.DER)


def keystore(host: Host) -> bytes:
    leaf = make_leaf(host.ca)
    key: Any = leaf.key
    return serialize_key_and_certificates(b"", key, leaf.cert, None, BestAvailableEncryption(b"password"))


def other_key(path: str) -> Damage:
    return lambda host: host.real(path).write_bytes(make_leaf(host.ca).key_pem)


def dangling(host: Host) -> None:
    host.at(CURRENT).unlink()
    host.at(CURRENT).symlink_to("/var/lib/kubelet/pki/kubelet-client-2020-01-01-00-00-00.pem")


def without_certificate(host: Host) -> None:
    document = yaml.safe_load(host.at(ADMIN["path"]).read_bytes())
    document["users"][0]["user"] = {}
    host.put(ADMIN["path"], yaml.safe_dump(document).encode(), 0o600)


BROKEN: dict[str, tuple[str, Damage]] = {
    "deleted certificate": ("apiserver", gone(API["path"])),
    "deleted key": ("apiserver", gone(API["key"])),
    "deleted pair": ("apiserver", gone(API["path"], API["key"])),
    "cut certificate": ("apiserver", cut(API["path"])),
    "cut key": ("apiserver", cut(API["key"])),
    "empty certificate": ("apiserver", written(API["path"], b"")),
    "empty key": ("apiserver", written(API["key"], b"")),
    "key of another": ("apiserver", other_key(API["key"])),
    "text instead of the key": ("apiserver", written(API["key"], b"managed by a tool\n")),
    "noise instead of the key": ("apiserver", written(API["key"], bytes(range(1, 256)) * 6)),
    "cut DER key": ("apiserver", lambda host: written(API["key"], der_key(host)[:80])(host)),
    "key that was kept": ("etcd-server", written(ENTRIES["etcd-server"]["key"], b"")),
    "malformed kubeconfig": ("admin.conf", written(ADMIN["path"], b"\tno: {yaml")),
    "empty kubeconfig": ("admin.conf", written(ADMIN["path"], b"")),
    "kubeconfig without certificate": ("admin.conf", without_certificate),
    "deleted kubeconfig": ("admin.conf", gone(ADMIN["path"])),
    "cut PEM": ("kubelet-client", cut(CURRENT)),
    "empty PEM": ("kubelet-client", written(CURRENT, b"")),
    "deleted link": ("kubelet-client", gone(CURRENT)),
    "dangling link": ("kubelet-client", dangling),
}


def whole(place: Path, *names: str, archived: bool, key: str = "ec", **more: Any) -> Host:
    """Return a node whose certificates are valid for a year. With `archived`, the archive has one generation of each
    that is valid for another five days, and one that has expired.
    """
    host = Host(place, *names, key=key, **more)
    if "kubelet-client" in host.entries:
        host.entries["kubelet-client"]["kubeconfig"] = "/etc/kubernetes/kubelet.conf"
    host.put("/etc/kubernetes/kubelet.conf", kubelet_conf(host.ca), 0o600)
    host.start()
    if not archived:
        host.now += 40 * DAY
    return host


def kinds(outcomes: Any) -> list[tuple[str, str]]:
    return [(step_name(outcome.step), outcome.result) for outcome in outcomes]


@pytest.mark.long
@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("archived", [True, False])
def test_each_damage_is_repaired(tmp_path: Path, how: str, archived: bool) -> None:
    """certmond restores a damaged pair from the archive if a generation is good, and otherwise issues a new one.
    Afterwards there is no finding and no step, the files have the modes of their entry, and the PEM of the kubelet is a
    dated file behind its link.
    """
    name, damage = BROKEN[how]
    host = whole(tmp_path, name, archived=archived)
    before = host.serials()
    damage(host)
    first = host.start_once()
    assert kinds(first) == [("restore" if archived else "issue", "done")]
    host.start()  # the restored one is due
    assert host.unwell() == []
    assert host.serials() != before
    paths = [host.real(path) for path in (host.entries[name]["path"], host.entries[name].get("key")) if path]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} <= {0o600, 0o644}
    if name == "kubelet-client":
        assert host.at(CURRENT).is_symlink()
        assert re.search(r"-20\d\d(-\d\d){5}\.pem$", os.readlink(host.at(CURRENT)))
        assert host.real(CURRENT) != host.at(DATED)


@pytest.mark.long
@pytest.mark.parametrize("content", [der_key, keystore])
def test_a_key_of_another_format_is_not_replaced(tmp_path: Path, content: Callable[[Host], bytes]) -> None:
    """certmond issues no new pair over a key in DER or a PKCS#12 file, which may be the only copy."""
    host = whole(tmp_path, "apiserver", archived=False)
    host.at(API["key"]).write_bytes(content(host))
    before = host.at(API["key"]).read_bytes()
    assert host.start_once() == ()
    assert host.enforcer().plan(host.look(), frozenset({"apiserver"})).steps == ()
    assert host.at(API["key"]).read_bytes() == before


@pytest.mark.long
@pytest.mark.parametrize("archived", [True, False])
def test_several_damages_are_repaired_in_one_pass(tmp_path: Path, archived: bool) -> None:
    """One pass repairs several damaged files, each by its own step."""
    host = whole(tmp_path, archived=archived)
    for how in ("deleted pair", "key that was kept", "malformed kubeconfig", "cut PEM"):
        BROKEN[how][1](host)
    assert kinds(host.start_once()) == [("restore" if archived else "issue", "done")] * 4
    host.start()
    assert host.unwell() == []


@pytest.mark.long
@pytest.mark.parametrize("how", ["cut PEM", "deleted pair", "malformed kubeconfig", "dangling link"])
@pytest.mark.parametrize("archived", [True, False])
def test_killed_anywhere(quick: Path, how: str, archived: bool) -> None:
    """After a kill before or after any changing system call, a repair is complete after the next start. No key is ever
    open to others.
    """
    name, damage = BROKEN[how]
    host = whole(quick / "original", name, archived=archived)
    damage(host)
    twins = copies(host, quick)
    twin = next(twins)
    problems: list[str] = []
    stops = record(twin.start_once, lambda stop: problems.extend(f"{stop}: {each}" for each in readable(twin)))
    assert problems == []
    for n in sample(distinct(stops), 8, f"a repair, {how} {archived}", kind=lambda n: stops[n]):
        twin = next(twins)
        where = f"killed at {n}, {kill_at(twin.start_once, n)}"
        assert readable(twin) == [], where
        twin.start()
        assert twin.unwell() == [], where


# The archive


@pytest.mark.long
def test_the_newest_good_generation_is_restored_byte_for_byte(tmp_path: Path) -> None:
    """An expired one is not, nor one with which a service failed. The damaged file is stored separately, and displaces
    no generation.
    """
    host = Host(tmp_path, "apiserver")
    first = host.at(API["path"]).read_bytes(), host.at(API["key"]).read_bytes()
    host.start()
    for number in range(5):
        host.at(API["path"]).write_bytes(b"%d" % number)
        host.now += timedelta(hours=3)
        (outcome,) = host.start_once()
        assert isinstance(outcome.step, Restore)
        assert (host.at(API["path"]).read_bytes(), host.at(API["key"]).read_bytes()) == first
    assert len(Archive(host.state).ids("apiserver")) == 1
    assert len(Archive(host.state).ids("apiserver.damaged")) == 3 + 1  # the first one has the only copy of its key
    for generation, files in Archive(host.state).complete_generations("apiserver.damaged"):
        assert "PRIVATE KEY" not in str(generation.description)
        assert b"PRIVATE KEY" not in files[-1].content


@pytest.mark.long
@pytest.mark.parametrize("archived", [True, False])
def test_the_only_copy_of_a_private_key_stays_in_the_archive(tmp_path: Path, *, archived: bool) -> None:
    """The key of the CA was moved over that of a certificate: the message of the repair has the path of the copy, which
    is still there after further damage, beside the last generations.
    """
    host = whole(tmp_path, "apiserver", archived=archived)
    key = make_leaf(host.ca).key_pem
    host.put(API["key"], key, 0o600)
    (outcome,) = host.start_once()
    (first,) = Archive(host.state).ids("apiserver.damaged")
    assert outcome.message.endswith(f"; the damaged content is in the archive as apiserver.damaged {first}")
    for number in range(5):
        host.now += timedelta(hours=3)
        host.at(API["path"]).write_bytes(b"%d" % number)
        host.at(API["key"]).write_bytes(b"")
        assert [each.result for each in host.start_once()] == ["done"]
    kept = Archive(host.state).ids("apiserver.damaged")
    assert len(kept) == 4
    assert kept[0] == first
    assert key in {file.content for file in Archive(host.state).load("apiserver.damaged", first)}


def test_the_finding_of_a_missing_ca_key_names_its_copy_in_the_archive(tmp_path: Path) -> None:
    """An operator has moved the key of a CA over that of a certificate. After the repair the archive has this key, and
    the finding of the CA names its directory.
    """
    host = whole(tmp_path, "apiserver", archived=True)
    host.at(CA["key"]).rename(host.at(API["key"]))
    assert kinds(host.start_once()) == [("restore", "done")]
    (generation,) = Archive(host.state).ids("apiserver.damaged")
    (status,) = (each for each in host.look().statuses if each.seen.name == "ca")
    (said,) = (each.message for each in status.findings if each.reason is Reason.KEY_MISSING)
    assert said.endswith(
        f"copy the key of the CA from the archived files in {host.state}/archive/apiserver.damaged/{generation}"
    )
    shutil.rmtree(host.state / "archive/apiserver.damaged")
    (status,) = (each for each in host.look().statuses if each.seen.name == "ca")
    assert [each.message for each in status.findings if "restore the key" in each.message]


def test_what_comes_back_is_in_the_trail_without_a_key(tmp_path: Path) -> None:
    """The audit trail has the step, its generation and the reason."""
    host = whole(tmp_path, "apiserver", archived=True)
    host.at(API["key"]).write_bytes(b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n")
    host.start_once()
    entries = [entry for entry in host.audit() if entry.get("step") == "restore"]
    assert [entry["event"] for entry in entries] == ["step_begun", "step_done"]
    assert entries[0]["generation"].startswith("000001-")
    assert "c2VjcmV0" not in (host.state / "audit.log").read_text()


def test_a_right_that_a_later_certificate_no_longer_had_does_not_come_back(tmp_path: Path) -> None:
    """The generation with a wider right is good, but the certificate that certmond issued last had it no longer, and is
    lost. certmond issues a certificate of the entry.
    """
    host = Host(tmp_path, "apiserver")
    wide = make_server(host.ca, names=[*API["names"], "DNS:admin.example"], not_before=host.now - YEAR,
                       not_after=host.now + 10 * DAY, key="ec")  # fmt: skip
    host.put(API["path"], wide.pem)
    host.put(API["key"], wide.key_pem, 0o600)
    host.start()
    narrow = make_server(host.ca, names=API["names"], not_after=host.now + YEAR, key="ec")
    host.put(API["path"], narrow.pem)
    host.put(API["key"], narrow.key_pem, 0o600)
    identity = ("apiserver", API["path"])
    Ledger(host.state).store(identity, Attempt(host.now, sha256=narrow.facts.sha256, ends_at=narrow.facts.not_after))
    host.at(API["path"]).unlink()
    made = host.plan()
    assert made.steps == ()
    assert "the last certificate contained DNS:admin.example" in made.held[0].because
    done = host.enforcer().plan(host.look(), frozenset({"apiserver"}))
    assert [step_name(step) for step in done.steps] == ["issue"]
    assert "admin.example" not in str(done.steps[0].template.names)  # type: ignore[union-attr]


@pytest.mark.parametrize("how", ["not stored", "restored by hand"])
def test_a_wider_generation_is_not_restored_without_proof(tmp_path: Path, how: str) -> None:
    """The archive has a certificate with more rights than the lost one, which no command recorded. A right that the
    entry does not specify does not return, whether the ledger is lost or has an archived certificate.
    """
    host = Host(tmp_path, "apiserver")
    host.entries["apiserver"] = {**API, "usages": ["client auth"], "subject": [], "names": []}
    subject: Any = x509.Name.from_rfc4514_string("O=company-admins,CN=ops")
    wide = make_leaf(host.ca, subject, not_before=host.now - YEAR, not_after=host.now + 20 * DAY)
    host.put(API["path"], wide.pem)
    host.put(API["key"], wide.key_pem, 0o600)
    host.start()
    if how == "not stored":
        (host.state / "renewals.json").unlink()
    else:
        host.restoration().restore("apiserver", None, dry_run=False)
    narrow = make_leaf(host.ca, "ops", not_before=host.now - DAY, not_after=host.now + 10 * DAY)
    host.put(API["path"], b"x")
    host.put(API["key"], narrow.key_pem, 0o600)
    assert host.start_once() == ()
    (held,) = host.plan().held
    assert "its entry specifies no subject" in held.because


ADMINS, MASTERS = "kubeadm:cluster-admins", "system:masters"


def admin_of(host: Host, group: str, end: datetime) -> None:
    """Write admin.conf as kubeadm does, with a certificate of this group."""
    subject: Any = x509.Name.from_rfc4514_string(f"O={group},CN=kubernetes-admin")
    leaf = make_leaf(host.ca, subject, not_before=end - YEAR, not_after=end)
    host.put(ADMIN["path"], kubeconfig(host.ca, leaf), 0o600)


def group_of(host: Host) -> str | None:
    """Return the group of the certificate in admin.conf."""
    (found,) = (each.certificate for each in host.look().statuses if each.seen.name == "admin.conf")
    return next((each[2:] for each in found.attributes if each.startswith("O=")), None) if found else None


@pytest.mark.long
@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("last", [ADMINS, MASTERS])
def test_system_masters_is_restored_only_if_it_was_the_last_subject(
    tmp_path: Path, last: str, *, archived: bool, recorded: bool
) -> None:
    """An operator has replaced a certificate of certmond by one with the other accepted subject. After a start,
    certmond repairs the damaged file with the last subject. Without the record of subjects it does not issue
    `system:masters`. A missing record of renewals has no effect.
    """
    host = Host(tmp_path, "admin.conf")
    host.entries["admin.conf"]["subject"] = [f"CN=kubernetes-admin,O={group}" for group in (ADMINS, MASTERS)]
    other = MASTERS if last == ADMINS else ADMINS
    admin_of(host, other, host.now + 10 * DAY)
    host.start()
    assert group_of(host) == other
    host.now += DAY if archived else 30 * DAY
    admin_of(host, last, host.now + YEAR)
    host.enforcer().last_subjects.record(host.look())
    if not recorded:
        (host.state / "subjects.json").unlink()
    host.at(ADMIN["path"]).write_bytes(b"x")
    host.start_once()
    assert group_of(host) == ADMINS
    if last == MASTERS and recorded:  # the last certificate of certmond had the other subject
        host.put(ADMIN["path"], b"x", 0o600)
        (host.state / "renewals.json").unlink()
        host.start_once()
        assert group_of(host) == MASTERS


@pytest.mark.long
def test_the_daemon_records_the_last_subject(tmp_path: Path) -> None:
    """For each entry with several accepted subjects, the record has the last one that the CA of the entry signed."""
    host = Host(tmp_path / "host", "admin.conf", "apiserver", now=now())
    host.entries["admin.conf"]["subject"] = [f"CN=kubernetes-admin,O={group}" for group in (ADMINS, MASTERS)]
    record = LastSubjects(host.state, ())
    with watching(host) as daemon:
        admin_of(host, MASTERS, host.now + YEAR)
        daemon.until(lambda: MASTERS in record.read().get("admin.conf", ""), "the first subject is recorded")
        admin_of(host, ADMINS, host.now + YEAR)
        daemon.until(lambda: ADMINS in record.read().get("admin.conf", ""), "the second subject is recorded")
        subject: Any = x509.Name.from_rfc4514_string(f"O={MASTERS},CN=kubernetes-admin")
        forged = make_leaf(make_ca(), subject, not_before=host.now - DAY, not_after=host.now + YEAR)
        host.put(ADMIN["path"], kubeconfig(host.ca, forged), 0o600)
        daemon.until(lambda: daemon.reasons("admin.conf"), "the forged certificate has a finding")
    assert record.read() == {"admin.conf": f"O={ADMINS},CN=kubernetes-admin"}


@pytest.mark.parametrize("how", ["damaged", "others", "by hand"])
def test_a_restored_kubeconfig_trusts_the_present_ca_only(tmp_path: Path, how: str) -> None:
    """A generation that certmond stored during a rotation also trusts the old CA. The restored file trusts the CA that
    the entry embeds now, and otherwise equals the generation. A file with other users keeps them.
    """
    host = whole(tmp_path, "admin.conf", archived=True)
    old = make_ca(key="ec", not_before=host.now - YEAR, not_after=host.now + YEAR)
    wanted = yaml.safe_load(host.at(ADMIN["path"]).read_bytes()) | {"preferences": {"colors": True}}
    both = copy.deepcopy(wanted)
    both["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(host.ca.pem + old.pem).decode()
    host.put(ADMIN["path"], yaml.safe_dump(both).encode(), 0o600)
    stored = Archive(host.state).store("admin.conf", {ADMIN["path"]: host.at(ADMIN["path"])}, host.now, {})
    if how == "others":
        both["users"].append({"name": "other", "user": {"username": "other"}})
        wanted = copy.deepcopy(both) | {"clusters": wanted["clusters"]}
        both["users"][0]["user"]["client-key-data"] = "AAAA"
        host.put(ADMIN["path"], yaml.safe_dump(both).encode(), 0o600)
    else:
        host.put(ADMIN["path"], b"x", 0o600)
    if how == "by hand":
        for said in ("restored ", "already"):
            assert said in host.restoration().restore("admin.conf", stored.id, dry_run=False)[-1]
    else:
        assert kinds(host.start_once()) == [("restore", "done")]
    assert yaml.safe_load(host.at(ADMIN["path"]).read_bytes()) == wanted


def test_during_a_rotation_no_generation_of_the_old_ca_is_restored(tmp_path: Path) -> None:
    """A generation whose CA is no longer on the node stays in the archive. The new CA issues."""
    host = whole(tmp_path, "apiserver", archived=True)
    new = make_ca(key="ec", not_before=host.now - DAY, not_after=host.now + 9 * YEAR)
    host.put(CA["path"], new.pem)
    host.put(CA["key"], new.key_pem, 0o600)
    shutil.rmtree(host.state / "rotation", ignore_errors=True)
    host.at(API["path"]).unlink()
    made = host.enforcer().plan(host.look(), frozenset({"apiserver"}))
    assert [step_name(step) for step in made.steps] == ["issue"]


# Without end


@pytest.mark.long
def test_a_repeated_damage_is_repaired_at_growing_intervals(tmp_path: Path) -> None:
    """The intervals are a minute, two, four. Meanwhile the finding breaks_again has the count, and the plan the
    time.
    """
    host = whole(tmp_path, "apiserver", archived=False)
    pauses = []
    for number in range(1, 5):
        host.at(API["path"]).unlink()
        if number > 1:
            (held,) = host.plan().held
            assert held.until
            pauses.append(held.until - host.now)
            assert f"repaired the file {number - 1} times" in held.because or number == 2
            found = {item.reason: item.message for status in host.look().statuses for item in status.findings}
            assert "breaks_again" in found
            host.now = held.until
        assert kinds(host.start_once()) == [("issue", "done")]
    assert pauses == [MINUTE, 2 * MINUTE, 4 * MINUTE]
    assert host.unwell() == []


# What certmond does not repair


@pytest.mark.long
def test_a_file_that_the_node_no_longer_expects_is_not_restored(tmp_path: Path) -> None:
    """certmond does not restore an entry whose manifest was removed together with its files, an optional entry, or a
    CA.
    """
    host = whole(tmp_path, "apiserver", archived=True)
    manifest = "/etc/kubernetes/manifests/kube-apiserver.yaml"
    host.entries["apiserver"] |= {"mentioned_in": [manifest]}
    host.put(manifest, f"command: [--tls-cert-file={API['path']}]\n".encode())
    host.at(API["path"]).unlink()
    assert [step_name(step) for step in host.plan().steps] == ["restore"]
    host.at(manifest).unlink()
    assert host.plan() == Plan()
    host.put(API["path"], b"")  # and the leftover is not completed
    assert host.plan().steps == ()
    host.entries["apiserver"] = API | {"optional": True}
    host.at(API["path"]).unlink()
    assert host.plan().steps == ()
    host.entries["apiserver"] = API
    host.at(CA["path"]).unlink()
    assert "ca" not in {step.target for step in host.plan().steps}


@pytest.mark.long
def test_the_finding_of_a_file_without_a_manifest_names_its_copy_in_the_archive(tmp_path: Path) -> None:
    """certmond does not repair a file to which no manifest refers, but names the command that restores the file. The
    command works. Without a good generation, the finding names a backup.
    """
    host = whole(tmp_path, "apiserver", archived=True, now=now())
    host.entries["apiserver"] |= {"mentioned_in": ["/etc/kubernetes/manifests/kube-apiserver.yaml"]}
    host.put(API["path"], b"")
    shown = certmond(host, "check").stdout
    remedy = r"restore the files: certmond --root \S+ archive restore apiserver \d+-\w+ \[malformed\]"
    assert re.search(rf"apiserver.crt is empty; {remedy}", shown)
    assert "[breaks_again]" not in shown
    assert certmond(host, "plan").returncode == 2
    done = certmond(host, "archive", "restore", "apiserver")
    assert (done.returncode, done.stderr) == (0, "")
    assert "malformed" not in certmond(host, "check").stdout
    shutil.rmtree(host.state / "archive")
    host.put(API["path"], b"")
    shown = certmond(host, "check").stdout
    assert "restore the file from a backup, or issue the certificate again [malformed]" in shown


@pytest.mark.long
def test_a_kubeconfig_that_no_entry_fixes_is_never_issued(tmp_path: Path) -> None:
    """The kubeconfig of a user has no subject in its entry. certmond restores it from the archive or holds the step
    with the reason.
    """
    host = whole(tmp_path, "admin.conf", archived=False)
    host.entries["admin.conf"] = {"kind": "kubeconfig", "path": ADMIN["path"], "usages": ["client auth"]}
    host.at(ADMIN["path"]).write_bytes(b"")
    (held,) = host.plan().held
    assert "its entry specifies no subject" in held.because
    done = certmond(host, "renew", "admin.conf")
    assert done.returncode == 3
    assert "its entry specifies no subject" in done.stderr


def test_without_the_key_of_the_ca_the_finding_says_where_it_is(tmp_path: Path) -> None:
    """A worker has no key of the CA. If the archive has no good generation, the finding names the commands that join
    the node again.
    """
    host = whole(tmp_path, "kubelet-client", archived=False)
    host.at(CA["key"]).unlink()
    host.entries["kubelet-client"] |= {}
    BROKEN["cut PEM"][1](host)
    assert host.plan().steps == ()
    found = {item.message for status in host.look().statuses for item in status.findings}
    assert any("is not on this node, or does not match the CA; rejoin the node" in message for message in found)


def test_a_name_that_the_entry_does_not_fix_is_not_lost_without_a_command(tmp_path: Path) -> None:
    """Clients reach the API server by a name that only the lost certificate had: nothing is issued without it, except
    by a command.
    """
    host = whole(tmp_path, "apiserver", archived=False)
    lost = make_server(host.ca, names=["DNS:lb.example", *API["names"]], not_before=host.now - YEAR,
                       not_after=host.now + DAY, key="ec")  # fmt: skip
    host.put(API["path"], lost.pem)
    host.put(API["key"], lost.key_pem, 0o600)
    host.start()  # the archive has it now, and it ends
    host.now += 60 * DAY
    host.at(API["path"]).unlink()
    (held,) = host.plan().held
    assert "DNS:lb.example" in held.because
    assert held.because.endswith("certmond renew apiserver")


@pytest.mark.long
@pytest.mark.parametrize("field", ["exec", "token", "tokenFile", "auth-provider", "username"])
@pytest.mark.parametrize("archived", [True, False])
def test_other_credentials_than_a_certificate_are_the_operators_decision(
    tmp_path: Path, field: str, *, archived: bool
) -> None:
    """A kubeconfig whose user has another credential, such as a token, works. certmond reports it and never replaces
    it.
    """
    host = whole(tmp_path, "admin.conf", archived=archived)
    document = yaml.safe_load(host.at(ADMIN["path"]).read_bytes())
    document["users"][0]["user"] = {field: {"command": "kubelogin"} if field in {"exec", "auth-provider"} else "abc"}
    host.put(ADMIN["path"], yaml.safe_dump(document).encode(), 0o600)
    before = host.at(ADMIN["path"]).read_bytes()
    assert host.start_once() == ()
    assert certmond(host, "renew", "admin.conf").returncode
    assert host.at(ADMIN["path"]).read_bytes() == before
    (said,) = [item.message for status in host.look().statuses for item in status.findings]
    assert f"authenticates with {field}; certmond does not replace these credentials" in said


def test_a_key_that_only_a_tpm_reads_is_not_replaced(tmp_path: Path) -> None:
    """The key may be the right one. A finding reports that certmond does not read it."""
    host = whole(tmp_path, "apiserver", archived=True)
    key = b"-----BEGIN TSS2 PRIVATE KEY-----\nMIHwBgZngQUKAQOgAwEB/6E=\n-----END TSS2 PRIVATE KEY-----\n"
    host.put(API["key"], key, 0o600)
    assert host.start_once() == ()
    assert host.at(API["key"]).read_bytes() == key
    assert any("TSS2 PRIVATE KEY" in item.message for status in host.look().statuses for item in status.findings)


@pytest.mark.long
@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize("current", ["empty", "gone", "token"])
def test_another_user_of_a_kubeconfig_never_gets_the_certificate_of_its_entry(
    tmp_path: Path, current: str, *, archived: bool
) -> None:
    """The certificate of the entry belongs to the user of the current context. If this user has no certificate, or is
    missing, certmond reports damage and changes no other user, although the certificate of that user is due. The
    finding has the remedy: after the file is moved away, `renew` creates it again.
    """
    host = whole(tmp_path, "admin.conf", archived=archived)
    document = yaml.safe_load(host.at(ADMIN["path"]).read_bytes())
    due = make_leaf(host.ca, "other", not_before=host.now - 80 * DAY, not_after=host.now + 5 * DAY)
    fields = {"client-certificate-data": due.pem, "client-key-data": due.key_pem}
    other = {"name": "other", "user": {each: base64.b64encode(pem).decode() for each, pem in fields.items()}}
    own = {"empty": {}, "token": {"token": "abc"}}
    name = document["users"][0]["name"]
    document["users"] = [*([{"name": name, "user": own[current]}] if current in own else []), other]
    host.put(ADMIN["path"], yaml.safe_dump(document).encode(), 0o600)
    assert host.start_once() == ()
    assert yaml.safe_load(host.at(ADMIN["path"]).read_bytes()) == document
    said = [item.message for status in host.look().statuses for item in status.findings]
    assert any(f"contains no client certificate for user '{name}' of its current context" in each for each in said)
    if current == "token":
        return
    remedy = "; move the file away, then run: certmond renew admin.conf"
    assert any(each.endswith(remedy) for each in said)
    assert {each.target: each.because.endswith(remedy) for each in host.plan().held}["admin.conf"]
    host.at(ADMIN["path"]).rename(host.at(f"{ADMIN['path']}.away"))
    enforcer = host.enforcer()
    made = enforcer.plan(host.look(), frozenset({"admin.conf"}))
    assert kinds(enforcer.executor.execute(made)) == [("restore" if archived else "issue", "done")]


@pytest.mark.parametrize(("damage", "reported"), [(gone(CURRENT), set()), (written(CURRENT, b""), {CURRENT})])
def test_the_pem_of_a_kubelet_that_reads_another_one_is_not_made(
    tmp_path: Path, damage: Damage, reported: set[str]
) -> None:
    """If kubelet.conf embeds its credentials, certmond issues no certificate for the PEM, which may be absent."""
    host = whole(tmp_path, "kubelet-client", archived=False)
    pem = host.real(CURRENT).read_bytes()
    document = yaml.safe_load(host.at("/etc/kubernetes/kubelet.conf").read_bytes())
    document["users"][0]["user"] = {
        "client-certificate-data": base64.b64encode(pem).decode(), "client-key-data": base64.b64encode(pem).decode()
    }  # fmt: skip
    host.put("/etc/kubernetes/kubelet.conf", yaml.safe_dump(document).encode(), 0o600)
    damage(host)
    assert host.start_once() == ()
    assert {status.seen.path for status in host.look().statuses if status.findings} == reported


# Kubeconfigs


@pytest.mark.long
@pytest.mark.parametrize("archived", [True, False])
@pytest.mark.parametrize("content", ["AAAA", base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()])
@pytest.mark.parametrize("field", ["client-certificate-data", "client-key-data"])
def test_of_a_kubeconfig_with_others_only_the_damaged_user_is_replaced(
    tmp_path: Path, field: str, content: str, *, archived: bool
) -> None:
    """certmond replaces only the damaged user, from the archive or with a new certificate. The other users, clusters
    and contexts stay.
    """
    host = whole(tmp_path, "admin.conf", archived=archived)
    document = yaml.safe_load(host.at(ADMIN["path"]).read_bytes())
    document["users"].append({"name": "other", "user": {"token": "mine"}})
    document["clusters"].append({"name": "other", "cluster": {"server": "https://other.example"}})
    document["contexts"].append({"name": "other", "context": {"cluster": "other", "user": "other"}})
    document["users"][0]["user"][field] = content
    host.put(ADMIN["path"], yaml.safe_dump(document).encode(), 0o600)
    host.start_once()
    after = yaml.safe_load(host.at(ADMIN["path"]).read_bytes())
    for each in (document, after):
        del each["users"][0]["user"]
    assert after == document
    host.start()
    assert host.unwell() == []


@pytest.mark.long
def test_the_server_of_a_kubeconfig_comes_from_another_of_the_same_ca(tmp_path: Path) -> None:
    """If the archive has no kubeconfig of the entry, certmond takes the server from another one of the same CA, but not
    from one that another user can write.
    """
    host = whole(tmp_path, "admin.conf", archived=False)
    shutil.rmtree(host.state / "archive")
    leaf = make_leaf(host.ca, "system:kube-scheduler", not_after=host.now + YEAR, key="ec")
    scheduler = {"kind": "kubeconfig", "path": SCHEDULER, "embedded_ca": "ca", "mode": "0600",
                 "subject": "CN=system:kube-scheduler", "usages": ["client auth"]}  # fmt: skip
    host.entries["scheduler.conf"] = scheduler
    other = kubeconfig(host.ca, leaf).replace(b"10.0.0.1:6443", b"10.0.0.7:6444")
    host.put(SCHEDULER, other, 0o600)
    host.at(ADMIN["path"]).unlink()
    os.chown(host.at(SCHEDULER), 64_999, 64_999)
    made = host.plan()
    assert all("10.0.0.7" not in str(getattr(step, "server", "")) for step in made.steps)
    os.chown(host.at(SCHEDULER), 0, 0)
    host.start()
    document = yaml.safe_load(host.at(ADMIN["path"]).read_bytes())
    assert document["clusters"][0]["cluster"]["server"] == "https://10.0.0.7:6444"
    assert document["current-context"] == "kubernetes-admin@kubernetes"
    assert host.unwell() == []


# By a command, and by the daemon


@pytest.mark.long
def test_renew_repairs_a_damaged_file(tmp_path: Path) -> None:
    """It does so at once, without the pause. `plan` shows the step and `check` the command."""
    host = whole(tmp_path, "kubelet-client", archived=True, now=now())
    BROKEN["cut PEM"][1](host)
    shown = certmond(host, "check")
    assert re.search(r"restore the files: certmond --root \S+ archive restore kubelet-client", shown.stdout)
    done = certmond(host, "renew", "kubelet-client")
    assert (done.returncode, done.stderr) == (0, "")
    assert "from the archive, valid until" in done.stdout
    assert host.at(CURRENT).is_symlink()


@pytest.mark.long
@pytest.mark.parametrize("how", ["cut PEM", "deleted link", "deleted certificate", "malformed kubeconfig"])
def test_the_command_of_the_finding_works(tmp_path: Path, how: str) -> None:
    """`certmond archive restore NAME` restores the files. The kubelet's PEM keeps its link."""
    name, damage = BROKEN[how]
    host = whole(tmp_path, name, archived=True, now=now())
    damage(host)
    done = certmond(host, "archive", "restore", name)
    assert (done.returncode, done.stderr) == (0, "")
    reasons = {item.reason for status in host.look().statuses for item in status.findings}
    assert reasons <= {"nearing_expiry"}
    if name == "kubelet-client":
        assert host.at(CURRENT).is_symlink()


@contextmanager
def watching(host: Host, mode: str = "enforce") -> Iterator[Running]:
    work = host.place.parent / "work"
    work.mkdir(exist_ok=True)
    path = work / "config.yaml"
    path.write_text(yaml.safe_dump(host.document() | {"mode": mode}))
    with running(host.root, work, "--config", str(path), "--state-dir", str(host.state)) as daemon:
        yield daemon
        daemon.stop()


def play(host: Host, script: Callable[[Output, Shifted], None]) -> None:
    """Run a daemon in enforce mode with a clock that only the script moves. The daemon has completed its first pass
    before the script begins, and ends after the script.
    """
    text = yaml.safe_dump(host.document() | {"mode": "enforce"})
    # Each change of a file is older than the time of this clock, and extends no wait.
    clock, seen = Shifted(now() + DAY), Output(host.place / "run")
    daemon = Daemon(
        lambda: parse([Source("test", text)]), root=str(host.root), runtime_dir=seen.runtime, state_dir=host.state,
        journal=Journal("none"), clock=clock,
    )  # fmt: skip

    def first() -> None:
        seen.until(lambda: clean(seen, *host.entries), "the first pass")
        script(seen, clock)

    with in_process(daemon, first):
        pass


def clean(daemon: Output, *names: str) -> bool:
    return all(daemon.reasons(name) == set() for name in names) and not daemon.activity()["plan"]["steps"]


def held(daemon: Output, *names: str) -> list[Any]:
    """Return the held steps if they are those of `names`, otherwise nothing."""
    found: list[Any] = daemon.activity()["plan"]["held"]
    return found if {each["target"] for each in found} == {*names} else []


@pytest.mark.long
def test_the_daemon_repairs_after_a_pause_that_it_announces(tmp_path: Path) -> None:
    """A truncated kubelet PEM, a deleted pair and an invalid kubeconfig: the plan reports until when a writer has time.
    The daemon wakes at that instant and repairs all three.
    """
    host = whole(tmp_path / "host", now=now(), archived=True)
    names = ("apiserver", "admin.conf", "kubelet-client")

    def script(daemon: Output, clock: Shifted) -> None:
        for how in ("cut PEM", "deleted pair", "malformed kubeconfig"):
            BROKEN[how][1](host)
        steps = daemon.until(lambda: held(daemon, *names), "held")
        assert all("another program might be writing the file now" in each["because"] for each in steps)
        assert {datetime.fromisoformat(each["until"]) for each in steps} == {clock.instant + REPAIR_WAIT}
        clock.instant += REPAIR_WAIT
        daemon.until(lambda: clean(daemon, *names), "repaired")

    play(host, script)
    host.now = now() + DAY + REPAIR_WAIT
    assert host.unwell() == []
    assert host.at(CURRENT).is_symlink()


@pytest.mark.long
def test_the_daemon_leaves_a_writer_that_pauses_alone(tmp_path: Path) -> None:
    """If a writer replaces the pair within the pause, its files stay. The daemon restores nothing over them."""
    host = whole(tmp_path / "host", "apiserver", now=now(), archived=True)
    mine = make_server(host.ca, names=API["names"], not_after=now() + YEAR, key=new_key())

    def script(daemon: Output, clock: Shifted) -> None:
        host.at(API["path"]).unlink()
        daemon.until(lambda: held(daemon, "apiserver"), "held")
        host.put(API["key"], mine.key_pem, 0o600)
        host.put(API["path"], mine.pem)
        daemon.until(lambda: clean(daemon, "apiserver"), "whole")
        clock.instant += REPAIR_WAIT
        daemon.until(lambda: not daemon.activity()["plan"]["held"], "nothing is held")

    play(host, script)
    assert host.at(API["path"]).read_bytes() == mine.pem
    assert "restore" not in (host.state / "audit.log").read_text()


@pytest.mark.long
def test_observing_touches_nothing(tmp_path: Path) -> None:
    """In observe mode the plan has the step, and the files stay as they are."""
    host = whole(tmp_path / "host", "apiserver", now=now(), archived=True)
    host.at(API["path"]).write_bytes(b"")
    with watching(host, "observe") as daemon:
        daemon.until(lambda: [step["step"] for step in daemon.activity()["plan"]["steps"]] == ["restore"], "planned")
        assert host.at(API["path"]).read_bytes() == b""
    assert host.at(API["path"]).read_bytes() == b""
    assert REPAIR_WAIT < MINUTE
