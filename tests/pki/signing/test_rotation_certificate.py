"""The certificate with which an old CA authorizes exactly one rotation."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from certmond.pki.signing.policy import Grant
from certmond.pki.signing.rotation_certificate import decoded, encoded, objection, rotation_grant
from certmond.pki.x509.certificate import Certificate
from tests.builders import DAY, HOUR, NOW, Issued, make_ca, make_leaf

DATES: Any = {"not_before": NOW - HOUR, "not_after": NOW + DAY}
OLD, OTHER = (make_ca(not_before=NOW - DAY, not_after=NOW + 9 * DAY) for _ in range(2))
STATEMENT = b"certmond rotation\nr-1"
NAME = "URI:urn:certmond:rotation:8f72f0a1aab3a6c6a7f3"


def name_of(statement: bytes) -> str:
    granted = rotation_grant(statement, NOW, NOW + DAY)
    assert isinstance(granted, Grant)
    (name,) = granted.template.names
    return f"URI:{name.value}"


def certificate(by: Issued = OLD, **changes: Any) -> Certificate:
    wanted = {"names": [name_of(STATEMENT)], "extended_usages": ["code signing"], **DATES, **changes}
    return make_leaf(by, "certmond:rotation", **wanted).facts


def why(found: Certificate | None, now: timedelta = timedelta()) -> str:
    return objection(found, OLD.facts, STATEMENT, NOW + now) or ""


def test_a_request_names_one_rotation_and_no_other_use() -> None:
    """The permitted request has the SHA-256 of the statement as its only name, and only the usage code signing."""
    granted = rotation_grant(STATEMENT, NOW, NOW + DAY)
    assert isinstance(granted, Grant)
    template = granted.template
    assert template.subject.rfc4514_string() == "CN=certmond:rotation"
    assert (template.extended_usages, template.is_ca) == (("code signing",), False)
    assert name_of(STATEMENT).startswith("URI:urn:certmond:rotation:")
    assert len(name_of(STATEMENT)) == len("URI:urn:certmond:rotation:") + 64
    assert name_of(STATEMENT) != name_of(b"certmond rotation\nr-2")


def test_a_certificate_of_the_old_ca_authorizes() -> None:
    """The certificate survives the record, and authorizes the rotation while the certificate is valid."""
    made = certificate()
    assert decoded(encoded(made)) == made
    assert why(made) == ""
    assert "is not valid now" in why(made, 2 * DAY)
    assert "is not valid now" in why(made, -2 * HOUR)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (None, "the record contains no certificate"),
        (certificate(serial=-1), "Go refuses the certificate"),
        (certificate(OTHER), "has not signed the certificate"),
        (certificate(names=[NAME]), "are not exactly"),
        (certificate(names=[]), "are not exactly"),
        (certificate(names=[name_of(STATEMENT), "DNS:a"]), "are not exactly"),
        (certificate(extended_usages=["client auth"]), "exactly the extended key usage code signing"),
        (certificate(extended_usages=["code signing", "server auth"]), "exactly the extended key usage"),
        (certificate(extended_usages=["any"]), "exactly the extended key usage"),
        (certificate(extended_usages=None), "exactly the extended key usage"),
        (certificate(is_ca=True), "the certificate is a CA"),
    ],
)
def test_another_certificate_authorizes_nothing(found: Certificate | None, reason: str) -> None:
    """A certificate with another issuer, name or usage authorizes nothing, so that no client or server of the cluster
    can use its certificate as an authorization.
    """
    assert reason in why(found)


@pytest.mark.parametrize("text", ["", "=", "AAAA", "ü"])
def test_a_text_without_a_certificate_is_no_error(text: str) -> None:
    """The record can contain any text, which then contains no certificate."""
    assert decoded(text) is None
