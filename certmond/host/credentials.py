"""A kubeconfig as the store looks at it: its PEM parsed to public facts, its bytes dropped.

Owns that nothing of a private key stays in memory once a kubeconfig was read. Reads no file and judges nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from certmond.errors import MalformedError
from certmond.host.kubeconfig import Cluster, Kubeconfig, Material, User, parse_kubeconfig
from certmond.pki.contents import not_pem
from certmond.pki.encoding import Document, decode, is_pkcs12
from certmond.pki.reason import Fault, Reason, printable

MAX_KEYS = 256
"""More private keys than this in one kubeconfig are not read: to compute the public half of one takes milliseconds."""
_NO_KUBECONFIG = Kubeconfig((), (), None, None, ())


@dataclass(frozen=True, slots=True)
class Credentials:
    """A kubeconfig with its embedded PEM parsed and dropped: nothing of a private key stays in memory."""

    config: Kubeconfig = _NO_KUBECONFIG
    documents: Mapping[tuple[str, str], Document] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


def parse_credentials(data: bytes, path: str) -> Credentials:
    """The users and clusters of the kubeconfig at `path`, with what is wrong in it as faults. Never raises."""
    try:
        config = parse_kubeconfig(data, path)
    except MalformedError as error:
        return Credentials(faults=(Fault(Reason.MALFORMED, f"{path} {error}"),))
    keys = [user for user in config.users if user.key and user.key.data is not None]
    left_out = frozenset(user.name for user in keys[MAX_KEYS:])
    materials = [(user.name, "certificate", user.certificate) for user in config.users]
    materials += [(user.name, "key", user.key) for user in config.users if user.name not in left_out]
    materials += [(cluster.name, "ca", cluster.ca) for cluster in config.clusters]
    documents = {
        (owner, field): _document(material.data, f"{path}, {field} of {owner!r}")
        for owner, field, material in materials
        if material and material.data is not None
    }
    bare = replace(
        config,
        users=tuple(
            replace(user, key=_emptied(user.key), certificate=_emptied(user.certificate)) for user in config.users
        ),
        clusters=tuple(replace(cluster, ca=_emptied(cluster.ca)) for cluster in config.clusters),
    )
    faults = [Fault(Reason.MALFORMED, f"{path}: {problem}") for problem in config.problems]
    if left_out:
        fault = Fault(Reason.MALFORMED, f"{path} has more than {MAX_KEYS} private keys; the others are not read")
        faults.append(fault)
        documents |= {(name, "key"): Document(faults=(fault,)) for name in left_out}
    return Credentials(bare, documents, tuple(faults))


def own_user(config: Kubeconfig) -> User | None:
    """Return the user of an entry with a subject, if that user has a certificate: of the current context, or the only
    one where the file has no such context.
    """
    name = config.current_user or (config.users[0].name if len(config.users) == 1 else None)
    return next((user for user in config.users if user.certificate and user.name == name), None)


def lacks(path: str, credentials: Credentials, others: Sequence[User], *, embeds: bool) -> list[Fault]:
    """Return what the kubeconfig of an entry with a subject lacks: the certificate of its user, else, if the entry
    `embeds` a CA, a server. `others` are the users whom an operator gave other credentials.
    """
    config = credentials.config
    if own_user(config) is None:
        return [_no_certificate_in(path, config, others)]
    if not embeds or _has_server(config):
        return []
    fact = printable(f"{path}: {broken_cluster(credentials)}")
    return [Fault(Reason.MALFORMED, fact, "write it there, or move the file away and issue it again")]


def broken_cluster(credentials: Credentials) -> str:
    """Return why the current context leads to no server that it trusts, a clause: there is no cluster, that has no
    server, or its embedded CA is broken or missing; "" where it leads to one.
    """
    config = credentials.config
    named = _named(config)
    if not _has_server(config):
        return f"cluster {named[0].name!r} has no server" if named else "its current context has no cluster"
    if len(named) != 1 or named[0].unchecked:
        return ""
    cluster = named[0]
    if cluster.ca is None:
        return f"cluster {cluster.name!r} has no CA certificate that can be read"
    document = credentials.documents.get((cluster.name, "ca"))  # none where it refers to a file
    if document and (not document.certificates or any(each.reason is Reason.MALFORMED for each in document.faults)):
        return f"the CA certificate of cluster {cluster.name!r} is broken"
    return ""


def _named(config: Kubeconfig) -> list[Cluster]:
    """The cluster of the current context; all where that names none."""
    return [each for each in config.clusters if config.current_cluster in {None, each.name}]


def _has_server(config: Kubeconfig) -> bool:
    return any(each.server for each in _named(config))


def _no_certificate_in(path: str, config: Kubeconfig, others: Sequence[User]) -> Fault:
    """Return the fault that the user of a kubeconfig's current context has no client certificate.

    Where an operator gave them `others`, such as a token, certmond does not replace what they authenticate with.
    """
    fact = f"{path} holds no client certificate"
    if any(user.certificate for user in config.users):
        whose = f"user {config.current_user!r} of its" if config.current_user else "the user of a"
        fact = printable(f"{fact} for {whose} current context")
    if not others:
        return Fault(Reason.MISSING, fact, "issue it again")
    instead = printable(f"{fact}: user {others[0].name!r} authenticates with {others[0].other}")
    remedy = "certmond leaves it as it is; to have the certificate again, move the file away"
    return Fault(Reason.MISSING, instead, remedy)


def _document(data: bytes, where: str) -> Document:
    """What is embedded, with a fault where it is not PEM, which is all that client-go reads. A PKCS#12 file is not
    opened: a kubeconfig may embed hundreds.
    """
    if is_pkcs12(data):
        return Document(faults=(Fault(Reason.MALFORMED, f"{where} is PKCS#12, where client-go takes PEM"),))
    document = decode(data, where)
    return replace(document, faults=(*document.faults, *not_pem(document, where)))


def _emptied(material: Material | None) -> Material | None:
    """Return the same material without its bytes; only the fact that it was embedded is kept."""
    return Material(data=b"") if material and material.data is not None else material
