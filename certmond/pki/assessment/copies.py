"""Comparison of copies with their originals. An entry with `copy_of` describes a copy."""

from __future__ import annotations

from collections.abc import Iterable

from certmond.immutable_class import immutable
from certmond.pki.catalog.observation import Observation
from certmond.pki.x509.certificate import Certificate


@immutable
class Difference:
    """Difference between a copy and its original. `original` is the path of the original.

    `fact` is a clause about the certificates that only one of the two files contains.
    """

    original: str
    fact: str


def differing_copies(observations: Iterable[Observation]) -> dict[tuple[str, str], Difference]:
    """Return the differences of all copies from their originals, by the entry name and the path of the copy.

    Skips a file that contains no certificate, because another finding reports such a file.
    """
    copies: dict[tuple[str, str], list[Observation]] = {}
    for seen in observations:
        if seen.spec.copy_of and seen.certificates:
            copies.setdefault((seen.spec.name, seen.path), []).append(seen)
    wanted = {found[0].spec.copy_of for found in copies.values()}
    originals: dict[str, list[Observation]] = {}
    for seen in observations if wanted else ():
        if seen.spec.name in wanted and seen.certificates:
            originals.setdefault(seen.spec.name, []).append(seen)
    result: dict[tuple[str, str], Difference] = {}
    for place, found in copies.items():
        original = originals.get(found[0].spec.copy_of or "", ())
        if original and (there := _certificates(found)) != (own := _certificates(original)):
            result[place] = Difference(original[0].path, _fact(there, own))
    return result


def _certificates(observations: Iterable[Observation]) -> dict[Certificate, None]:
    """Return the distinct certificates of one file, in the order of the file."""
    return dict.fromkeys(certificate for seen in observations for certificate in seen.certificates)


def _fact(there: dict[Certificate, None], own: dict[Certificate, None]) -> str:
    """Return a clause about the certificates that only one of the two files contains."""
    more = [each for each in there if each not in own]
    fewer = [each for each in own if each not in there]
    if more and fewer:
        return (
            f"the certificate in the copy ends on {_day(more[0])}, but the certificate in the original ends on "
            f"{_day(fewer[0])}"
        )
    fact, one = ("only the copy contains", more[0]) if more else ("the copy lacks", fewer[0])
    return f"{fact} {one.subject}, which ends on {_day(one)}"


def _day(certificate: Certificate) -> str:
    return f"{certificate.not_after:%Y-%m-%d %H:%M} UTC"
