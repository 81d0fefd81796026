"""The order of the files of a phase: those before everything else, and those that wait for another attempt."""

from __future__ import annotations

from datetime import timedelta

from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.planning.steps import Cause, Derive, Held, Plan, Rotate
from certmond.pki.rotation.planner import MissingSteps
from certmond.pki.rotation.step_retries import pace
from tests.builders import NOW

MINUTE = timedelta(minutes=1)
ANCHOR, OTHERS = Rotate("ca", "/ca.crt", "is to hold", ()), Rotate("kube", "/srv/config", "is to trust", ())
LEFT = MissingSteps((ANCHOR, OTHERS), unawaited=frozenset({OTHERS.path}))
FAILED = Attempt(NOW, failures=1, message="no")
OF_ANCHOR, OF_OTHERS = {("ca", "/ca.crt"): FAILED}, {("kube", "/srv/config"): FAILED}
DUE = Plan((Derive("copy", "/copy", "web", Cause.SOURCE_CHANGED, ""),), changes_at=NOW + 5 * MINUTE)


def test_the_files_of_a_phase_come_first() -> None:
    """Before anything else is planned, the steps that a phase waits for are carried out."""
    made = pace(LEFT, {}, NOW)
    assert (made.first, made.steps, made.held) == (True, (ANCHOR, OTHERS), ())
    assert not pace(MissingSteps(), {}, NOW).first


def test_a_file_that_could_not_be_written_is_tried_beside_other_steps() -> None:
    """A failed step no longer comes first: the plan has the due steps beside it, and names the failure."""
    made = pace(LEFT, OF_ANCHOR, NOW)
    assert (made.first, made.steps, made.held) == (False, (ANCHOR, OTHERS), (Held("ca", "/ca.crt", "no"),))
    assert made.beside(DUE).steps == (ANCHOR, OTHERS, *DUE.steps)


def test_a_file_that_others_can_change_never_comes_first() -> None:
    """A step that the phase does not wait for is planned beside the others, from the start."""
    assert not pace(MissingSteps((OTHERS,), unawaited=LEFT.unawaited), {}, NOW).first


def test_a_file_that_others_can_change_is_tried_again_later() -> None:
    """A step that the phase does not wait for waits after a failure, ten minutes at the most, and the plan changes
    then.
    """
    made = pace(LEFT, OF_OTHERS, NOW)
    assert made.steps == (ANCHOR,)
    assert made.held == (Held("kube", "/srv/config", "no", NOW + MINUTE),)
    assert made.beside(DUE).changes_at == NOW + MINUTE
    assert pace(LEFT, OF_OTHERS, NOW + MINUTE).steps == (ANCHOR, OTHERS)
    often = {("kube", "/srv/config"): Attempt(NOW, failures=30, message="no")}
    assert pace(LEFT, often, NOW + 10 * MINUTE).steps == (ANCHOR, OTHERS)
