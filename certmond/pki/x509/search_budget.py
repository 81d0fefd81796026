"""What the search for certification paths may cost, for all certificates of one file together.

Owns the measure, and the limits. Go limits the signatures and the comparisons of one search; but a file holds
hundreds of certificates, and the keys in it are chosen by who wrote it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.name_constraints import NameConstraints, constraints_of

MAX_COMPARISONS = 250_000
"""Of names with the name constraints of one CA of a path: Go's maxConstraintComparisons."""
MAX_NAMES = 50_000
"""Names that are judged by name constraints, once for each CA that has some."""
MAX_WORK = 10_000
"""In signatures of RSA with 2,048 bits, of which OpenSSL checks one in about 50 microseconds."""

_FAST = {"RSA-2048": 1, "ECDSA-256": 2, "Ed25519": 3}
_SLOW = 25  # any other curve; the slowest that OpenSSL has takes a millisecond
_HASHED = 50_000  # bytes that are hashed in the same time


def work_of(child: Certificate, issuer: Certificate) -> int:
    """What it costs to check the signature of `child` with the key of `issuer`."""
    key = issuer.key
    cost = 2 * -(-(key.bits**2) // 2048**2) if key.algorithm == "RSA" else _SLOW
    return _FAST.get(str(key), cost) + len(child.der) // _HASHED


@dataclass(slots=True)
class Budget:
    """What is left of it, and what was made of the CAs on the way."""

    work: int = MAX_WORK
    names: int = MAX_NAMES
    _constraints: dict[Certificate, NameConstraints | None] = field(default_factory=dict)

    def spend_work(self, cost: int) -> bool:
        """Whether there was enough left."""
        self.work -= cost
        return self.work >= 0

    def spend_names(self, count: int) -> bool:
        """Whether there was enough left."""
        self.names -= count
        return self.names >= 0

    def constraints_of(self, issuer: Certificate) -> NameConstraints | None:
        """The constraints of a CA that has some; None where they cannot be parsed."""
        if issuer not in self._constraints:
            self._constraints[issuer] = constraints_of(issuer)
        return self._constraints[issuer]
