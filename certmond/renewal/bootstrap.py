"""Execution of the steps of `certmond init`, which create the first files of a node.

certmond never overwrites an existing file.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.errors import RefusedError
from certmond.files.path_resolution import open_without_symlinks
from certmond.formats.kubeconfig_edit import Embedded, Files, new_kubeconfig
from certmond.formats.kubelet import pem as kubelet_pem
from certmond.formats.private_key import PrivateKey, key_pem, make_key, public_pem
from certmond.notify.audit import Audit
from certmond.notify.event_log import Event
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm, Kind
from certmond.pki.planning.bootstrap_steps import (
    InitStep,
    IssueFirst,
    MakeAuthority,
    MakeKeyPair,
    NewKubeconfig,
    WriteKubeconfig,
)
from certmond.pki.signing.policy import Basis, Denial, Grant, grant
from certmond.pki.signing.template import Template, builder
from certmond.pki.x509.certificate import attributes_of, load, names_in, parse_certificate, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.path_building import find_paths
from certmond.pki.x509.public_key import describe_key
from certmond.renewal.derived_file_state import owner_ids
from certmond.renewal.key_pair import Read, Unpaired, anchor_of_key, as_written, entry_pair, kubeconfig_pairs
from certmond.signers.local_ca import LocalSigner, self_signed
from certmond.signers.protocol import Request
from certmond.state.rotation_record import ANCHORS, RotationRecord
from certmond.transaction.commit import Change, NewFile, NewLink, Transactions, Writer
from certmond.transaction.dirfd import Directories, blaming
from certmond.transaction.journal import is_record
from certmond.transaction.node_file_reader import NodeFiles

_PUBLIC, _SECRET = 0o644, 0o600
_EXTENDED = frozenset({"server auth", "client auth"})


class Bootstrapper:
    """Creator of the missing files of a node.

    `given` is the private key of the operator's Root CA, or None if the operator gives no CA.
    """

    def __init__(
        self,
        *,
        root: str,
        state_dir: Path,
        audit: Audit,
        clock: Callable[[], datetime],
        given: PrivateKey | None = None,
        node_name: str = "",
    ) -> None:
        self._root, self._audit, self._clock, self._given, self._node = root, audit, clock, given, node_name
        self._state_dir, self._records = state_dir, state_dir / "transactions"
        self._transactions = Transactions(root, state_dir)
        self._files = NodeFiles(root)

    def unfinished(self) -> bool:
        """Return whether the state directory contains an interrupted transaction."""
        with suppress(OSError):
            return any(map(is_record, os.listdir(self._records)))
        return False

    def recover(self, patience: float) -> None:
        """Complete or revert interrupted transactions. Wait at most `patience` seconds for the lock of all writers.

        Raises BusyError if another process still writes after this time.
        """
        if self.unfinished():
            with self._transactions.lock(patience) as writer:
                self._settle(writer)

    def objections(self, steps: tuple[InitStep, ...]) -> Iterator[str]:
        """Yield a message for each obstacle to the steps."""
        yield from self._exposed_keys(steps)
        yield from self._replaced_cas(steps)
        given = next((step.given for step in steps if isinstance(step, MakeAuthority) and step.given), None)
        if given is None or self._given is None:
            return
        # Sign each certificate in memory, because the constraints of the CA might not permit the certificate.
        key = make_key(KeyAlgorithm.ECDSA_P256)
        digest = None if isinstance(self._given, Ed25519PrivateKey) else SHA256()
        for step in steps:
            if isinstance(step, IssueFirst) and step.authority.name == "ca":
                trial = builder(step.template, key.public_key(), 1, load(given.der)).sign(self._given, digest)
                issued = parse_certificate(trial.public_bytes(Encoding.DER))
                search = find_paths(issued, (given,), (), _EXTENDED.intersection(step.spec.usages))
                if not search.paths:
                    why = ", ".join(
                        dict.fromkeys(f"{each.certificate.subject}: {each.refusal}" for each in search.rejections)
                    )
                    yield f"the CA of --root-ca-cert cannot sign {step.spec.path} ({why}); give another CA"

    def _replaced_cas(self, steps: tuple[InitStep, ...]) -> Iterator[str]:
        """Yield a message for each installed CA that must not sign.

        A CA must not sign during its rotation, or if this node last used another CA.
        """
        record = RotationRecord(self._state_dir)
        rotation, interims, anchors = record.load(), record.interims(), record.anchors()
        created = {step.spec.name for step in steps if isinstance(step, MakeAuthority)}
        paths = {step.authority.name: step.authority.path for step in steps if isinstance(step, IssueFirst)}
        for family in paths.keys() - created:
            path = paths[family]
            present = decode(self._files.read(path) or b"", path).certificates
            known = (*anchors.get(family, ()), *(interims[family].old if family in interims else ()))
            if rotation and rotation.family == family:
                yield f"{rotation.name} is in progress; wait for its end: certmond status"
            elif known and present and present[0] not in known:
                yield (
                    f"{path} does not contain the CA that this node used last ({known[0].called}); restore that CA and "
                    "its key, or rotate the CA (docs/rotation.md); if this node was installed again, remove "
                    f"{self._state_dir / ANCHORS}"
                )

    def _exposed_keys(self, steps: tuple[InitStep, ...]) -> Iterator[str]:
        for step in steps:
            if not isinstance(step, WriteKubeconfig):  # the kubeconfig refers to the file of its key
                why = self._files.exposed(filter(None, (step.spec.key, step.spec.path)), step.spec.owner)
                yield from (why,) if why else ()

    def execute(
        self, steps: tuple[InitStep, ...], patience: float, tell: Callable[[InitStep], None] = lambda _: None
    ) -> None:
        """Execute the steps in order until one fails.

        Raises RefusedError if another user could read a key, and CertmondError if a step fails.
        """
        if exposures := list(self._exposed_keys(steps)):
            raise RefusedError("\n".join(exposures))
        with self._transactions.lock(patience) as writer:
            self._settle(writer)
            for step in steps:
                tell(step)
                fields = {"step": "init", "target": step.spec.name, "path": path_of(step)}
                self._audit.note(Event.STEP_BEGUN, self._clock(), f"{path_of(step)}: {step.detail}", fields=fields)
                serial = self._make(step, writer)
                done = {**fields, "new_serial": serial, "result": "done"}
                self._audit.note(Event.STEP_DONE, self._clock(), f"{path_of(step)} is created", fields=done)

    def _settle(self, writer: Writer) -> None:
        for recovery in writer.recover():
            self._audit.note(Event.RECOVERED, self._clock(), recovery.message, "warning")

    def _make(self, step: InitStep, writer: Writer) -> str | None:
        """Create the files of one step.

        Return the hexadecimal serial number of the new certificate, or None if the step creates no certificate.
        """
        match step:
            case MakeAuthority():
                return self._authority(step, writer)
            case MakeKeyPair():
                key = make_key(step.key)
                # kubeadm writes both files with mode 0600 (util/pkiutil, WritePublicKey).
                owner = _owner(step.spec)
                pair = [
                    NewFile(_key_path(step.spec), key_pem(key), owner=owner),
                    NewFile(step.spec.path, public_pem(key), owner=owner),
                ]
                self._write(writer, pair, lambda read: _prove_anchor(step.spec, read))
            case IssueFirst():
                return self._issue(step, writer)
            case WriteKubeconfig():
                files = Files(step.spec.path, step.spec.path)
                content = self._kubeconfig(step.kubeconfig, step.authority, files)
                where = step.kubeconfig.path
                self._write(writer, [NewFile(where, content)], lambda read: _prove_user(where, read))
            case _:
                assert_never(step)
        return None

    def _authority(self, step: MakeAuthority, writer: Writer) -> str:
        if step.template is not None:
            key = make_key(step.template.key)
            certificate = self_signed(step.template, key)
        elif step.given is not None and self._given is not None:
            key, certificate = self._given, to_pem(step.given)
        else:
            raise RefusedError(
                f"certmond has no key of the CA of --root-ca-cert for {step.spec.path}; add --root-ca-key"
            )
        made = decode(certificate, step.spec.path).certificates[0]

        def verify(read: Read) -> None:
            _prove_anchor(step.spec, read)
            if step.template is not None:
                _prove(step.spec, read, key, step.template, find_paths(made, [made]).valid_at(self._clock()))

        owner = _owner(step.spec)
        pair = [
            NewFile(_key_path(step.spec), key_pem(key), owner=owner),
            NewFile(step.spec.path, certificate, _PUBLIC, owner),
        ]
        self._write(writer, pair, verify)
        return made.serial_hex

    def _issue(self, step: IssueFirst, writer: Writer) -> str:
        key = make_key(step.template.key)
        authority = [str(self._transactions.real(path)) for path in (step.authority.path, _key_path(step.authority))]
        signer = LocalSigner(authority[0], authority[1], clock=self._clock)
        name = step.spec.name
        granted = self._granted(step)
        pem = signer.sign(Request(name=name, grant=granted, key=key, node_name=self._node)).pem
        issued = decode(pem, name).certificates[0]
        anchors = decode(self._files.read(step.authority.path) or b"", step.authority.path).certificates
        usages = _EXTENDED.intersection(step.spec.usages)

        def verify(read: Read) -> None:
            path = find_paths(issued, anchors, (), usages).valid_at(self._clock())
            _prove(step.spec, read, key, step.template, path)

        self._write(writer, list(self._forms(step, pem, key)), verify)
        return issued.serial_hex

    def _granted(self, step: IssueFirst) -> Grant:
        """Return the permission to sign the certificate of a step.

        Raises RefusedError if the policy denies the permission.
        """
        paths = filter(None, (step.spec.key, step.spec.path))
        granted = grant(step.template, step.fixed, Basis(barrier=self._files.exposed(paths, step.spec.owner) or ""))
        if isinstance(granted, Denial):
            raise RefusedError(
                f"certmond does not create {step.spec.path}: {granted}; correct the cause, then run: certmond init"
            )
        return granted

    def _forms(self, step: IssueFirst, pem: bytes, key: PrivateKey) -> Iterator[Change]:
        """Yield the changes that write the key and the certificate."""
        spec = step.spec
        owner = _owner(spec)
        if step.kubeconfig is not None:
            content = self._kubeconfig(step.kubeconfig, step.authority, Embedded(pem, key_pem(key)))
            yield NewFile(spec.path, content, owner=owner)
        elif spec.kind is Kind.KUBELET:
            taken = self._files.names(posixpath.dirname(spec.path))
            dated = kubelet_pem.successor(spec.path, self._clock(), taken)
            yield NewFile(dated, kubelet_pem.content(pem, key_pem(key)), owner=owner)
            yield NewLink(spec.path, dated)
        else:
            yield NewFile(_key_path(spec), key_pem(key), owner=owner)
            yield NewFile(spec.path, pem, _PUBLIC, owner)

    def _kubeconfig(self, new: NewKubeconfig, authority: CertificateSpec, credentials: Embedded | Files) -> bytes:
        trust = decode(self._files.read(authority.path) or b"", authority.path).certificates
        return new_kubeconfig(
            cluster=new.cluster, server=new.server, user=new.user, trust_pem=b"".join(map(to_pem, trust)),
            credentials=credentials,
        )  # fmt: skip

    def _write(self, writer: Writer, changes: Sequence[Change], verify: Callable[[Read], None]) -> None:
        """Create the missing directories, check the new content with `verify`, and write `changes`."""
        for directory in dict.fromkeys(posixpath.dirname(change.path) for change in changes):
            self.make_directory(directory)
        writer.commit(changes, verify=lambda written: verify(as_written(changes, written, self._files)))

    def make_directory(self, directory: str) -> None:
        """Create a directory of the node, and its missing parents, with mode 0755, as kubeadm does.

        Raises WriteError if the creation fails.
        """
        with Directories(self._root) as directories, blaming(directory):
            where = os.path.realpath(self._root).rstrip("/") + directories.resolve(directory)
        missing = []
        while not os.path.isdir(where):
            missing.append(where)
            where = os.path.dirname(where)
        for each in reversed(missing):
            with blaming(directory), _opened_directory(os.path.dirname(each)) as parent:
                os.mkdir(os.path.basename(each), 0o755, dir_fd=parent)
                with _opened_directory(each) as made:
                    os.fchmod(made, 0o755)
                os.fsync(parent)


@contextmanager
def _opened_directory(directory: str) -> Iterator[int]:
    """Open a directory of the node without following symlinks, and yield its descriptor."""
    descriptor = open_without_symlinks(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def path_of(step: InitStep) -> str:
    """Return the path of the file that the step creates."""
    return step.kubeconfig.path if isinstance(step, WriteKubeconfig) else step.spec.path


def _owner(spec: CertificateSpec) -> tuple[int, int] | None:
    return owner_ids(spec.owner) if spec.owner else None


def _key_path(spec: CertificateSpec) -> str:
    if spec.key is None:
        raise RefusedError(f"the entry {spec.name} has no `key`; set `key` in the entry")
    return spec.key


def _prove(spec: CertificateSpec, read: Read, key: PrivateKey, template: Template, path: object) -> None:
    """Raise RefusedError unless the new files contain the requested certificate and its key.

    `path` is the certification path of the certificate, or None if there is no such path.
    """
    pair = entry_pair(spec.kind, spec.path, spec.key, read)
    if isinstance(pair, Unpaired) or pair.leaf.key != describe_key(key.public_key()):
        why = f" ({pair.message})" if isinstance(pair, Unpaired) else ""
        raise RefusedError(f"the new certificate and key of {spec.name} do not match{why}; check the disk")
    leaf = pair.leaf
    wanted = (attributes_of(template.subject), names_in(template.names), template.not_after, template.is_ca)
    if path is None or (leaf.attributes, leaf.names, leaf.not_after, bool(leaf.is_ca)) != wanted:
        raise RefusedError(f"the new certificate of {spec.name} does not match the request; check the CA and the clock")


def _prove_anchor(spec: CertificateSpec, read: Read) -> None:
    """Raise RefusedError unless the key of an entry matches the CA certificate or public key of this entry."""
    key_path = _key_path(spec)
    found = anchor_of_key(read(spec.path), read(key_path), spec.path, key_path)
    if isinstance(found, Unpaired):
        raise RefusedError(f"the new certificate and key of {spec.name} do not match ({found.message}); check the disk")


def _prove_user(path: str, read: Read) -> None:
    """Raise RefusedError unless the current user of the kubeconfig has a certificate that matches its key."""
    found = kubeconfig_pairs(read(path), path, read)[0]
    if isinstance(found, Unpaired):
        fact = f"after this change, {path} would not refer to a certificate with its key"
        raise RefusedError(f"{fact} ({found.message}); check the disk")
