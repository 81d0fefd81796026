"""Name constraints of a CA (RFC 5280, section 4.2.1.10), as Go's crypto/x509 applies them to a certificate's names.

Owns one question: may this CA certify these names? Knows DNS names, IP addresses, email addresses and URIs. A name that
cannot be parsed is not permitted. A CA that constrains any other kind of name does not get here: that is a critical
extension which Go does not understand.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from itertools import chain
from urllib.parse import urlsplit

from cryptography import x509

from certmond.pki.certificate import Certificate, load

Subtrees = tuple[x509.GeneralName, ...]


def permitted(issuer: Certificate, certificate: Certificate) -> bool:
    """Every name of `certificate` is within the permitted and outside the excluded subtrees of `issuer`."""
    allowed, excluded = _subtrees(issuer)
    try:
        return all(_permits(name, allowed, excluded) for name in certificate.names)
    except ValueError:
        return False


def readable(issuer: Certificate) -> bool:
    """The constraints of `issuer` can be parsed. Go does not read a certificate of which they cannot."""
    try:
        for subtree in chain(*_subtrees(issuer)):
            _require_domain(subtree)
    except ValueError:
        return False
    return True


def _subtrees(issuer: Certificate) -> tuple[Subtrees, Subtrees]:
    constraints = load(issuer.der).extensions.get_extension_for_class(x509.NameConstraints).value
    return tuple(constraints.permitted_subtrees or ()), tuple(constraints.excluded_subtrees or ())


def _permits(name: str, allowed: Subtrees, excluded: Subtrees) -> bool:
    kind, _, value = name.partition(":")
    if kind in {"DNS", "email"}:  # judged even where no constraint is about this kind, as in Go
        _labels(value if kind == "DNS" else _mailbox(value)[1])
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
        case x509.RFC822Name(value=mailbox) if kind == "email" and "@" in mailbox:
            return _mailbox(value) == _mailbox(mailbox)
        case x509.RFC822Name(value=domain) if kind == "email":
            return _in_domain(_mailbox(value)[1], domain)
        case x509.UniformResourceIdentifier(value=domain) if kind == "URI":
            return _in_domain(_host(value), domain)
        case _:
            return None


def _in_domain(name: str, domain: str) -> bool:
    """`domain` takes in itself and all below it, with a leading dot only what is below it, and empty everything."""
    labels, wanted = _labels(name), _labels(domain.removeprefix("."))
    deep_enough = len(labels) > len(wanted) or not domain.startswith(".")
    return deep_enough and labels[: len(wanted)] == wanted


def _in_network(address: IPv4Address | IPv6Address, network: object) -> bool:
    return isinstance(network, IPv4Network | IPv6Network) and address in network


def _require_domain(subtree: x509.GeneralName) -> None:
    if isinstance(subtree, x509.DNSName | x509.RFC822Name | x509.UniformResourceIdentifier):
        value = subtree.value
        _labels(_mailbox(value)[1] if "@" in value else value.removeprefix("."))


def _labels(domain: str) -> list[str]:
    """The labels of a domain, last one first. Raises ValueError for an empty one (as after a final dot) or a blank."""
    labels = domain.lower().split(".")[::-1] if domain else []
    if not all(label and all("!" <= character <= "~" for character in label) for label in labels):
        raise ValueError(domain)
    return labels


def _mailbox(address: str) -> tuple[str, str]:
    local, _, domain = address.rpartition("@")
    if not local:
        raise ValueError(address)
    return local, domain.lower()


def _host(uri: str) -> str:
    """The host that a URI names. Raises ValueError for none and for an address, as RFC 5280 demands."""
    host = urlsplit(uri).hostname
    try:
        ip_address(host or "")
    except ValueError:
        if host:
            return host
    raise ValueError(uri)
