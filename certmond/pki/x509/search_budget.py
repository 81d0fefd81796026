"""Limits on the search for certification paths, for all certificates of one file together.

Go limits only a single search. A file can contain hundreds of certificates, and the author of the file chooses the
keys.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.name_constraints import NameConstraints, constraints_of

MAX_COMPARISONS = 250_000
"""Maximum number of comparisons of names with the name constraints of one CA (Go's maxConstraintComparisons)."""
MAX_NAMES = 50_000
"""Maximum number of names that certmond compares with constraints. A name counts once for each CA with constraints."""
MAX_WORK = 10_000
"""Maximum number of verifications of RSA-2048 signatures, which take about 50 microseconds each."""

_FAST = {"RSA-2048": 1, "ECDSA-256": 2, "Ed25519": 3}
_SLOW = 25  # any other curve; the slowest curve of OpenSSL takes one millisecond
_HASHED = 50_000  # bytes that OpenSSL hashes in the time of one verification


def work_of(child: Certificate, issuer: Certificate) -> int:
    """Return the cost of verifying the signature of `child` with the key of `issuer`, in RSA-2048 verifications."""
    key = issuer.key
    cost = 2 * -(-(key.bits**2) // 2048**2) if key.algorithm == "RSA" else _SLOW
    return _FAST.get(str(key), cost) + len(child.der) // _HASHED


@dataclass(slots=True)
class Budget:
    """Work and names that remain for the searches of one file."""

    work: int = MAX_WORK
    names: int = MAX_NAMES
    _constraints: dict[Certificate, NameConstraints | None] = field(default_factory=dict)

    def spend_work(self, cost: int) -> bool:
        """Subtract `cost` from the remaining work, and return whether the remaining work was sufficient."""
        self.work -= cost
        return self.work >= 0

    def spend_names(self, count: int) -> bool:
        """Subtract `count` from the remaining names, and return whether the remaining number was sufficient."""
        self.names -= count
        return self.names >= 0

    def constraints_of(self, issuer: Certificate) -> NameConstraints | None:
        """Return the name constraints of a CA, or None if they are malformed."""
        if issuer not in self._constraints:
            self._constraints[issuer] = constraints_of(issuer)
        return self._constraints[issuer]
