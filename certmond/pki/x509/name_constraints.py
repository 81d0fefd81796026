"""Name constraints of a CA (RFC 5280, section 4.2.1.10), as Go's crypto/x509 applies them.

This module decides whether a CA may certify the names of a certificate. Because of an index of the subtrees, the cost
of a comparison is proportional to the number of labels in the name.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

from certmond.errors import MalformedError
from certmond.immutable_class import immutable
from certmond.pki.asn1.der import read_value
from certmond.pki.go.certificate import alternative_names_of, extension_of
from certmond.pki.go.extensions import NAME_CONSTRAINTS
from certmond.pki.go.name_constraints import KINDS, Constraint, parse_constraints, parse_mailbox
from certmond.pki.go.uri import host_in
from certmond.pki.x509.certificate import Certificate, is_ordinary

_LEAST = 2  # bytes of a name
_AT_OR_BELOW, _BELOW = "", "."  # end of a domain in the index; neither is a label


@dataclass(slots=True)
class _Subtrees:
    """Index of the permitted or excluded subtrees of a CA.

    Domains are in a tree of labels, and networks are grouped by IP version and prefix length.
    """

    counts: Counter[str] = field(default_factory=Counter)
    domains: dict[str, dict[str, Any]] = field(default_factory=dict)
    mailboxes: set[tuple[str, str]] = field(default_factory=set)
    networks: dict[tuple[int, int], set[int]] = field(default_factory=dict)

    def add(self, subtree: Constraint) -> None:
        """Add a subtree to the index. Raises ValueError for an invalid domain."""
        match subtree.value:
            case IPv4Network() | IPv6Network() as network:
                self.counts["IP"] += 1
                place = network.version, network.prefixlen
                self.networks.setdefault(place, set()).add(_prefix(network.network_address, network.prefixlen))
            case mailbox if subtree.kind == "email" and "@" in mailbox:
                _labels(_mailbox(mailbox)[1])
                self.counts["email"] += 1
                self.mailboxes.add(_mailbox(mailbox))
            case domain:
                self._add_domain(subtree.kind, domain)

    def _add_domain(self, kind: str, domain: str) -> None:
        """Add a domain with its subdomains. A leading dot adds only the subdomains, and "" adds every domain."""
        node = self.domains.setdefault(kind, {})
        for label in _labels(domain.removeprefix(".")):
            node = node.setdefault(label, {})
        node[_BELOW if domain.startswith(".") else _AT_OR_BELOW] = {}
        self.counts[kind] += 1

    def hold(self, kind: str, value: str) -> bool:
        """Return whether a subtree contains the name `value` of the kind "DNS", "IP", "email" or "URI".

        Raises ValueError for a malformed name.
        """
        match kind:
            case "IP":
                address = ip_address(value)
                return any(
                    _prefix(address, length) in prefixes
                    for (version, length), prefixes in self.networks.items()
                    if version == address.version
                )
            case "email":
                return _mailbox(value) in self.mailboxes or self._hold_domain(kind, _mailbox(value)[1])
            case "URI":
                return self._hold_domain(kind, _host(value))
            case _:
                return self._hold_domain(kind, value)

    def _hold_domain(self, kind: str, domain: str) -> bool:
        node = self.domains.get(kind, {})
        for label in _labels(domain):
            if _AT_OR_BELOW in node or _BELOW in node:
                return True
            if label not in node:
                return False
            node = node[label]
        return _AT_OR_BELOW in node


@immutable
class NameConstraints:
    """Name constraints of one CA. A name must not be in an excluded subtree.

    If the CA has permitted subtrees of the kind of the name, the name must be in one of these subtrees.
    """

    permitted: _Subtrees
    excluded: _Subtrees

    def permit(self, certificate: Certificate) -> bool:
        """Return whether the CA may certify every name of `certificate`. If a name is malformed, return False."""
        try:
            # A name that cannot be parsed raises ValueError.
            return all(self._permits(name) for name in certificate.names)
        except ValueError:
            return False

    def comparisons(self, certificate: Certificate, most: int) -> int:
        """Return how many comparisons between names and subtrees Go makes for `certificate`, or an upper bound.

        A result of at most `most` is an upper bound. A larger result is exact.
        """
        names = alternative_names_of(certificate.der)
        subtrees = self.permitted.counts + self.excluded.counts
        at_most = len(names or b"") // _LEAST * max(subtrees.values(), default=0)
        if names is None or at_most <= most:
            return at_most
        return sum(subtrees[KINDS.get(each.tag, "")] for each in read_value(names).values())

    def _permits(self, name: str) -> bool:
        kind, _, value = name.partition(":")
        if kind in {"DNS", "email"}:  # Go also checks the name if no constraint is of this kind
            _labels(value if kind == "DNS" else _mailbox(value)[1])
        if self.excluded.counts[kind] and self.excluded.hold(kind, value):
            return False
        return not self.permitted.counts[kind] or self.permitted.hold(kind, value)


def constraints_of(issuer: Certificate) -> NameConstraints | None:
    """Return the name constraints of a CA, or None if they are malformed. In this case, Go refuses the CA."""
    return _kept(issuer.der) if is_ordinary(issuer.der) else _parsed(issuer.der)


def _parsed(der: bytes) -> NameConstraints | None:
    found = NameConstraints(_Subtrees(), _Subtrees())
    try:
        constraints = parse_constraints(extension_of(der, NAME_CONSTRAINTS) or b"")
        for subtree in constraints.permitted:
            found.permitted.add(subtree)
        for subtree in constraints.excluded:
            found.excluded.add(subtree)
    except (ValueError, MalformedError):
        return None
    return found


_kept = lru_cache(maxsize=256)(_parsed)


def _prefix(address: IPv4Address | IPv6Address, length: int) -> int:
    return int(address) >> address.max_prefixlen - length


def _labels(domain: str) -> list[str]:
    """Return the labels of a domain in lower case, the last label first. Raises ValueError for an invalid domain."""
    labels = domain.lower().split(".")[::-1] if domain else []
    if not all(labels) or _NOT_IN_A_LABEL.search(domain):
        raise ValueError(domain)
    return labels


_NOT_IN_A_LABEL = re.compile(r"[^!-~]")


def _mailbox(address: str) -> tuple[str, str]:
    found = parse_mailbox(address)
    if found is None:
        raise ValueError(address)
    return found[0], found[1].lower()


def _host(uri: str) -> str:
    """Return the host of a URI.

    Raises ValueError if there is no host, or if the host is an IP address (RFC 5280, 4.2.1.10).
    """
    host = host_in(uri)
    if not host.endswith("]"):
        host = host.partition(":")[0]
    if not host or host.startswith("["):
        raise ValueError(uri)
    try:
        ip_address(host)
    except ValueError:
        return host
    raise ValueError(uri)
