"""Replacement of the files of one rotation step on this node, in one transaction.

Before certmond replaces a key, certmond stages the old key, because an abort needs the old key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from certmond.errors import CertmondError, KeyUnusableError, RefusedError, WriteError
from certmond.formats.kubeconfig import load_mapping
from certmond.formats.kubeconfig_certificates import parse_credentials
from certmond.formats.kubeconfig_edit import with_trust
from certmond.formats.manifest import containers
from certmond.formats.manifest_edit import with_flags
from certmond.formats.private_key import PrivateKey, key_pem, load_key
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.planning.steps import AbsentFile, Bundle, FileChange, Flags, KeyOf, Rotate, Trusting
from certmond.pki.x509.certificate import Anchor, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import describe_key
from certmond.renewal.key_pair import Read, Unpaired, anchor_of_key, as_written
from certmond.rotation.staged_ca import Part, Staging
from certmond.rotation.trust_anchor_state_reader import own_files
from certmond.state.archive import Archive
from certmond.transaction.commit import Change, NewFile, Removed, Writer
from certmond.transaction.dirfd import digest
from certmond.transaction.node_file_reader import NodeFiles


class StepFiles:
    """Replacement of the files of rotation steps on one node."""

    def __init__(
        self, certificates: tuple[CertificateSpec, ...], files: NodeFiles, staging: Staging, archive: Archive
    ) -> None:
        self._anchors = {spec.name: spec for spec in certificates if spec.is_trust}
        self._files, self._staging, self._archive = files, staging, archive

    def replace(self, step: Rotate, writer: Writer, now: datetime, real: Callable[[str], Path]) -> str:
        """Execute the step completely or not at all. Return a sentence about the result.

        Raises CertmondError if the step fails.
        """
        self._check(step)
        self._check_writers(step)
        self._store_old_key(step)
        changes = [change for want in step.wants for change in self._change(want, step.target)]

        def verify(written: Mapping[str, bytes]) -> None:
            read = as_written(changes, written, self._files)
            if problems := [*self._problems(step, written), *self._unpaired(step, changes, read)]:
                raise RefusedError(f"certmond did not replace the files of {step.target}: {'; '.join(problems)}")

        writer.commit(changes, verify=verify, before_rename=lambda: self._archive_anchor(step, now, real))
        return f"{step.path}: {'done' if changes else 'no change was necessary'}: {step.detail}"

    def _change(self, want: FileChange, family: str) -> Iterator[Change]:
        present = self._files.read(want.path, follow_any_link=False)
        expected = None if present is None else digest(present)
        match want:
            case Bundle(path, anchors):
                yield NewFile(path, b"".join(map(to_pem, anchors)), 0o644, expected=expected)
            case KeyOf(path, anchor):
                yield NewFile(path, key_pem(self._key_of(anchor, family)), 0o600, expected=expected, at_most=0o600)
            case Trusting(path, certificates, known):
                content = with_trust(present or b"", path, certificates, known)
                yield NewFile(path, content, expected=expected)
            case Flags(path, container, flags):
                content = with_flags(present or b"", path, container, dict(flags))
                yield NewFile(path, content, expected=expected, manifest=True)
            case AbsentFile(path):
                if expected is not None:
                    yield Removed(path, expected)

    def _check(self, step: Rotate) -> None:
        """Raise WriteError if a file of the CA entry contains a trust anchor or a key that is not in the plan."""
        spec = self._anchors.get(step.target)
        if spec is None or not step.known:
            return
        anchors, keys = set(step.known), {each.key for each in step.known}
        replaced = (want.path for want in step.wants if isinstance(want, Bundle | KeyOf | AbsentFile))
        for path in dict.fromkeys(filter(None, (spec.path, spec.key, *replaced))):
            found = decode(self._files.read(path) or b"", path)
            if set(found.anchors) - anchors or (found.key and found.key not in keys):
                raise WriteError(f"another process has changed {path} since the plan; plan again: certmond plan")

    def _check_writers(self, step: Rotate) -> None:
        """Raise WriteError if another user could read a key that the step writes."""
        spec = self._anchors.get(step.target)
        keys = [want.path for want in step.wants if isinstance(want, KeyOf)]
        if why := self._files.exposed(keys, spec.owner if spec else None):
            raise WriteError(why)

    def _store_old_key(self, step: Rotate) -> None:
        """Stage the key that the step replaces, unless it is already staged.

        Raises WriteError if the key matches no trust anchor, or if another old key is staged.
        """
        spec = self._anchors.get(step.target)
        if spec is None or spec.key is None or not any(isinstance(w, KeyOf) and w.path == spec.key for w in step.wants):
            return
        content, anchors = (
            self._files.read(spec.key),
            decode(self._files.read(spec.path) or b"", spec.path).anchors,
        )
        if content is None:
            return
        key = load_key(content, spec.key)
        own = next((each for each in anchors if each.key == describe_key(key.public_key())), None)
        if own is None:
            fact = f"{spec.key} matches no certificate or public key in {spec.path}"
            raise WriteError(f"{fact}; restore the matching pair")
        staged = {part: found for part in Part if (found := self._staging.read(part))}
        if any(found.anchor == own and found.key and not found.fault for found in staged.values()):
            return
        old_part = staged.get(Part.OLD)
        if old_part and (old_part.key_unknown or old_part.key not in {None, own.key}):
            where = f"{self._staging.directory}/{Part.OLD}.key"
            fault = next((found.fault for found in staged.values() if found.fault), f"{where} contains another key")
            raise WriteError(f"{fault}; certmond does not replace {spec.key}, because no copy of it would remain")
        self._staging.put(Part.OLD, step.target, own, key)

    def _key_of(self, anchor: Anchor, family: str) -> PrivateKey:
        """Return the staged or installed private key of a trust anchor.

        Raises KeyUnusableError if the key is not on this node.
        """
        for part in Part:
            staged = self._staging.read(part)
            if staged and staged.key == anchor.key:
                return self._staging.key(part)
        spec = self._anchors[family]
        for path in filter(None, (spec.key, own_files(spec.path)[1])):
            with suppress(CertmondError):
                key = load_key(self._files.read(path) or b"", path)
                if describe_key(key.public_key()) == anchor.key:
                    return key
        fact = f"the private key of {anchor.called} is not on this node"
        raise KeyUnusableError(f"{fact}; stage it: certmond root-ca stage")

    def _archive_anchor(self, step: Rotate, now: datetime, real: Callable[[str], Path]) -> None:
        """If the step replaces the certificates of the CA, archive these certificates.

        The archive does not get the key, because the rotation stages the key.
        """
        spec = self._anchors.get(step.target)
        if spec and any(isinstance(want, Bundle) and want.path == spec.path for want in step.wants):
            self._archive.store(step.target, {spec.path: real(spec.path)}, now, {"cause": step.cause.value})

    def _unpaired(self, step: Rotate, changes: Sequence[Change], read: Read) -> Iterator[str]:
        """Yield a clause if the key of the CA, or of a separate signer, would match no certificate after `changes`."""
        spec, changed = self._anchors.get(step.target), {change.path for change in changes}
        for path, key_path in ((spec.path, spec.key), own_files(spec.path)) if spec else ():
            key = read(key_path) if key_path and not changed.isdisjoint({path, key_path}) else None
            found = anchor_of_key(read(path), key, path, key_path) if key is not None and key_path else None
            if isinstance(found, Unpaired):
                yield f"the certificate and the key would not match: {found.message}"

    def _problems(self, step: Rotate, written: Mapping[str, bytes]) -> Iterator[str]:
        """Yield a clause for each new file that differs from the plan."""
        for want in step.wants:
            content = written.get(want.path, b"")
            match want:
                case Bundle(path, anchors):
                    if decode(content, path).anchors != anchors:
                        yield f"{path} does not contain the planned certificates"
                case KeyOf(path, anchor):
                    if decode(content, path).key != anchor.key:
                        yield f"{path} does not contain the planned key"
                case Trusting(path, certificates, known):
                    trusted = [
                        document.certificates
                        for (_, part), document in parse_credentials(content, path).documents.items()
                        if part == "ca"
                    ]
                    own = [set(each) & known for each in trusted if not known.isdisjoint(each)]
                    if certificates not in trusted or any(each != set(certificates) for each in own):
                        yield f"{path} does not trust the planned CAs"
                case Flags(path, container, flags):
                    found = (each for each in containers(load_mapping(content)) if each.name == container)
                    given = next(found, None)
                    if given is None or any(given.values(flag) != [value] for flag, value in flags):
                        yield f"{path} does not contain the planned flags"
                case AbsentFile():
                    pass
