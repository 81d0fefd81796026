"""Parser of the public contents of a kubeconfig, with the embedded certificates.

The result contains no part of a private key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import Cluster, Kubeconfig, Material, User, parse_kubeconfig
from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import Kind
from certmond.pki.findings import Fault, Reason, printable
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import Document, decode, is_pkcs12
from certmond.pki.x509.certificate_file_properties import not_pem

MAX_KEYS = 256
"""Maximum number of private keys that certmond parses in one kubeconfig. Each key takes several milliseconds."""
_NO_KUBECONFIG = Kubeconfig((), (), None, None, ())


@immutable
class Credentials:
    """A kubeconfig without its embedded PEM bytes, and the result of parsing these bytes.

    A key of `documents` consists of the name of a user or cluster, and of "certificate", "key" or "ca".
    """

    config: Kubeconfig = _NO_KUBECONFIG
    documents: Mapping[tuple[str, str], Document] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


def parse_credentials(data: bytes, path: str) -> Credentials:
    """Return the users and clusters of the kubeconfig `data`. Never raises: the result contains errors as `faults`."""
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
        fault = Fault(
            Reason.MALFORMED, f"{path} contains more than {MAX_KEYS} private keys; certmond reads no further key"
        )
        faults.append(fault)
        documents |= {(name, "key"): Document(faults=(fault,)) for name in skipped}
    return Credentials(bare, documents, tuple(faults))


def own_user(config: Kubeconfig) -> User | None:
    """Return the user of the current context. Without a current user, return the only user.

    Return None if this user does not exist or has no certificate.
    """
    name = config.current_user or (config.users[0].name if len(config.users) == 1 else None)
    return next((user for user in config.users if user.certificate and user.name == name), None)


def missing_parts(path: str, credentials: Credentials, others: Sequence[User], *, embeds: bool) -> list[Fault]:
    """Return a list with the fault for a missing certificate or server in a kubeconfig, or an empty list.

    `others` are the users with other credentials, such as a token. A server is required only if `embeds` is True.
    """
    config = credentials.config
    if own_user(config) is None:
        return [_no_certificate_in(path, config, others)]
    if not embeds or _has_server(config):
        return []
    fact = printable(f"{path}: {broken_cluster(credentials)}")
    return [
        Fault(
            Reason.MALFORMED,
            fact,
            "add the missing value to the file, or move the file away and issue the kubeconfig again",
        )
    ]


def broken_cluster(credentials: Credentials) -> str:
    """Return a clause with the reason for which the current context has no server with a usable CA, or "".

    Return "" also for a server without verification, and if it is unknown which of several clusters is in use.
    """
    config = credentials.config
    clusters = _current_clusters(config)
    if not _has_server(config):
        return f"cluster {clusters[0].name!r} has no server" if clusters else "its current context has no cluster"
    # With several clusters and no current context, the cluster to check is unknown.
    if len(clusters) != 1 or clusters[0].skips_verification or clusters[0].server.startswith("http://"):
        return ""
    cluster = clusters[0]
    if cluster.ca is None:
        return f"cluster {cluster.name!r} has no readable CA certificate"
    document = credentials.documents.get((cluster.name, "ca"))  # None if the cluster refers to a CA file
    if document and not document.certificates:  # client-go skips the blocks that it cannot read
        return f"the CA certificate of cluster {cluster.name!r} is malformed"
    return ""


def _current_clusters(config: Kubeconfig) -> list[Cluster]:
    """Return the cluster of the current context. If no current context names a cluster, return all clusters."""
    return [each for each in config.clusters if config.current_cluster in {None, each.name}]


def _has_server(config: Kubeconfig) -> bool:
    return any(each.server for each in _current_clusters(config))


def _no_certificate_in(path: str, config: Kubeconfig, others: Sequence[User]) -> Fault:
    """Return the fault for the missing client certificate of the current user.

    `others` are users with other credentials, such as a token. certmond does not replace these credentials.
    """
    fact = f"{path} contains no client certificate"
    if any(user.certificate for user in config.users):
        whose = f"user {config.current_user!r} of its" if config.current_user else "the user of a"
        fact = printable(f"{fact} for {whose} current context")
    if not others:
        return Fault(Reason.MISSING, fact, "issue it again")
    instead = printable(f"{fact}: user {others[0].name!r} authenticates with {others[0].other}")
    remedy = "certmond does not replace these credentials; to issue the certificate again, move the file away"
    return Fault(Reason.MISSING, instead, remedy)


def _document(data: bytes, where: str) -> Document:
    """Return the parsed content of `data`, with a fault if `data` is not PEM, as client-go requires."""
    # Do not decrypt embedded PKCS#12, because a kubeconfig can embed hundreds of PKCS#12 files.
    if is_pkcs12(data):
        return Document(faults=(Fault(Reason.MALFORMED, f"{where} is PKCS#12, but client-go reads only PEM"),))
    document = decode(data, where)
    return replace(document, faults=(*document.faults, *not_pem(document, where)))


def _without_bytes(material: Material | None) -> Material | None:
    """Return embedded material with its bytes removed. Return other material unchanged."""
    return Material(data=b"") if material and material.data is not None else material


def certificates_in(content: bytes, path: str, kind: Kind) -> tuple[Certificate, ...]:
    """Return every certificate in a file, including the certificates that a kubeconfig embeds."""
    if kind is not Kind.KUBECONFIG:
        return decode(content, path).certificates
    documents = parse_credentials(content, path).documents.values()
    return tuple(certificate for document in documents for certificate in document.certificates)
