"""A CA that was found in place, and is removed again in the middle of its rotation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certmond.pki.rotation.phases import Mode, Phase, Rotation, begin
from certmond.pki.rotation.replaced_ca_detection import put_back
from certmond.pki.rotation.trust_anchor_state import Ground
from tests.builders import DAY, HOUR, NOW, make_ca, reissue

OLD, NEW = make_ca(not_before=NOW - DAY), make_ca(not_before=NOW - DAY)
AGAIN = reissue(OLD, not_before=NOW - DAY, not_after=NOW + 9000 * DAY)
FOUND = begin(
    Rotation("x", "ca", Mode.OVERLAP, (OLD.facts,), NEW.facts, Phase.PREPARE, NOW - HOUR, found=True)
)  # fmt: skip
CRT, KEY = "/pki/ca.crt", "/pki/ca.key"


@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ISSUE, Phase.DISTRUST, Phase.ATTACH, Phase.DONE])
@pytest.mark.parametrize("trust", [(OLD.facts,), (NEW.facts, OLD.facts), (NEW.facts,)], ids=["old", "both", "new"])
def test_the_old_key_decides(phase: Phase, trust: tuple[object, ...]) -> None:
    """Whatever certificates the file has: with the old key in place it is a rotation back, which begins with trust in
    both.
    """
    shown = Ground("ca", CRT, KEY, trust, OLD.facts.key)  # type: ignore[arg-type]
    back = put_back(replace(FOUND, phase=phase), shown, NOW)
    assert back == Rotation(
        "x-back", "ca", Mode.OVERLAP, (NEW.facts,), OLD.facts, Phase.TRUST, NOW, aborted=True, found=True
    )
    assert put_back(back, shown, NOW) is None
    again = put_back(back, Ground("ca", CRT, KEY, trust, NEW.facts.key), NOW)  # type: ignore[arg-type]
    assert again == replace(FOUND, id="x-back-back", since=NOW)


def test_a_found_ca_in_place_is_not_reversed() -> None:
    """A rotation that an operator began is not reversed either: its keys are stored, and it continues."""
    both = (NEW.facts, OLD.facts)
    assert put_back(FOUND, Ground("ca", CRT, KEY, both, NEW.facts.key), NOW) is None
    assert put_back(replace(FOUND, found=False), Ground("ca", CRT, KEY, (OLD.facts,), OLD.facts.key), NOW) is None


def test_with_one_key_the_certificate_decides() -> None:
    """If the key is the same, it is a rotation back when only the old certificate is in place."""
    found = replace(FOUND, mode=Mode.REISSUE, new=AGAIN.facts, phase=Phase.DISTRUST)
    key = OLD.facts.key
    assert put_back(found, Ground("ca", CRT, KEY, (AGAIN.facts,), key), NOW) is None
    back = put_back(found, Ground("ca", CRT, KEY, (OLD.facts,), key), NOW)
    assert back is not None
    assert (back.old, back.new, back.phase) == ((AGAIN.facts,), OLD.facts, Phase.DISTRUST)
