"""The verbs `root-ca` on the tree of a real kubeadm node: their output, their files, and their exit codes."""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import PrivateFormat

from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.x509.certificate import Certificate, parse_certificate
from certmond.pki.x509.serial_number import hexadecimal
from certmond.rotation.staged_ca import Part, Staging
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.commit import Transactions
from fuzz.mutated_chains import key_forms, rsa_info, with_key
from tests.builders import DAY, YEAR, Issued, bundle, make_ca, make_intermediate, make_leaf, oid, pem_block, tlv
from tests.cli.test_main import UNPRIVILEGED
from tests.cli.test_main import certmond as separate
from tests.cli.test_pki_init import Done
from tests.cli.test_pki_init import certmond as here
from tests.conftest import real_part, unavailable
from tests.node import PKI, Node, key_pem
from tests.renewal.test_operator_ca_reader import damaged

NOW = datetime.now(UTC).replace(microsecond=0)
LEAVES = ["apiserver", "apiserver-kubelet-client", "admin.conf", "controller-manager.conf", "scheduler.conf",
          "kubelet-client"]  # fmt: skip


def ca(name: str = "kubernetes", **changes: Any) -> Issued:
    """A Root CA that is fit today, whenever that is."""
    return make_ca(name, **({"not_before": NOW - DAY, "not_after": NOW + 10 * YEAR} | changes))


class Host:
    """A node, and the two files that an operator brings to it."""

    def __init__(self, node: Node, place: Path) -> None:
        self.node, self.state = node, place / "state"
        self.certificate, self.key = place / "own.crt", place / "own.key"

    def run(self, *arguments: str | Path) -> Done:
        done = here("root-ca", *arguments, "--root", self.node.root, "--state-dir", self.state)
        assert "Traceback" not in done.err
        for key in self.keys():  # no line of a key is ever shown
            lines = [line for line in key.splitlines() if line and not line.startswith("-")]
            assert not any(line in done.out + done.err for line in lines)
        return done

    def keys(self) -> Iterator[str]:
        for path in (self.key, self.node.path(f"{PKI}/ca.key"), *self.state.glob("rotation/*.key")):
            if path.is_file():
                yield path.read_text("latin-1")

    def give(self, certificate: Issued, key: Issued | None = None) -> tuple[Path, Path]:
        self.certificate.write_bytes(certificate.pem)
        self.key.touch(0o600)
        self.key.write_bytes((key or certificate).key_pem)
        return self.certificate, self.key

    def stage(self, given: Issued, *more: str) -> Done:
        return self.run("stage", *self.give(given), *more)

    def document(self, *arguments: str | Path) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.run(*arguments, "-o", "json").out)
        return document

    @property
    def staging(self) -> Staging:
        return Staging(self.state)


@pytest.fixture
def host(node: Node, tmp_path: Path) -> Host:
    return Host(node, tmp_path)


def test_show(host: Host) -> None:
    """`show` has subject, serial number, digest, pin, dates and key of the present CA, and what it signed here."""
    found = host.document("show")
    assert (found["schema"], found["family"], found["path"]) == (1, "ca", "/etc/kubernetes/pki/ca.crt")
    assert (found["staged"], found["rotation"]) == ([], None)
    (present,) = found["present"]
    assert present["subject"] == "CN=kubernetes"
    assert present["signs"] == LEAVES
    assert present["key_here"] is True
    fields = {"subject", "serial", "serial_hex", "sha256", "pin", "key", "not_before", "not_after", "key_here", "signs"}
    assert set(present) == fields
    table = host.run("show")
    assert table.code == 0
    assert f"{present['pin']}  serial {hexadecimal(int(present['serial']))}\n" in table.out
    assert "no rotation is in progress" in table.out
    assert yaml.safe_load(host.run("show", "-o", "yaml").out)["present"] == [present]
    assert not host.state.exists()


@pytest.mark.real("openssl")
def test_the_pin_is_kubeadms(host: Host) -> None:
    """The pin is the one that kubeadm's documentation tells how to make with openssl."""
    command = (f"{real_part('openssl')} x509 -pubkey -in {host.node.path(PKI)}/ca.crt | openssl rsa -pubin -outform der"
               " 2>/dev/null | openssl dgst -sha256 -hex | sed 's/^.* //'")  # fmt: skip
    theirs = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout.strip()
    assert host.document("show")["present"][0]["pin"] == f"sha256:{theirs}"


@pytest.mark.parametrize(
    ("family", "signs"),
    [
        ("etcd-ca", {"etcd-server", "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client"}),
        ("front-proxy-ca", {"front-proxy-client"}),
    ],
)
def test_the_other_families(host: Host, family: str, signs: set[str]) -> None:
    """Each family has a separate CA, leaves, and staged CA, which is also shown under another family."""
    (present,) = host.document("show", "--family", family)["present"]
    assert set(present["signs"]) == signs
    assert host.run("stage", "--generate", "--family", family, "--key-algorithm", "ECDSA-P256").code == 0
    (staged,) = host.document("show")["staged"]
    assert (staged["family"], staged["certificate"]["subject"]) == (family, present["subject"])
    assert f"is for {family}" in host.run("show").out


def test_two_cas_in_place(host: Host) -> None:
    """In a bundle each certificate has its chained leaves, and the key is assigned to its certificate."""
    host.node.write(f"{PKI}/ca.crt", ca().pem + host.node.read(f"{PKI}/ca.crt"))
    first, second = host.document("show")["present"]
    assert (first["signs"], first["key_here"]) == ([], False)
    assert (second["signs"], second["key_here"]) == (LEAVES, True)


def test_a_key_with_a_passphrase(host: Host) -> None:
    """An unreadable key counts neither as present nor as absent, and no CA is reissued with it."""
    host.node.write(f"{PKI}/ca.key", key_pem(host.node.key(f"{PKI}/ca.key"), b"secret"))
    assert host.document("show")["present"][0]["key_here"] is None
    assert "unreadable" in host.run("show").out
    done = host.run("stage", "--reuse-key")
    assert done.code == 3
    assert "/etc/kubernetes/pki/ca.key is encrypted" in done.err


def test_a_damaged_key(host: Host) -> None:
    """A key whose numbers do not match is not staged, and a CA with such a key is not reissued."""
    new = ca(key="rsa")
    given = host.give(new)
    host.key.write_bytes(damaged(new))
    for verb, code in (("verify", 2), ("stage", 2)):
        done = host.run(verb, *given)
        assert done.code == code
        assert f"the private key in {host.key} is damaged" in done.out + done.err
    host.node.write(f"{PKI}/ca.crt", new.pem)
    host.node.write(f"{PKI}/ca.key", damaged(new))
    done = host.run("stage", "--reuse-key")
    assert done.code == 3
    assert f"the CA's key {host.node.root}/{PKI}/ca.key is damaged and cannot sign" in done.err


def test_verify(host: Host) -> None:
    """A CA that is fit exits 0, with the mode of its rotation, and no leaf chains to it yet."""
    done = host.run("verify", *host.give(ca()))
    assert done.code == 0
    assert "is fit for ca (mode overlap)" in done.out
    found = host.document("verify", host.certificate)
    assert (found["verdict"], found["mode"], found["problems"], found["warnings"]) == ("fit", "overlap", [], [])
    assert [(leaf["name"], leaf["chains"]) for leaf in found["leaves"]] == [(name, False) for name in LEAVES]
    assert not host.state.exists()


def test_verify_with_warnings(host: Host) -> None:
    """A CA with warnings exits 1 and has them all, one that is open to others among them."""
    given = host.give(ca(not_after=NOW + 30 * DAY, serial=0))
    host.key.chmod(0o640)
    done = host.run("verify", *given)
    assert done.code == 1
    assert done.out.count("\nwarning  ") == 4
    assert f"other users can read or write {host.key} (mode 0640)" in done.out
    assert host.document("verify", *given)["verdict"] == "warning"


def test_verify_an_unfit_ca(host: Host) -> None:
    """A CA that is not fit exits 2 with every problem. The present one is not fit, but all leaves chain to it."""
    leaf = make_leaf(ca(), not_before=NOW - DAY, not_after=NOW + YEAR)
    found = host.document("verify", *host.give(leaf, ca()))
    assert (found["verdict"], found["mode"], len(found["problems"])) == ("refused", None, 4)
    done = host.run("verify", host.node.path(f"{PKI}/ca.crt"), "-o", "json")
    assert done.code == 2
    assert all(leaf["chains"] for leaf in json.loads(done.out)["leaves"])


POLICY, RSA_OID = tlv(0x30, tlv(0x06, b"\x2a\x03")), oid("1.2.840.113549.1.1.1")
UNREAD_BY_GO: dict[str, tuple[Callable[[Issued], bytes], str]] = {
    "a compressed point": (lambda issued: key_forms(issued)[-1], "failed to unmarshal elliptic curve point"),
    "a public exponent over 2^31": (lambda _: rsa_info((1 << 2047) + 1, (1 << 31) + 1), "public exponent too large"),
    "RSA over 8,192 bits": (lambda _: rsa_info((1 << 8199) + 1, 65537), "larger than 8192 bits"),
    "RSA without NULL": (lambda _: rsa_info((1 << 2047) + 1, 65537, tlv(0x30, RSA_OID)), "missing NULL parameters"),
}


@pytest.mark.long
@pytest.mark.parametrize("case", UNREAD_BY_GO)
def test_verify_and_stage_refuse_a_ca_with_a_key_that_go_does_not_use(host: Host, case: str) -> None:
    """OpenSSL reads it; a rotation to it would end the cluster."""
    new = ca()
    form, words = UNREAD_BY_GO[case]
    given = host.give(new)
    host.certificate.write_bytes(pem_block("CERTIFICATE", with_key(new, new, form(new))))
    for verb in ("verify", "stage"):
        done = host.run(verb, *given)
        assert done.code == 2
        assert words in done.out + done.err


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"extra": [("2.5.29.32", False, tlv(0x30, POLICY + POLICY))]}, "x509: invalid certificate policies"),
        ({"names": ["URI:http://[::1"]}, "x509: cannot parse URI"),
        ({"serial": -1}, "x509: negative serial number"),
        ({"key": "ec-p224"}, "has the key ECDSA-224"),
        ({"is_ca": False, "path_length": 0}, "cryptography"),
    ],
)
def test_verify_and_stage_refuse_an_unreadable_ca(host: Host, changes: dict[str, Any], words: str) -> None:
    """The message has Go's words, once."""
    given = host.give(ca(**changes))
    for verb in ("verify", "stage"):
        done = host.run(verb, *given)
        assert done.code == 2
        assert (done.out + done.err).count(words) == 1


@pytest.mark.parametrize("content", [b"", b"rubbish", None], ids=["empty", "rubbish", "two"])
def test_verify_without_a_certificate(host: Host, content: bytes | None) -> None:
    """A file with no certificate, or two, is not fit."""
    host.certificate.write_bytes(bundle(ca(), ca()) if content is None else content)
    done = host.run("verify", host.certificate)
    assert done.code == 2
    assert str(host.certificate) in done.out
    assert host.document("verify", host.certificate)["certificate"] is None


@pytest.mark.parametrize("verb", ["verify", "stage"])
def test_unreadable_files(host: Host, verb: str) -> None:
    """A missing file, a FIFO without a writer and a file of 2 MiB exit 3, with both files in one message."""
    os.mkfifo(host.key)
    done = host.run(verb, host.certificate, host.key)
    assert done.code == 3
    assert f"certmond cannot read {host.certificate} (No such file or directory)" in done.err
    assert f"certmond cannot read {host.key} (it is not a regular file)" in done.err
    host.certificate.write_bytes(bytes(2 << 20))
    assert "(File too large)" in host.run(verb, host.certificate, host.key).err


@pytest.mark.parametrize("verb", [("show",), ("export",), ("stage", "--generate"), ("verify", "own.crt")])
def test_nothing_is_in_place(tmp_path: Path, verb: tuple[str, ...]) -> None:
    """If the node has no CA of the family, the error reports it, and nothing is created."""
    done = here("root-ca", *verb, "--root", tmp_path)
    assert done.code == 3
    assert f"there is no certificate of ca below {tmp_path}" in done.err
    assert not list(tmp_path.iterdir())


def test_export(host: Host) -> None:
    """The export has each certificate once, in its order, and no key although the file has one."""
    own, other = host.node.read(f"{PKI}/ca.crt"), ca().pem
    host.node.write(f"{PKI}/ca.crt", own + other + own + host.node.read(f"{PKI}/ca.key"))
    done = host.run("export")
    assert (done.code, done.out.encode()) == (0, own + other)


def test_export_into_a_file(host: Host, tmp_path: Path) -> None:
    """The file is replaced as a whole with its mode, at the target of a symlink. A new file is readable for all
    users.
    """
    target, link = tmp_path / "trust.pem", tmp_path / "link.pem"
    before = os.umask(0o077)
    try:
        assert host.run("export", "--output-file", target).code == 0
    finally:
        os.umask(before)
    assert target.read_bytes() == host.node.read(f"{PKI}/ca.crt")
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    target.write_text("old")
    target.chmod(0o600)
    inode = target.stat().st_ino
    link.symlink_to(target)
    assert host.run("export", "--output-file", link).out == ""
    assert link.is_symlink()
    assert target.read_bytes() == host.node.read(f"{PKI}/ca.crt")
    assert (stat.S_IMODE(target.stat().st_mode), target.stat().st_ino == inode) == (0o600, False)
    assert {each.name for each in tmp_path.iterdir()} == {"node", "trust.pem", "link.pem"}


@pytest.mark.parametrize("target", ["fifo", "nowhere/trust.pem", "directory"])  # none of the machine's own
def test_export_to_an_impossible_path(host: Host, tmp_path: Path, target: str) -> None:
    """A path that is no file, or cannot be written, exits 3 with its name, and stays."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    done = host.run("export", "--output-file", tmp_path / target)
    assert done.code == 3
    assert str(tmp_path / target) in done.err
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert {each.name for each in tmp_path.iterdir()} == {"node", "directory", "fifo"}


def test_export_of_a_damaged_file(host: Host) -> None:
    """A partly unreadable file is not exported, because a part of a trust bundle is wrong."""
    host.node.write(f"{PKI}/ca.crt", host.node.read(f"{PKI}/ca.crt") + b"-----BEGIN CERTIFICATE-----\nrubbish\n")
    done = host.run("export")
    assert (done.code, done.out) == (3, "")
    assert "/etc/kubernetes/pki/ca.crt, PEM block 2" in done.err


def test_stage(host: Host) -> None:
    """CERT and KEY are stored, closed to others, and shown with their pin. No file of the node changes."""
    before = {path: path.read_bytes() for path in host.node.path("etc/kubernetes").rglob("*") if path.is_file()}
    new = ca("Example Root", key="rsa")
    done = host.stage(new)
    assert (done.code, done.err) == (0, "")
    assert "mode overlap" in done.out
    found = host.staging.read(Part.NEW)
    assert found
    assert (found.anchor, found.key, found.family, found.fault) == (new.facts, new.facts.key, "ca", None)
    assert stat.S_IMODE(host.staging.directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in host.staging.directory.iterdir()} == {0o600}
    (shown,) = host.document("show")["staged"]
    assert shown["certificate"]["sha256"] == new.facts.sha256
    assert shown["certificate"]["pin"] in done.out
    assert (shown["part"], shown["key_here"], shown["fault"]) == ("new", True, None)
    assert before == {path: path.read_bytes() for path in before}
    trail = [json.loads(line) for line in (host.state / "audit.log").read_text().splitlines()]
    assert [(entry["event"], entry["target"]) for entry in trail] == [("step_begun", "ca"), ("step_done", "ca")]
    assert "PRIVATE" not in (host.state / "audit.log").read_text()


def test_the_next_root_is_found_where_the_node_is(node: Node, tmp_path: Path) -> None:
    """Without --state-dir it is staged below the root, as all that is the node's."""
    assert here("root-ca", "stage", "--generate", "--key-algorithm", "ECDSA-P256", "--root", node.root).code == 0
    assert Staging(node.root / "var/lib/certmond").read(Part.NEW)


def test_refused_with_all_that_speaks_against_it(host: Host) -> None:
    """A bad CA is refused with every problem and exit 2, and leaves nothing, not even a state directory."""
    done = host.run("stage", *host.give(ca(key="rsa-1024", hash="sha1", not_after=NOW - DAY / 24), ca()))
    assert done.code == 2
    assert done.err.count("refused: ") == 4
    assert done.out == ""
    assert not host.state.exists()


def test_an_intermediate_is_refused(host: Host) -> None:
    """Kubernetes supports a Root CA only."""
    done = host.stage(make_intermediate(ca(), not_before=NOW - DAY, not_after=NOW + 10 * YEAR))
    assert done.code == 2
    assert "Kubernetes supports only Root CAs, not intermediate CAs" in done.err


def test_constraints_are_held_against_the_nodes_own_leaves(host: Host) -> None:
    """A CA that may not sign the leaves of this node is refused, with their files."""
    done = host.stage(ca(permitted=["DNS:example.com"]))
    assert done.code == 2
    assert f"cannot sign {host.node.root}/{PKI}/apiserver.crt (has a name that" in done.err


def test_an_unusable_key_is_reported_once(host: Host) -> None:
    """A key with a passphrase is not also reported as missing."""
    new = ca()
    host.give(new)
    host.key.write_bytes(new.key_as(PrivateFormat.PKCS8, b"secret"))
    done = host.run("stage", host.certificate, host.key)
    assert (done.code, done.err.count("refused: ")) == (2, 1)
    assert f"the private key in {host.key} is encrypted" in done.err


def test_a_warning_does_not_stop_stage(host: Host) -> None:
    """A CA with warnings is staged, and they are printed on standard error."""
    host.give(ca(serial=0))
    host.key.chmod(0o644)
    done = host.run("stage", host.certificate, host.key)
    assert done.code == 0
    assert done.err.count("warning: ") == 2
    assert host.staging.read(Part.NEW)


def test_not_in_place_of_another(host: Host) -> None:
    """A staged CA is replaced with --force only. The same CA again changes nothing."""
    first, second = ca("first"), ca("second")
    assert host.stage(first).code == 0
    assert host.stage(first).code == 0
    assert len((host.state / "audit.log").read_text().splitlines()) == 2
    done = host.stage(second)
    assert done.code == 2
    assert "to replace it and delete its key, give --force" in done.err
    assert (found := host.staging.read(Part.NEW))
    assert found.anchor == first.facts
    assert host.stage(second, "--force").code == 0
    assert (found := host.staging.read(Part.NEW))
    assert found.anchor == second.facts


def test_the_same_ca_for_another_family_is_another(host: Host) -> None:
    """A CA that is staged for one family does not count for another."""
    new = ca("shared")
    assert host.stage(new).code == 0
    assert host.stage(new, "--family", "etcd-ca").code == 2


def test_an_incomplete_staging_is_repaired(host: Host) -> None:
    """The leftovers of a killed process are reported as incomplete, and staging again repairs them, without --force."""
    assert host.stage(ca()).code == 0
    (host.staging.directory / "new.crt").unlink()
    assert "is incomplete" in host.run("show").out
    assert host.stage(new := ca()).code == 0
    assert (found := host.staging.read(Part.NEW))
    assert (found.anchor, found.fault) == (new.facts, None)


def test_the_ca_of_the_rotation_is_staged_while_it_is_under_way(host: Host) -> None:
    """A node may read the record before its CA is staged there, or have lost it: `stage` accepts that CA, and no
    other.
    """
    new, now = ca(), datetime.now(UTC)
    under_way = Rotation("r1", "ca", Mode.OVERLAP, (ca().facts,), new.facts, Phase.PREPARE, now)
    with Transactions(str(host.node.root), host.state).lock():
        RotationRecord(host.state).save(under_way)
    done = host.stage(ca())
    assert (done.code, host.staging.read(Part.NEW)) == (2, None)
    assert host.stage(new).code == 0
    assert (found := host.staging.read(Part.NEW))
    assert found.anchor == new.facts


@pytest.mark.long
@pytest.mark.parametrize("record", ['{"id": "r1", "family": "ca", "phase": "trust"}', "{"])
def test_not_while_a_rotation_is_under_way(host: Host, record: str) -> None:
    """A rotation needs its staged CA: no other replaces it, with or without --force. `show` has its phase."""
    assert host.stage(ca()).code == 0
    (host.staging.directory / "record.json").write_text(record)
    done = host.stage(ca(), "--force")
    assert done.code == 2
    assert "a rotation is in progress" in done.err
    rotation = host.document("show")["rotation"]
    assert rotation["phase"] == ("trust" if "trust" in record else "")
    reported = (
        "rotation r1 of ca: phase trust" if "trust" in record else "certmond cannot read the record of a rotation"
    )
    assert reported in host.run("show").out
    (host.staging.directory / "record.json").unlink()
    assert host.stage(ca(), "--force").code == 0
    assert host.document("show")["rotation"] is None


def test_not_before_the_end_of_a_rotation(host: Host) -> None:
    """The end of a rotation in the phase `done` destroys a staged CA. Nothing is staged until then, `show` has the
    phase, and the refusal names the command that ends it.
    """
    host.staging.directory.mkdir(parents=True)
    (host.staging.directory / "record.json").write_text('{"id": "r1", "family": "etcd-ca", "phase": "done"}')
    refused = host.stage(ca())
    assert (refused.code, host.staging.read(Part.NEW)) == (2, None)
    assert "a rotation is in progress (family etcd-ca, phase done), and its end deletes the staged files" in refused.err
    remedy = f"complete it first: certmond --root {host.node.root} root-ca rotate --family etcd-ca"
    assert remedy in refused.err
    assert "rotation r1 of etcd-ca: phase done" in host.run("show").out


def test_staging_exits_3_while_another_certmond_writes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process writes, nothing is staged, and the error names that process."""
    monkeypatch.setattr("certmond.cli.step_handover.PATIENCE", timedelta())
    with Transactions(str(host.node.root), host.state).lock():
        done = host.stage(ca())
    assert done.code == 3
    assert f"another command (process {os.getpid()}) is writing on this node" in done.err
    assert not host.staging.directory.exists()


def test_where_nothing_can_be_written(host: Host, tmp_path: Path) -> None:
    """A directory that leads elsewhere is not written into: exit 3, and the trail has that it failed."""
    host.state.mkdir(mode=0o700)
    host.staging.directory.symlink_to(tmp_path)
    done = host.stage(ca())
    assert done.code == 3
    assert "rotation could not be written" in done.err
    assert not list(tmp_path.glob("new.*"))
    trail = [json.loads(line) for line in (host.state / "audit.log").read_text().splitlines()]
    assert [entry["event"] for entry in trail] == ["step_begun", "step_failed"]


@pytest.mark.real("openssl")
def test_generate(host: Host, tmp_path: Path) -> None:
    """--generate makes a CA of the present name, and of the requested kind and lifetime. OpenSSL verifies the node's
    leaves with the old and new CA, in any order.
    """
    done = host.run("stage", "--generate", "--key-algorithm", "ECDSA-P384", "--validity", "20y")
    assert (done.code, done.err) == (0, "")
    found = host.staging.read(Part.NEW)
    assert found
    assert isinstance(found.anchor, Certificate)
    assert (found.anchor.subject, str(found.anchor.key)) == ("CN=kubernetes", "ECDSA-384")
    assert abs(found.anchor.not_after - NOW - 20 * YEAR) < DAY
    old, new = host.node.read(f"{PKI}/ca.crt"), (host.staging.directory / "new.crt").read_bytes()
    for trusted in (old + new, new + old):
        (tmp_path / "ca.pem").write_bytes(trusted)
        for name in ("apiserver", "apiserver-kubelet-client"):
            leaf = host.node.path(f"{PKI}/{name}.crt")
            command = [real_part("openssl"), "verify", "-CAfile", str(tmp_path / "ca.pem"), str(leaf)]
            assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_generate_by_default_as_the_present_one(host: Host) -> None:
    """By default the key is of the present kind, and the lifetime is that of the entry."""
    assert host.run("stage", "--generate").code == 0
    assert (found := host.staging.read(Part.NEW))
    assert isinstance(found.anchor, Certificate)
    assert str(found.anchor.key) == "RSA-2048"
    assert abs(found.anchor.not_after - NOW - 10 * YEAR) < DAY


def test_a_short_one_is_warned_of(host: Host) -> None:
    """A CA that is made for less than its leaves live is warned of."""
    done = host.run("stage", "--generate", "--key-algorithm", "Ed25519", "--validity", "30d")
    assert done.code == 0
    assert "the new CA ends on" in done.err


@pytest.mark.real("openssl")
def test_reuse_key(host: Host) -> None:
    """--reuse-key reissues the present CA with the same key, pin, name and identifier. The new one alone verifies every
    leaf, by certmond and by OpenSSL.
    """
    (present,) = host.document("show")["present"]
    done = host.run("stage", "--reuse-key", "--validity", "15y")
    assert done.code == 0
    assert "mode reissue" in done.out
    assert present["pin"] in done.out
    path = host.staging.directory / "new.crt"
    old, new = (parse_certificate(_der(each)) for each in (host.node.path(f"{PKI}/ca.crt"), path))
    assert (new.subject_key_id, new.key, new.subject_der) == (old.subject_key_id, old.key, old.subject_der)
    assert new.serial != old.serial
    assert abs(new.not_after - NOW - 15 * YEAR) < DAY
    assert all(leaf["chains"] for leaf in host.document("verify", path)["leaves"])
    leaf = host.node.path(f"{PKI}/apiserver.crt")
    command = [real_part("openssl"), "verify", "-CAfile", str(path), str(leaf)]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def _der(path: Path) -> bytes:
    return base64.b64decode("".join(path.read_text().splitlines()[1:-1]))


def test_without_the_key_of_the_present_one(host: Host) -> None:
    """On a node without the CA's key, such as a worker, the certificate is staged alone; a key does not belong there,
    and none is made there.
    """
    host.node.path(f"{PKI}/ca.key").unlink()
    done = host.stage(ca())
    assert done.code == 2
    assert f"omit {host.key}" in done.err
    for how in ("--generate", "--reuse-key"):
        assert "create the CA on a node that signs" in (refused := host.run("stage", how)).err
        assert refused.code == 2
    new = ca()
    host.give(new)
    assert host.run("stage", host.certificate).code == 0
    assert (found := host.staging.read(Part.NEW))
    assert (found.anchor, found.key) == (new.facts, None)


def test_with_the_key_of_the_present_one(host: Host) -> None:
    """If the node signs, a CA without its key is refused."""
    host.give(ca())
    done = host.run("stage", host.certificate)
    assert done.code == 2
    assert "give the private key" in done.err
    host.give(ca(hash="sha1"))
    assert host.run("stage", host.certificate).err.count("refused: ") == 2
    assert not host.state.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("stage",),
        ("stage", "--generate", "--reuse-key"),
        ("stage", "own.crt", "own.key", "--generate"),
        ("stage", "--reuse-key", "--key-algorithm", "RSA-2048"),
        ("stage", "own.crt", "own.key", "--validity", "10y"),
        ("stage", "--generate", "--key-algorithm", "DSA"),
        ("stage", "--generate", "--validity", "long"),
        ("show", "--family", "nonsense"),
        ("nonsense",),
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together(host: Host, arguments: tuple[str, ...]) -> None:
    """A contradictory call exits 3 and changes nothing."""
    done = host.run(*arguments)
    assert done.code == 3
    assert done.err.strip()
    assert not host.state.exists()


def test_a_validity_beyond_the_calendar(host: Host) -> None:
    """A CA ends with the calendar at the latest."""
    assert host.run("stage", "--generate", "--key-algorithm", "Ed25519", "--validity", "999999y").code == 0
    assert (found := host.staging.read(Part.NEW))
    assert isinstance(found.anchor, Certificate)
    assert found.anchor.not_after.year == 9999


def test_a_configuration_that_others_can_write_is_refused(host: Host, tmp_path: Path) -> None:
    """A user who could choose the staged CA could choose the trust of the cluster."""
    config = tmp_path / "config.yaml"
    config.write_text("mode: observe\n")
    config.chmod(0o666)
    done = host.run("stage", "--generate", "--config", config)
    assert done.code == 3
    assert "is writable by other users" in done.err
    assert not host.state.exists()


@pytest.mark.long
def test_the_entry_point(host: Host) -> None:
    """As a separate process the group prints its help, stages under any umask, and leaves no core dump of the key."""
    done = separate("root-ca", "--help")
    assert done.returncode == 0
    for verb in ("show", "verify", "export", "stage"):
        assert f"\n  {verb}" in done.stdout
        assert separate("root-ca", verb, "--help").returncode == 0
    given = host.give(ca())
    before = os.umask(0)
    try:
        done = separate("root-ca", "stage", *given, "--root", host.node.root, "--state-dir", host.state)
    finally:
        os.umask(before)
    assert (done.returncode, done.stderr) == (0, "")
    assert stat.S_IMODE((host.state / "rotation/new.key").stat().st_mode) == 0o600


@pytest.mark.long
def test_show_runs_as_any_user(host: Host) -> None:
    """If the caller may not read the state directory, `show` reports that, and shows everything else."""
    if os.geteuid() != 0:
        unavailable("only root can stop being root")
    assert host.stage(ca()).code == 0
    host.staging.directory.chmod(0)
    done = separate("root-ca", "show", "--root", host.node.root, "--state-dir", host.state, before=UNPRIVILEGED)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("rotation could not be read (Permission denied)") == 1
    assert "no rotation is in progress" not in done.stdout
    assert "CN=kubernetes" in done.stdout


def test_time_is_left_to_settle(host: Host) -> None:
    """A CA that was made this minute is refused, with the time from which it would be accepted."""
    born = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=30)
    done = host.stage(ca(not_before=born))
    assert done.code == 2
    assert f"wait until {born + timedelta(seconds=300):%Y-%m-%d %H:%M:%S} UTC" in done.err
