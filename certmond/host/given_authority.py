"""The Root CA that an operator brings: read, and found to be one that Kubernetes can live with, or refused by name.

Owns the reading of the two files of this host. The rules are those of `pki.candidate`; a weak signature is none of
them, as nobody verifies it on a trust anchor.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import datetime

from certmond.errors import ConfigError, KeyUnusableError
from certmond.host.keys import PrivateKey, load_key
from certmond.host.signers.local import read_file
from certmond.pki.candidate import unfit
from certmond.pki.certificate import Certificate, describe_key
from certmond.pki.encoding import decode
from certmond.pki.reason import printable

_OTHERS = 0o077


@dataclass(frozen=True, slots=True)
class GivenAuthority:
    """A good Root CA and its key."""

    certificate: Certificate
    key: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Brought:
    """What the files hold. `unread` says which could not be read at all, `problems` what is wrong with what could."""

    certificate: Certificate | None
    key: PrivateKey | None = field(repr=False)
    unread: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_authority(certificate_path: str, key_path: str, now: datetime) -> GivenAuthority:
    """The CA in these two files of this host. Raises ConfigError with everything that speaks against it."""
    found = read_brought(certificate_path, key_path)
    problems = [*found.unread, *found.problems]
    if found.certificate is not None:
        key = describe_key(found.key.public_key()) if found.key else None
        problems += unfit(
            found.certificate, key, now, where=certificate_path, key_where=key_path if key is not None else None
        )
    if problems or found.certificate is None or found.key is None:
        raise ConfigError(tuple(problems))
    return GivenAuthority(found.certificate, found.key)


def read_brought(certificate_path: str, key_path: str | None) -> Brought:
    """The certificate, and the key where one is asked for. What is wrong is part of what is returned: never raises."""
    unread, problems = list[str](), list[str]()
    certificate = _certificate(certificate_path, unread, problems)
    key = _key(key_path, unread, problems) if key_path is not None else None
    return Brought(certificate, key, tuple(map(printable, unread)), tuple(map(printable, problems)))


def open_to_others(key_path: str) -> str | None:
    """The sentence about a key's file that others than its owner may read or write; None where they may not."""
    try:
        mode = os.stat(key_path).st_mode & 0o777
    except OSError:
        return None  # told by whoever reads it
    if not mode & _OTHERS:
        return None
    fact = f"{key_path} can be read or written by others (mode {mode:04o})"
    return printable(f"{fact}; chmod 0600 {key_path}, and take another key if anybody may have seen this one")


def _certificate(path: str, unread: list[str], problems: list[str]) -> Certificate | None:
    try:
        document = decode(read_file(path), path)
    except OSError as error:
        unread.append(f"{path} cannot be read ({error.strerror}); give the CA's certificate")
        return None
    problems += [f"{fault.detail}; give the CA's certificate alone, as PEM" for fault in document.faults]
    if len(document.certificates) != 1 and not document.faults:
        problems.append(f"{path} holds {len(document.certificates)} certificates; give exactly one, the Root CA")
        return None
    return next(iter(document.certificates), None)


def _key(path: str, unread: list[str], problems: list[str]) -> PrivateKey | None:
    try:
        return load_key(read_file(path), path)
    except OSError as error:
        unread.append(f"{path} cannot be read ({error.strerror}); give the CA's private key")
    except KeyUnusableError as error:
        problems.append(str(error))
    return None
