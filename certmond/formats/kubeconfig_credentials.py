"""Public facts of a kubeconfig. certmond parses the embedded PEM and drops its bytes.

Ensures that no part of a private key stays in memory after a kubeconfig was read. Reads no file and judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import Kubeconfig, Material, User, parse_kubeconfig
from certmond.pki.findings import Fault, Reason, printable
from certmond.pki.x509.parsed_file import not_pem
from certmond.pki.x509.parsing import Document, decode, is_pkcs12

MAX_KEYS = 256
"""Maximum number of private keys that certmond parses in one kubeconfig. The public half of each takes milliseconds."""
_NO_KUBECONFIG = Kubeconfig((), (), None, None, ())


@dataclass(frozen=True, slots=True)
class Credentials:
    """A kubeconfig with parsed PEM (`documents`: owner and field -> content), without the bytes."""

    config: Kubeconfig = _NO_KUBECONFIG
    documents: Mapping[tuple[str, str], Document] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


def parse_credentials(data: bytes, path: str) -> Credentials:
    """Return the users and clusters of the kubeconfig at `path`, with its errors as faults. Never raises."""
    try:
        config = parse_kubeconfig(data, path)
    except MalformedError as error:
        return Credentials(faults=(Fault(Reason.MALFORMED, f"{path} {error}"),))
    keys = [user for user in config.users if user.key and user.key.data is not None]
    skipped = frozenset(user.name for user in keys[MAX_KEYS:])
    materials = [(user.name, "certificate", user.certificate) for user in config.users]
    materials += [(user.name, "key", user.key) for user in config.users if user.name not in skipped]
    materials += [(cluster.name, "ca", cluster.ca) for cluster in config.clusters]
    documents = {
        (owner, field): _document(material.data, f"{path}, {field} of {owner!r}")
        for owner, field, material in materials
        if material and material.data is not None
    }
    bare = replace(
        config,
        users=tuple(
            replace(user, key=_without_bytes(user.key), certificate=_without_bytes(user.certificate))
            for user in config.users
        ),
        clusters=tuple(replace(cluster, ca=_without_bytes(cluster.ca)) for cluster in config.clusters),
    )
    faults = [Fault(Reason.MALFORMED, f"{path}: {problem}") for problem in config.problems]
    if skipped:
        fault = Fault(Reason.MALFORMED, f"{path} has more than {MAX_KEYS} private keys; the others are not read")
        faults.append(fault)
        documents |= {(name, "key"): Document(faults=(fault,)) for name in skipped}
    return Credentials(bare, documents, tuple(faults))


def no_certificate_in(path: str, others: Sequence[User]) -> Fault:
    """Return the fault of a kubeconfig without a client certificate.

    `others` are the users with other credentials, such as a token. certmond does not replace these credentials.
    """
    fact = f"{path} has no client certificate"
    if not others:
        return Fault(Reason.MISSING, fact, "issue it again")
    instead = printable(f"{fact}: user {others[0].name!r} authenticates with {others[0].other}")
    remedy = "certmond does not replace it; to issue the certificate again, move the file away"
    return Fault(Reason.MISSING, instead, remedy)


def _document(data: bytes, where: str) -> Document:
    """Return the parsed content, with a fault if it is not PEM, the only format that client-go reads.

    certmond does not open embedded PKCS#12, because a kubeconfig may embed hundreds of files.
    """
    if is_pkcs12(data):
        return Document(faults=(Fault(Reason.MALFORMED, f"{where} is PKCS#12, but client-go reads only PEM"),))
    document = decode(data, where)
    return replace(document, faults=(*document.faults, *not_pem(document, where)))


def _without_bytes(material: Material | None) -> Material | None:
    """Return the material without its bytes. Empty data represents that the kubeconfig embeds it."""
    return Material(data=b"") if material and material.data is not None else material
