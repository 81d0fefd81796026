"""The configuration file and the drop-ins that the flags of a kubelet name.

This module merges drop-ins like the kubelet (cmd/kubelet/app/server.go, mergeKubeletConfigurations).
"""

from __future__ import annotations

import posixpath
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.flag_source import Source, UnreadFile, is_known, is_path
from certmond.files.references.kubelet_view import ServedFiles
from certmond.files.references.unit_files import Place
from certmond.formats.kubeconfig import as_text
from certmond.formats.kubelet.fields import patched, resolved
from certmond.formats.kubelet.serving import PKI, SELF_SIGNED, KubeletServing, kubelet_serving
from certmond.formats.kubelet.serving import REQUESTED as REQUESTED_FILE
from certmond.formats.manifest import Manifest, kubelet_fields, normal_path
from certmond.pki.catalog.component_certificate_flags import KUBELET, REQUESTED

_KIND = "KubeletConfiguration"
_CONFIG, _DIRECTORY, _PODS = _NAMING = "config", "config-dir", "pod-manifest-path"
_FIELDS = {"tls-cert-file": ("tlsCertFile", "tlsPrivateKeyFile"), "client-ca-file": ("clientCAFile",)}
"""Flag -> the fields that the flag overrides (kubeletConfigFlagPrecedence)."""
_REPLACE_PAIR = frozenset({"tlsCertFile", "tlsPrivateKeyFile"})
"""Fields with which the kubelet does not use kubelet.crt in --cert-dir (InitializeTLS in cmd/kubelet/app/server.go)."""
DEFAULT_DIRECTORY = "the default of --cert-dir"
"""Phrase in messages for the source of a certificate in the default directory."""
_MAX_NAMES = 1024  # in the directory of drop-ins and below


class FileSet(NamedTuple):
    """The paths on the host in the flags of a kubelet, and the fields that flags override.

    A path is "" if its location on the host is unknown. A path without a default is also "" if certmond follows no flag
    for the path. Two kubelets with the same `FileSet` refer to the same files.
    """

    config: str
    directory: str
    pods: str
    overridden: frozenset[str] = frozenset()
    inside: str = ""  # the path in --config, in the mount namespace of the kubelet
    mounts: tuple[tuple[str, str | None], ...] = ()

    @property
    def named(self) -> tuple[str, ...]:
        """The paths that are not empty."""
        return tuple(path for path in (self.config, self.directory, self.pods) if path)


class MergedConfiguration(NamedTuple):
    """The configuration of a kubelet, or None if certmond can read no file.

    `places` contains the drop-in of each field that a drop-in sets.
    """

    manifest: Manifest | None
    places: Mapping[str, Place]


class StaticPods(NamedTuple):
    """The path of the static Pods, the flag or field with this path, and a reason not to follow the path.

    The path and the reason can be "".
    """

    path: str
    place: Place
    fact: str


class KubeletFiles:
    """Reader of the files that the flags of one kubelet name. Without --config, the file is `default`."""

    def __init__(self, reader: DocumentReader, files: Files, source: Source, default: str = "") -> None:
        self._reader, self._files, self._source = reader, files, source
        self._given = given = dict(source.container.flags)
        self._obstacles = {name: fact for name, path in given.items() if (fact := self._obstacle(name, path))}
        self._flags = {name: value for name, value in given.items() if name not in self._obstacles}
        self._refused = {name: given[name] for name in _NAMING if name in self._obstacles and given[name]}
        is_hidden = bool(given.get(_CONFIG)) and not self._host_of(given[_CONFIG])
        self._inside = posixpath.join("/", self._flags[_CONFIG]) if self._flags.get(_CONFIG) else ""
        if not (self._inside or is_hidden):
            self._inside = default
        self.paths = FileSet(
            self.on_host(self._inside), self._path(_DIRECTORY), self._path(_PODS),
            frozenset(field for flag, fields in _FIELDS.items() if flag in self._flags for field in fields),
            self._inside, tuple(sorted(source.container.mounts.items())),
        )  # fmt: skip

    def _path(self, flag: str) -> str:
        return self._host_of(self._flags[flag]) if self._flags.get(flag) else ""

    def _host_of(self, value: str) -> str:
        """Return the path on the host for the value of a flag, or "" if this path is unknown.

        The working directory of a unit is /.
        """
        return self.on_host(posixpath.join("/", value)) if is_known(value) else ""

    @property
    def has_flags(self) -> bool:
        """Whether certmond knows flags of the kubelet."""
        return bool(self._given)

    @property
    def is_complete(self) -> bool:
        """Whether certmond can read the configuration file and the directory of drop-ins, if the kubelet reads them."""
        config, directory = self.paths.config, self.paths.directory
        if _CONFIG in self._refused or _DIRECTORY in self._refused:
            return False
        is_default = not self._flags.get(_CONFIG)
        fact = config and (self._fact(config, optional=is_default) or _malformed(self._reader.manifest(config)))
        return not (fact or (directory and self._directory_fact()))

    def on_host(self, path: str) -> str:
        """Return the host path for a path in the mount namespace of the kubelet, or "" if the host path is unknown."""
        return (self._source.container.on_host(path) or "") if path else ""

    def _obstacle(self, flag: str, path: str) -> str:
        source = self._source
        is_unknown = path and flag in _NAMING and not self._host_of(path)
        fact = _no_path(path) if is_unknown else ""
        return source.obstacle or self._reader.changeable(source.place(flag).file, source.group) or fact

    def refused(self, followed: Container[str]) -> Iterator[UnreadFile]:
        """Yield each flag that certmond does not follow, and whose path is not in `followed`.

        certmond does not follow a flag that another user can change, or whose path is unknown.
        """
        source = self._source
        for flag, value in self._refused.items():
            if self._host_of(value) not in followed:
                process = source.process if source.obstacle else ""
                place, fact = source.place(flag), self._obstacles[flag]
                yield UnreadFile(f"kubelet.{flag}", source.named_by(flag), place.file, fact, process)

    def parts(self) -> tuple[Manifest | None, ...]:
        """Return the configuration file and the drop-ins.

        After a change to a file, the part for this file is a new object.
        """
        config = self._reader.manifest(self.paths.config) if is_path(self.paths.config) else None
        return (config, *(self._reader.manifest(path) for path in self._drop_ins() if not self._changeable(path)))

    def merged(self) -> MergedConfiguration:
        """Return the configuration file merged with the drop-ins.

        With drop-ins, the paths in the result are absolute.
        """
        base, *others = self.parts()
        drop_ins = [each for each in others if each and each.fields.get("kind") == _KIND]
        if not others:
            return MergedConfiguration(base, {})
        fields = resolved(base.fields, posixpath.dirname(self._inside)) if base else {}
        places = dict[str, Place]()
        for each in drop_ins:
            fields = patched(fields, each.fields)
            own = kubelet_fields(each.fields, "/").flags
            places.update((name, Place(each.path, name)) for name, _ in own)
        path, text = (base.path, base.text) if base else (self.paths.config or self.paths.directory, "")
        text = "\n".join([text, *(each.text for each in others if each)])
        return MergedConfiguration(Manifest(text, {}, resolved(fields, "/"), path), places)

    def fields(self, merged: MergedConfiguration) -> Source | None:
        """Return the fields that no flag overrides, or None if certmond can read no file."""
        if merged.manifest is None:
            return None
        flags = kubelet_fields(merged.manifest.fields, self._inside or merged.manifest.path).flags
        own = tuple(each for each in flags if each[0] not in self.paths.overridden)
        container = replace(self._source.container, flags=own, variables=())
        return Source(
            KUBELET, container, merged.manifest.path, in_pod=False, only_listed=True, places=merged.places,
            group=self._source.group,
        )  # fmt: skip

    def serving(self, merged: MergedConfiguration) -> KubeletServing | None:
        """Return the file of the certificate that the kubelet serves, with paths on the host.

        `path` is "" if a mount of the unit hides the file. Return None if certmond knows no flag and no field of the
        kubelet, or cannot read the configuration.
        """
        if not self.is_complete or not (self._given or (merged.manifest and merged.manifest.fields)):
            return None
        found = self._serving(merged, self._given)
        path, *unused = (self.on_host(each) if each.startswith("/") else each for each in (found.path, *found.unused))
        return replace(found, path=path, unused=frozenset(filter(None, unused)))

    def _serving(self, merged: MergedConfiguration, flags: Mapping[str, str]) -> KubeletServing:
        manifest = merged.manifest
        directory = posixpath.dirname(self._inside or manifest.path) if manifest else ""
        return kubelet_serving(resolved(manifest.fields, directory) if manifest else {}, flags)

    def served(self, merged: MergedConfiguration) -> ServedFiles:
        """Return the certificates that the kubelet serves or might serve.

        If certmond does not know the configuration, the kubelet might serve each certificate in --cert-dir.
        """
        directory = normal_path(self._given.get("cert-dir") or PKI)
        files = {self.on_host(posixpath.join(directory, name)) for name in (REQUESTED_FILE, SELF_SIGNED)}
        found = self.serving(merged)
        if found is None:
            return ServedFiles(frozenset(files))
        return ServedFiles(
            frozenset((files | {found.path}) - found.unused),
            frozenset({found.path} if found.requested and not self._source.has_certificate else ()),
        )

    def certificate_flag(self, merged: MergedConfiguration) -> tuple[tuple[str, str], ...]:
        """Return the flag for the serving certificate in --cert-dir, or () if the kubelet serves no such certificate.

        The flag is --cert-dir for kubelet.crt, and `REQUESTED` for the certificate that the kubelet requests. If
        certmond knows the settings of a kubelet without --cert-dir, use the default directory.
        """
        flags = self._flags if "cert-dir" in self._flags else self._given
        if not flags.get("cert-dir") and (self._source.has_certificate or self.serving(merged) is None):
            return ()
        directory = normal_path(flags.get("cert-dir") or PKI)
        serving, requested = self._serving(merged, flags), posixpath.join(directory, REQUESTED_FILE)
        # Beside another certificate, the kubelet serves the requested certificate as soon as it exists.
        is_only = serving.requested and not self._source.has_certificate
        entry = self._reader.entry((self.on_host(requested) if requested.startswith("/") else "") or requested)
        # The absolute target of the kubelet's symlink can exist only in the mount namespace of the kubelet.
        exists = entry.is_link or not entry.missing
        if requested not in serving.unused and (is_only or exists):
            return ((REQUESTED, requested),)
        fields = merged.manifest.fields if merged.manifest else {}
        names = {name for name, _ in kubelet_fields(fields, "/").flags} - self.paths.overridden
        is_pair = serving.path == posixpath.join(directory, SELF_SIGNED) and _REPLACE_PAIR.isdisjoint(names)
        return (("cert-dir", directory),) if is_pair else ()

    def static_pods(self, merged: MergedConfiguration) -> StaticPods:
        """Return the path of the static Pods.

        A relative path starts at the directory of the configuration file (configfiles.go, resolveRelativePaths).
        """
        manifest, path, place, fact = merged.manifest, self.paths.pods, self._source.place(_PODS), ""
        if manifest and not path and (field := as_text(manifest.fields.get("staticPodPath"))):
            inside = posixpath.join(posixpath.dirname(self._inside or manifest.path), field)
            path = self.on_host(inside)
            path, fact = (path, "") if path else (inside, _no_path(inside))
            place = merged.places.get("staticPodPath", Place(manifest.path, "staticPodPath"))
        if not path:
            return StaticPods("", place, "")
        fact = fact or ("" if is_path(path) else _no_path(path))
        return StaticPods(posixpath.normpath(path), place, self._changeable(place.file) or fact)

    def unread_files(self, merged: MergedConfiguration) -> Iterator[UnreadFile]:
        """Yield each file that certmond cannot read or does not follow.

        Also yield each drop-in of another kind, with which the kubelet does not start, and an unusable path of static
        Pods.
        """
        config, directory = self.paths.config, self.paths.directory
        is_default = not self._flags.get(_CONFIG)
        if config and (fact := self._fact(config, optional=is_default) or _malformed(self._reader.manifest(config))):
            yield UnreadFile("kubelet.config", self._named_by(config, "" if is_default else _CONFIG), config, fact)
        if directory and (fact := self._directory_fact()):
            yield UnreadFile("kubelet.config-dir", self._named_by(directory, _DIRECTORY), directory, fact)
        for path in self._drop_ins():
            drop_in = self._reader.manifest(path)
            fact = self._fact(path) or self._changeable(path) or _malformed(drop_in)
            if not fact and drop_in and drop_in.fields.get("kind") != _KIND:
                fact = f"{path} is not of kind {_KIND}, so the kubelet does not start with it"
            if fact:
                yield UnreadFile("kubelet.config-dir", self._named_by(path, _DIRECTORY), path, fact)
        _, place, fact = self.static_pods(merged)
        if fact:
            yield UnreadFile("kubelet.static-pods", f"{place.text} in {place.file}", place.file, fact)

    def directories(self) -> list[str]:
        """Return the directory of drop-ins and the directories below it."""
        return [path for path, is_directory in self._names() if is_directory]

    def _named_by(self, path: str, flag: str) -> str:
        return f"any field in {path}" + (f", which {self._source.named_by(flag)} names" if flag else "")

    def _fact(self, path: str, *, optional: bool = False) -> str:
        """Return the reason for a failed read, or "". An optional file can be missing."""
        if not is_path(path):
            return _no_path(path)
        entry = self._reader.entry(path)
        return entry.fault.detail if entry.fault and not (optional and entry.missing) else ""

    def _directory_fact(self) -> str:
        """Return the reason not to follow some or all drop-ins, or ""."""
        path = self.paths.directory
        if fact := "" if self._reader.entry(path).is_directory else self._fact(path):
            return fact
        excess = len([*self._names()]) > _MAX_NAMES
        return (
            f"{path} contains more than {_MAX_NAMES} files and directories, and certmond ignores the others"
            if excess
            else ""
        )

    def _changeable(self, path: str) -> str:
        return self._reader.changeable(path, self._source.group)

    def _drop_ins(self) -> Iterator[str]:
        for path, is_directory in islice(self._names(), _MAX_NAMES):
            if not is_directory and path.endswith(".conf"):
                yield path

    def _names(self) -> Iterator[tuple[str, bool]]:
        """Yield the paths in the directory of drop-ins in the order of filepath.WalkDir, with True for each directory.

        WalkDir does not follow symlinks.
        """
        pending = [self.paths.directory] if is_path(self.paths.directory) else []
        for _ in range(_MAX_NAMES + 1):
            if not pending:
                return
            path = pending.pop()
            entry = self._reader.entry(path)
            is_directory = entry.is_directory and (not entry.is_link or path == self.paths.directory)
            yield path, is_directory
            if is_directory:
                pending += (posixpath.join(path, name) for name in reversed(self._files.listing(path)))


def _no_path(path: str) -> str:
    return f"{path[:200]} is not the path of a file on this host"


def _malformed(manifest: Manifest | None) -> str:
    """Return a fact about a file that is not a YAML mapping, or ""."""
    return f"{manifest.path} {manifest.fault}" if manifest and manifest.fault else ""
