"""An API that fails at any write: nothing is lost, and the work continues from the resulting state and completes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest

from certmond.cluster.api_access import Access
from certmond.cluster.lease_lock import ClusterLease
from certmond.errors import LostError, RefusedError, UnreachableError, WaitingError
from certmond.pki.rotation.phases import Phase
from tests.cluster.api_server import ApiServer
from tests.cluster.conftest import Limits
from tests.cluster.coordinator_world import World
from tests.cluster.faults import FAULTS, Failing
from tests.cluster.leaks import leaks
from tests.cluster.rotation_scenario import Scenario
from tests.cluster.test_csr_signer import facts, request, signer
from tests.cluster.test_lease_lock import Clock, held, lease
from tests.sampling import EVERY_STOP, chosen, sample

WRITES = 10
"""The maximum of writes between two changes of the record of a rotation."""


SHORT = 3
"""The number of places without `long`."""


LEASES = sample(
    [*product(FAULTS, ("make", "take", "renew", "give back", "take after that"))], 2 * len(FAULTS), "the Lease",
    kind=lambda case: case[1],
)  # fmt: skip
"""A fault, and the write of a Lease that has it."""


def places() -> list[Any]:
    """Return the writes that fail in a test, one after each change of the record: of two, one would hide the effect of
    the other. `shift` is the kind of the first failure, and the following ones are of the next kinds. A sample has each
    place and each kind once.
    """
    numbers = chosen("the kinds of failed writes")
    kinds = numbers.sample(range(len(FAULTS)), WRITES)
    early = numbers.sample(range(WRITES), SHORT)
    return [
        pytest.param(place, shift, marks=() if place in early and shift == kinds[place] else pytest.mark.long)
        for place in range(WRITES)
        for shift in (range(len(FAULTS)) if EVERY_STOP else [kinds[place]])
    ]


def ways_back() -> list[Any]:
    """Return the phase in which it is aborted, and the write that fails: in a sample each write, and each phase."""
    numbers = chosen("the writes of an abort")
    first = numbers.randrange(2)
    early = numbers.sample(range(WRITES), 2)
    return [
        pytest.param(phase, place, marks=() if sampled and place in early else pytest.mark.long)
        for place in range(WRITES)
        for number, phase in enumerate((Phase.TRUST, Phase.ISSUE))
        if (sampled := (place + first) % 2 == number) or EVERY_STOP
    ]


@pytest.fixture
def scenario(
    cluster: ApiServer, access_of: Callable[..., Access], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scenario]:
    for module in ("rotation_checks.signer", "workload_rollout"):
        monkeypatch.setattr(f"certmond.cluster.{module}._POLL_INTERVAL", 0.01)
    made = Scenario(World(cluster, access_of), tmp_path / "place", monkeypatch)
    yield made
    assert not leaks(bytes(cluster.received), made.world.old, made.world.new)


def failing(scenario: Scenario, limits: Limits, place: int, shift: int) -> Failing:
    """From now on the writes in this place fail, each in another way."""
    ways = [*FAULTS.values()]
    made = Failing(
        scenario.world.api, limits, lambda at: ways[(len(made.failed) + shift) % len(ways)] if at == place else None,
        stage=lambda: scenario.world.recorded,
    )  # fmt: skip
    return made


@pytest.mark.sampled("write")
@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize(("place", "shift"), places())
def test_any_write_of_a_rotation_may_fail(scenario: Scenario, limits: Limits, place: int, shift: int) -> None:
    """Whether or not the write took effect: no phase ends before all nodes have reported it and all its writes are
    made. No workload is restarted twice. At the end node and cluster use only the new CA.
    """
    writes = failing(scenario, limits, place, shift)
    scenario.command("rotate")
    for _ in scenario.passes():
        pass
    assert scenario.unwell(scenario.world.new) == []
    assert writes.failed
    timeless = [each for each in writes.most if "/leases/" not in each]  # a stage that takes long also renews the Lease
    assert len(timeless) <= WRITES, "\n".join(writes.most)


@pytest.mark.sampled("write")
@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize(("phase", "place"), ways_back())
def test_any_write_of_the_way_back_may_fail(scenario: Scenario, limits: Limits, phase: Phase, place: int) -> None:
    """As on the way there: from the word of who leads it back to the old CA alone."""
    scenario.command("rotate")
    next(each for each in scenario.passes() if each is phase)
    writes = failing(scenario, limits, place, shift=0)
    scenario.command("abort")
    for _ in scenario.passes():
        pass
    assert scenario.unwell(scenario.world.old) == []
    assert writes.failed or place >= len(writes.most)  # from trust on there are fewer


@pytest.mark.long
@pytest.mark.parametrize(("fault", "write"), LEASES)
def test_any_write_of_the_lease_may_fail(cluster: ApiServer, limits: Limits, write: str, fault: str) -> None:
    """Two nodes never hold the Lease at once, and each gets it."""
    clock = Clock()
    cluster.rbac = None
    first, second = lease(cluster, clock, "node-1"), lease(cluster, clock, "node-2")
    if write == "take":
        second.take()
        second.give_back()
    number = {"make": 0, "take": 0, "renew": 1, "give back": 2, "take after that": 3}[write]
    writes = only(number, fault, cluster, limits)
    had = {first: 0, second: 0}
    for _ in range(60):
        for each in tuple(had):
            tried(each)
            had[each] += held(each)
            if had[each] == 6:
                each.give_back()
                del had[each]
        assert not (held(first) and held(second))
        clock.now += 5
    assert not had
    assert writes.failed


def only(number: int, fault: str, api: ApiServer, limits: Limits) -> Failing:
    """From now on the write of this number fails, counted from 0."""
    numbers = count()
    return Failing(api, limits, lambda _: FAULTS[fault] if next(numbers) == number else None, stage=object)


def tried(own: ClusterLease) -> None:
    """What a node does that wants the turn."""
    with suppress(LostError, RefusedError, UnreachableError):
        if held(own):
            own.keep()
        else:
            own.take()


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("write", ["file", "approve"])
def test_any_write_of_a_request_may_fail(cluster: ApiServer, limits: Limits, write: str, fault: str) -> None:
    """The next attempt issues the certificate for the request that was filed, and files no other."""
    cluster.rbac = None
    number = {"file": 0, "approve": 1}[write]
    writes = only(number, fault, cluster, limits)
    asked, reported, issued = request(), list[Exception](), None
    for _ in range(5):
        try:
            issued = signer(cluster, approve=True).sign(asked)
            break
        except WaitingError as error:
            asked = replace(asked, cookie=error.cookie)
        except (RefusedError, UnreachableError) as error:
            reported.append(error)
    assert issued
    assert facts(issued.pem).subject == asked.template.subject.rfc4514_string()
    assert len(cluster.objects) == 1
    assert len(reported) <= 1
    assert writes.failed
