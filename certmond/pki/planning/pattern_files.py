"""The certificates in the files of patterns, with their contents if a CA of the entry has issued them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.planning.installed_successors import NO_FILES, Files
from certmond.pki.signing.policy import contents_of, is_issued
from certmond.pki.x509.certificate import Certificate

_Chain = tuple[Certificate, ...]
_Holder = tuple[str, str | None]
"""The name of an entry, and a common name."""
_Question = tuple[Certificate, _Chain, _Chain]
"""A certificate, the intermediate CAs that certmond trusts, and the CAs of the entry."""


class PatternFiles:
    """Index of the files of patterns by common name.

    A second index of the same files repeats no check of a signature. The index calls `alive` for each certificate,
    because a user can write thousands of files with thousands of certificates.
    """

    def __init__(self, alive: Callable[[], None]) -> None:
        self._alive = alive
        self._inventory = Inventory(())
        self._chains: dict[_Holder, dict[_Chain, None]] | None = None
        self._files: dict[_Holder, Files] = {}
        self._before: dict[_Question, Hashable | None] = {}
        self._answers: dict[_Question, Hashable | None] = {}

    def begin(self, inventory: Inventory) -> None:
        """Use the files of `inventory`. Drop the results of which the former inventory has used none."""
        self._inventory, self._chains, self._files = inventory, None, {}
        self._before, self._answers = self._answers, {}

    def of(self, seen: Observation, issuers: _Chain) -> Files:
        """Return the files of the same pattern whose first certificate has the common name of the first one of `seen`.

        `issuers` are the CAs of the entry. The result is the same object until the next call of `begin`.
        """
        if not seen.spec.is_glob:
            return NO_FILES
        holder = seen.spec.name, seen.certificates[0].common_name
        if (found := self._files.get(holder)) is None:
            found = self._files[holder] = self._examined(self._index().get(holder, {}), issuers)
        return found

    def _index(self) -> dict[_Holder, dict[_Chain, None]]:
        if self._chains is None:
            self._chains = defaultdict(dict)
            for seen in self._inventory.observations:
                if seen.spec.is_glob and seen.certificates:
                    self._chains[seen.spec.name, seen.certificates[0].common_name][seen.certificates] = None
        return self._chains

    def _examined(self, chains: Iterable[_Chain], issuers: _Chain) -> Files:
        others = dict.fromkeys(each for certificates in chains for each in certificates[1:])
        # The owner of a file can remove an intermediate CA, or add a thousand certificates with the name of the CA.
        # Therefore, each certificate is compared with the CAs of all files that a CA of the entry has issued.
        intermediates = self._issued(others, issuers)
        found = dict[Certificate, Hashable | None]()
        for certificates in chains:
            if certificates[0] not in found:
                found[certificates[0]] = self._contents(certificates[0], intermediates, issuers)
        return found

    def _issued(self, candidates: Iterable[Certificate], issuers: _Chain) -> _Chain:
        """Return the certificates in `candidates` that a CA in `issuers` has issued, directly or through others."""
        found, names = _Chain(), {each.subject_der for each in issuers}
        while names:
            named = [each for each in candidates if each.issuer_der in names and each not in found]
            new = tuple(each for each in named if self._contents(each, found, issuers) is not None)
            found, names = (*found, *new), {each.subject_der for each in new}
        return found

    def _contents(self, certificate: Certificate, intermediates: _Chain, issuers: _Chain) -> Hashable | None:
        """Return the contents of a certificate, or None if no CA has issued the certificate."""
        question = certificate, intermediates, issuers
        if question in self._before:
            answer = self._before[question]
        else:
            self._alive()
            answer = contents_of(certificate) if is_issued(certificate, intermediates, issuers) else None
        self._answers[question] = answer
        return answer
