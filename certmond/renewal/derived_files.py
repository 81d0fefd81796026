"""State and replacement of the derived files of this node.

`renewal/derived_file_state` defines the content of a derived file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote

from certmond.errors import MalformedError, WriteError
from certmond.formats.kubeconfig import parse_kubeconfig
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.renewal.certificate_copy_writer import CopiedPair
from certmond.renewal.derived_file_state import (
    Absent,
    Current,
    Foreign,
    Stale,
    State,
    Unmanaged,
    Unready,
    owner_ids,
    state,
)
from certmond.renewal.key_pair import Unpaired, key_pair, kubeconfig_pairs
from certmond.transaction.commit import NewFile, Writer
from certmond.transaction.dirfd import digest
from certmond.transaction.node_file_reader import NodeFiles


class Derivations:
    """The derived files of `specs`. `certificates` contains the certificate entries, including the sources."""

    def __init__(self, specs: Sequence[DerivedSpec], certificates: Sequence[CertificateSpec], files: NodeFiles) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._sources: Mapping[str, CertificateSpec] = {spec.name: spec for spec in certificates}
        self._files = files

    def states(self) -> dict[str, State]:
        """Return the state of each derived file, by the name of its entry."""
        taken = {self._files.leads_to(spec.path): f"the entry {name}" for name, spec in self._sources.items()}
        found: dict[str, State] = {}
        for name, spec in sorted(self._specs.items(), key=lambda item: item[1].write != "always"):
            if spec.kind == "copy":
                found[name] = self._copied(spec).state()
                continue
            place = self._files.leads_to(spec.path)
            found[name] = self._state(spec)[0]
            if place in taken:  # through a symlink: certmond would rewrite both entries without end
                shared = Foreign(
                    f"{spec.path} refers to the file of {taken[place]}; set another path for the derived file"
                )
                found[name] = shared if spec.write == "always" else Unmanaged()
            taken.setdefault(place, f"the derived file {name}")
        return found

    def make(self, name: str, writer: Writer) -> str:
        """Write the derived file if it is missing or differs from its source. Return a sentence about the result.

        Raises WriteError if the source is unusable, or if certmond must not replace the file.
        """
        spec = self._specs[name]
        if spec.kind == "copy":
            return self._copied(spec).make(writer)
        found, present = self._state(spec)
        match found:
            case Foreign(message) | Unready(message):
                raise WriteError(message)
            case Stale(content) | Absent(content):
                owner = owner_ids(spec.owner) if spec.owner else None
                expected = None if present is None else digest(present)
                change = NewFile(spec.path, content, spec.mode, owner, expected, at_most=spec.mode)
                writer.commit([change], verify=lambda written: self._prove(spec, written[spec.path]))
                return f"{spec.path} is written from {spec.source}"
            case Unmanaged():
                return f"{spec.path} is left unchanged"
            case _:
                return f"{spec.path} is equal to {spec.source}"

    def _copied(self, spec: DerivedSpec) -> CopiedPair:
        return CopiedPair(spec, self._sources[spec.source], self._files)

    def _state(self, spec: DerivedSpec) -> tuple[State, bytes | None]:
        """Return the state of a derived file, and the content of the present file.

        The content is None if the file is missing, or if certmond has not read the file.
        """
        found, present = self._found(spec)
        if spec.write == "always":
            return found, present
        is_own = spec.write == "existing" and isinstance(found, Current | Stale)
        return (found if is_own and self._files.is_in_place(spec.path) else Unmanaged()), present

    def _found(self, spec: DerivedSpec) -> tuple[State, bytes | None]:
        try:
            if why := self._writable_source(spec):
                return Unready(why), None
            source, key = self._source(spec)
            present = self._files.read(spec.path)
            others = self._has_other_owner(spec)
        except WriteError as error:
            return Unready(f"certmond does not write {spec.path}: {error}"), None
        found = state(spec, source, key, present)
        if not isinstance(found, Unready) and (why := self._files.exposed([spec.path], spec.owner)):
            return Foreign(why), present
        if others and isinstance(found, Current | Stale):
            remedy = (
                f"move the file away, so that certmond creates it again, or run: chown {spec.owner} {quote(spec.path)}"
            )
            return Foreign(f"{spec.path} does not belong to {spec.owner}, the owner in its entry; {remedy}"), present
        return found, present

    def _writable_source(self, spec: DerivedSpec) -> str | None:
        """Return why certmond must not copy a kubeconfig, or None if no untrusted user can change the kubeconfig.

        An untrusted user could choose the server in the copy, and the programs that clients with this copy run.
        """
        if spec.kind != "kubeconfig":
            return None
        path, present = self._sources[spec.source].path, self._files.owner(spec.path)
        owner = spec.owner or (str(present[0]) if present else None)
        if not (who := self._files.other_writer(path, owner)):
            return None
        risk = "such a user could choose the server and the programs in this kubeconfig"
        fact = f"certmond does not write {spec.path}: {who}, and {risk}"
        return f"{fact}; let only root write {path} (chown, chmod go-w), or set `owner` of {spec.name} to that user"

    def _has_other_owner(self, spec: DerivedSpec) -> bool:
        """Return whether the owner of the present file differs from the owner in its entry."""
        present = self._files.owner(spec.path) if spec.owner else None  # a replacement keeps the present owner
        if spec.owner is None or present is None:
            return False
        wanted = self._files.real_owner(owner_ids(spec.owner))
        return present != wanted if ":" in spec.owner else present[0] != wanted[0]

    def _source(self, spec: DerivedSpec) -> tuple[bytes | None, bytes | None]:
        source = self._sources[spec.source]
        content = self._files.read(source.path, follow_any_link=False)
        if source.kind is Kind.KUBECONFIG and spec.kind == "pem-bundle":
            return _credentials(content, source.path) if content is not None else (None, None)
        key = self._files.read(source.key, follow_any_link=False) if source.key and source.key != source.path else None
        return content, key

    def _prove(self, spec: DerivedSpec, written: bytes) -> None:
        bundle = spec.kind == "pem-bundle"
        pairs = (key_pair(written, written, spec.path, spec.path),) if bundle else kubeconfig_pairs(written, spec.path)
        if mismatches := [pair.message for pair in pairs if isinstance(pair, Unpaired) and (bundle or pair.leaf)]:
            raise WriteError(f"certmond does not write {spec.path}: {'; '.join(mismatches)}; repair {spec.source}")
        source, key = self._source(spec)
        if isinstance(state(spec, source, key, written), Stale | Absent | Foreign | Unready):
            raise WriteError(
                f"certmond does not write {spec.path}: {spec.source} changed in the meantime; certmond tries again"
            )


def _credentials(content: bytes, path: str) -> tuple[bytes | None, bytes | None]:
    """Return the certificate and the key that a kubeconfig embeds for its current user.

    A part in a separate file is None. If the user has no certificate or no key, both parts are None. Raises WriteError
    if the kubeconfig is malformed.
    """
    try:
        config = parse_kubeconfig(content, path)
    except MalformedError as error:
        raise WriteError(f"{path} {error}") from error
    user = next((user for user in config.users if user.name == config.current_user), None)
    if user is None or user.certificate is None or user.key is None:
        return None, None
    return user.certificate.data, user.key.data
