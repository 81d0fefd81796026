"""State of one trust anchor and its signer on this node, from the inventory, the manifests and the files.

During a rotation of `ca`, kube-controller-manager signs with separate files in the directory of the trust anchor,
because the container mounts this directory.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import replace

from certmond.formats.manifest import Components, Container, Manifest
from certmond.pki.catalog.observation import Inventory
from certmond.pki.rotation.phases import SIGNER_FAMILY
from certmond.pki.rotation.trust_anchor_state import SIGNING_FLAGS, Ground, Signer
from certmond.pki.x509.certificate import Anchor, Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.transaction.node_file_reader import NodeFiles

CONTROLLER_MANAGER = "kube-controller-manager"
_OWN = ("signing-ca.crt", "signing-ca.key")
_SPECIFIC = ("kubelet-serving", "kubelet-client", "kube-apiserver-client", "legacy-unknown")


def ground_of(family: str, inventory: Inventory, components: Components, files: NodeFiles) -> Ground | None:
    """Return the state of the trust anchor `family` on this node, or None if the inventory lacks this entry.

    Raises WriteError if a file is unreadable.
    """
    seen = [each for each in inventory.observations if each.spec.name == family and each.spec.is_trust]
    first = next((each for each in seen if each.name == family), None)
    if first is None:
        return None
    trust: tuple[Anchor, ...] = tuple(each.certificates[0] for each in seen if each.certificates) or first.public_keys
    signer, left = None, tuple[str, ...]()
    if family == SIGNER_FAMILY and first.key_path:
        found = (_signer(pod, first.path, first.key_path, files) for pod in components.pods)
        signer = next(filter(None, found), None)
        left = () if signer else tuple(filter(files.exists, own_files(first.path)))
    return Ground(family, first.path, first.key_path, trust, first.key, first.key_unknown, signer, left=left)


def own_files(path: str) -> tuple[str, str]:
    """Return the certificate path and the key path of a separate signer in the directory of `path`."""
    directory = posixpath.dirname(path)
    return posixpath.join(directory, _OWN[0]), posixpath.join(directory, _OWN[1])


def _signer(pod: Manifest, path: str, key_path: str, files: NodeFiles) -> Signer | None:
    """Return the signer of kube-controller-manager in this Pod, or None if the Pod contains no such signer."""
    container = next((each for each in pod.containers if each.name == CONTROLLER_MANAGER), None)
    if container is None:
        return None
    given = [container.values(flag) for flag in SIGNING_FLAGS]
    if not all(given):
        return None  # the container does not sign: the CA's key is not on the node (phases/controlplane/manifests.go)
    now = given[0][-1], given[1][-1]
    own = own_files(path)
    inside = posixpath.dirname(now[0])
    shared = posixpath.join(inside, posixpath.basename(path)), posixpath.join(inside, posixpath.basename(key_path))
    apart = posixpath.join(inside, _OWN[0]), posixpath.join(inside, _OWN[1])
    content = [files.read(each) for each in own]
    holds: tuple[Certificate, ...] = decode(content[0], own[0]).certificates if content[0] else ()
    signer = Signer(
        pod.path, container.name, now, shared, apart, own, holds,
        decode(content[1], own[1]).key if content[1] else None,
        tuple(each for each, found in zip(own, content, strict=True) if found is not None),
    )  # fmt: skip
    return replace(signer, problem=next(_problems(signer, container, (path, key_path)), None))


def _problems(signer: Signer, container: Container, anchor: tuple[str, str]) -> Iterator[str]:
    """Yield each reason for which certmond cannot move this signer to separate files, with the remedy."""
    for usage in _SPECIFIC:
        if container.values(flag := f"cluster-signing-{usage}-cert-file"):
            yield (
                f"{signer.manifest} configures {container.name} with a separate signer by --{flag}, but certmond "
                "supports no such signer; configure one signer for all usages"
            )
    on_host = [tuple(map(container.on_host, pair)) for pair in (signer.shared, signer.apart)]
    if signer.now not in {signer.shared, signer.apart} or on_host != [anchor, signer.files]:
        yield (
            f"{signer.manifest} configures {container.name} to sign with {signer.now[0]}, which is neither {anchor[0]} "
            f"nor in the mounted directory of that file; configure {container.name} to sign with the files of the CA"
        )
