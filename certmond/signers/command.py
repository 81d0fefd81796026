"""Signing by a program that follows certmonger's contract for enrollment helpers (certmonger, doc/helpers.txt).

A helper receives the request and never the private key. The caller verifies the certificates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from certmond.errors import MalformedError, RefusedError, UnreachableError, WaitingError
from certmond.pki.x509.certificate import to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.library_guard import guarded
from certmond.pki.x509.public_key import public_key_of
from certmond.signers.protocol import Issued, Request
from certmond.subprocesses import Ended, first_line, run

ASK_AGAIN = 300.0
"""Seconds until certmond repeats a request, if the helper reports `wait` without a time."""

_SHORTEST, _LONGEST = 1, 7 * 86400  # seconds; limits of a wait that a helper requests
_MAX_COOKIE = 1 << 16  # bytes; POLL passes the cookie in an environment variable, which Linux limits to 128 KiB


class CommandSigner:
    """Signer that runs `command`, a helper and its arguments. `name` is the signer's name in the configuration."""

    def __init__(
        self, name: str, command: tuple[str, ...], *, time_limit: timedelta, ca_profile: str | None = None
    ) -> None:
        self._name = name
        self._command = command
        self._time_limit = time_limit
        self._ca_profile = ca_profile

    def sign(self, request: Request) -> Issued:
        """Return the certificate and its chain.

        Raises RefusedError if the helper or its CA refuses the request, or if the output of the helper is invalid.
        Raises UnreachableError if the helper fails or cannot reach its CA, and WaitingError if the CA has not decided
        yet.
        """
        ended = run(self._command, self._environment(request), self._time_limit, request.alive)
        helper = f"the helper {self._command[0]} of signer {self._name}"
        message = first_line(ended.output) or first_line(ended.said)
        reason = f": {message}" if message else ""
        match ended.status:
            case 0:
                return Issued(_sorted_chain(ended.output, request, helper))
            case 1:
                raise _waiting(helper, ASK_AGAIN, ended.output)
            case 5:
                seconds, _, cookie = ended.output.lstrip().partition(b"\n")
                raise _waiting(helper, _seconds(helper, seconds), cookie)
            case 2:
                raise RefusedError(f"{helper} reports that its CA refused {request.name}{reason}")
            case 3:
                raise UnreachableError(f"{helper} cannot reach its CA{reason}")
            case 4:
                raise RefusedError(
                    f"{helper} is not configured{reason}; configure the helper, and then run it manually as a test"
                )
            case 6:
                raise RefusedError(f"{helper} does not support {self._operation(request)}; use another helper")
            case 16:
                raise RefusedError(f"{helper} requires SCEP, which certmond does not support; use another helper")
            case 17:
                raise RefusedError(
                    f"{helper} requires a new key{reason}; set `keep_key: false` in the entry {request.name}"
                )
            case _:
                raise UnreachableError(f"{helper} {_exit_description(ended)}; run the helper manually to see the cause")

    def _operation(self, request: Request) -> str:
        return "SUBMIT" if request.cookie is None else "POLL"

    def _environment(self, request: Request) -> dict[str, str]:
        """Return the environment of the helper for SUBMIT or POLL. Omit empty variables, as certmonger does."""
        names = request.template.names
        words = {
            "CERTMONGER_OPERATION": self._operation(request),
            "CERTMONGER_CSR": request.pem().decode("ascii"),
            "CERTMONGER_REQ_SUBJECT": request.template.subject.rfc4514_string(),
            "CERTMONGER_REQ_HOSTNAME": _lines(name.value for name in names if isinstance(name, x509.DNSName)),
            "CERTMONGER_REQ_IP_ADDRESS": _lines(str(name.value) for name in names if isinstance(name, x509.IPAddress)),
            "CERTMONGER_REQ_EMAIL": _lines(name.value for name in names if isinstance(name, x509.RFC822Name)),
            "CERTMONGER_CERTIFICATE": to_pem(request.old).decode("ascii") if request.old else "",
            "CERTMONGER_CA_NICKNAME": self._name,
            "CERTMONGER_CA_PROFILE": self._ca_profile or "",
            "CERTMONGER_CA_COOKIE": request.cookie or "",
        }
        return {word: value for word, value in words.items() if value}


def _waiting(helper: str, seconds: float, cookie: bytes) -> WaitingError:
    """Return the error for a request that waits. The error contains the helper's cookie.

    Raises RefusedError if the helper wrote no valid cookie.
    """
    try:
        text = cookie.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        text = ""
    if not text or "\0" in text or len(cookie) > _MAX_COOKIE:
        raise RefusedError(f"{helper} reports `wait` without a valid cookie; the helper must write a cookie")
    return WaitingError(f"{helper} waits for the decision of its CA", seconds, text)


def _seconds(helper: str, line: bytes) -> float:
    if not re.fullmatch(rb"\s*[0-9]{1,12}\s*", line):
        raise RefusedError(
            f"{helper} reports `wait` without the number of seconds; the helper must write this number in its first "
            "line"
        )
    return float(min(max(int(line), _SHORTEST), _LONGEST))


def _exit_description(ended: Ended) -> str:
    """Return the exit of the helper as a phrase. Quote only stderr, because stdout might contain a secret."""
    message = first_line(ended.said)
    how = f"was ended by signal {-ended.status}" if ended.status < 0 else f"ended with status {ended.status}"
    return f"{how} ({message})" if message else how


def _sorted_chain(output: bytes, request: Request, helper: str) -> bytes:
    """Return the certificate of the request's key, then the other certificates in the order of the output.

    Raises RefusedError if the output contains no certificate of the key.
    """
    found = decode(_as_pem(output), "its output").certificates
    if not found:
        raise RefusedError(f"{helper} wrote no certificate; the helper must write PEM")
    own = public_key_of(request.key)
    leaf = next((certificate for certificate in found if certificate.key == own), None)
    if leaf is None:
        raise RefusedError(f"{helper} wrote no certificate for the key of {request.name}; correct the helper")
    return b"".join(map(to_pem, dict.fromkeys((leaf, *found))))


def _as_pem(output: bytes) -> bytes:
    """Return the certificates of a JSON document or of PKCS#7 as PEM.

    The keys of the JSON document are `certificate` and `chain` (certmonger, src/submit-e.c). Return b"" for malformed
    JSON or PKCS#7, and any other output unchanged.
    """
    try:
        if output.lstrip().startswith(b"{"):
            answer = json.loads(output)
            chain = [link["certificate"] for link in answer.get("chain", ())]
            return "\n".join([answer["certificate"], *chain]).encode()
        if b"-----BEGIN PKCS7-----" in output:
            with guarded("is not PKCS#7"):
                return b"".join(made.public_bytes(Encoding.PEM) for made in pkcs7.load_pem_pkcs7_certificates(output))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, MalformedError):
        return b""
    return output


def _lines(values: Iterable[str]) -> str:
    return "\n".join(values)
