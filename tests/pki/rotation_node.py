"""A node in the middle of a rotation, built from values: its anchors, its leaves, its signer, its processes."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Embedded, Inventory, Observation
from certmond.pki.catalog.validator import validated
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.rotation.trust_anchor_state import Ground, Signer
from certmond.pki.services.staleness import Surroundings
from tests.builders import NOW, YEAR, Issued, make_ca, make_leaf, reissue

OLD, NEW, UNRELATED = (make_ca(not_before=NOW - YEAR) for _ in range(3))
REISSUED = reissue(OLD, not_before=NOW - YEAR, not_after=NOW + 20 * YEAR)
"""OLD with its key, and other dates."""

ANCHOR, ANCHOR_KEY = "/pki/ca.crt", "/pki/ca.key"
OWN, OWN_KEY = "/pki/signing-ca.crt", "/pki/signing-ca.key"
SHARED, APART = ("/in/ca.crt", "/in/ca.key"), ("/in/signing-ca.crt", "/in/signing-ca.key")
MANIFEST, MANAGER = "/manifests/kcm.yaml", "kube-controller-manager"

PLANNED = Rotation("r1", "ca", Mode.OVERLAP, (OLD.facts,), NEW.facts, Phase.PREPARE, NOW)


def at(phase: Phase, **fields: Any) -> Rotation:
    return replace(PLANNED, phase=phase, **fields)


def row(name: str = "leaf", **fields: Any) -> CertificateSpec:
    pair = {"name": name, "path": f"/pki/{name}.crt", "key": f"/pki/{name}.key", "ca": "ca", "usages": "client auth"}
    return validated(CertificateSpec, pair | fields)


CA = row("ca", path=ANCHOR, key=ANCHOR_KEY, ca=[], authority=True, usages="cert sign")


def see(spec: CertificateSpec, *issued: Issued, **fields: Any) -> Observation:
    key = issued[0].facts.key if issued else None
    found = {"name": spec.name, "key": key, "key_path": spec.key} | fields
    return Observation(spec=spec, path=spec.path, certificates=tuple(each.facts for each in issued), **found)


def leaf(issuer: Issued, name: str = "leaf", **fields: Any) -> Observation:
    return see(row(name, **fields), make_leaf(issuer, name))


def conf(*trust: Issued, name: str = "admin.conf", file: str | None = None, issuer: Issued = NEW) -> Observation:
    """A kubeconfig of that trust."""
    spec = row(name, kind="kubeconfig", path=f"/{name}", key=None, embedded_ca="ca")
    embedded = (Embedded(spec.path, tuple(each.facts for each in trust), file),)
    return see(spec, make_leaf(issuer, name), embedded=embedded)


def anchors(*issued: Issued) -> list[Observation]:
    return [see(CA, each, name="ca" if n == 1 else f"ca#{n}") for n, each in enumerate(issued, 1)]


def judged(
    *seen: Observation, trust: tuple[Issued, ...] = (OLD,), around: Surroundings | None = None, now: datetime = NOW
) -> Assessment:
    return assess(Inventory((*anchors(*trust), *seen)), now, around=around)


def ground(*trust: Issued, key: Issued | None = OLD, **fields: Any) -> Ground:
    found = {"trust": tuple(each.facts for each in trust), "key": key.facts.key if key else None} | fields
    return Ground("ca", ANCHOR, ANCHOR_KEY, **found)


def signer(holds: Issued | None = None, **fields: Any) -> Signer:
    """A controller-manager that signs with the anchor's files, or with `holds` from its own."""
    known: dict[str, Any] = {"now": SHARED}
    if holds:
        known = {"now": APART, "holds": (holds.facts,), "key": holds.facts.key, "present": (OWN, OWN_KEY)}
    return Signer(MANIFEST, MANAGER, shared=SHARED, apart=APART, files=(OWN, OWN_KEY), **known | fields)
