"""Search for certificates that certmond installed after the present certificate of a file.

A user can restore an old certificate. When certmond renews this certificate, the new certificate gets only contents
that the entry specifies, or that the later certificate also has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from itertools import chain, takewhile

from certmond.immutable_class import immutable
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.observation import Observation, PatternContents
from certmond.pki.findings import printable
from certmond.pki.planning.steps import Identity
from certmond.pki.signing.policy import contents_of
from certmond.pki.x509.certificate import Certificate


def holder_of(certificate: Certificate) -> str | None:
    """Return the common name as printable text, or None if the subject has no common name.

    The record of renewals contains the same text.
    """
    return None if certificate.common_name is None else printable(certificate.common_name)


_MAX_CONTENTS = 20
"""Number of later certificates with different contents that the search returns."""


class Renewals:
    """Index of the recorded renewals by file, and by common name for the files of a pattern."""

    def __init__(self, attempts: Mapping[Identity, Attempt]) -> None:
        self.attempts = attempts
        self._holders: dict[tuple[str, str | None, int], Holder] = {}

    @cached_property
    def _of_holder(self) -> Mapping[tuple[str, str | None], Sequence[Attempt]]:
        found = defaultdict[tuple[str, str | None], list[Attempt]](list)
        for (name, _), attempt in self.attempts.items():
            if attempt.common_name is not None:
                found[name, attempt.common_name].append(attempt)
        return found

    def holder(self, seen: Observation, files: PatternContents) -> Holder:
        """Return the record of the common name of a certificate in a file of a pattern.

        `files` contains the files with this common name. For the same objects, the result is the same object.
        """
        name, holder = seen.name, holder_of(seen.certificates[0])
        key = name, holder, id(files)  # the record refers to `files`, so no other object gets this number
        if (found := self._holders.get(key)) is None:
            found = self._holders[key] = Holder(self._of_holder.get((name, holder), ()), files)
        return found


class Holder:
    """The certificates with one common name in the files of a pattern, and the renewals with this common name.

    Thousands of files can have the same common name. Therefore, the time of each method does not depend on the number
    of files and renewals.
    """

    def __init__(self, attempts: Iterable[Attempt], files: PatternContents) -> None:
        self.files = files  # the keys of `Renewals` contain the identity of this object
        self._installed = _last_of_each(attempts)
        self._in_files = {certificate.sha256: certificate for certificate in files}
        self._contents = {each: self._contents_of(each, contents) for each, contents in files.items()}
        groups = defaultdict[Hashable, list[Certificate]](list)
        for certificate, contents in self._contents.items():
            if contents is not None:
                groups[contents].append(certificate)
        last = [(max(group, key=lambda each: each.not_after), contents) for contents, group in groups.items()]
        self._by_end = sorted(last, key=lambda pair: pair[0].not_after, reverse=True)
        self._by_time = sorted(self._renewed(groups), key=lambda each: each[0].put_in_place_at, reverse=True)
        missing = [each for sha256, each in self._installed.items() if sha256 not in self._in_files]
        self._missing = _Ranked(missing)

    def _contents_of(self, certificate: Certificate, contents: Hashable | None) -> Hashable | None:
        """Return the contents of a certificate that a CA of the entry has issued, or that certmond has installed.

        The owner of the file of an installed certificate can remove the intermediate CA that issued the certificate.
        """
        is_known = contents is not None or certificate.sha256 not in self._installed
        return contents if is_known else contents_of(certificate)

    def _renewed(
        self, groups: Mapping[Hashable, Iterable[Certificate]]
    ) -> Iterator[tuple[Attempt, Certificate, Hashable]]:
        """Yield the last renewal of each contents, with the certificate that this renewal installed."""
        for contents, group in groups.items():
            found = [(attempt, each) for each in group if (attempt := self._installed.get(each.sha256))]
            if found:
                yield *max(found, key=lambda pair: pair[0].put_in_place_at), contents

    def in_file(self, sha256: str | None) -> Certificate | None:
        """Return the first certificate of a file that has this SHA-256, or None."""
        return self._in_files.get(sha256) if sha256 else None

    def later(self, present: Certificate) -> tuple[dict[Hashable, Certificate], bool]:
        """Return a later certificate of each contents, except the contents of `present`, and whether there are more.

        A certificate is later if its end is later, or if a later renewal installed the certificate.
        """
        found, own = dict[Hashable, Certificate](), self._contents.get(present)
        by_end = takewhile(lambda pair: pair[0].not_after > present.not_after, self._by_end)
        by_time = takewhile(lambda each: each[0].put_in_place_at > present.not_before, self._by_time)
        for certificate, contents in chain(by_end, ((each[1], each[2]) for each in by_time)):
            if contents != own and contents not in found:
                if len(found) == _MAX_CONTENTS:
                    return found, True
                found[contents] = certificate
        return found, False

    def is_later(self, sha256: str, present: Certificate) -> bool:
        """Return whether a later renewal than that of `present` installed the certificate with this SHA-256."""
        attempt = self._installed.get(sha256)
        return attempt is not None and is_older(present, attempt)

    def missing_since(self, present: Certificate, archived: Container[str]) -> datetime | None:
        """Return the time of a later renewal whose certificate is in no file, or None.

        `archived` contains the SHA-256 of certificates that are not missing, and the SHA-256 of `present`.
        """
        return self._missing.later_time(present, archived)


def _last_of_each(attempts: Iterable[Attempt]) -> dict[str, Attempt]:
    """Return the last attempt that installed each certificate, by SHA-256, in the order of their times."""
    last = dict[str, Attempt]()
    for each in sorted(attempts, key=lambda each: each.put_in_place_at):
        if each.sha256 is not None:
            before = last.pop(each.sha256, each)
            last[each.sha256] = replace(each, ends_at=each.ends_at or before.ends_at)  # an old record has no end
    return last


class _Ranked:
    """Attempts that installed a certificate, by time and by end."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self._by_time = sorted(attempts, key=lambda each: each.put_in_place_at, reverse=True)
        dated = [(each.ends_at, each) for each in attempts if each.ends_at is not None]
        self._by_end = [each for _, each in sorted(dated, key=lambda pair: pair[0], reverse=True)]

    def later_time(self, present: Certificate, omitted: Container[str]) -> datetime | None:
        """Return the time of an attempt that installed a later certificate than `present`, or None.

        Ignore attempts whose SHA-256 is in `omitted`.
        """
        for some in (self._by_time, self._by_end):
            first = next((each for each in some if each.sha256 not in omitted), None)
            if first and is_older(present, first):
                return first.put_in_place_at
        return None


@immutable
class LaterCertificates:
    """The certificates that are later than a present certificate.

    `archived` are certificates in the archive of the same file, whose issuers are not checked. `issued` are those that
    certmond installed, and those of a CA of the entry in other files of the pattern. `lost` is the time at which
    certmond installed a later certificate that is neither in the archive nor in a file, or None. `more` is True if the
    other files have more later certificates with different contents.
    """

    archived: tuple[Certificate, ...] = ()
    issued: tuple[Certificate, ...] = ()
    lost: datetime | None = None
    more: bool = False


def later_certificates(
    seen: Observation, archived: Collection[Certificate], own: Attempt | None, holder: Holder | None = None, *,
    owner_writes: bool,
) -> LaterCertificates:  # fmt: skip
    """Return the certificates that are later than the present certificate of a file.

    `archived` contains the archived certificates of this file, and `own` is its last renewal. If `owner_writes` is
    True, the search also compares the times of renewals, and `holder` adds the other files of the pattern.
    """
    present = seen.certificates[0]
    hashes = {each.sha256 for each in (present, *archived)}
    last, issued = None, tuple[Certificate, ...]()
    if own and own.sha256 and own.sha256 != present.sha256:
        is_later = is_older(present, own) if owner_writes else _ends_earlier(present, own)
        last = own.sha256 if is_later or present in archived else None
    # If certmond installed the present certificate, the renewals of other files do not make this certificate old.
    is_own = own is not None and own.sha256 == present.sha256
    others = holder if not is_own else None
    # The record proves the origin of an installed certificate, also if the archive does not contain its issuing CA.
    installed = [each for each in archived if each.sha256 == last or (others and others.is_later(each.sha256, present))]
    later = tuple(each for each in archived if each.not_after > present.not_after and each not in installed)
    lost, more = others.missing_since(present, hashes) if others else None, False
    if holder:
        contents, more = holder.later(present)
        issued = (*contents.values(), *filter(None, [holder.in_file(last)]))
    if own and last and last not in hashes and not (holder and holder.in_file(last)):
        lost = lost or own.put_in_place_at
    return LaterCertificates(later, tuple(dict.fromkeys((*installed, *issued))), lost, more)


def is_older(present: Certificate, attempt: Attempt) -> bool:
    """Return whether `present` is older than the certificate that the attempt installed."""
    return attempt.sha256 not in {None, present.sha256} and (
        present.not_before < attempt.put_in_place_at or _ends_earlier(present, attempt)
    )


def _ends_earlier(present: Certificate, attempt: Attempt) -> bool:
    return attempt.ends_at is not None and present.not_after < attempt.ends_at
