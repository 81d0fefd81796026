"""The origin of a certificate: the old CAs that the node knows, and the later certificates of certmond."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import CertificateStatus, assess
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.observation import Inventory, Observation, PatternContents, Provenance
from certmond.pki.planning.installed_successors import Renewals
from certmond.pki.planning.steps import Identity
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.signing.policy import basis, contents_of
from certmond.renewal import certificate_origin
from certmond.renewal.certificate_origin import ProvenanceLookup
from certmond.renewal.due_certificates import DueCertificates
from certmond.state.archive import Archive, archive_name
from certmond.state.renewals import Ledger
from certmond.state.rotation_record import RotationRecord
from tests.builders import DAY, HOUR, NOW, YEAR, Issued, make_ca, make_intermediate, make_leaf
from tests.test_renewal import Host, kubeconfig

FORMER = make_ca()
ALICE = 64_101


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A node with a pair, a kubeconfig and a kubelet's PEM, all of them due."""
    return Host(tmp_path / "host", "apiserver", "admin.conf", "kubelet-client")


def inventory(host: Host) -> Inventory:
    return Store(host.config.certificates, str(host.root)).observe()


def evidence(
    config: Config, host: Host, seen: Inventory, now: datetime = NOW, **options: Any
) -> dict[Identity, Provenance]:
    due = DueCertificates(config).of(seen, now, **options)
    return ProvenanceLookup(config, str(host.root), host.state).of_due(due, seen, now)


def found(host: Host, now: datetime = NOW, **options: Any) -> dict[str, Provenance]:
    return {name: each for (name, _), each in evidence(host.config, host, inventory(host), now, **options).items()}


def status_of(seen: Observation, known: Provenance | None = None) -> CertificateStatus:
    """Return the status of a certificate for which a pass has collected the evidence `known`."""
    (status,) = assess(Inventory((seen,), {}), NOW).statuses
    return replace(status, presence=replace(status.presence, provenance=known))


def test_an_old_ca_is_known_from_the_record_the_archive_and_kubeconfigs_of_root(host: Host) -> None:
    """Each of the three suffices. If the record has the CAs, kubeconfigs add none."""
    own = {host.ca.facts}
    assert {*found(host)["apiserver"].former} == own  # what the kubeconfigs embed

    record = RotationRecord(host.state)
    record.accept({"ca": (FORMER.facts,), "other": (make_ca().facts,)})
    assert {*found(host)["apiserver"].former} == {FORMER.facts}
    record.accept({})
    other = make_ca()
    record.save(Rotation("r", "ca", Mode.OVERLAP, (FORMER.facts,), other.facts, Phase.TRUST, NOW))
    assert {*found(host)["apiserver"].former} == {FORMER.facts, other.facts}
    (host.state / "rotation/record.json").unlink()

    path = host.place / "ca.crt"
    path.write_bytes(FORMER.pem)
    Archive(host.state).store("ca", {"/etc/kubernetes/pki/ca.crt": path}, NOW, {})
    assert {*found(host)["apiserver"].former} == own | {FORMER.facts}
    seen = next(each for each in inventory(host).observations if each.name == "apiserver")
    now_known = ProvenanceLookup(host.config, str(host.root), host.state).of(status_of(seen), "ca", Renewals({}))
    assert now_known.former == (FORMER.facts,)

    conf = host.at("/etc/kubernetes/admin.conf")
    os.chown(conf, ALICE, ALICE)
    assert {*found(host)["apiserver"].former} == {FORMER.facts}


def test_the_ca_of_another_cluster_in_one_kubeconfig_is_no_old_one(host: Host) -> None:
    """A context of another cluster in one kubeconfig of root proves nothing: each kubeconfig must embed the CA."""
    other = make_ca()
    host.entries["second.conf"] = {**host.entries["admin.conf"], "path": "/etc/kubernetes/second.conf"}
    host.put("/etc/kubernetes/second.conf", kubeconfig(other, make_leaf(other)), 0o600)
    assert found(host)["apiserver"].former == ()
    host.put("/etc/kubernetes/admin.conf", kubeconfig(other, make_leaf(other)), 0o600)
    assert found(host)["apiserver"].former == (other.facts,)


def test_users_who_can_change_the_ca_file_are_reported(host: Host) -> None:
    """Root and the owner that the CA's entry declares are not."""
    assert found(host)["apiserver"].ca_writers == ""
    os.chown(host.at("/etc/kubernetes/pki/ca.crt"), ALICE, ALICE)
    assert found(host)["apiserver"].ca_writers == f"/etc/kubernetes/pki/ca.crt belongs to user {ALICE}"


def test_the_old_cas_are_those_of_the_ca_that_signs(host: Host) -> None:
    """If an entry accepts several CAs, the first one on the node signs, and no other counts."""
    site = make_ca("site")
    host.put("/etc/site.crt", site.pem)
    host.put("/etc/site.key", site.key_pem, 0o600)
    RotationRecord(host.state).accept({"ca": (host.ca.facts,), "site": (FORMER.facts,)})
    document = host.document()
    document["certificates"].append(
        {"name": "site", "path": "/etc/site.crt", "key": "/etc/site.key", "authority": True}
    )
    for entry in document["certificates"]:
        if entry["name"] == "apiserver":
            entry["ca"] = ["site", "ca"]
    config = parse([Source("test", yaml.safe_dump(document))])
    seen = Store(config.certificates, str(host.root)).observe()
    lookup = evidence(config, host, seen)
    assert lookup["apiserver", host.entries["apiserver"]["path"]].former == (FORMER.facts,)
    (status,) = (each for each in assess(seen, NOW).statuses if each.seen.name == "apiserver")
    assert status.issuers == (site.facts,)


def test_in_a_pattern_a_later_certificate_may_have_another_name(host: Host) -> None:
    """Where the owner can write its files, one of the same common name with other contents that ends later counts."""
    host.entries = {"many": {"path": "/srv/*.pem", "key": "/srv/*.pem", "owner": str(ALICE)}}
    dates: Any = {"not_before": NOW - YEAR}
    old, later = (
        make_leaf(host.ca, "app", not_after=NOW, names=["DNS:app"], **dates),
        make_leaf(host.ca, "app", not_after=NOW + DAY, **dates),
    )
    for name, each in (
        ("old", old),
        ("later", later),
        ("other", make_leaf(host.ca, "b", not_after=NOW + DAY, **dates)),
    ):
        host.put(f"/srv/{name}.pem", each.pem + each.key_pem, 0o600)
        os.chown(host.at(f"/srv/{name}.pem"), ALICE, ALICE)
    lookup = evidence(host.config, host, inventory(host))
    assert lookup["many", "/srv/old.pem"].later_issued == (later.facts,)
    assert lookup["many", "/srv/old.pem"].possessed
    assert lookup["many", "/srv/later.pem"].later_issued == ()


def shared_name(host: Host, count: int, forged: int = 0) -> None:
    """Write `count` due certificates, as many later ones, and `forged` ones of another CA, all with one common name."""
    host.entries = {"many": {"path": "/srv/*.pem", "key": "/srv/*.pem", "owner": str(ALICE)}}
    makers: Any = [
        ("old", host.ca, NOW + HOUR, count),
        ("new", host.ca, NOW + YEAR, count),
        ("forged", FORMER, NOW + 2 * YEAR, forged),
    ]
    for name, ca, end, number in makers:
        for each in range(number):
            dates: Any = {"not_before": NOW - YEAR, "not_after": end + timedelta(seconds=each)}
            leaf = make_leaf(ca, "app", names=["DNS:app"] if name == "old" else None, **dates)
            host.put(f"/srv/{name}-{each}.pem", leaf.pem + leaf.key_pem, 0o600)
            os.chown(host.at(f"/srv/{name}-{each}.pem"), ALICE, ALICE)


def test_one_certificate_represents_the_others_with_its_contents(host: Host) -> None:
    """However many files have later certificates with equal contents, the evidence contains the last of these. It does
    not contain a certificate that no CA of the entry has issued.
    """
    shared_name(host, 3, forged=2)
    (last,) = x509.load_pem_x509_certificates(host.at("/srv/new-2.pem").read_bytes())
    lookup = evidence(host.config, host, inventory(host))
    for number in range(3):
        (found,) = lookup["many", f"/srv/old-{number}.pem"].later_issued
        assert found.serial == last.serial_number


def test_due_certificates_of_one_common_name_share_their_comparison(host: Host) -> None:
    """The number of later certificates in the evidence does not grow with the number of files, and the evidence for
    each file refers to the same object for all files.
    """
    shared_name(host, 6)
    seen, lookup = inventory(host), ProvenanceLookup(host.config, str(host.root), host.state)
    due = DueCertificates(host.config).of(seen, NOW)
    found = [*lookup.of_due(due, seen, NOW, within=3600.0).values()]
    assert len(found) == 6
    assert all(len(each.later_issued) <= 1 for each in found)
    assert len({id(each.beside) for each in found}) == 1


def test_the_files_of_one_entry_do_not_delay_those_of_another(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a pass has time for one file, the next pass begins with another entry, although the owner of the first entry
    changes all its files again and again. After the last file without evidence, the oldest evidence is next.
    """
    shared_name(host, 3)
    host.entries["last"] = {**host.entries["many"], "path": "/var/*.pem", "key": "/var/*.pem"}
    leaf = make_leaf(host.ca, "last", not_before=NOW - YEAR, not_after=NOW + HOUR)
    host.put("/var/last.pem", leaf.pem + leaf.key_pem, 0o600)
    lookup, clock = ProvenanceLookup(host.config, str(host.root), host.state), mock.Mock()
    monkeypatch.setattr(certificate_origin, "time", clock)
    collected = list[set[str]]()

    def one_pass(seen: Inventory, now: datetime) -> None:
        clock.monotonic.side_effect = [0.0, 0.0, *[1.0] * 20]
        before = {*lookup._evidence.values()}
        lookup.of_due(DueCertificates(host.config).of(seen, NOW), seen, now, within=0.5)
        collected.append({each.seen.path for each in {*lookup._evidence.values()} - before})

    for number in range(4):
        for each in range(3):  # a new file with the same content
            path = host.at(f"/srv/old-{each}.pem")
            path.write_bytes(path.read_bytes() + b"\n")
        one_pass(inventory(host), NOW + timedelta(seconds=number))
    assert [paths & {"/var/last.pem"} for paths in collected[:2]] == [set(), {"/var/last.pem"}]
    seen = inventory(host)
    collected.clear()
    for number in range(12):  # in each pass, all evidence is older than the interval of full passes
        one_pass(seen, NOW + (number + 1) * host.config.resync)
    everything = {each.path for each in DueCertificates(host.config).of(seen, NOW)}
    assert set().union(*collected[:6]) == set().union(*collected[6:]) == everything
    assert ["/var/last.pem" in one | two for one, two in pairwise(collected)] == [True] * 11
    collected.clear()
    for number in range(6):
        for each in range(3):
            path = host.at(f"/srv/old-{each}.pem")
            path.write_bytes(path.read_bytes() + b"\n")
        one_pass(inventory(host), NOW + (number + 20) * host.config.resync)
    assert sum("/var/last.pem" in paths for paths in collected) == 3  # new files do not delay old evidence
    assert set().union(*collected) == everything  # the first files do not delay the other files of their entry


def test_a_renewal_of_another_file_counts_at_once(host: Host) -> None:
    """The cached evidence about a file does not hide that certmond has renewed another file of the pattern."""
    shared_name(host, 1)
    host.at("/srv/new-0.pem").unlink()
    seen, lookup = inventory(host), ProvenanceLookup(host.config, str(host.root), host.state)
    due = DueCertificates(host.config).of(seen, NOW)
    assert not lookup.of_due(due, seen, NOW, within=3600.0)["many", "/srv/old-0.pem"].lost
    Ledger(host.state).store(("many", "/srv/b.pem"), Attempt(NOW, sha256="0" * 64, common_name="app"))
    assert lookup.of_due(due, seen, NOW, within=0.0)["many", "/srv/old-0.pem"].lost


def test_evidence_is_gathered_for_a_part_of_a_pass_and_used_again(host: Host) -> None:
    """What is not looked up in time is left out. What was looked up is used again for the same observations, but not
    for a file that has changed. After the next resync, it is looked up again if there is time.
    """
    lookup, seen = ProvenanceLookup(host.config, str(host.root), host.state), inventory(host)
    everything = {each.identity for each in seen.observations if not each.spec.authority}
    due = DueCertificates(host.config).of(seen, NOW)
    assert lookup.of_due(due, seen, NOW, within=0.0) == {}
    assert lookup.of_due(due, seen, NOW, within=3600.0).keys() == everything
    assert lookup.of_due(due, seen, NOW + timedelta(seconds=1), within=0.0).keys() == everything
    assert lookup.is_complete
    before = {**lookup._evidence}
    assert lookup.of_due(due, seen, NOW + host.config.resync, within=0.0).keys() == everything
    assert lookup._evidence == before
    assert lookup.of_due(due, seen, NOW + host.config.resync, within=3600.0).keys() == everything
    assert not lookup._evidence.items() & before.items()
    again = inventory(host)
    assert lookup.of_due(DueCertificates(host.config).of(again, NOW), again, NOW, within=0.0) == {}
    assert not lookup.is_complete


def test_evidence_is_collected_again_if_its_inputs_have_changed(host: Host) -> None:
    """The inputs are the last attempt, and the present and former CAs. After the clock was set back, all evidence is
    collected again.
    """
    lookup, seen = ProvenanceLookup(host.config, str(host.root), host.state), inventory(host)
    due = DueCertificates(host.config).of(seen, NOW)
    everything = lookup.of_due(due, seen, NOW, within=3600.0).keys()
    Ledger(host.state).store(due[0].identity, Attempt(NOW))
    assert lookup.of_due(due, seen, NOW, within=0.0).keys() == everything - {due[0].identity}
    lookup.of_due(due, seen, NOW, within=3600.0)
    cas = (replace(each, certificates=(FORMER.facts,)) if each.spec.authority else each for each in seen.observations)
    assert lookup.of_due(due, replace(seen, observations=tuple(cas)), NOW, within=0.0) == {}
    lookup.of_due(due, seen, NOW, within=3600.0)
    before = {**lookup._evidence}
    assert lookup.of_due(due, seen, NOW - HOUR, within=3600.0).keys() == everything
    assert not lookup._evidence.items() & before.items()
    RotationRecord(host.state).accept({"ca": (FORMER.facts,)})
    assert lookup.of_due(due, seen, NOW - HOUR, within=0.0) == {}


def test_only_genuine_cas_are_kept_as_intermediates(host: Host) -> None:
    """The owner can add a thousand certificates with the name of a CA to the file and to its archived generations."""
    issuing = make_intermediate(host.ca, "sub")
    false = [make_intermediate(make_ca(), "sub"), make_ca()]
    leaf = make_leaf(issuing, "app", not_before=NOW - YEAR, not_after=NOW + HOUR)
    host.entries["many"] = {"path": "/srv/*.pem", "key": "/srv/*.pem", "owner": str(ALICE)}
    host.put("/srv/a.pem", b"".join(each.pem for each in (leaf, *false, issuing)) + leaf.key_pem, 0o600)
    assert found(host)["many"].intermediates == ()  # without an archived certificate, no CA is needed
    (spec,) = (each for each in host.config.certificates if each.name == "many")
    Archive(host.state).store(archive_name(spec, "/srv/a.pem"), {"/srv/a.pem": host.at("/srv/a.pem")}, NOW, {})
    assert found(host)["many"].intermediates == (issuing.facts,)
    host.put("/srv/a.pem", leaf.pem + leaf.key_pem, 0o600)
    Archive(host.state).store(archive_name(spec, "/srv/b.pem"), {"/srv/b.pem": host.at("/srv/a.pem")}, NOW, {})
    alone = make_leaf(host.ca, "app", not_before=NOW - YEAR, not_after=NOW + HOUR)
    host.put("/srv/b.pem", alone.pem + issuing.pem + alone.key_pem, 0o600)  # the CA of the archived certificate
    assert evidence(host.config, host, inventory(host))["many", "/srv/b.pem"].intermediates == (issuing.facts,)


def test_the_evidence_before_a_signature_adds_to_that_of_the_plan(host: Host) -> None:
    """Only the plan compares with the other files. A certificate that these contain is not lost. Without the evidence
    of a plan, a later renewal of another file counts as lost.
    """
    shared_name(host, 1)
    seen = inventory(host)
    old, new = (each for name in ("old", "new") for each in seen.observations if each.path == f"/srv/{name}-0.pem")
    last = Attempt(NOW, sha256=new.certificates[0].sha256, common_name="app")
    renewals, lookup = Renewals({old.identity: last}), ProvenanceLookup(host.config, str(host.root), host.state)
    plan = Provenance(beside=PatternContents({new.certificates[0]: contents_of(new.certificates[0])}))
    for recorded in (renewals, Renewals({new.identity: last})):
        assert lookup.of(status_of(old), "ca", recorded).lost
        found = lookup.of(status_of(old, plan), "ca", recorded)
        assert (found.later_issued, found.lost) == (new.certificates, None)
    assert lookup.of(status_of(old, Provenance(lost=NOW)), "ca", Renewals({})).lost
    since = Renewals({new.identity: replace(last, sha256="0" * 64)})
    assert lookup.of(status_of(old, plan), "ca", since).lost


def test_the_renewals_of_other_files_count_only_in_a_pattern_of_another_user(host: Host) -> None:
    """They do not count for a single file, or if only root can write the files."""
    shared_name(host, 1)
    host.entries["one"] = {"path": "/one.pem", "key": "/one.pem", "owner": str(ALICE)}
    host.put("/one.pem", host.at("/srv/old-0.pem").read_bytes(), 0o600)
    os.chown(host.at("/one.pem"), ALICE, ALICE)
    lookup = ProvenanceLookup(host.config, str(host.root), host.state)
    for path, name, is_lost in (("/srv/old-0.pem", "many", True), ("/one.pem", "one", False)):
        (seen,) = (each for each in inventory(host).observations if each.path == path)
        recorded = Renewals({(name, "/srv/former.pem"): Attempt(NOW, sha256="0" * 64, common_name="app")})
        assert lookup.of(status_of(seen), "ca", recorded).lost == (NOW if is_lost else None)
        os.chown(host.at(path), 0, 0)
        assert not lookup.of(status_of(seen), "ca", recorded).lost


def test_possession_of_a_self_signed_certificate_does_not_count(host: Host) -> None:
    """A self-signed certificate of the owner is not possessed, whatever key is beside it."""
    host.entries["apiserver"] |= {"owner": str(ALICE)}
    own = make_ca("app", is_ca=None, not_before=NOW - YEAR, not_after=NOW + DAY)
    host.put(host.entries["apiserver"]["path"], own.pem)
    host.put(host.entries["apiserver"]["key"], own.key_pem, 0o600)
    os.chown(host.at(host.entries["apiserver"]["path"]), ALICE, ALICE)
    assert (found(host)["apiserver"].owner_writes, found(host)["apiserver"].possessed) == (True, False)


@pytest.mark.parametrize("right", [True, False])
def test_a_key_that_a_kubeconfig_refers_to_is_not_possessed(host: Host, *, right: bool) -> None:
    """Its owner chooses which file of root that is: whether it is the right key makes no difference."""
    leaf = make_leaf(host.ca, "bob", not_before=NOW - YEAR, not_after=NOW + DAY)
    host.put("/root/bob.key", leaf.key_pem if right else make_leaf(host.ca).key_pem, 0o600)
    user = {"client-certificate-data": base64.b64encode(leaf.pem).decode(), "client-key": "/root/bob.key"}
    path = host.entries["admin.conf"]["path"]
    host.put(path, yaml.safe_dump({"users": [{"name": "bob", "user": user}]}).encode(), 0o600)
    os.chown(host.at(path), ALICE, ALICE)
    host.entries["admin.conf"] |= {"owner": str(ALICE)}
    assert (found(host)["admin.conf"].owner_writes, found(host)["admin.conf"].possessed) == (True, False)


def test_a_key_that_appears_after_the_scan_is_not_possessed(host: Host) -> None:
    """The scan read another key beside the certificate: a later right key proves nothing about the scan."""
    path = host.entries["admin.conf"]["path"]
    host.entries["admin.conf"] |= {"owner": str(ALICE)}
    leaf = make_leaf(host.ca, "bob", not_before=NOW - YEAR, not_after=NOW + DAY)

    def put(key: bytes) -> None:
        encoded = {
            "client-certificate-data": base64.b64encode(leaf.pem).decode(),
            "client-key-data": base64.b64encode(key).decode(),
        }
        host.put(path, yaml.safe_dump({"users": [{"name": "bob", "user": encoded}]}).encode(), 0o600)
        os.chown(host.at(path), ALICE, ALICE)

    put(make_leaf(host.ca).key_pem)
    seen = inventory(host)
    put(leaf.key_pem)
    assert not evidence(host.config, host, seen)["admin.conf", path].possessed
    assert evidence(host.config, host, inventory(host))["admin.conf", path].possessed


def archived(host: Host, issued: Issued, at: timedelta = -DAY, chain: bytes = b"") -> None:
    path = host.place / "old.crt"
    path.write_bytes(issued.pem + chain)
    Archive(host.state).store("apiserver", {host.entries["apiserver"]["path"]: path}, NOW + at, {})


def test_certificates_that_were_there_later_are_those_that_end_later(host: Host) -> None:
    """Of the archive; an earlier one does not count."""
    later, earlier = make_leaf(host.ca, not_after=NOW + YEAR), make_leaf(host.ca, not_after=NOW - DAY)
    archived(host, later, -2 * DAY)
    archived(host, earlier)
    assert found(host)["apiserver"].later == (later.facts,)
    assert found(host)["apiserver"].lost is None


def test_the_chain_of_an_archived_certificate_is_that_of_its_file(host: Host) -> None:
    """The owner can remove the intermediate CA from the present file, but not from the archive."""
    sub = make_intermediate(host.ca)
    later = make_leaf(sub, not_after=NOW + YEAR)
    archived(host, later, chain=sub.pem)
    evidence_of = found(host)["apiserver"]
    assert evidence_of.intermediates == (sub.facts,)
    assert basis(present_of(host).facts, (), (host.ca.facts,), evidence_of).later == (later.facts,)


def test_an_unreadable_archive_hides_only_the_evidence_about_its_file(host: Host) -> None:
    """The executor raises the same error for this file alone."""
    archived(host, make_leaf(host.ca))
    (description,) = host.state.glob("archive/apiserver/*/*.json")
    description.write_text('{"version": 99}')
    everything = {each.name for each in inventory(host).observations if not each.spec.authority}
    assert found(host).keys() == everything - {"apiserver"}


def present_of(host: Host) -> Issued:
    """Return the installed certificate."""
    (certificate,) = x509.load_pem_x509_certificates(host.at(host.entries["apiserver"]["path"]).read_bytes())
    return Issued(certificate.public_bytes(Encoding.DER), host.keys[1], certificate.subject, None, None)


def known_facts(host: Host, sha256: str, ends_at: Any) -> None:
    identity = ("apiserver", host.entries["apiserver"]["path"])
    Ledger(host.state).store(identity, Attempt(NOW - DAY, sha256=sha256, ends_at=ends_at))


def test_the_last_certificate_of_certmond_is_lost_if_no_generation_has_it(host: Host) -> None:
    """If the present certificate ends before it, or is in the archive itself, the last one was replaced and an older
    one restored.
    """
    known_facts(host, "0" * 64, NOW + YEAR)
    assert found(host)["apiserver"].lost
    known_facts(host, "0" * 64, NOW + HOUR)
    assert not found(host)["apiserver"].lost  # the present one is newer: another program renewed it
    present = present_of(host)
    archived(host, present)
    assert found(host)["apiserver"].lost
    known_facts(host, present.facts.sha256, NOW + HOUR)
    assert not found(host)["apiserver"].lost


def test_the_last_one_is_later_where_a_generation_has_it(host: Host) -> None:
    """Even if it ends before the present one, as one of a shorter validity does."""
    last = make_leaf(host.ca, not_after=NOW + DAY)
    present = present_of(host)
    archived(host, present, -2 * DAY)
    archived(host, last)
    known_facts(host, last.facts.sha256, NOW + DAY)
    assert (found(host)["apiserver"].later, found(host)["apiserver"].later_issued) == ((), (last.facts,))
    assert not found(host)["apiserver"].lost


def test_writers_are_those_of_certificate_and_key(host: Host) -> None:
    """A key in a directory that every user can write is reported as well."""
    host.entries["apiserver"] |= {"key": "/srv/apiserver.key"}
    host.put("/srv/apiserver.key", host.at("/etc/kubernetes/pki/apiserver.key").read_bytes(), 0o600)
    host.at("/srv").chmod(0o777)
    assert found(host)["apiserver"].path_writers == "/srv can be written by every user (mode 0777)"


def test_a_kubeconfig_that_refers_to_its_ca_tells_nothing(host: Host) -> None:
    """Its trust is what another file holds."""
    config = kubeconfig(host.ca, make_leaf(host.ca)).replace(b"certificate-authority-data", b"x-data")
    host.put("/etc/kubernetes/admin.conf", config, 0o600)
    assert found(host)["apiserver"].former == ()
