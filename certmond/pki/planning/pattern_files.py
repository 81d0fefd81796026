"""The certificates in the files of patterns, with their contents if a CA of the entry has issued them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Hashable, Iterable
from functools import partial

from certmond.pki.catalog.observation import NO_FILES, Inventory, Observation, PatternContents
from certmond.pki.signing.policy import contents_of
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.issuance import cas_above, has_path, is_issued, issuing_cas

_Chain = tuple[Certificate, ...]
_Holder = tuple[str, str | None]
"""The name of an entry, and a common name."""
_Results = dict[tuple[_Chain, _Chain], dict[Certificate, Hashable]]
"""Results for certificates, by the CAs of an entry, and by the intermediate CAs above the certificates."""


class PatternFiles:
    """Index of the files of patterns by common name.

    The index checks a certificate once, as long as a file contains it and the CAs above it remain. A user can write
    thousands of files, and change some of them in each pass. Therefore, the index calls `alive` for each check.
    """

    def __init__(self, alive: Callable[[], None]) -> None:
        self._alive = alive
        self._inventory = Inventory(())
        self._chains: dict[_Holder, dict[_Chain, None]] | None = None
        self._files: dict[_Holder, PatternContents] = {}
        self._files_before: dict[_Holder, PatternContents] = {}
        self._contents: _Results = {}
        self._are_cas: _Results = {}
        self._issuers = set[_Chain]()
        """The CAs of entries with results since the last change of `_chains`."""

    def begin(self, inventory: Inventory) -> None:
        """Use the files of `inventory`. The next call of `of` drops the results for other files."""
        self._inventory, self._chains = inventory, None
        self._files_before, self._files = self._files, {}

    def of(self, seen: Observation, issuers: _Chain) -> PatternContents:
        """Return the files of the same pattern whose first certificate has the common name of the first one of `seen`.

        `issuers` are the CAs of the entry. The result is the same object as for the former inventory, unless a file or
        a CA has changed.
        """
        if not seen.spec.is_glob:
            return NO_FILES
        holder = seen.spec.name, seen.certificates[0].common_name
        if (found := self._files.get(holder)) is None:
            found, before = self._examined(self._index().get(holder, {}), issuers), self._files_before.get(holder)
            if before is not None and before.items() == found.items():
                found = before
            self._files[holder] = found
        return found

    def _index(self) -> dict[_Holder, dict[_Chain, None]]:
        if self._chains is None:
            self._chains = defaultdict(dict)
            for seen in self._inventory.observations:
                if seen.spec.is_glob and seen.certificates:
                    self._chains[seen.spec.name, seen.certificates[0].common_name][seen.certificates] = None
            present = {each for chains in self._chains.values() for certificates in chains for each in certificates}
            for results in (self._contents, self._are_cas):
                _drop(results, present, self._issuers)
            self._issuers = set()
        return self._chains

    def _examined(self, chains: Iterable[_Chain], issuers: _Chain) -> PatternContents:
        # The owner of a file can remove an intermediate CA, or add a thousand certificates with the name of the CA.
        # Therefore, each certificate is compared with the CAs of all files that a CA of the entry has issued.
        self._issuers.add(issuers)
        others = (each for certificates in chains for each in certificates[1:])
        cas = issuing_cas(others, issuers, partial(self._is_ca, issuers))
        above = dict[bytes, _Chain]()  # by the name of the issuer
        found = PatternContents()
        for each in dict.fromkeys(certificates[0] for certificates in chains):
            if each.issuer_der not in above:
                above[each.issuer_der] = cas_above(each, cas)
            known = self._contents.setdefault((issuers, above[each.issuer_der]), {})
            if each not in known:
                self._alive()
                known[each] = contents_of(each) if is_issued(each, above[each.issuer_der], issuers) else None
            found[each] = known[each]
        return found

    def _is_ca(self, issuers: _Chain, certificate: Certificate, above: _Chain) -> bool:
        known = self._are_cas.setdefault((issuers, above), {})
        if certificate not in known:
            self._alive()
            known[certificate] = has_path(certificate, issuers, above)
        return bool(known[certificate])


def _drop(results: _Results, present: Container[Certificate], issuers: Container[_Chain]) -> None:
    """Drop the results for certificates that are not `present`, and for CAs of entries that are not in `issuers`."""
    for key, known in [*results.items()]:
        remaining = {each: found for each, found in known.items() if each in present} if key[0] in issuers else {}
        if remaining:
            results[key] = remaining
        else:
            del results[key]
