"""Permissions to sign the certificates of a pattern that its owner can write, in one execution of a plan."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.planning.steps import Plan
from tests.builders import DAY, NOW, YEAR, make_leaf
from tests.test_renewal import Host, certmond, now

ALICE = 64_101


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A node with a pattern of the user ALICE, and no certificate in a file of this pattern."""
    made = Host(tmp_path / "host", "apiserver")
    made.entries = {"many": {"path": "/srv/*.pem", "key": "/srv/*.pem", "owner": str(ALICE)}}
    return made


def put(host: Host, name: str, common_name: str = "app", **fields: Any) -> None:
    """Write a due certificate and its key."""
    fields = {"not_before": NOW - YEAR, "not_after": NOW + DAY, **fields}
    leaf = make_leaf(host.ca, common_name, **fields)
    host.put(f"/srv/{name}.pem", leaf.pem + leaf.key_pem, 0o600)
    for path in (host.at("/srv"), host.at(f"/srv/{name}.pem")):
        os.chown(path, ALICE, ALICE)


def test_all_due_certificates_of_one_common_name_are_renewed(host: Host) -> None:
    """The new certificate of the first file does not make the others old, because they have the same contents."""
    for name in "abc":
        put(host, name, names=["DNS:app"])
    assert [outcome.result for outcome in host.start_once()] == ["done"] * 3
    assert (host.plan().steps, host.plan().held) == ((), ())


def test_a_certificate_with_other_contents_is_not_renewed_afterwards(host: Host) -> None:
    """The owner might have copied an old certificate to another file. The first renewal of a plan decides, as it
    would in the next plan.
    """
    put(host, "a", names=["DNS:app"])
    put(host, "b", names=["DNS:app", "DNS:other"])
    first, second = host.start_once()
    assert (first.result, second.result) == ("done", "failed")
    fact = "the entry does not specify the subject alternative name other; a later certificate"
    assert fact in second.message
    host.now += DAY / 2
    (held,) = host.plan().held
    assert held.path == "/srv/b.pem"
    assert fact in held.because


def test_the_renewals_of_a_plan_do_not_limit_the_next_plan(host: Host) -> None:
    """After the operator has installed a certificate with other contents, the next plan compares with this one."""
    put(host, "a", names=["DNS:app"])
    enforcer = host.enforcer()
    (done,) = enforcer.executor.execute(enforcer.plan(host.look()))
    assert done.result == "done"
    host.now += 2 * YEAR
    leaf = make_leaf(
        host.ca, "app", not_before=host.now - DAY, not_after=host.now + DAY / 24, names=["DNS:app", "DNS:other"]
    )
    host.put("/srv/a.pem", leaf.pem + leaf.key_pem, 0o600)
    os.chown(host.at("/srv/a.pem"), ALICE, ALICE)
    (done,) = enforcer.executor.execute(enforcer.plan(host.look()))
    assert done.result == "done", done.message


def test_a_renewal_by_another_process_after_the_plan_counts(host: Host) -> None:
    """The daemon signs nothing that its next plan would not sign."""
    put(host, "a", names=["DNS:app", "DNS:other"])
    daemon = host.enforcer()
    plan = daemon.plan(host.look())
    put(host, "b", names=["DNS:app"])
    command = host.enforcer()
    made = command.plan(host.look(), frozenset({"many"}))
    (done,) = command.executor.execute(
        replace(made, steps=tuple(each for each in made.steps if each.path.endswith("b.pem")))
    )
    assert done.result == "done", done.message
    (outcome,) = daemon.executor.execute(plan)
    assert outcome.result == "failed"
    assert "certmond installed a later certificate on" in outcome.message


def test_without_the_evidence_of_a_plan_no_contents_of_the_file_are_signed(host: Host) -> None:
    """A later certificate can be in another file, also one that certmond has not installed."""
    put(host, "a", names=["DNS:app", "DNS:other"])
    plan = plan_without_evidence(host)
    (outcome,) = host.enforcer().executor.execute(plan)
    assert outcome.result == "failed"
    assert "the plan did not compare the certificate with the other files of the pattern" in outcome.message


def test_the_daemon_compares_a_pattern_of_another_user_before_a_renewal(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner could have copied an old certificate to many files, for which one pass has no time. Each pass collects
    evidence for some files, and the next plan renews the certificates that the later ones permit.
    """
    for name in "abc":
        put(host, name, names=["DNS:app", "DNS:other"])
    later = make_leaf(host.ca, "app", not_before=NOW - DAY, not_after=NOW + YEAR, names=["DNS:app"])
    host.put("/srv/later.pem", later.pem + later.key_pem, 0o600)
    enforcer = host.enforcer()
    seen = enforcer.store.observe()
    monkeypatch.setattr("certmond.daemon.enforcer._EVIDENCE", 0.0)
    around = enforcer.surroundings(enforcer.store, seen)
    made = enforcer.plan(enforcer.assess(seen, host.now, around), around=around)
    assert made.steps == ()
    assert {held.because.partition(" with ")[0] for held in made.held} == {"certmond has not compared the certificate"}
    assert made.changes_at == host.now + timedelta(seconds=1)  # the next pass continues
    monkeypatch.setattr("certmond.daemon.enforcer._EVIDENCE", 3600.0)
    around = enforcer.surroundings(enforcer.store, seen)
    made = enforcer.plan(enforcer.assess(seen, host.now, around), around=around)
    assert made.steps == ()
    assert all("lacks these contents" in held.because for held in made.held)


def test_slices_of_a_plan_renew_all_files(host: Host) -> None:
    """The daemon scans the node between two slices of a plan, and keeps the verdicts on unchanged files. Its renewals
    in former slices are not lost certificates.
    """
    for name in "abcd":
        leaf = make_leaf(host.ca, "app", not_before=NOW - YEAR, not_after=NOW + DAY, names=["DNS:app"])
        host.put(f"/srv/{name}.pem", leaf.pem + leaf.key_pem, 0o600)
        os.chown(host.at(f"/srv/{name}.pem"), ALICE, ALICE)
    os.chown(host.at("/srv"), ALICE, ALICE)
    enforcer, results = host.enforcer(), list[str]()
    assessment: Assessment | None = None
    for _ in range(5):
        seen = enforcer.store.observe()
        around = enforcer.surroundings(enforcer.store, seen)
        assessment = enforcer.assess(seen, host.now, around, assessment)
        plan = enforcer.plan(assessment, around=around)
        results += [outcome.result for outcome in enforcer.executor.execute(replace(plan, steps=plan.steps[:1]))]
    assert results == ["done"] * 4


def test_evidence_of_a_directory_that_root_gave_away_is_not_enough(host: Host) -> None:
    """The plan compared with no other file, because only root could write the file at the time of the plan."""
    put(host, "a", names=["DNS:app", "DNS:other"])
    for path in ("/srv", "/srv/a.pem"):
        os.chown(host.at(path), 0, 0)
    enforcer = host.enforcer()
    plan = enforcer.plan(host.look())
    for path in ("/srv", "/srv/a.pem"):
        os.chown(host.at(path), ALICE, ALICE)
    (outcome,) = enforcer.executor.execute(plan)
    assert outcome.result == "failed"
    assert "the plan did not compare the certificate with the other files of the pattern" in outcome.message


def test_a_pattern_of_root_alone_and_a_single_file_need_no_comparison(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the evidence of a pass, the executor collects the evidence about the file itself."""
    host.entries = {"many": {"path": "/srv/*.pem", "key": "/srv/*.pem"}}
    host.entries["one"] = {"path": "/one.pem", "key": "/one.pem", "owner": str(ALICE)}
    leaf = make_leaf(host.ca, "app", not_before=NOW - YEAR, not_after=NOW + DAY)
    for path in ("/srv/a.pem", "/one.pem"):
        host.put(path, leaf.pem + leaf.key_pem, 0o600)
    os.chown(host.at("/one.pem"), ALICE, ALICE)
    monkeypatch.setattr("certmond.daemon.enforcer._EVIDENCE", 0.0)
    enforcer = host.enforcer()
    seen = enforcer.store.observe()
    around = enforcer.surroundings(enforcer.store, seen)
    outcomes = enforcer.executor.execute(enforcer.plan(enforcer.assess(seen, host.now, around), around=around))
    assert [outcome.result for outcome in outcomes] == ["done", "done"]


def plan_without_evidence(host: Host) -> Plan:
    """Return the plan of a request, for which certmond could not collect the evidence of other files."""
    seen = Store(host.config.certificates, str(host.root)).observe()
    return host.enforcer().plan(assess(seen, host.now), frozenset({"many"}))


@pytest.mark.long
def test_the_command_names_the_files_of_a_pattern(tmp_path: Path) -> None:
    """`renew` names the file of each failed or held step of a pattern, without terminal control characters. It prints
    the values of a held certificate, and no configuration entry for one file.
    """
    host = Host(tmp_path / "host", "apiserver", now=now())
    host.entries = {"many": {"path": "/srv/*.pem", "key": "/srv/*.pem", "owner": str(ALICE)}}
    for name, names in (("a", ["DNS:app"]), ("b\x07\x9b2J\n", ["DNS:app", "DNS:other"])):
        put(host, name, not_before=host.now - YEAR, not_after=host.now + DAY, names=names)
    file = shlex.quote(rf"{host.at('/srv')}/b\x07\x9b2J\n.pem")
    which, why = f"many ({file}): ", "the entry does not specify the subject alternative name other"
    first = certmond(host, "renew", "many")
    assert (first.returncode, first.stdout.splitlines()[-1]) == (2, "1 of 2 done")
    assert f"] {which}" in first.stdout + first.stderr
    assert f"\nfailed: {which}" in f"\n{first.stderr}"
    assert why in first.stderr
    second = certmond(host, "renew", "many")
    assert second.returncode == 3
    assert second.stderr.startswith(f"certmond: certmond cannot renew {which}")
    assert why in second.stderr
    assert f"not renewed: {which}" in certmond(host, "renew", "--all").stdout
    (held,) = json.loads(certmond(host, "renew", "--all", "-o", "json").stdout)["held"]
    assert (held["target"], held["path"], held["until"]) == ("many", "/srv/b\x07\x9b2J\n.pem", None)
    assert why in held["because"]
    shown = certmond(host, "renew", "many", "--dry-run").stdout
    (line,) = (line for line in shown.splitlines() if line.startswith(f"# {file}: "))
    values = {"name": "many", "subject": "CN=app", "names": ["DNS:app", "DNS:other"]}
    assert yaml.safe_load(line.removeprefix(f"# {file}: ")).items() >= values.items()
    assert "# For a file of a pattern, add an entry with another name" in shown
    assert "certificates:" not in shown
    assert not [text for each in (first, second) for text in (each.stdout, each.stderr) if {"\x07", "\x9b"} & {*text}]


def test_common_names_and_entries_are_compared_separately(host: Host) -> None:
    """The renewals of a plan limit only those with the same common name in a pattern that its owner can write."""
    put(host, "a", names=["DNS:app"])
    put(host, "b", "other", names=["DNS:app", "DNS:other"])
    for name, entry in {
        "root": {"path": "/root/*.pem", "key": "/root/*.pem"},
        "one": {"path": "/one.pem", "key": "/one.pem", "owner": str(ALICE)},
        "two": {"path": "/two.pem", "key": "/two.pem", "owner": str(ALICE)},
    }.items():
        host.entries[name] = entry
    for path, more in (("/root/a", []), ("/root/b", ["DNS:b"]), ("/one", []), ("/two", ["DNS:b"])):
        leaf = make_leaf(host.ca, "app", not_before=NOW - YEAR, not_after=NOW + DAY, names=["DNS:app", *more])
        host.put(f"{path}.pem", leaf.pem + leaf.key_pem, 0o600)
    outcomes = host.start_once()
    assert {outcome.result for outcome in outcomes} == {"done"}
    assert len(outcomes) == 6
