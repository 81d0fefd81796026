"""The effect of a hold, and its absence for certificates whose users are refused already."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.planning.host_hold_rules import NO_REPLACED_CA, ReplacedCA
from certmond.pki.planning.planner_inputs import Circumstances
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.restarts import RestartHolds
from certmond.pki.planning.steps import Cause, Plan
from certmond.pki.services.restart_episode import Past, Result
from tests.builders import DAY, HOUR, NOW, SECOND
from tests.pki.planning import test_restarts as restarting
from tests.pki.planning.test_renewals import ROOT, World, held, leaf, steps, world

MINUTE = timedelta(minutes=1)
LEAF = ("leaf", "/pki/leaf.crt")
REFUSED, TRUSTED = (ReplacedCA("ca", NOW - SECOND, at_once=at_once) for at_once in (True, False))
HOST: dict[str, Any] = {"hold": "held while /upgrade is there", "clock": "held until this host's clock is synchronised"}


def planned(made: World, *, rotates: bool = True, **circumstances: Any) -> Plan:
    """Return the plan with the leaf to be issued again, because its CA is being replaced, if it `rotates`."""
    reissue = {LEAF: ROOT.facts} if rotates else {}
    found = replace(made, circumstances=Circumstances(**circumstances))
    return plan(found.look(NOW), found.policy, found.past, found.circumstances, None, reissue=reissue)


def test_a_refused_leaf_ignores_the_holds_of_the_host() -> None:
    """If a CA was replaced and the old one is no longer trusted, its leaves are issued again despite each hold. In any
    other rotation they are held until they are critical.
    """
    node = world(leaf(NOW + 200 * DAY))
    assert steps(planned(node, **HOST, replaced_ca=REFUSED)) == [("leaf", Cause.ROTATION)]
    assert held(planned(node, **HOST)).because == HOST["hold"]
    assert held(planned(node, clock=HOST["clock"])).because == HOST["clock"]


def test_an_accepted_leaf_waits_for_the_operator_and_not_for_the_clock() -> None:
    """If the old CA is trusted beside its replacement, a hold of the operator applies, because the wait is harmless. A
    clock that never synchronizes does not prevent the end of the rotation.
    """
    node = world(leaf(NOW + 200 * DAY))
    assert steps(planned(node, clock=HOST["clock"], replaced_ca=TRUSTED)) == [("leaf", Cause.ROTATION)]
    assert held(planned(node, hold=HOST["hold"], replaced_ca=TRUSTED)).because == HOST["hold"]
    due = world(leaf(NOW + 20 * DAY))
    assert held(planned(due, rotates=False, clock=HOST["clock"], replaced_ca=TRUSTED)).because == HOST["clock"]


@pytest.mark.parametrize("end", [NOW - HOUR, NOW + 20 * DAY], ids=["expired", "due"])
def test_an_expired_leaf_does_not_wait_until_pods_trust_the_new_ca(end: Any) -> None:
    """While other components may not trust the replacing CA, it signs only successors of expired certificates, which no
    component accepts.
    """
    made = planned(world(leaf(end)), rotates=False, unsure={"ca": "not in issue yet"}, clock="no", replaced_ca=TRUSTED)
    assert [each.because for each in made.held] == ([] if end < NOW else ["not in issue yet"])
    assert steps(made) == ([("leaf", Cause.EXPIRED)] if end < NOW else [])


@pytest.mark.parametrize("failures", [0, 9])
def test_an_attempt_before_the_replacement_delays_nothing(failures: int) -> None:
    """An earlier attempt does not count. A later one that failed is repeated after at most a minute if no component
    accepts the certificate, and the plan has the time.
    """
    old = leaf(NOW + 200 * DAY)
    before = Attempt(NOW - 2 * SECOND, failures, "no room", sha256=old.facts.sha256)
    node = world(old, past={LEAF: before})
    for replaced_ca in (REFUSED, TRUSTED):
        assert steps(planned(node, replaced_ca=replaced_ca)) == [("leaf", Cause.ROTATION)]
    assert held(planned(node)).until
    after = world(old, past={LEAF: Attempt(NOW - SECOND, failures + 1, "no room")})
    for replaced_ca, at in ((REFUSED, NOW - SECOND + MINUTE), (TRUSTED, NOW - SECOND + MINUTE * min(60, 2**failures))):
        made = planned(after, replaced_ca=replaced_ca)
        assert (held(made).until, made.changes_at) == (at, at)


@pytest.mark.parametrize("superseded", [False, True], ids=["restarted", "superseded again"])
def test_a_service_that_is_refused_is_restarted_at_once(superseded: bool) -> None:
    """Neither a hold of the host nor the spacing of restarts delays it, but a sequence of file changes does. A service
    that is not refused waits.
    """
    result = Result.SUPERSEDED if superseded else Result.PROVEN
    past = Past("web", None, NOW - MINUTE, result, "it was restarted", ("leaf",), "web-1", {"/leaf.crt": "another"})
    known = restarting.around(restarting.LEAF, past={"web": replace(past, again=superseded)})
    for replaced_ca in (REFUSED, TRUSTED, NO_REPLACED_CA, replace(REFUSED, family="etcd-ca")):
        made = restarting.made(restarting.LEAF, known=known, holds=RestartHolds(replaced_ca=replaced_ca))
        if replaced_ca is REFUSED and not superseded:
            assert restarting.restart(made).target == "web"
        else:
            assert restarting.held(made).until == NOW - MINUTE + restarting.TERMS.spacing
    free = restarting.around(restarting.LEAF)
    on_hold = {each: RestartHolds("an upgrade", replaced_ca=each) for each in (REFUSED, TRUSTED)}
    assert restarting.restart(restarting.made(restarting.LEAF, known=free, holds=on_hold[REFUSED])).target == "web"
    assert restarting.held(restarting.made(restarting.LEAF, known=free, holds=on_hold[TRUSTED])).because == "an upgrade"


def test_a_ca_is_refused_with_what_it_has_signed_and_what_trusts_it() -> None:
    """A service counts as refused for the CA's own file, for a leaf of it and for a kubeconfig that embeds it."""
    others: dict[str, Any] = {"ca": [], "authority": True, "usages": "cert sign"}
    ca, other = restarting.row("ca", **others), restarting.row("etcd-ca", **others)
    conf = restarting.row("x.conf", kind="kubeconfig", key=None, ca=[], embedded_ca="ca")
    rows = [ca, other, restarting.row(), conf, restarting.row("etcd", ca="etcd-ca")]
    assert [REFUSED.concerns(each) for each in rows] == [True, False, True, True, False]
