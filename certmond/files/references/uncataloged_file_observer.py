"""Entries for files to which other files on the node refer, but which are not in the catalogue.

This module defines the names and the requirements of these entries. A reference that certmond cannot follow becomes an
observation with the fault `not_watched`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from certmond.files.catalog_file_reader import DocumentReader, bundle_observations
from certmond.files.references.component_references import ComponentReferences, Reference
from certmond.files.references.flag_source import is_path
from certmond.pki.catalog.component_certificate_flags import USAGES, ReferenceSpec, Role
from certmond.pki.catalog.entries import Kind
from certmond.pki.catalog.field_types import absolute_path
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Fault, Reason, printable
from certmond.pki.x509.certificate import Certificate

_KINDS = {Role.TRUST: Kind.BUNDLE, Role.KUBECONFIG: Kind.KUBECONFIG}  # of other roles: a file
_MAX_NAME = 63
_MAX_PATHS = 5  # in a message
_MAX_SHOWN = 200  # characters of a path that no file can have
_REMEDY = (
    "check that file yourself, or set the flag to a file that certmond can read; see: certmond explain not_watched"
)


class ReferenceObserver:
    """Observer of the references to files that are not in the catalogue."""

    def __init__(self, reader: DocumentReader, references: ComponentReferences) -> None:
        self._reader, self._references = reader, references
        self._seen: tuple[Observation, ...] = ()
        self._found: tuple[Reference, ...] = ()
        self._result: tuple[tuple[ReferenceSpec, ...], tuple[Observation, ...]] = (), ()

    def result(
        self, observations: tuple[Observation, ...]
    ) -> tuple[tuple[ReferenceSpec, ...], tuple[Observation, ...]]:
        """Return the entries to observe, and the observations of embedded certificates and unwatched references.

        The result contains the same objects until a file changes.
        """
        found = self._references.find()
        if found is not self._found or observations != self._seen:
            self._found, self._seen = found, observations
            specs, others = self._build(found, observations)
            before = {each.identity: each for each in self._result[1]}
            self._result = (
                specs,
                tuple(
                    old if (old := before.get(each.identity)) is not None and old == each else each for each in others
                ),
            )
        return self._result

    def _build(
        self, found: Sequence[Reference], observations: Iterable[Observation]
    ) -> tuple[tuple[ReferenceSpec, ...], tuple[Observation, ...]]:
        covered, authorities = self._covered(found, observations)
        groups, names = dict[str | int, list[Reference]](), dict[str, int]()
        for number, each in enumerate(sorted(found, key=lambda each: not each.is_watched)):
            file = self._file(each.path) if each.embedded is None else ""
            shared = file or number
            if each.process and shared not in groups:  # one finding for all files of the process
                shared = f"the {each.process}"
            if file not in covered or (each.key and each.is_watched and self._file(each.key) not in covered[file]):
                groups.setdefault(shared, []).append(each)
        named = [(_unique(_strictest(group).name, names), group) for group in groups.values()]
        for name, group in named:
            for each in group:
                if each.path and each.role is Role.TRUST and each.is_watched:
                    authorities.setdefault(self._file(each.path), name)
        specs, others = list[ReferenceSpec](), list[Observation]()
        for name, group in named:
            each = _strictest(group)
            if each.embedded is not None:
                others += _embedded(name, each)
            elif each.is_watched:
                if any(other.at_most is None for other in group):
                    each = replace(each, at_most=None)
                specs.append(_spec(name, each, _usages(group), self._authority(each, authorities)))
                for other in self._other_pairs(each, group):
                    authority = self._authority(other, authorities)
                    specs.append(_spec(_unique(other.name, names), other, _usages([other]), authority))
            else:
                others.append(_unwatched(name, each, group))
        return tuple(specs), tuple(others)

    def _file(self, path: str) -> str:
        """Return the path to which the symlinks at `path` lead, or `path` if the file is missing."""
        return (self._reader.entry(path).own_file if path else None) or path

    def _authority(self, each: Reference, authorities: dict[str, str]) -> str | None:
        return authorities.get(self._file(each.trust)) if each.trust else None

    def _other_pairs(self, first: Reference, group: Sequence[Reference]) -> Iterator[Reference]:
        """Yield a reference for each further key or CA with which the flags combine the certificate file of `first`."""
        checked = [self._partners(first)]
        for each in group:
            key, trust = self._partners(each)
            is_known = any(key in {"", one} and trust in {frozenset(), other} for one, other in checked)
            if each.is_watched and each.role in USAGES and not is_known:
                checked.append((key, trust))
                yield each

    def _partners(self, each: Reference) -> tuple[str, frozenset[Certificate]]:
        """Return the key file of a reference, or "" without a key, and the certificates in the reference's CA file."""
        trust = self._reader.document(each.trust, None).certificates if each.trust else ()
        return self._file(each.key or ""), frozenset(trust)

    def _covered(
        self, found: Sequence[Reference], observations: Iterable[Observation]
    ) -> tuple[dict[str, set[str]], dict[str, str]]:
        """Return the files of references that are also in the catalogue, and the name of the entry for each CA file.

        For each file of the catalogue, the result contains all files of the same entries, such as the key.
        """
        paths = {path for each in found for path in (each.path, each.key, each.trust) if path}
        reals = {either: real for path in paths for real in [self._file(path)] for either in (path, real)}
        covered, authorities = dict[str, set[str]](), dict[str, str]()
        for seen in observations if reals else ():
            files = (seen.path, seen.certificate_file, seen.key_path, seen.key_file, _kubeconfig_of(seen))
            own = [reals[path] for path in files if path and path in reals]
            for file in own:
                covered.setdefault(file, set()).update(own)
            if own and (seen.spec.authority or seen.spec.kind is Kind.BUNDLE):
                authorities[own[0]] = seen.spec.name
        return covered, authorities


def _kubeconfig_of(seen: Observation) -> str | None:
    """Return the kubeconfig of the entry.

    Return None if the kubeconfig embeds the certificate or refers to another file.
    """
    return seen.spec.kubeconfig if seen.refers_to in {None, seen.path} else None


def _strictest(group: Sequence[Reference]) -> Reference:
    """Return the reference with the most checks.

    A watched reference takes precedence over an unwatched reference. Of two watched references, the reference with
    checks of the key and the usages takes precedence over the reference with only a check of the dates.
    """
    return max(
        group,
        key=lambda each: (
            each.is_watched, each.role in USAGES, each.role is not Role.TRUST, bool(each.key), bool(each.trust)
        ),
    )  # fmt: skip


def _usages(group: Sequence[Reference]) -> tuple[str, ...]:
    """Return all usages that the roles of a file require."""
    roles = dict.fromkeys(each.role for each in group if each.is_watched)
    return tuple(dict.fromkeys(usage for role in roles for usage in USAGES.get(role, ())))


def _unique(name: str, names: dict[str, int]) -> str:
    """Return the name, with a number appended if `names` contains the name. `names` maps a name to its next number."""
    numbered = name
    while numbered in names:
        number = names[name]
        names[name], numbered = number + 1, f"{name[: _MAX_NAME - len(f'.{number}')]}.{number}"
    names[numbered] = 2
    return numbered


def _spec(name: str, each: Reference, usages: tuple[str, ...], authority: str | None) -> ReferenceSpec:
    fields: dict[str, Any] = {"usages": usages, "key": each.key and absolute_path(each.key), "at_most": each.at_most}
    if each.shared:
        fields |= {"mode": 0o664, "key_mode": 0o660}
    if each.role is not Role.TRUST and authority:
        fields["ca"] = (authority,)
    return _entry(name, each, each.path, kind=_KINDS.get(each.role, Kind.FILE), **fields)


def _entry(name: str, each: Reference, path: str, **fields: Any) -> ReferenceSpec:
    named_by = printable(each.named_by)
    renewed_by = f"its operator ({named_by} names it)"
    return ReferenceSpec(name=name, path=absolute_path(path), named_by=named_by, renewed_by=renewed_by, **fields)


def _unwatched(name: str, each: Reference, group: Sequence[Reference]) -> Observation:
    fact, subject = each.obstacle or f"{each.path} is not mounted into the container from this host", each.named_by
    message = f"certmond does not watch the file of {subject}: {fact}"
    paths = [*dict.fromkeys(other.path[:100] for other in group if other.path)]
    if each.process and (len(paths) > 1 or len(group) > len(paths) > 0):
        more = [f"{len(paths) - _MAX_PATHS} more"] if len(paths) > _MAX_PATHS else []
        facts = dict.fromkeys(other.obstacle for other in group)
        files = ", ".join([*paths[:_MAX_PATHS], *more])
        message = f"certmond does not watch files of the {each.process} ({files}): {'; '.join([*facts][:_MAX_PATHS])}"
    fault, path = Fault(Reason.NOT_WATCHED, message, _REMEDY), _shown(each.source)
    return Observation(name, _entry(name, each, path), path, faults=(fault,))


def _shown(path: str) -> str:
    """Return `path` if a file can have this path, otherwise a valid path with the printable text of `path`.

    The path of a file with flags is a value of another flag, and can contain arbitrary characters.
    """
    return path if is_path(path) else f"/{printable(path[:_MAX_SHOWN]).lstrip('/')}"


def _embedded(name: str, each: Reference) -> Iterator[Observation]:
    """Yield an observation for each certificate that a field of a configuration file contains.

    If the field contains no certificate, yield one observation with a fault.
    """
    document = each.embedded
    if document is None:
        return
    faults = list(document.faults)
    if not (document.certificates or faults):
        faults.append(Fault(Reason.MALFORMED, f"{each.named_by} contains no certificate"))
    usages = () if each.role is Role.TRUST else USAGES[each.role]
    path = _shown(each.source)
    spec = _entry(name, each, path, kind=Kind.BUNDLE, usages=usages)
    yield from bundle_observations(Observation(name, spec, path, faults=tuple(faults)), document.certificates)
