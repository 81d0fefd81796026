"""Search for certificates that certmond installed after the present certificate of a file.

A user can restore an old certificate. When certmond renews this certificate, the new certificate gets only contents
that the entry specifies, or that the later certificate also has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property

from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import printable
from certmond.pki.planning.steps import Identity
from certmond.pki.x509.certificate import Certificate


def holder_of(certificate: Certificate) -> str | None:
    """Return the common name as printable text, or None if the subject has no common name.

    The record of renewals contains the same text.
    """
    return None if certificate.common_name is None else printable(certificate.common_name)


class Renewals:
    """Index of the recorded renewals by file, and by common name for the files of a pattern."""

    def __init__(self, attempts: Mapping[Identity, Attempt]) -> None:
        self.attempts = attempts
        self._of_holder = defaultdict[tuple[str, str], list[tuple[str, Attempt]]](list)
        for (name, path), attempt in attempts.items():
            if attempt.common_name is not None:
                self._of_holder[name, attempt.common_name].append((path, attempt))

    def elsewhere(self, seen: Observation) -> list[Attempt]:
        """Return the attempts for certificates with the same common name in other files of the same pattern."""
        if not seen.spec.is_glob:
            return []
        found = self._of_holder.get((seen.name, holder_of(seen.certificates[0]) or ""), ())
        return [each for path, each in found if path != seen.path]

    def successors(self, seen: Observation, kept: Sequence[Certificate], *, owner_writes: bool) -> list[Attempt]:
        """Return the attempts that installed a later certificate than the present certificate of the file.

        `kept` contains the archived certificates of this file. If `owner_writes` is True, the search also compares
        dates of issue, and includes the other files of the pattern.
        """
        present, own = seen.certificates[0], self.attempts.get(seen.identity)
        if own and own.sha256 == present.sha256:
            return []  # certmond installed this certificate
        found = [own] if own and own.sha256 and (present in kept or _ends_earlier(present, own)) else []
        if owner_writes:
            found += [each for each in (own, *self.elsewhere(seen)) if each and is_older(present, each)]
        return found


class Pattern:
    """Index of the certificates in the files of patterns, by entry and common name."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    @cached_property
    def _found(self) -> Mapping[tuple[str, str | None], Sequence[Certificate]]:
        found = defaultdict[tuple[str, str | None], list[Certificate]](list)
        for seen in self._inventory.observations:
            if seen.spec.is_glob and seen.certificates:
                found[seen.spec.name, seen.certificates[0].common_name].append(seen.certificates[0])
        return found

    def beside(self, seen: Observation) -> Sequence[Certificate]:
        """Return the certificates with the same common name in all files of the same pattern."""
        return self._found.get((seen.spec.name, seen.certificates[0].common_name), ()) if seen.spec.is_glob else ()


def later_beside(
    present: Certificate, beside: Sequence[Certificate], elsewhere: Sequence[Attempt]
) -> tuple[Certificate, ...]:
    """Return the certificates in `beside` that are later than `present`.

    A certificate is later if its end is later, or if a later attempt in `elsewhere` installed the certificate.
    """
    followed = {each.sha256 for each in elsewhere if is_older(present, each)}
    return tuple(each for each in beside if each.not_after > present.not_after or each.sha256 in followed)


def is_older(present: Certificate, attempt: Attempt) -> bool:
    """Return whether `present` is older than the certificate that the attempt installed."""
    return attempt.sha256 not in {None, present.sha256} and (
        present.not_before < attempt.put_in_place_at or _ends_earlier(present, attempt)
    )


def _ends_earlier(present: Certificate, attempt: Attempt) -> bool:
    return attempt.ends_at is not None and present.not_after < attempt.ends_at
