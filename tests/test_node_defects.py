"""One defect on a real kubeadm node gives exactly the finding of that defect."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certmond.config.loader import load
from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.daemon.enforcer import Enforcer
from certmond.files.catalog_observer import Store
from certmond.notify.audit import DAEMON, Audit
from certmond.notify.event_log import Journal
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.findings import Reason, Severity
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.services.staleness import Surroundings
from certmond.pki.x509.certificate_file_parser import decode
from certmond.renewal.derived_file_state import Unmanaged
from certmond.renewal.derived_files import Derivations
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import make_ca, make_intermediate, pem_block
from tests.conftest import real_part
from tests.node import KUBELET_PEM, NOW, PKI, Node, ca_like, key_pem, pem, public_pem, sha1_signed

API, ETCD, FRONT = f"{PKI}/apiserver", f"{PKI}/etcd/server", f"{PKI}/front-proxy-client"
CONF, ROOT_COPY = "etc/kubernetes", "root/.kube/config"
LATER = datetime(2027, 8, 15, tzinfo=UTC)

Mutation = Callable[[Node], object]


def other_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def fifo(node: Node) -> None:
    node.path(f"{API}.crt").unlink()
    os.mkfifo(node.path(f"{API}.crt"))


def device(node: Node) -> None:
    node.path(f"{API}.crt").unlink()
    os.mknod(node.path(f"{API}.crt"), 0o020644, os.makedev(1, 5))


def directory(node: Node) -> None:
    node.path(f"{API}.crt").unlink()
    node.path(f"{API}.crt").mkdir()


def link(target: str, name: str = f"{API}.crt") -> Mutation:
    def mutate(node: Node) -> None:
        node.path(name).unlink()
        node.path(name).symlink_to(target)

    return mutate


def huge(node: Node) -> None:
    with node.path(f"{API}.crt").open("r+b") as file:
        file.truncate(600 << 20)


def intermediate(node: Node) -> None:
    node.new_ca(issuer="CN=corporate-root", signer=other_key())


def stranger_ca_for_leaf(node: Node) -> None:
    node.reissue(API, signer=other_key())


def as_der(name: str) -> Mutation:
    return lambda node: node.write(name, base64.b64decode("".join(node.read(name).decode().split("\n")[1:-2])))


def tail_in_the_block(node: Node) -> None:
    block = pem_block(
        "CERTIFICATE", base64.b64decode("".join(node.read(f"{API}.crt").decode().split("\n")[1:-2])) + b"tail"
    )
    node.write(f"{API}.crt", block)


def extension(name: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(x509.ObjectIdentifier(name), value)


POLICY = bytes.fromhex("300506032a0304")
"""A PolicyInformation (RFC 5280, 4.2.1.4)."""


def plain_kubelet_pem(node: Node) -> None:
    current = node.path("var/lib/kubelet/pki/kubelet-client-current.pem")
    content = node.read(KUBELET_PEM)
    current.unlink()
    current.write_bytes(content)
    current.chmod(0o600)


def kubelet_pem(node: Node, **changes: object) -> None:
    certificate, key = node.mint(node.certificate(KUBELET_PEM), **changes)  # type: ignore[arg-type]
    node.write(KUBELET_PEM, pem(certificate) + key_pem(key))


def kubelet_embeds(node: Node) -> None:
    content = node.read(KUBELET_PEM)
    node.edit_kubeconfig(f"{CONF}/kubelet.conf", client_certificate_data=content, client_key_data=content)


def embed(name: str, **changes: object) -> Mutation:
    def mutate(node: Node) -> None:
        user = node.kubeconfig(f"{CONF}/{name}")["users"][0]["user"]
        old = x509.load_pem_x509_certificate(base64.b64decode(user["client-certificate-data"]))
        certificate, key = node.mint(old, **changes)  # type: ignore[arg-type]
        node.edit_kubeconfig(f"{CONF}/{name}", client_certificate_data=pem(certificate), client_key_data=key_pem(key))

    return mutate


def root_copy(**changes: object) -> Mutation:
    """root's copy of admin.conf, of which a renewal has changed the certificate."""

    def mutate(node: Node) -> None:
        node.path("root/.kube").mkdir(parents=True)
        node.write(ROOT_COPY, node.read(f"{CONF}/admin.conf"))
        embed("admin.conf", **changes)(node)

    return mutate


def other_embedded_ca(name: str) -> Mutation:
    def mutate(node: Node) -> None:
        key = other_key()
        foreign = ca_like(node.certificate(f"{PKI}/ca.crt"), key)
        node.edit_kubeconfig(f"{CONF}/{name}", certificate_authority_data=pem(foreign))

    return mutate


def one_more_embedded_ca(node: Node) -> None:
    foreign = pem(ca_like(node.certificate(f"{PKI}/ca.crt"), other_key()))
    node.edit_kubeconfig(f"{CONF}/admin.conf", certificate_authority_data=node.read(f"{PKI}/ca.crt") + foreign)


def bad_block_between(node: Node) -> None:
    good = node.read(f"{PKI}/ca.crt")
    node.write(f"{PKI}/ca.crt", good + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + good)


def token_only(node: Node) -> None:
    document = node.kubeconfig(f"{CONF}/admin.conf")
    document["users"][0]["user"] = {"token": "abc"}
    node.write(f"{CONF}/admin.conf", yaml.safe_dump(document))


def leaf_not_first(node: Node) -> None:
    node.write(f"{API}.crt", node.read(f"{PKI}/ca.crt") + node.read(f"{API}.crt"))


def sha1(node: Node) -> None:
    real_part("openssl")
    node.write(f"{API}.crt", sha1_signed(node, API, f"{PKI}/ca"))


def unknown_extension() -> x509.UnrecognizedExtension:
    return extension("1.3.6.1.4.1.99999.1", b"\x05\x00")


def chmod(name: str, mode: int) -> Mutation:
    return lambda node: node.path(name).chmod(mode)


def remove(name: str) -> Mutation:
    return lambda node: node.path(name).unlink()


def write(name: str, content: bytes) -> Mutation:
    return lambda node: node.write(name, content)


def cut(name: str) -> Mutation:
    return lambda node: node.write(name, node.read(name)[:500])


def reissue(name: str, ca: str = f"{PKI}/ca", **changes: object) -> Mutation:
    return lambda node: node.reissue(name, ca, **changes)


DAY = timedelta(days=1)
YEAR = 365 * DAY
ETCD_CA, FRONT_CA = f"{PKI}/etcd/ca", f"{PKI}/front-proxy-ca"

MUTATIONS: dict[str, tuple[Mutation, str, str]] = {
    "root's copy of admin.conf is old": (root_copy(end=NOW + 2 * YEAR), "root-kubeconfig", "stale_copy"),
    "certificate cut off": (cut(f"{API}.crt"), "apiserver", "malformed"),
    "certificate empty": (write(f"{API}.crt", b""), "apiserver", "malformed"),
    "certificate only zero bytes": (write(f"{API}.crt", bytes(4096)), "apiserver", "malformed"),
    "certificate binary junk": (write(f"{API}.crt", bytes(range(256)) * 8), "apiserver", "malformed"),
    "certificate with a wrong label": (
        lambda node: node.write(f"{API}.crt", node.read(f"{API}.crt").replace(b"CERTIFICATE", b"CERTIFICATION")),
        "apiserver",
        "malformed",
    ),
    "a key where the certificate should be": (
        lambda node: node.write(f"{API}.crt", node.read(f"{API}.key")), "apiserver", "malformed"
    ),
    "a directory in its place": (directory, "apiserver", "unreadable"),
    "a FIFO in its place": (fifo, "apiserver", "unreadable"),
    "a device in its place": (device, "apiserver", "unreadable"),
    "a loop of symlinks": (link("apiserver.crt"), "apiserver", "unreadable"),
    "600 MB": (huge, "apiserver", "unreadable"),
    "certificate removed": (remove(f"{API}.crt"), "apiserver", "missing"),
    "a symlink without a target": (link("/nowhere/apiserver.crt"), "apiserver", "missing"),
    "scheduler.conf removed": (remove(f"{CONF}/scheduler.conf"), "scheduler.conf", "missing"),
    "admin.conf removed": (remove(f"{CONF}/admin.conf"), "admin.conf", "missing"),
    "kubelet's PEM removed": (remove(KUBELET_PEM), "kubelet-client", "missing"),
    "kubelet.conf removed": (remove(f"{CONF}/kubelet.conf"), "kubelet-client", "missing"),
    "kubeconfig without a client certificate": (token_only, "admin.conf", "missing"),
    "key removed": (remove(f"{API}.key"), "apiserver", "key_missing"),
    "service-account key removed": (remove(f"{PKI}/sa.key"), "sa", "key_missing"),
    "key of another": (lambda node: node.write(f"{API}.key", key_pem(other_key())), "apiserver", "key_mismatch"),
    "ca.key of another": (lambda node: node.write(f"{PKI}/ca.key", key_pem(other_key())), "ca", "key_mismatch"),
    "key in a kubeconfig of another": (
        lambda node: node.edit_kubeconfig(f"{CONF}/scheduler.conf", client_key_data=key_pem(other_key())),
        "scheduler.conf",
        "key_mismatch",
    ),
    "key cut off": (cut(f"{API}.key"), "apiserver", "malformed"),
    "key encrypted": (
        lambda node: node.write(f"{API}.key", key_pem(node.key(f"{API}.key"), b"secret")), "apiserver", "unreadable"
    ),
    "key readable by all": (chmod(f"{API}.key", 0o644), "apiserver", "too_open"),
    "key readable by its group": (chmod(f"{API}.key", 0o640), "apiserver", "too_open"),
    "certificate writable by all": (chmod(f"{API}.crt", 0o666), "apiserver", "too_open"),
    "kubeconfig readable by all": (chmod(f"{CONF}/admin.conf", 0o644), "admin.conf", "too_open"),
    "service-account key readable by all": (chmod(f"{PKI}/sa.key", 0o604), "sa", "too_open"),
    "key of another owner": (lambda node: os.chown(node.path(f"{API}.key"), 1234, 0), "apiserver", "wrong_owner"),
    "text after the certificate": (
        lambda node: node.write(f"{API}.crt", node.read(f"{API}.crt") + b"# a note\n"), "apiserver", "trailing_data"
    ),
    "bytes after the DER in its block": (tail_in_the_block, "apiserver", "malformed"),
    "certificate in DER": (as_der(f"{API}.crt"), "apiserver", "malformed"),
    "key in DER": (as_der(f"{API}.key"), "apiserver", "key_unusable"),
    "a policy twice": (
        reissue(API, extra=extension("2.5.29.32", b"\x30\x0e" + POLICY + POLICY)), "apiserver", "malformed"
    ),
    "policy constraints that say nothing": (
        reissue(API, extra=extension("2.5.29.36", b"\x30\x00")), "apiserver", "nonconforming"
    ),
    "a chain in the leaf's file": (
        lambda node: node.write(f"{API}.crt", node.read(f"{API}.crt") + node.read(f"{PKI}/ca.crt")),
        "apiserver",
        "unexpected_chain",
    ),
    "leaf not first in its file": (leaf_not_first, "apiserver", "unexpected_chain"),
    "leaf expired": (reissue(API, end=NOW - DAY), "apiserver", "expired"),
    "leaf not yet valid": (reissue(API, start=NOW + DAY), "apiserver", "not_yet_valid"),
    "leaf near its end": (reissue(API, end=NOW + 20 * DAY, start=NOW - 345 * DAY), "apiserver", "nearing_expiry"),
    "leaf outlives its CA": (reissue(API, end=datetime(2037, 1, 1, tzinfo=UTC)), "apiserver", "outlives_ca"),
    "leaf of a CA of the same name": (stranger_ca_for_leaf, "apiserver", "no_path"),
    "leaf of another CA": (reissue(API, ca=ETCD_CA), "apiserver", "no_path"),
    "leaf with an unknown critical extension": (reissue(API, extra=unknown_extension()), "apiserver", "no_path"),
    "kubeconfig's leaf of an unrelated CA": (embed("controller-manager.conf", signer=other_key()),
                                        "controller-manager.conf", "no_path"),
    "wrong subject": (reissue(FRONT, ca=FRONT_CA, subject="CN=another"), "front-proxy-client", "wrong_subject"),
    "a group too many": (embed("scheduler.conf", subject="CN=system:kube-scheduler,O=system:masters"),
                         "scheduler.conf", "wrong_subject"),
    "kubelet PEM of another node": (
        lambda node: kubelet_pem(node, subject="CN=system:node:worker-9,O=system:nodes"),
        "kubelet-client",
        "wrong_subject",
    ),
    "server without server auth": (reissue(API, usages=("client",)), "apiserver", "wrong_usage"),
    "client without client auth": (reissue(FRONT, ca=FRONT_CA, usages=("server",)), "front-proxy-client",
                                   "wrong_usage"),
    "etcd server without client auth": (reissue(ETCD, ca=ETCD_CA, usages=("server",)), "etcd-server", "wrong_usage"),
    "no digital signature": (reissue(API, digital_signature=False), "apiserver", "wrong_usage"),
    "service DNS name missing": (reissue(API, drop="DNS:kubernetes.default.svc"), "apiserver", "missing_name"),
    "service IP missing": (reissue(API, drop="IP:10.96.0.1"), "apiserver", "missing_name"),
    "control-plane endpoint missing": (reissue(API, drop="DNS:k8s.example.com"), "apiserver", "missing_name"),
    "etcd without localhost": (reissue(ETCD, ca=ETCD_CA, drop="IP:127.0.0.1"), "etcd-server", "missing_name"),
    "signed with SHA-1": (sha1, "apiserver", "weak_signature"),
    "key of 1024 bits": (
        reissue(API, key=rsa.generate_private_key(65537, 1024)),  # noqa: S505 - weak on purpose
        "apiserver",
        "weak_key",
    ),
    "key on P-224": (reissue(API, key=ec.generate_private_key(ec.SECP224R1())), "apiserver", "weak_key"),
    "admin.conf trusts another CA": (other_embedded_ca("admin.conf"), "admin.conf", "embedded_ca_differs"),
    "admin.conf trusts one CA more": (one_more_embedded_ca, "admin.conf", "embedded_ca_differs"),
    "kubelet.conf trusts another CA": (other_embedded_ca("kubelet.conf"), "kubelet-client", "embedded_ca_differs"),
    "kubelet.conf embeds its credentials": (kubelet_embeds, "kubelet-client", "not_rotating_pem"),
    "kubelet.conf names a dated PEM": (
        lambda node: node.edit_kubeconfig(f"{CONF}/kubelet.conf", client_certificate=f"/{KUBELET_PEM}"),
        "kubelet-client",
        "not_rotating_pem",
    ),
    "kubelet's current PEM a plain file": (plain_kubelet_pem, "kubelet-client", "not_a_symlink"),
    "sa.pub of another": (
        lambda node: node.write(f"{PKI}/sa.pub", public_pem(other_key())),
        "sa",
        "service_account_key_mismatch",
    ),
    "the CA an intermediate": (intermediate, "ca", "ca_not_self_signed"),
    "the CA no CA": (lambda node: node.new_ca(is_ca=False), "ca", "ca_not_ca"),
    "the CA without keyCertSign": (lambda node: node.new_ca(cert_sign=False), "ca", "ca_cannot_sign"),
    "the CA expired": (lambda node: node.new_ca(end=NOW - DAY), "ca", "expired"),
    "the CA not yet valid": (lambda node: node.new_ca(start=NOW + DAY), "ca", "not_yet_valid"),
    "the CA cut off": (cut(f"{PKI}/ca.crt"), "ca", "malformed"),
    "a bad block in the CA bundle": (bad_block_between, "ca", "malformed"),
    "kubeconfig no YAML": (write(f"{CONF}/admin.conf", b"{{{{"), "admin.conf", "malformed"),
    "kubeconfig no kubeconfig": (write(f"{CONF}/admin.conf", b"a: 1\n"), "admin.conf", "malformed"),
    "kubeconfig with broken base64": (
        lambda node: node.edit_kubeconfig(f"{CONF}/admin.conf", client_certificate_data="%%%"),
        "admin.conf",
        "malformed",
    ),
}  # fmt: skip


CA = f"{PKI}/ca"


def put_ca(beside: Any = None, **modifiers: Any) -> Mutation:
    """Return a mutation that installs another CA, with its key or `beside` next to it, and changes nothing else."""

    def mutate(node: Node) -> None:
        ca = make_ca(**modifiers)
        node.write(f"{CA}.crt", ca.pem)
        node.write(f"{CA}.key", key_pem(beside or ca.key))

    return mutate


def put_intermediate(node: Node) -> None:
    root = make_ca("corporate-root")
    ca = make_intermediate(root, "kubernetes")
    node.write(f"{CA}.crt", ca.pem)
    node.write(f"{CA}.key", key_pem(ca.key))


def follow(change: Mutation = lambda _: None) -> Mutation:
    """A rotation is in the phase trust, and then `change` happens."""

    def mutate(node: Node) -> None:
        state, old = node.path("state"), decode(node.read(f"{CA}.crt"), "").certificates
        new = decode(make_ca().pem, "").certificates[0]
        node.path("state/rotation").mkdir(parents=True)
        RotationRecord(state).save(Rotation("r-1", "ca", Mode.OVERLAP, old, new, Phase.TRUST, NOW))
        change(node)

    return mutate


def record_damaged(node: Node) -> None:
    node.write("state/rotation/record.json", b"{")


Reported = tuple[Mutation, dict[str, Any], str, Severity, str]

ROTATIONS: dict[str, Reported] = {
    "another CA with its key, in observe mode": (
        put_ca(), {}, "root_ca_changed", Severity.CRITICAL, "or set `mode: enforce`"
    ),
    "another CA with its key, with only a report": (
        put_ca(), {"mode": "enforce", "root_ca": {"on_change": "alarm"}}, "root_ca_changed", Severity.CRITICAL,
        "`root_ca.on_change` is alarm",
    ),
    "another CA with its key, which is rotated": (
        put_ca(), {"mode": "enforce"}, "root_ca_changed", Severity.CRITICAL, "; certmond rotates to the new CA now"
    ),
    "another CA with the key of a third": (
        put_ca(other_key()), {"mode": "enforce"}, "root_ca_changed", Severity.CRITICAL, "is not the private key of"
    ),
    "an intermediate with its key": (
        put_intermediate, {"mode": "enforce"}, "root_ca_changed", Severity.CRITICAL, "supports only Root CAs"
    ),
    "another CA that has expired": (
        put_ca(not_before=NOW - 9 * DAY, not_after=NOW - DAY), {"mode": "enforce"}, "root_ca_changed",
        Severity.CRITICAL, "expired",
    ),
    "another CA that is not valid yet": (
        put_ca(not_before=NOW + DAY), {"mode": "enforce"}, "root_ca_changed", Severity.CRITICAL, "is not valid before"
    ),
    "another CA with a weak key": (
        put_ca(key="rsa-1024"), {"mode": "enforce"}, "root_ca_changed", Severity.CRITICAL, "1024"
    ),
    "a rotation": (follow(), {}, "rotation_under_way", Severity.INFO, "has been in the phase trust since"),
    "a third CA during a rotation": (
        follow(put_ca()), {"mode": "enforce"}, "rotation_frozen", Severity.CRITICAL, "neither the old nor the new CA"
    ),
    "the key of a third CA during a rotation": (
        follow(lambda node: node.write(f"{CA}.key", key_pem(other_key()))), {"mode": "enforce"}, "rotation_frozen",
        Severity.CRITICAL, "is the key of neither",
    ),
    "a record of a rotation that cannot be read": (
        follow(record_damaged), {"mode": "enforce"}, "rotation_frozen", Severity.CRITICAL, "a rotation is unknown"
    ),
}  # fmt: skip
"""The defect, the settings, and the reason, severity and message of the Root CA's entry."""


def judge(root: Path, now: datetime = NOW) -> dict[tuple[str, str], Severity]:
    config = load(None)
    assessment = assess(Store(config.certificates, str(root), derived=config.derived).observe(), now)
    return {(s.seen.name, item.reason.value): item.severity for s in assessment.statuses for item in s.findings}


@pytest.mark.parametrize(("mutate", "name", "reason"), MUTATIONS.values(), ids=MUTATIONS)
def test_each_fault_raises_its_reason_and_no_other(tmp_path: Path, mutate: Mutation, name: str, reason: str) -> None:
    """One defect raises exactly its reason, at its certificate, and nothing else."""
    node = Node(tmp_path)
    mutate(node)
    found = judge(tmp_path)
    assert (name, reason) in found
    others = {key for key, severity in found.items() if severity is not Severity.INFO} - {(name, reason)}
    assert not others


@pytest.mark.parametrize("row", ROTATIONS.values(), ids=ROTATIONS)
def test_each_state_of_a_ca_change_has_one_finding_with_its_obstacle(node: Node, row: Reported) -> None:
    """A CA that another user installed, a rotation, and a rotation that is blocked: only the CA has the finding, and
    only one of the three.
    """
    mutate, settings, reason, severity, said = row
    mutate(node)
    found = {
        (status.seen.name, item.reason): item
        for status in rotating(node, settings).statuses
        for item in status.findings
        if item.reason in REASONS_OF_ROTATIONS
    }
    assert found.keys() == {("ca", reason)}
    (item,) = found.values()
    assert item.severity is severity
    assert said in item.message


REASONS_OF_ROTATIONS = {Reason.ROOT_CA_CHANGED, Reason.ROTATION_UNDER_WAY, Reason.ROTATION_FROZEN}


def rotating(node: Node, settings: dict[str, Any]) -> Assessment:
    """Return one assessment of the node with its record of a rotation."""
    given = parse([Source("test", yaml.safe_dump(settings))])
    assert isinstance(given, Config)
    state = node.path("state")
    audit = Audit(Journal("none"), state, DAEMON)
    enforcer = Enforcer(given, root=str(node.root), state_dir=state, audit=audit, clock=lambda: NOW)
    store = Store(given.certificates, str(node.root))
    inventory = store.observe()
    reported = enforcer.rotation_state.update(inventory, store.components(), NOW)
    return assess(inventory, NOW, around=Surroundings(given.services, findings=reported))


def test_a_ca_near_its_end_is_found_before_its_leaves_are_due(tmp_path: Path) -> None:
    """A CA is due earlier than its leaves, because its replacement takes longer."""
    node = Node(tmp_path)
    node.new_ca(end=datetime(2027, 12, 1, tzinfo=UTC))
    found = {key for key, severity in judge(tmp_path, LATER).items() if severity is not Severity.INFO}
    assert found == {("ca", "nearing_expiry")}


def test_a_due_leaf_that_ends_with_its_ca_is_still_due(tmp_path: Path) -> None:
    """A leaf that is due and ends at the same second as its CA is `still_due` beside `nearing_expiry`."""
    node = Node(tmp_path)
    end = datetime(2026, 12, 20, tzinfo=UTC)
    node.new_ca(end=end)
    node.reissue(API, f"{PKI}/ca", end=end, start=end - 100 * DAY)
    found = judge(tmp_path)
    assert found["apiserver", "still_due"] is Severity.WARNING
    assert ("apiserver", "nearing_expiry") in found
    assert {name for name, reason in found if reason == "still_due"} == {"apiserver"}


def test_the_table_covers_every_reason_that_observation_can_raise() -> None:
    """The table of mutations has each Reason that files alone can give, and at least forty of them."""
    # Reasons about running services: tests/pki/services/. Reasons from the
    # Kubernetes API: tests/cluster/test_conducted_node.py. The origin of a due certificate:
    # tests/pki/signing/test_policy.py. References: tests/files/references/test_uncataloged_file_observer.py.
    running = {
        Reason.SERVED_DIFFERS, Reason.RESTART_PENDING, Reason.RESTART_FAILED, Reason.NOT_RUNNING, Reason.CUT_OFF,
    }  # fmt: skip
    known_facts = {Reason.STILL_DUE, Reason.BREAKS_AGAIN}  # which files alone do not show
    # Copies, which kubeadm does not make: tests/test_starlingx.py.
    elsewhere = {Reason.NOT_WATCHED, Reason.COPY_DIFFERS, Reason.NOT_ISSUED_BY_CA}  # the last never comes alone: above
    elsewhere.add(Reason.SECOND_RENEWER)  # files of systemd and cron: tests/files/test_other_renewers.py
    # Objects of the cluster: tests/pki/assessment/test_cluster_rules.py.
    cluster = {
        Reason.CLUSTER_EXPIRY, Reason.CLUSTER_MALFORMED, Reason.CLUSTER_UNREAD, Reason.REQUEST_WAITING,
    }  # fmt: skip
    # A reload: tests/daemon/test_loop.py. A user without root: tests/test_ordinary_user.py.
    callers = {Reason.CONFIGURATION_REFUSED, Reason.NOT_PERMITTED}
    later = running | known_facts | elsewhere | cluster | callers
    covered = {row[2] for row in (*MUTATIONS.values(), *ROTATIONS.values())}
    assert covered | {"nonpositive_serial"} == {reason.value for reason in Reason if reason not in later}
    assert len(MUTATIONS) >= 40


def test_a_copy_with_further_contexts_is_merged_and_not_overwritten(node: Node) -> None:
    """The finding of a copy with a second context names a merge, and enforce mode plans no write of it."""
    root_copy(end=NOW + YEAR)(node)
    document = node.kubeconfig(ROOT_COPY)
    document["contexts"].append({"name": "own", "context": {"cluster": "kubernetes", "user": "kubernetes-admin"}})
    node.write(ROOT_COPY, yaml.safe_dump(document))
    content = node.read(ROOT_COPY)
    config = load(None)
    (found,) = assess(Store(config.certificates, str(node.root), derived=config.derived).observe(), NOW).loose_findings
    assert found.message.endswith("merge /etc/kubernetes/admin.conf into the copy; see: certmond explain stale_copy")
    made = Derivations(config.derived, config.certificates, NodeFiles(str(node.root)))
    assert made.states() == {"root-kubeconfig": Unmanaged()}
    assert node.read(ROOT_COPY) == content


def test_an_entry_can_limit_the_severity_of_its_findings(node: Node) -> None:
    """`at_most` lowers a higher severity, and leaves the others."""
    specs = tuple(
        replace(spec, at_most=Severity.WARNING) if spec.name == "apiserver" else spec for spec in load().certificates
    )
    node.path(f"{API}.key").write_bytes(b"junk")
    node.path(f"{PKI}/ca.key").write_bytes(b"junk")
    assessment = assess(Store(specs, str(node.root)).observe(), NOW)
    found = {status.seen.name: status.severity for status in assessment.statuses if status.severity}
    assert found["apiserver"] is Severity.WARNING
    assert found["ca"] is Severity.CRITICAL


def test_a_leaf_without_its_ca_is_a_finding(node: Node) -> None:
    """If the CA's entry has no finding because the CA is not expected, the leaf is reported as unproven."""
    specs = tuple(
        replace(spec, optional=True) if spec.name == "front-proxy-ca" else spec for spec in load().certificates
    )
    node.path(f"{PKI}/front-proxy-ca.crt").unlink()
    assessment = assess(Store(specs, str(node.root)).observe(), NOW)
    found = {(s.seen.name, item.reason) for s in assessment.statuses for item in s.findings}
    assert ("front-proxy-client", "no_path") in found


def kubelet_key(path: str) -> Mutation:
    return lambda node: node.edit_kubeconfig(f"{CONF}/kubelet.conf", client_key=path)


def test_the_kubelets_key_must_be_the_rotating_one_too(node: Node) -> None:
    """A kubelet.conf whose client-key names another file than the rotating PEM is a finding."""
    kubelet_key(f"/{API}.key")(node)
    assert ("kubelet-client", "not_rotating_pem") in judge(node.root)


def test_an_unreadable_manifest_excuses_no_file(node: Node) -> None:
    """While a manifest is unreadable, the files that it may mention are expected."""
    node.path(f"{CONF}/manifests/kube-apiserver.yaml").unlink()
    node.path(f"{CONF}/manifests/kube-apiserver.yaml").mkdir()
    node.path(f"{API}.crt").unlink()
    assert ("apiserver", "missing") in judge(node.root)


def test_a_dangling_link_is_missing_even_if_it_is_optional(node: Node) -> None:
    """A dangling symlink shows that a file should be there."""
    node.path("var/lib/kubelet/pki/kubelet-server-current.pem").symlink_to("/var/lib/kubelet/pki/gone.pem")
    assert ("kubelet-server", "missing") in judge(node.root)


def test_service_account_keys_may_be_several(node: Node) -> None:
    """While service-account keys are changed, sa.pub holds several; one of them must be that of sa.key."""
    node.write(f"{PKI}/sa.pub", public_pem(other_key()) + node.read(f"{PKI}/sa.pub"))
    assert not [key for key in judge(node.root) if key[0] == "sa"]


def test_an_expired_further_root_must_be_removed_not_renewed(node: Node) -> None:
    """An expired root behind the first of a bundle is a warning: no certificate needs it."""
    old = ca_like(node.certificate(f"{PKI}/ca.crt"), other_key(), end=NOW - DAY)
    bundle = node.read(f"{PKI}/ca.crt") + pem(old)
    node.write(f"{PKI}/ca.crt", bundle)
    for name in ("admin", "controller-manager", "scheduler", "kubelet"):
        node.edit_kubeconfig(f"{CONF}/{name}.conf", certificate_authority_data=bundle)
    serious = {key: severity for key, severity in judge(node.root).items() if severity is not Severity.INFO}
    assert serious == {("ca#2", "expired"): Severity.WARNING}


def test_a_tunnel_requires_no_name(node: Node) -> None:
    """A kubeconfig that uses a port of this host does not require a loopback name of the API server."""
    document = node.kubeconfig(f"{CONF}/kubelet.conf")
    document["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:6443"
    node.write(f"{CONF}/kubelet.conf", yaml.safe_dump(document))
    assert not [key for key in judge(node.root) if key[1] == "missing_name"]
