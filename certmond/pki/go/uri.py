"""URIs in a subjectAltName as Go 1.24 parses them (net/url/url.go and crypto/x509).

If Go cannot parse a URI in a certificate, Go refuses the certificate.
"""

from __future__ import annotations

import re

from certmond.errors import MalformedError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})?")
_USER = re.compile(r"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*")
_HOST = re.compile(r"[A-Za-z0-9!$&'()*+,;=:\[\]<>\"\-_.~%]*")
_PORT = re.compile("(:[0-9]*)?")


def require_uri(uri: str) -> None:
    """Raise MalformedError, with Go's message, for a URI that url.Parse refuses or whose host is not a domain."""
    try:
        host = host_in(uri)
    except MalformedError as error:
        raise MalformedError(f"x509: cannot parse URI {uri!r}: {error}") from None
    if not is_domain(host):
        raise MalformedError(f"x509: cannot parse URI {uri!r}: invalid domain")


def is_domain(name: str) -> bool:
    """Return whether Go's domainToReverseLabels accepts `name`."""
    return not name or all(label and all("!" <= each <= "~" for each in label) for label in name.split("."))


def host_in(uri: str) -> str:
    """Return the unescaped host and port of a URI, or "" if the URI has no host.

    Raises MalformedError if url.Parse refuses the URI.
    """
    whole, _, fragment = uri.partition("#")
    if any(each < " " or each == "\x7f" for each in whole):
        raise MalformedError("net/url: invalid control character in URL")
    if fragment:
        _unescaped(fragment)
    if whole == "*":
        return ""
    found = _SCHEME.match(whole)
    if found is None and whole.startswith(":"):
        raise MalformedError("missing protocol scheme")
    scheme, rest = (found[1], whole[found.end() :]) if found else ("", whole)
    rest = rest.partition("?")[0]
    if not rest.startswith("/"):
        if scheme:
            return ""
        if ":" in rest.partition("/")[0]:
            raise MalformedError("first path segment in URL cannot contain colon")
    host = ""
    if rest.startswith("//") and (scheme or not rest.startswith("///")):
        authority, slash, path = rest[2:].partition("/")
        host, rest = _host_of(authority), slash + path
    _unescaped(rest)
    return host


def _host_of(authority: str) -> str:
    user, at, host = authority.rpartition("@")
    parsed = _parsed_host(host)
    if at:
        if not _USER.fullmatch(user):
            raise MalformedError("net/url: invalid userinfo")
        for part in user.partition(":")[::2]:
            _unescaped(part)
    return parsed


def _parsed_host(host: str) -> str:
    if host.startswith("["):
        literal, closing, port = host.rpartition("]")
        if not closing:
            raise MalformedError("missing ']' in host")
        _require_port(port)
        if "%25" in literal:
            zone = literal.index("%25")
            return _unescaped_host(literal[:zone]) + _unescaped_zone(literal[zone:]) + _unescaped_host(closing + port)
    elif ":" in host:
        _require_port(host[host.rindex(":") :])
    return _unescaped_host(host)


def _require_port(port: str) -> None:
    if not _PORT.fullmatch(port):
        raise MalformedError(f"invalid port {port!r} after host")


def _unescaped(text: str) -> str:
    """Return the text with decoded URL escapes. Raises MalformedError for a % without two hexadecimal digits."""
    if any(found[1] is None for found in _ESCAPE.finditer(text)):
        raise MalformedError("invalid URL escape")
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text)


def _unescaped_host(text: str) -> str:
    """Return the host with decoded escapes.

    Raises MalformedError for an invalid character or escape, and for an escaped ASCII character, except %25.
    """
    plain = _unescaped(text)
    if any(int(found[1], 16) < 0x80 and found[1] != "25" for found in _ESCAPE.finditer(text)):
        raise MalformedError("invalid URL escape")
    _require_host(text)
    return plain


def _unescaped_zone(text: str) -> str:
    plain = _unescaped(text)
    for found in _ESCAPE.finditer(text):
        octet = chr(int(found[1], 16))
        if found[1] != "25" and octet != " " and not (_HOST.fullmatch(octet) and octet != "%"):
            raise MalformedError("invalid URL escape")
    _require_host(text)
    return plain


def _require_host(text: str) -> None:
    if not _HOST.fullmatch(text):
        raise MalformedError("invalid character in host name")
