"""Checks of the entries of a configuration against each other.

This module checks references, conflicting paths, and the order of services. `pki.catalog` defines the permitted content
of one entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any

from certmond.config.validation_messages import suggestion
from certmond.config.yaml_source import Node, Problem, shown
from certmond.pki.catalog.ca_replacement_spec import CAReplacementSpec
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import SELF, CertificateSpec, Kind
from certmond.pki.catalog.init_cluster_spec import InitSpec
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.settings import (
    LOCAL,
    NO_SIGNER,
    OWN_KEY,
    ArchiveSpec,
    ClusterSpec,
    HoldSpec,
    HookSpec,
    RestartSpec,
    RootCaSpec,
    SignerSpec,
)

SECTIONS: Mapping[str, type[Any]] = {
    "certificates": CertificateSpec,
    "services": ServiceSpec,
    "signers": SignerSpec,
    "derived": DerivedSpec,
    "hooks": HookSpec,
}
_STATIC_PODS = re.compile(r"/etc/kubernetes/(.*/)?manifests/")
PARTS: Mapping[str, type[Any]] = {
    **SECTIONS,
    "archive": ArchiveSpec,
    "hold": HoldSpec,
    "restart": RestartSpec,
    "root_ca": RootCaSpec,
    "ca_replacement": CAReplacementSpec,
    "cluster": ClusterSpec,
    "init": InitSpec,
}
"""Model of each section of the configuration. If a section is a list, the value is the model of one entry."""
_REFERENCES = (  # section and field -> the section of the entries that the field names
    ("certificates", "ca", "certificates"),
    ("certificates", "embedded_ca", "certificates"),
    ("certificates", "copy_of", "certificates"),
    ("certificates", "consumers", "services"),
    ("services", "reloads", "certificates"),
    ("services", "serves", "certificates"),
    ("services", "after", "services"),
    ("certificates", "signer", "signers"),
    ("derived", "source", "certificates"),
)
_SOURCES: Mapping[str, tuple[Kind, ...]] = {
    "kubeconfig": (Kind.KUBECONFIG,),
    "pem-bundle": (Kind.FILE, Kind.KUBECONFIG, Kind.KUBELET),
    "copy": (Kind.FILE,),
}
"""Kinds of the entries from which certmond derives a file, by the kind of this file."""
_MAPPINGS = {"serves"}  # mappings whose keys are the names of entries
_RESERVED = {"ca": {SELF}, "signer": {LOCAL, NO_SIGNER}}


def references(tree: Node) -> Iterator[Problem]:
    """Yield a problem for each reference to a missing entry.

    Also yield a problem for each reference to a CA whose entry is not an authority, and for a `root_ca.record_signer`
    that is not a signer of the kind `command`.
    """
    entries = {section: tree.fields[section].items if section in tree.fields else [] for section in SECTIONS}
    named = {section: {entry.name: entry for entry in found if entry.name} for section, found in entries.items()}
    for section, field, target in _REFERENCES:
        given = Node.keys if field in _MAPPINGS else Node.texts
        for name, node in (text for entry in entries[section] for text in given(entry, field)):
            if name in _RESERVED.get(field, ()):
                continue
            found = named[target].get(name)
            if found is None:
                remedy = suggestion(name, named[target]) or f"; add it to `{target}`, or remove it here"
                yield Problem(node.place, f"there is no {target.removesuffix('s')} {shown(name)}{remedy}")
            elif field.endswith("ca") and not ((flag := found.fields.get("authority")) and flag.value):
                yield Problem(
                    node.place, f"{name} is not an authority; name an authority, or set `authority: true` in {name}"
                )
    yield from _record_signer(tree)


def between_entries(
    certificates: Sequence[CertificateSpec],
    derived_specs: Iterable[DerivedSpec],
    signers: Iterable[SignerSpec],
    tree: Node,
) -> Iterator[Problem]:
    """Yield the problems of entries that are valid by themselves, but conflict with other entries."""
    yield from derived_files(certificates, derived_specs, tree)
    yield from key_conflicts(certificates, signers, tree)


def derived_files(
    certificates: Iterable[CertificateSpec], derived_specs: Iterable[DerivedSpec], tree: Node
) -> Iterator[Problem]:
    """Yield the problems of derived files.

    The problems are a path that another entry uses (only with `write: always`), a path in the static Pod directory, and
    an unsuitable source.
    """
    entries = {spec.name: spec for spec in certificates}
    taken = {path: f"the entry {spec.name}" for spec in certificates for path in (spec.path, spec.key) if path}
    for number, derived in enumerate(derived_specs):
        place = tree.find(("derived", number, "path"))
        always = derived.write == "always"  # otherwise another entry with this path takes precedence
        # A directory can contain the copies of several entries.
        path = f"{derived.path}/{derived.source}" if derived.kind == "copy" else derived.path
        if path in taken and always:
            yield Problem(place, f"is also the path of {taken[path]}; choose another path")
        elif _STATIC_PODS.match(derived.path):
            yield Problem(
                place,
                "is in the directory of the static Pods, and the kubelet starts each file there; choose another path",
            )
        if always:
            taken.setdefault(path, f"the derived file {derived.name}")
        source = entries.get(derived.source)
        if source and (
            source.kind not in _SOURCES[derived.kind]
            or (source.authority and (derived.kind != "copy" or source.key is None))
            or source.is_glob
        ):
            place = tree.find(("derived", number, "source"))
            yield Problem(
                place,
                f"certmond cannot derive a {derived.kind} from {derived.source}; name a leaf of kind "
                f"{' or '.join(_SOURCES[derived.kind])} whose path is not a pattern",
            )


def key_conflicts(
    certificates: Iterable[CertificateSpec], signers: Iterable[SignerSpec], tree: Node
) -> Iterator[Problem]:
    """Yield a problem for each entry that keeps its key although the signer of the entry creates a new key. Skip
    authorities, and entries that another program renews (`renewed_by`).
    """
    kinds = {signer.name: signer.kind for signer in signers}
    for number, spec in enumerate(certificates):
        kind = kinds.get(spec.signer or LOCAL)
        if spec.keep_key and kind in OWN_KEY and not (spec.authority or spec.renewed_by):
            fact = f"{spec.name} keeps its key (`keep_key: true`), but a signer of kind {kind} creates a new key"
            remedy = f"write `keep_key: false` in the entry {spec.name}, or name a signer of another kind"
            yield Problem(tree.find(("certificates", number, "signer")), f"{fact}; {remedy}")


def _record_signer(tree: Node) -> Iterator[Problem]:
    """Yield a problem if `root_ca.record_signer` is not a signer of the kind `command`."""
    settings = tree.fields.get("root_ca")
    node = settings.fields.get("record_signer") if settings else None
    if node is None or not isinstance(node.value, str):
        return
    signers = tree.fields["signers"].items if "signers" in tree.fields else []
    kinds = [found.value for each in signers if each.name == node.value and (found := each.fields.get("kind"))]
    if "command" not in kinds:
        name = shown(node.value)
        fact = f"{name} is a signer of the kind {shown(kinds[0])}" if kinds else f"there is no signer {name}"
        yield Problem(node.place, f"{fact}; name a signer of the kind `command`")


def dependency_cycles(tree: Node, order: Mapping[str, int]) -> Iterator[Problem]:
    """Yield a problem for each cycle in the restart order of services.

    The problem is at a place in the last file, by `order`, that defines a part of the cycle.
    """
    services = tree.fields["services"].items if "services" in tree.fields else []
    waits = {entry.name: dict(entry.texts("after")) for entry in services}
    while True:
        try:
            TopologicalSorter(waits).prepare()
        except CycleError as error:
            cycle = error.args[1][::-1]  # each service waits for the next service; the first service is also the last
            # Report the problem in the last file that defines a part of the cycle: the profile can define other parts.
            later, earlier = max(pairwise(cycle), key=lambda step: order.get(waits[step[0]][step[1]].place.file, -1))
            node = waits[later].pop(earlier)
            yield Problem(
                node.place, f"completes a dependency cycle: {' after '.join(cycle)}; remove one of these dependencies"
            )
        else:
            return
