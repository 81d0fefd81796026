"""The certificates in the files of patterns, with their contents if a CA of the entry has issued them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

from certmond.pki.catalog.observation import NO_FILES, Inventory, Observation, PatternContents
from certmond.pki.signing.policy import contents_of, is_issued, issuing_cas
from certmond.pki.x509.certificate import Certificate

_Chain = tuple[Certificate, ...]
_Holder = tuple[str, str | None]
"""The name of an entry, and a common name."""
_Issuers = tuple[_Chain, _Chain]
"""The CAs of an entry, and the intermediate CAs that these have issued."""


class PatternFiles:
    """Index of the files of patterns by common name.

    A second index of the same files repeats no check of a signature. The index calls `alive` for each file, because a
    user can write thousands of files.
    """

    def __init__(self, alive: Callable[[], None]) -> None:
        self._alive = alive
        self._inventory = Inventory(())
        self._chains: dict[_Holder, dict[_Chain, None]] | None = None
        self._files: dict[_Holder, PatternContents] = {}
        self._files_before: dict[_Holder, PatternContents] = {}
        self._cas: dict[tuple[_Chain, _Chain], _Chain] = {}
        self._cas_before: dict[tuple[_Chain, _Chain], _Chain] = {}
        self._answers: dict[_Issuers, dict[Certificate, Hashable | None]] = {}
        self._answers_before: dict[_Issuers, dict[Certificate, Hashable | None]] = {}

    def begin(self, inventory: Inventory) -> None:
        """Use the files of `inventory`. Drop the results of which the former inventory has used none."""
        self._inventory, self._chains = inventory, None
        self._files_before, self._files = self._files, {}
        self._cas_before, self._cas = self._cas, {}
        self._answers_before, self._answers = self._answers, {}

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
        return self._chains

    def _examined(self, chains: Iterable[_Chain], issuers: _Chain) -> PatternContents:
        # The owner of a file can remove an intermediate CA, or add a thousand certificates with the name of the CA.
        # Therefore, each certificate is compared with the CAs of all files that a CA of the entry has issued.
        others = tuple(dict.fromkeys(each for certificates in chains for each in certificates[1:]))
        if (cas := self._cas_before.get((others, issuers))) is None:
            cas = issuing_cas(self._reported(others), issuers)
        self._cas[others, issuers] = cas
        known, answers = self._answers_before.get((issuers, cas), {}), self._answers.setdefault((issuers, cas), {})
        for each in dict.fromkeys(certificates[0] for certificates in chains):
            if each in known:
                answers[each] = known[each]
            elif each not in answers:
                self._alive()
                answers[each] = contents_of(each) if is_issued(each, cas, issuers) else None
        return PatternContents((certificates[0], answers[certificates[0]]) for certificates in chains)

    def _reported(self, certificates: Iterable[Certificate]) -> Iterable[Certificate]:
        for each in certificates:
            self._alive()
            yield each
