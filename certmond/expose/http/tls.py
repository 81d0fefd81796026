"""TLS context of the HTTP server, with the settings of a web configuration.

This module also checks the names in client certificates. If the web configuration names a key file, only this context
keeps the private key in the memory of the server.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from certmond.config.yaml_source import MAX_BYTES, Problem
from certmond.errors import ConfigError
from certmond.expose.http.web_config import SUITES, Source, content

_VERSIONS = {
    "TLS10": ssl.TLSVersion.TLSv1,
    "TLS11": ssl.TLSVersion.TLSv1_1,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
_CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
_VERIFY = {"VerifyClientCertIfGiven": ssl.CERT_OPTIONAL, "RequireAndVerifyClientCert": ssl.CERT_REQUIRED}
_NAMES = {"DNS", "email", "IP Address", "URI"}


def make_context(source: Source) -> ssl.SSLContext:
    """Return the TLS context of the server for a web configuration.

    Raises ConfigError with all problems and the line of each problem.
    """
    settings, problems = source.config.tls_server_config, []
    pems = {key: _inline(source, key) for key in ("cert", "key", "client_ca")}
    for key in settings.files:
        try:
            found = content(source.path(key))
        except OSError as error:
            text = f"certmond cannot read {source.path(key)} ({error.strerror}); correct the path or the permissions"
            problems.append(Problem(source.place(key), text))
        else:
            pems[key.removesuffix("_file")] = found
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if not problems:
        problems += _take_pair(context, source, pems)
        problems += _take_authorities(context, source, pems["client_ca"])
    problems += _choose(context, source)
    if problems:
        raise ConfigError(tuple(map(str, problems)))
    return context


def allowed(connection: ssl.SSLSocket, names: tuple[str, ...]) -> bool:
    """Return whether a subject alternative name of the client certificate is in `names`, or `names` is empty.

    IP addresses in `names` have the format of Go, such as 2001:db8::1.
    """
    if not names:
        return True
    shown: Any = (connection.getpeercert() or {}).get("subjectAltName", ())
    return any(_text(kind, value) in names for kind, value in shown if kind in _NAMES)


def _text(kind: str, value: str) -> str:
    if kind != "IP Address":
        return value
    address = ip_address(value.strip())
    return str((address.version == 6 and address.ipv4_mapped) or address)


def _inline(source: Source, key: str) -> bytes:
    text: str = getattr(source.config.tls_server_config, key)
    return text.encode()


def _key_of(source: Source, name: str) -> str:
    """Return the key that sets `name` in the web configuration, such as `cert_file` or `cert`."""
    return f"{name}_file" if f"{name}_file" in source.config.tls_server_config.files else name


def _take_pair(context: ssl.SSLContext, source: Source, pems: dict[str, bytes]) -> Iterator[Problem]:
    place, key = source.place(_key_of(source, "cert")), _key_of(source, "key")
    key = str(source.path(key)) if key == "key_file" else key
    try:
        with _memory(pems["cert"]) as cert_path, _memory(pems["key"]) as key_path:
            context.load_cert_chain(cert_path, key_path, password=_no_password)
    except _EncryptedError:
        yield Problem(
            place, f"{key} is encrypted, and certmond cannot prompt for a password; decrypt it: openssl pkey -in {key}"
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            yield Problem(place, f"is not the certificate of {key}; install a certificate with its key")
        else:
            yield Problem(
                place,
                f"cannot be used with {key} ({reason or 'no PEM'}); use complete PEM files",
            )


def _take_authorities(context: ssl.SSLContext, source: Source, pem: bytes) -> Iterator[Problem]:
    mode = _VERIFY.get(source.config.tls_server_config.client_auth_type)
    if mode is None:
        return
    context.verify_mode = mode
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # trust every CA in the file, as Go does
    try:
        with _memory(pem) as path:
            context.load_verify_locations(path)
    except (OSError, ValueError):
        yield Problem(source.place(_key_of(source, "client_ca")), "contains no certificate; write a CA as PEM")


def _choose(context: ssl.SSLContext, source: Source) -> Iterator[Problem]:
    settings = source.config.tls_server_config
    least, most = _VERSIONS[settings.min_version], _VERSIONS[settings.max_version]
    old = least < ssl.TLSVersion.TLSv1_2
    chosen = [SUITES[name] for name in settings.cipher_suites if name in SUITES]
    if settings.cipher_suites and not chosen:  # the configuration selects only cipher suites of TLS 1.3
        least = ssl.TLSVersion.TLSv1_3
    default = [name for name in SUITES.values() if old or not name.endswith("-SHA")]
    # The signatures of TLS 1.0 and 1.1 require the security level 0 of OpenSSL.
    context.set_ciphers(":".join(chosen or default) + ("@SECLEVEL=0" if old else ""))
    context.minimum_version, context.maximum_version = least, most
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET  # no session resumption: verify each client
    context.num_tickets = 0
    if settings.prefer_server_cipher_suites:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
    else:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    for curve in settings.curve_preferences:
        try:
            context.set_ecdh_curve(_CURVES[curve])
        except (OSError, ValueError):  # Python 3.11.2 of Debian 12 does not support X25519 here
            fact = f"cannot be {curve}, because the Python version of certmond does not support it"
            yield Problem(
                source.place("curve_preferences"), f"{fact}; remove the key, so that OpenSSL offers its default curves"
            )


class _EncryptedError(Exception):
    """Error for an encrypted private key, for which OpenSSL requests a password."""


def _no_password() -> str:
    raise _EncryptedError


@contextmanager
def _memory(pem: bytes) -> Iterator[str]:
    """Yield the path of a file in anonymous memory that contains the bytes `pem`.

    OpenSSL accepts only paths, and the private key must not be written to a file on disk. Raises ValueError if `pem` is
    larger than 1 MiB.
    """
    if len(pem) > MAX_BYTES:
        raise ValueError("larger than 1 MiB")
    descriptor = os.memfd_create("pem", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        file.write(pem)
        yield f"/proc/self/fd/{descriptor}"
