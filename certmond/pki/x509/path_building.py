"""Search for certification paths with the rules of Go's crypto/x509, which the components of Kubernetes use.

The search ignores the time: each path contains its validity period. The rules are the rules of Go 1.24's
Certificate.Verify (crypto/x509/verify.go):

- The issuer's key has signed the certificate, and the certificate has the raw subject of the issuer as its issuer.
- An issuer of version 3 has cA, an issuer with keyUsage has keyCertSign, and the path obeys pathLenConstraint.
- Go supports every algorithm, and handles every critical extension. Go does not support SHA-1 and MD5.
- Every certificate of the path permits the extended key usages, and obeys the name constraints of the CAs above it.

No rule requires a subjectAltName on clients, an authorityKeyIdentifier, keyUsage on the root, or a positive serial
number. Unlike Go, certmond refuses a path that demands certificate policies. docs/decisions/0002 explains why certmond
does not use `cryptography.x509.verification`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import field
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from certmond.errors import MalformedError
from certmond.immutable_class import immutable
from certmond.pki.asn1.key_limits import check_public_key
from certmond.pki.go.certificate import alternative_names_of, signed_part_of
from certmond.pki.go.signature_algorithm import signature_algorithm_of
from certmond.pki.x509.certificate import Certificate, is_ordinary, load
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.search_budget import MAX_COMPARISONS, MAX_NAMES, MAX_WORK, Budget, work_of

WEAK_HASHES = frozenset({"md2", "md5", "sha1"})
_HASHES = frozenset({"sha256", "sha384", "sha512", None})  # None: Ed25519 has no separate digest
KEYS = frozenset({"RSA", "ECDSA", "Ed25519"})
"""Algorithms of the keys with which Go, and therefore Kubernetes, can verify a signature."""
_MAX_SIGNATURE_CHECKS = 100  # Go's maxChainSignatureChecks: limits the cost of a hostile bundle


class Refusal(StrEnum):
    """Reason why the search refuses a certificate."""

    NO_ISSUER = "no CA certificate has the name of its issuer"
    BAD_SIGNATURE = "not signed by the CA certificate with the name of its issuer"
    NOT_CA = "the issuer is not a CA"
    CANNOT_SIGN = "the issuer may not sign certificates"
    WEAK_SIGNATURE = "signed with a broken digest"
    UNSUPPORTED = "has an algorithm or an encoding that Go, and therefore Kubernetes, cannot use"
    TOO_LONG = "more intermediates than the issuer allows"
    UNKNOWN_CRITICAL = "has a critical extension that Go does not handle"
    NAME_CONSTRAINT = "has a name that the issuer may not certify"
    TOO_MANY = "has more possible issuers than Go tries"
    TOO_MANY_COMPARISONS = f"its name constraints require more than {MAX_COMPARISONS:,} comparisons, the limit of Go"
    NAMES_EXCEEDED = f"its file has more than {MAX_NAMES:,} names for name constraints, the limit of certmond"
    WORK_EXCEEDED = f"its file requires the work of more than {MAX_WORK:,} RSA-2048 signatures, the limit of certmond"
    USAGE = "the issuer may not certify this usage"
    POLICIES = "requires certificate policies, which Go evaluates, but certmond does not"


@immutable
class Rejection:
    """Refusal of one certificate in the search for paths. `refusal` is a fact about `certificate`."""

    refusal: Refusal
    certificate: Certificate


_NOT_BEFORE, _NOT_AFTER = attrgetter("not_before"), attrgetter("not_after")


@immutable
class Path:
    """Certification path from the leaf to the trust anchor, valid from `since` to `until` (inclusive)."""

    certificates: tuple[Certificate, ...]
    since: datetime = field(init=False, compare=False)
    until: datetime = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "since", max(map(_NOT_BEFORE, self.certificates)))
        object.__setattr__(self, "until", min(map(_NOT_AFTER, self.certificates)))

    @property
    def anchor(self) -> Certificate:
        return self.certificates[-1]

    def holds_at(self, now: datetime) -> bool:
        return self.since <= now <= self.until


_UNTIL = attrgetter("until")


@immutable
class PathSearch:
    """Result of a search: all paths, including paths that are not valid now, and the refusals."""

    paths: tuple[Path, ...]
    rejections: tuple[Rejection, ...]

    def valid_at(self, now: datetime) -> Path | None:
        """Return the path that is valid at `now`, or None if there is no such path.

        Of several valid paths, return the path that ends last.
        """
        return max([path for path in self.paths if path.holds_at(now)], key=_UNTIL, default=None)

    @property
    def best(self) -> Path | None:
        """The path that ends last, even if this path is not valid now, or None if the search found no path."""
        return max(self.paths, key=_UNTIL, default=None)


class Question(NamedTuple):
    """Arguments of one call of `find_paths`, and the file of the leaf."""

    leaf: Certificate
    anchors: tuple[Certificate, ...]
    intermediates: tuple[Certificate, ...]
    usages: frozenset[str]
    file: str = ""
    """Path of the leaf's file. All questions about the same file share a `Budget`."""


Searching = Callable[[Sequence[Question]], Iterable[PathSearch]]
"""Type of a function that returns one result for each question, such as `find_all`."""


def find_all(questions: Sequence[Question]) -> Iterator[PathSearch]:
    """Yield the result of `find_paths` for each question, in the order of the questions."""
    budgets = defaultdict[str, Budget](Budget)
    for question in questions:
        yield find_paths(*question[:4], budgets[question.file] if question.file else None)


def find_paths(
    leaf: Certificate,
    anchors: Sequence[Certificate],
    intermediates: Sequence[Certificate] = (),
    usages: Iterable[str] = (),
    budget: Budget | None = None,
) -> PathSearch:
    """Return all certification paths from `leaf` to a certificate in `anchors`.

    The leaf and every CA must permit each usage in `usages`, as in Go (VerifyOptions.KeyUsages). `usages` are
    Kubernetes names such as "server auth". The search ends when `budget` is exhausted.
    """
    return _Search(tuple(anchors), tuple(intermediates), frozenset(usages), budget or Budget()).run(leaf)


class _Search:
    def __init__(
        self,
        anchors: tuple[Certificate, ...],
        intermediates: tuple[Certificate, ...],
        usages: frozenset[str],
        budget: Budget,
    ) -> None:
        self._anchor_set = frozenset(anchors)
        self._anchors = anchors
        self._intermediates = intermediates
        self._usages = usages
        self._budget = budget
        self._names = dict[Certificate, tuple[bytes, bytes | None]]()
        self._paths: list[Path] = []
        self._rejections: list[Rejection] = []
        self._checks = 0

    def run(self, leaf: Certificate) -> PathSearch:
        if refusal := _unusable(leaf):
            self._reject(refusal, leaf)
        elif leaf in self._anchor_set:
            self._accept((leaf,))
        else:
            self._extend((leaf,))
        return PathSearch(tuple(self._paths), tuple(dict.fromkeys(self._rejections)))

    def _extend(self, chain: tuple[Certificate, ...]) -> None:
        child = chain[-1]
        known = dict.fromkeys((*self._anchors, *self._intermediates))
        candidates = [each for each in known if each.subject_der == child.issuer_der]
        keys = {link.key.der for link in chain}
        if any(each.key.der in keys for each in candidates):  # rare, and the comparison parses the names
            seen = {self._entity(link) for link in chain}
            candidates = [each for each in candidates if not (each.key.der in keys and self._entity(each) in seen)]
        if not candidates:
            self._reject(Refusal.NO_ISSUER, child)
        candidates.sort(key=lambda candidate: (candidate not in self._anchor_set, _distance(child, candidate)))
        for issuer in candidates:
            if self._checks >= _MAX_SIGNATURE_CHECKS:
                self._reject(Refusal.TOO_MANY, child)
                return
            if not self._budget.spend_work(work_of(child, issuer)):
                self._reject(Refusal.WORK_EXCEEDED, child)
                return
            if rejection := self._refuse(chain, issuer):
                self._rejections.append(rejection)
            elif issuer in self._anchor_set:
                self._accept((*chain, issuer))
            else:
                self._extend((*chain, issuer))

    def _refuse(self, chain: tuple[Certificate, ...], issuer: Certificate) -> Rejection | None:
        """Return why `issuer` cannot be the next certificate after `chain`, or None if it can."""
        child = chain[-1]
        self._checks += 1
        # Check the signature first: the other properties of an issuer that has signed nothing do not matter.
        if child.signature_hash not in _HASHES:
            weak = child.signature_hash in WEAK_HASHES
            return Rejection(Refusal.WEAK_SIGNATURE if weak else Refusal.UNSUPPORTED, child)
        if not signed_by(child, issuer):
            return Rejection(Refusal.BAD_SIGNATURE, child)
        refusal = _forbidden(issuer, chain, self._budget, is_anchor=issuer in self._anchor_set)
        return Rejection(refusal, issuer) if refusal else None

    def _entity(self, certificate: Certificate) -> tuple[bytes, tuple[bytes, bytes | None]]:
        """Return the key, the subject and the subjectAltName of a certificate.

        No two certificates of a path have all three values in common (Go's alreadyInChain).
        """
        if certificate not in self._names:
            self._names[certificate] = certificate.subject_der, alternative_names_of(certificate.der)
        return certificate.key.der, self._names[certificate]

    def _accept(self, chain: tuple[Certificate, ...]) -> None:
        unfit = next((link for link in reversed(chain) if not all(map(link.has_usage, self._usages))), None)
        if policed := next((link for link in chain[:-1] if link.demands_policies), None):
            self._reject(Refusal.POLICIES, policed)
        elif unfit is None:
            self._paths.append(Path(chain))
        else:
            self._reject(Refusal.USAGE, unfit)

    def _reject(self, refusal: Refusal, certificate: Certificate) -> None:
        self._rejections.append(Rejection(refusal, certificate))


def objection(anchor: Certificate, leaf: Certificate, usages: Iterable[str] = ()) -> Refusal | None:
    """Return why the trust anchor `anchor` must not sign a certificate like `leaf`, or None if it may."""
    if refusal := _forbidden(anchor, (leaf,), Budget(), is_anchor=True):
        return refusal
    return None if all(map(anchor.has_usage, usages)) else Refusal.USAGE


def _forbidden(issuer: Certificate, chain: Sequence[Certificate], budget: Budget, *, is_anchor: bool) -> Refusal | None:
    """Return why `issuer` may not certify the certificates in `chain`, or None if it may."""
    if issuer.is_ca is False or (issuer.is_ca is None and (issuer.version == 3 or not is_anchor)):
        return Refusal.NOT_CA
    if issuer.usages and "cert sign" not in issuer.usages:
        return Refusal.CANNOT_SIGN
    if unusable := _unusable(issuer):
        return unusable
    if issuer.path_length is not None and len(chain) - 1 > issuer.path_length:
        return Refusal.TOO_LONG
    return _constrained(issuer, chain, budget)


def _constrained(issuer: Certificate, chain: Sequence[Certificate], budget: Budget) -> Refusal | None:
    if not issuer.constrains_names:
        return None
    constraints = budget.constraints_of(issuer)
    if constraints is None:  # Go refuses such a CA even for a certificate without names
        return Refusal.UNSUPPORTED
    if sum(constraints.comparisons(link, MAX_COMPARISONS) for link in chain) > MAX_COMPARISONS:
        return Refusal.TOO_MANY_COMPARISONS
    if not budget.spend_names(sum(len(link.names) for link in chain)):
        return Refusal.NAMES_EXCEEDED
    return None if all(map(constraints.permit, chain)) else Refusal.NAME_CONSTRAINT


def _unusable(certificate: Certificate) -> Refusal | None:
    """Return the reason why Go refuses the certificate in every path, or None if Go accepts the certificate."""
    if certificate.unknown_critical and not certificate.objections:
        return Refusal.UNKNOWN_CRITICAL
    if certificate.objections or certificate.key.algorithm not in KEYS:
        return Refusal.UNSUPPORTED
    return None


def _distance(child: Certificate, issuer: Certificate) -> int:
    """Return the rank of a possible issuer in the search, by its key identifier (Go's findPotentialParents)."""
    if child.authority_key_id == issuer.subject_key_id:
        return 0
    return 2 if child.authority_key_id and issuer.subject_key_id else 1


def signed_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Return whether `issuer` has signed `certificate`, and `certificate` names `issuer`. Accepts weak digests."""
    if certificate.issuer_der != issuer.subject_der:
        return False
    try:
        with guarded("does not verify"):
            return _verifies(certificate, issuer)
    except MalformedError:
        return False


def _verifies(certificate: Certificate, issuer: Certificate) -> bool:
    """Return True if the key of `issuer` has signed `certificate`.

    Returns False if the certificate contains two different signature algorithms, or if the key does not fit the
    algorithm. Raises an exception if the signature is wrong.
    """
    signed = signed_part_of(certificate.der)
    # Only the algorithm in the signed part counts; the outer one must be equal (RFC 5280, 4.1.1.2).
    if signed.algorithm != signed.outer_algorithm:
        return False
    is_small = is_ordinary(certificate.der)
    how = (signature_algorithm_of if is_small else signature_algorithm_of.__wrapped__)(signed.algorithm)
    key = _kept_key(issuer.key.der) if is_ordinary(issuer.key.der) else _key_of(issuer.key.der)
    digest = _DIGESTS[how.digest]() if how.digest in _DIGESTS else None
    match key:
        case rsa.RSAPublicKey() if how.key == "RSA" and digest:
            padded = padding.PSS(padding.MGF1(digest), digest.digest_size) if how.pss else _PKCS1
            key.verify(signed.signature, signed.content, padded, digest)
        case ec.EllipticCurvePublicKey() if how.key == "ECDSA" and digest:
            key.verify(signed.signature, signed.content, ec.ECDSA(digest))
        case ed25519.Ed25519PublicKey() if how.key == "Ed25519":
            key.verify(signed.signature, signed.content)
        case _ if how.key in KEYS:
            return False
        case _:  # Go does not verify this algorithm; certmond needs it to detect that a root is self-signed
            load(certificate.der).verify_directly_issued_by(load(issuer.der))
    return True


_PKCS1 = padding.PKCS1v15()
_DIGESTS: dict[str | None, type[hashes.HashAlgorithm]] = {
    "md5": hashes.MD5, "sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512,
}  # fmt: skip


def _key_of(der: bytes) -> PublicKeyTypes:
    check_public_key(der)
    return load_der_public_key(der)


_kept_key = lru_cache(maxsize=256)(_key_of)
