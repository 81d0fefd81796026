"""The parts of a node in a simulation: which certificates are planned together, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import pytest

from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Fault, Reason
from certmond.pki.planning.plan_parts import PlanParts
from certmond.pki.planning.steps import Identity
from tests.builders import DAY, NOW, YEAR, make_ca
from tests.pki.planning.test_renewals import CA, World, leaf, row, see

A, B, C = (see(row(name), leaf(NOW + YEAR)) for name in "abc")


def parts(*seen: Observation, derived: Mapping[str, tuple[str, str]] | None = None) -> PlanParts:
    return PlanParts(World((CA, *seen)).look(NOW), derived or {})


def due(found: PlanParts, now: datetime) -> str:
    """Return the names of the due certificates except the CA."""
    assessment = found.due(now)
    assert assessment.taken_at == now
    names = [status.seen.name for status in assessment.statuses]
    assert names[:1] == ["ca"] * bool(names)
    return "".join(names[1:])


def at(**times: int) -> dict[Identity, datetime]:
    """Return the day of the next change for each named certificate."""
    return {(name, f"/pki/{name}.crt"): NOW + day * DAY for name, day in times.items()}


def test_a_certificate_is_due_at_the_time_of_its_change() -> None:
    """In the beginning, all are due. `schedule` returns the next time. Without a time, a certificate is not due."""
    found = parts(A, B, C)
    assert due(found, NOW) == "abc"
    assert found.schedule(at(a=2, b=1), ()) == NOW + DAY
    assert due(found, NOW) == ""
    assert due(found, NOW + DAY) == "b"
    assert found.schedule(at(b=3), ()) == NOW + 2 * DAY
    assert due(found, NOW + 3 * DAY) == "ab"
    assert found.schedule({}, ()) is None
    assert due(found, NOW + YEAR) == ""
    found = parts(A, B)
    found.schedule(at(a=1), [A.identity])
    assert found.schedule({}, ()) is None


@pytest.mark.parametrize(
    ("other", "derived"),
    [
        (replace(B, path=A.path), {}),
        (replace(B, key_path=A.key_path), {}),
        (B, {"copy": ("/pki/b.crt", "a")}),
        (B, {"copy": ("/etc/copy", "a"), "second": ("/etc/copy", "b")}),
    ],
)
def test_certificates_that_depend_on_each_other_are_one_part(
    other: Observation, derived: Mapping[str, tuple[str, str]]
) -> None:
    """They use one file, or certmond derives a file of one from the other, or one file from both."""
    found = parts(A, other, C, derived=derived)
    assert due(found, NOW) == "abc"
    times = {A.identity: NOW + 3 * DAY, other.identity: NOW + DAY}
    assert found.schedule(times, ()) == NOW + DAY
    assert due(found, NOW + DAY) == "ab"


def test_three_certificates_can_depend_on_each_other() -> None:
    """The last one connects the first two."""
    found = parts(A, B, replace(C, path=A.path, key_path=B.key_path))
    assert due(found, NOW) == "abc"
    found.schedule(at(b=1), ())
    assert due(found, NOW + DAY) == "abc"


def test_a_repair_depends_on_the_whole_node() -> None:
    """Damaged files are one part, and are planned with all certificates."""
    broken = (Fault(Reason.MALFORMED, "is cut off"),)
    found = parts(A, *(replace(each, certificates=(), key=None, faults=broken) for each in (B, C)))
    due(found, NOW)
    found.schedule(at(a=1, c=2), ())
    assert due(found, NOW + DAY) == "a"
    found.schedule(at(a=4), ())
    assert due(found, NOW + 2 * DAY) == "abc"
    found.schedule({}, ())
    (known,) = (status for status in parts(B).due(NOW).statuses if status.seen.name == "b")
    found.update({B.identity: known})
    assert due(found, NOW + 3 * DAY) == "abc"  # a repair of the other file can become possible


def test_a_change_is_due_and_replaces_the_former_time() -> None:
    """The status is the new one from then on. The former time of the part has no effect, also after a later one."""
    found = parts(A, B)
    due(found, NOW)
    found.schedule(at(a=1, b=5), ())
    new = PlanParts(World((CA, replace(A, symlink=True))).look(NOW), {}).due(NOW).statuses[1]
    found.update({new.seen.identity: new})
    assert found.due(NOW).statuses[1] is new
    assert found.schedule(at(a=7), ()) == NOW + 5 * DAY
    assert due(found, NOW + 5 * DAY) == "b"
    assert found.schedule(at(b=9), ()) == NOW + 7 * DAY
    assert due(found, NOW + 7 * DAY) == "a"


def test_a_former_time_makes_nothing_due() -> None:
    """Only the last time of a part counts, also if an earlier one is over."""
    found = parts(A, B)
    due(found, NOW)
    found.schedule(at(a=2, b=3), ())
    found.update({B.identity: next(each for each in found.due(NOW + 3 * DAY).statuses if each.seen.name == "b")})
    assert found.schedule(at(a=5, b=9), ()) == NOW + 5 * DAY
    assert due(found, NOW + 5 * DAY) == "a"
    found = parts(A, B)
    changed = found.due(NOW).statuses[2]
    found.schedule(at(a=2, b=3), ())
    found.update({B.identity: changed})
    assert found.schedule(at(b=9), ()) == NOW + 2 * DAY
    assert due(found, NOW + 4 * DAY) == "a"


def test_an_unfinished_part_remains_due() -> None:
    """Its next time is the next time of the node."""
    found = parts(A, B)
    due(found, NOW)
    assert found.schedule(at(a=3, b=1), [A.identity]) == NOW + DAY
    assert due(found, NOW + DAY) == "ab"


def test_a_plan_has_the_cas_of_its_certificates() -> None:
    """A node can have many CAs. Before a start of a service, all CAs of this service must be complete."""
    other = see(replace(CA.spec, name="etcd-ca", path="/pki/etcd-ca.crt"), make_ca(not_after=NOW + YEAR))
    start = see(row("b", renewed_by="k3s, at a start", consumers=["k3s"], renewed_at_start="90d"), leaf(NOW + YEAR))
    found = parts(other, A, start)
    found.due(NOW)
    found.schedule({A.identity: NOW + DAY, start.identity: NOW + 2 * DAY}, ())
    assert [status.seen.name for status in found.due(NOW + DAY).statuses] == ["ca", "a"]
    found.schedule({}, ())
    assert [status.seen.name for status in found.due(NOW + 2 * DAY).statuses] == ["ca", "etcd-ca", "b"]
    known = found.status(A.identity)
    assert known
    assert known.seen is A
    assert found.status(("a", "/elsewhere")) is None


def test_certificates_that_another_program_renews_are_apart() -> None:
    """The result contains the CAs, too."""
    other = see(row("b", renewed_by="an operator"), leaf(NOW + YEAR))
    start = see(row("c", renewed_by="k3s, at a start", consumers=["k3s"], renewed_at_start="90d"), leaf(NOW + YEAR))
    found = parts(A, other, start).of_services(NOW + DAY)
    assert [status.seen.name for status in found.statuses] == ["ca", "b", "c"]
    assert found.taken_at == NOW + DAY
