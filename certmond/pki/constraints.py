"""Name constraints of a CA (RFC 5280, section 4.2.1.10), as Go's crypto/x509 applies them to a certificate's names.

Owns one question: may this CA certify these names? Knows DNS names, IP addresses, email addresses and URIs. A name or
a constraint that cannot be parsed is not permitted. A CA that constrains another kind of name never gets here: that is
a critical extension which Go does not understand.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from cryptography import x509

from certmond.pki.certificate import Certificate, load

Subtrees = tuple[x509.GeneralName, ...]


def permitted(issuer: Certificate, certificate: Certificate) -> bool:
    """Every name of `certificate` is within the permitted and outside the excluded subtrees of `issuer`."""
    constraints = load(issuer.der).extensions.get_extension_for_class(x509.NameConstraints).value
    allowed, excluded = tuple(constraints.permitted_subtrees or ()), tuple(constraints.excluded_subtrees or ())
    try:
        return all(_permits(name, allowed, excluded) for name in certificate.names)
    except ValueError:
        return False


def _permits(name: str, allowed: Subtrees, excluded: Subtrees) -> bool:
    kind, _, value = name.partition(":")
    if kind in _MALFORMED:
        _MALFORMED[kind](value)
    within = [_matches(kind, value, subtree) for subtree in allowed]
    outside = [_matches(kind, value, subtree) for subtree in excluded]
    relevant = [match for match in within if match is not None]
    return not any(outside) and (not relevant or any(relevant))


def _matches(kind: str, value: str, subtree: x509.GeneralName) -> bool | None:
    """Whether the name lies in the subtree; None where the subtree is about another kind of name."""
    match subtree:
        case x509.DNSName(value=domain) if kind == "DNS":
            return _in_domain(value, domain)
        case x509.IPAddress(value=network) if kind == "IP":
            return _in_network(ip_address(value), network)
        case x509.RFC822Name(value=constraint) if kind == "email":
            return _is_mailbox(value, constraint) if "@" in constraint else _in_domain(_mailbox(value)[1], constraint)
        case x509.UniformResourceIdentifier(value=domain) if kind == "URI":
            return _in_domain(_host(value), domain)
        case _:
            return None
