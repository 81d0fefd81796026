"""The Root CA that an operator brings: read, and found to be one that Kubernetes can live with, or refused by name.

Owns the reading of the two files. The rules are those of `pki.assess`: what would be critical later is refused now, and
so is a weak key. A weak signature is not, as nobody verifies it on a trust anchor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from certmond.errors import ConfigError, KeyUnusableError
from certmond.host.keys import PrivateKey, load_key
from certmond.host.signers.local import read_file
from certmond.pki.assess import assess
from certmond.pki.catalog import CertificateSpec
from certmond.pki.certificate import Certificate, describe_key
from certmond.pki.encoding import decode
from certmond.pki.inventory import Inventory, Observation
from certmond.pki.reason import Reason, Severity


@dataclass(frozen=True, slots=True)
class GivenAuthority:
    """A good Root CA and its key."""

    certificate: Certificate
    key: PrivateKey = field(repr=False)


def read_authority(certificate_path: str, key_path: str, now: datetime) -> GivenAuthority:
    """The CA in these two files of this host. Raises ConfigError with everything that speaks against it."""
    problems: list[str] = []
    certificate = _certificate(certificate_path, problems)
    key = _key(key_path, problems)
    if certificate is not None:
        spec = CertificateSpec(name="ca", path="/ca.crt", key="/ca.key", authority=True, usages=("cert sign",))
        seen = Observation(
            name="ca", spec=spec, path=certificate_path, certificates=(certificate,), key_path=key_path,
            key=describe_key(key.public_key()) if key else None, key_unknown=key is None,
        )  # fmt: skip
        (status,) = assess(Inventory((seen,)), now).statuses
        problems += [
            found.message
            for found in status.findings
            if found.severity is Severity.CRITICAL or found.reason is Reason.WEAK_KEY
        ]
        if certificate.version < 3:  # what it lacks nobody finds, as it has no way to say it
            problems.append(
                f"{certificate_path} is of version {certificate.version}, which has no CA:TRUE; give another CA"
            )
    if problems or certificate is None or key is None:
        raise ConfigError(tuple(problems))
    return GivenAuthority(certificate, key)


def _certificate(path: str, problems: list[str]) -> Certificate | None:
    try:
        document = decode(read_file(path), path)
    except OSError as error:
        problems.append(f"{path} cannot be read ({error.strerror}); give the CA's certificate")
        return None
    problems += [f"{fault.detail}; give the CA's certificate alone, as PEM" for fault in document.faults]
    if len(document.certificates) != 1 and not document.faults:
        problems.append(f"{path} holds {len(document.certificates)} certificates; give exactly one, the Root CA")
        return None
    return next(iter(document.certificates), None)


def _key(path: str, problems: list[str]) -> PrivateKey | None:
    try:
        return load_key(read_file(path), path)
    except OSError as error:
        problems.append(f"{path} cannot be read ({error.strerror}); give the CA's private key")
    except KeyUnusableError as error:
        problems.append(str(error))
    return None
