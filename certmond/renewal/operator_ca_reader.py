"""Reader of the certificate and the key of the operator's Root CA, which also checks both files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import field
from datetime import datetime
from shlex import quote

from certmond.errors import ConfigError, KeyUnusableError
from certmond.formats.private_key import PrivateKey, can_sign, load_key
from certmond.immutable_class import immutable
from certmond.pki.findings import printable
from certmond.pki.rotation.ca_validation import unfit
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.encoding_faults import encoding_faults
from certmond.pki.x509.public_key import describe_key
from certmond.signers.local_ca import read_file


@immutable
class RootCAKeyPair:
    """A Root CA with its private key."""

    certificate: Certificate
    key: PrivateKey = field(repr=False)


@immutable
class CAFiles:
    """Certificate and key of a CA, and the problems with their files.

    `unread` contains messages about unreadable files, `problems` about the content of readable files, and `warnings`
    about access by other users.
    """

    certificate: Certificate | None
    key: PrivateKey | None = field(default=None, repr=False)
    unread: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_authority(certificate_path: str, key_path: str, now: datetime) -> RootCAKeyPair:
    """Return the Root CA from two files of this host. Raises ConfigError, with each problem, if the CA is unusable."""
    found = read_ca_files(certificate_path, key_path)
    problems = [*found.unread, *found.problems]
    if found.certificate is not None:
        key = describe_key(found.key.public_key()) if found.key else None
        problems += unfit(
            found.certificate, key, now, where=certificate_path, key_where=key_path if key is not None else None
        )
    if problems or found.certificate is None or found.key is None:
        raise ConfigError(tuple(problems))
    return RootCAKeyPair(found.certificate, found.key)


def read_ca_files(certificate_path: str, key_path: str | None) -> CAFiles:
    """Return the certificate and the key of a CA, with messages about errors."""
    unread, problems = list[str](), list[str]()
    certificate = _certificate(certificate_path, unread, problems)
    key = _key(key_path, unread, problems) if key_path is not None else None
    warnings = _open_to_others(key_path) if key is not None else ()
    return CAFiles(certificate, key, *(tuple(map(printable, messages)) for messages in (unread, problems, warnings)))


def read_key(path: str) -> CAFiles:
    """Return the private key in the file `path` and the problems of the file, without a certificate.

    Such a key is, for example, the key that signs service-account tokens.
    """
    unread, problems = list[str](), list[str]()
    key = _key(path, unread, problems, "the private key")
    warnings = _open_to_others(path) if key is not None else ()
    return CAFiles(None, key, *(tuple(map(printable, messages)) for messages in (unread, problems, warnings)))


def _certificate(path: str, unread: list[str], problems: list[str]) -> Certificate | None:
    try:
        document = decode(read_file(path), path)
    except OSError as error:
        unread.append(f"certmond cannot read {path} ({error.strerror}); give the certificate of the CA")
        return None
    # ca_validation reports the faults in the encoding of the certificate itself.
    reported = tuple(fault.detail for each in document.certificates for fault in encoding_faults(each, ""))
    others = [fault.detail for fault in document.faults if not fault.detail.endswith(reported)]
    problems += [f"{detail}; give only the certificate of the CA, as PEM" for detail in others]
    if len(document.certificates) != 1 and not document.faults:
        problems.append(f"{path} contains {len(document.certificates)} certificates; give exactly one, the Root CA")
        return None
    return next(iter(document.certificates), None)


def _key(path: str, unread: list[str], problems: list[str], what: str = "the CA's private key") -> PrivateKey | None:
    try:
        key = load_key(read_file(path), path)
        if can_sign(key):
            return key
        problems.append(
            f"the private key in {path} is damaged: a signature made with it does not verify; give an intact key"
        )
    except OSError as error:
        unread.append(f"certmond cannot read {path} ({error.strerror}); give {what}")
    except KeyUnusableError as error:
        problems.append(str(error))
    return None


def _open_to_others(path: str | None) -> Iterator[str]:
    if path and (mode := os.stat(path).st_mode & 0o777) & 0o077:
        fact = f"other users can read or write {path} (mode {mode:04o})"
        command = f"chmod 0600 {quote(path)}"
        yield f"{fact}; if another user might have read this key, use another key, or else run: {command}"
