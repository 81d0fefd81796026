"""Search for certificates that certmond installed after the present certificate of a file.

A user can restore an old certificate. When certmond renews this certificate, the new certificate gets only contents
that the entry specifies, or that the later certificate also has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from certmond.immutable_class import immutable
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
        self._holders: dict[tuple[str, str | None], Holder] = {}

    @cached_property
    def _of_holder(self) -> Mapping[tuple[str, str | None], Sequence[Attempt]]:
        found = defaultdict[tuple[str, str | None], list[Attempt]](list)
        for (name, _), attempt in self.attempts.items():
            if attempt.common_name is not None:
                found[name, attempt.common_name].append(attempt)
        return found

    def holder(self, seen: Observation, issued: Callable[[], Mapping[Certificate, Hashable]] = dict) -> Holder:
        """Return the record of the common name of a certificate in a file of a pattern.

        Only the first call for a common name calls `issued`, which returns the argument of `Holder`.
        """
        key = seen.name, holder_of(seen.certificates[0])
        if (found := self._holders.get(key)) is None:
            found = self._holders[key] = Holder(self._of_holder.get(key, ()), issued())
        return found


class Pattern:
    """Index of the certificates in the files of patterns, by entry and common name."""

    def __init__(self, inventory: Inventory) -> None:
        self._inventory = inventory

    @cached_property
    def _found(self) -> Mapping[tuple[str, str | None], dict[tuple[Certificate, ...], None]]:
        found = defaultdict[tuple[str, str | None], dict[tuple[Certificate, ...], None]](dict)
        for seen in self._inventory.observations:
            if seen.spec.is_glob and seen.certificates:
                found[seen.spec.name, seen.certificates[0].common_name][seen.certificates] = None
        return found

    def beside(self, seen: Observation) -> Iterable[tuple[Certificate, ...]]:
        """Return the certificates of each file of the same pattern whose first certificate has the same common name.

        The result contains no duplicates.
        """
        return self._found.get((seen.spec.name, seen.certificates[0].common_name), ())


class _Ranked:
    """Attempts that installed a certificate: the last attempt for each certificate, in the order of their times."""

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        last = dict[str, Attempt]()
        for each in sorted(attempts, key=lambda each: each.put_in_place_at):
            if each.sha256 is not None:
                before = last.pop(each.sha256, each)
                last[each.sha256] = replace(each, ends_at=each.ends_at or before.ends_at)  # an old record has no end
        self.of = last
        self._by_time = tuple(reversed(last.values()))
        dated = [(each.ends_at, each) for each in self._by_time if each.ends_at is not None]
        self._by_end = tuple(each for _, each in sorted(dated, key=lambda pair: pair[0], reverse=True))

    def later_than(self, present: Certificate, omitted: Container[str]) -> Attempt | None:
        """Return an attempt that installed a later certificate than `present`, or None.

        Skip the certificates whose SHA-256 is in `omitted`, which must contain the SHA-256 of `present`.
        """
        for ranked in (self._by_time, self._by_end):
            first = next((each for each in ranked if each.sha256 not in omitted), None)
            if first and is_older(present, first):
                return first
        return None


class Holder:
    """The certificates with one common name in the files of a pattern, and the renewals with this common name.

    `issued` contains the certificates that a CA of the entry has issued, each with its contents: an equal value means
    that a renewal treats both certificates alike. Thousands of files can contain certificates with equal contents, so
    the time of each method depends only on the number of different contents.
    """

    def __init__(self, attempts: Sequence[Attempt], issued: Mapping[Certificate, Hashable]) -> None:
        self.issued = {certificate.sha256: certificate for certificate in issued}
        self._installed = _Ranked(attempts)
        self._missing = _Ranked(each for each in attempts if each.sha256 not in self.issued)
        groups = defaultdict[Hashable, list[Certificate]](list)
        for certificate, contents in issued.items():
            groups[contents].append(certificate)
        self._groups = tuple(
            (
                max(group, key=lambda each: each.not_after),
                _Ranked(filter(None, (self._installed.of.get(each.sha256) for each in group))),
            )
            for group in groups.values()
        )

    def later(self, present: Certificate) -> Iterator[Certificate]:
        """Yield a certificate of each contents for which a certificate is later than `present`.

        A certificate is later if its end is later, or if a later renewal installed the certificate.
        """
        own = {present.sha256}
        for last, renewed in self._groups:
            if last.not_after > present.not_after:
                yield last
            elif (attempt := renewed.later_than(present, own)) and attempt.sha256:
                yield self.issued[attempt.sha256]

    def is_later(self, sha256: str, present: Certificate) -> bool:
        """Return whether a later renewal than that of `present` installed the certificate with this SHA-256."""
        attempt = self._installed.of.get(sha256)
        return attempt is not None and is_older(present, attempt)

    def misses_later(self, present: Certificate, archived: Container[str]) -> bool:
        """Return whether no file contains a certificate that a later renewal installed.

        `archived` contains the SHA-256 of certificates that are not missing, and the SHA-256 of `present`.
        """
        return self._missing.later_than(present, archived) is not None


@immutable
class LaterCertificates:
    """The certificates that are later than a present certificate.

    `archived` are the certificates in the archive of the same file, and `elsewhere` those in other files of the
    pattern. `lost` is True if a later certificate exists neither in the archive nor in a file.
    """

    archived: tuple[Certificate, ...] = ()
    elsewhere: tuple[Certificate, ...] = ()
    lost: bool = False


def later_certificates(
    seen: Observation, archived: Sequence[Certificate], own: Attempt | None, holder: Holder | None = None, *,
    owner_writes: bool, known: Iterable[Certificate] = (),
) -> LaterCertificates:  # fmt: skip
    """Return the certificates that are later than the present certificate of a file.

    `archived` contains the archived certificates of this file, and `own` is its last renewal. If `owner_writes` is
    True, the search also compares dates of issue, and `holder` adds the other files of the pattern. Certificates in
    `known` are not lost.
    """
    present = seen.certificates[0]
    hashes = {each.sha256 for each in (present, *archived)}
    last, elsewhere = None, list[Certificate]()
    if own and own.sha256 and own.sha256 != present.sha256:
        is_later = is_older(present, own) if owner_writes else _ends_earlier(present, own)
        last = own.sha256 if is_later or present in archived else None
    # If certmond installed the present certificate, the renewals of other files do not make this certificate old.
    others = holder if holder and not (own and own.sha256 == present.sha256) else None
    later = [
        each
        for each in archived
        if each.not_after > present.not_after
        or each.sha256 == last
        or (others and others.is_later(each.sha256, present))
    ]
    if holder:
        elsewhere += holder.later(present)
        elsewhere += [holder.issued[last]] if last and last in holder.issued else []
    found = hashes.union(each.sha256 for each in (*elsewhere, *known))
    lost = (last is not None and last not in found) or (others is not None and others.misses_later(present, hashes))
    return LaterCertificates(tuple(dict.fromkeys(later)), tuple(dict.fromkeys(elsewhere)), lost)


def is_older(present: Certificate, attempt: Attempt) -> bool:
    """Return whether `present` is older than the certificate that the attempt installed."""
    return attempt.sha256 not in {None, present.sha256} and (
        present.not_before < attempt.put_in_place_at or _ends_earlier(present, attempt)
    )


def _ends_earlier(present: Certificate, attempt: Attempt) -> bool:
    return attempt.ends_at is not None and present.not_after < attempt.ends_at
