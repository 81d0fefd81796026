"""Forgeries with which an unprivileged user could replace a certificate to give its successor more rights.

Each claims the group system:masters, or a name to which its holder has no right.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from tests.builders import YEAR, Issued, make_ca, make_leaf, new_key


def _mallory(organization: str) -> x509.Name:
    attributes = {NameOID.ORGANIZATION_NAME: organization, NameOID.COMMON_NAME: "mallory"}
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes.items()])


MASTERS = _mallory("system:masters")
DEVELOPERS = _mallory("developers")


def forgeries(ca: Issued, now: datetime, **dates: Any) -> dict[str, Callable[[], Issued]]:
    """Return by name how each is forged: without a CA, by a CA of the name of `ca`, from a certificate that `ca` has
    signed, and, with a genuine signature, as a certificate from before its holder lost a group.
    """
    twin = make_ca(not_before=now - 2 * YEAR, not_after=now + 9 * YEAR)
    return {
        "self-signed": lambda: make_ca(
            subject=MASTERS, is_ca=None, usages=None, names=None, extended_usages=["client auth"], **dates
        ),
        "same-name": lambda: make_leaf(twin, subject=MASTERS, **dates),
        "widened": lambda: make_leaf(ca, subject=MASTERS, signing_key=new_key(), **dates),
        "older": lambda: make_leaf(ca, subject=DEVELOPERS, **dates),
    }
