"""A command that follows a rotation reports the CA in use, if the rotation ends with the other result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certmond.cli.root_ca.rotation_run import other_end
from certmond.pki.rotation.phases import Rotation
from tests.pki.rotation_node import PLANNED


@pytest.mark.parametrize(
    ("rotation", "said"),
    [
        (PLANNED, "is complete: the new CA is in use, not the old CA"),
        (replace(PLANNED, aborted=True), "was aborted: the old CA is in use, not the new CA"),
    ],
)
def test_the_ca_in_use_is_named(rotation: Rotation, said: str) -> None:
    """`rotate` reports an abort by another process, and `abort` reports a rotation that was complete before."""
    assert other_end(rotation).endswith(said)
