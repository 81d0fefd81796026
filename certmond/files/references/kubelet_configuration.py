"""The kubelet's flags and configuration on this node, with drop-ins.

This module merges drop-ins like the kubelet (cmd/kubelet/app/server.go, mergeKubeletConfigurations).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from certmond.files.cache import Files
from certmond.files.document_reader import DocumentReader
from certmond.files.references.flag_source import UnreadFile
from certmond.files.references.unit_files import Service, UnitFiles
from certmond.formats.kubeconfig import as_text
from certmond.formats.kubelet_serving import KubeletServing, kubelet_serving
from certmond.formats.manifest import Container, Manifest, kubelet_environment, kubelet_fields
from certmond.pki.catalog.references import KUBELET

CONFIG, FLAGS = "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env"
_ENVIRONMENTS = (FLAGS, "/etc/sysconfig/kubelet", "/etc/default/kubelet")
"""Environment files of the kubelet's unit, in the order of their flags (kubeadm, 10-kubeadm.conf)."""
_PATHS = ("staticPodPath", "tlsCertFile", "tlsPrivateKeyFile")
"""Fields whose relative path starts at the directory of the file, as clientCAFile (KubeletConfigurationPathRefs)."""
_FIELDS = {"tls-cert-file": ("tlsCertFile", "tlsPrivateKeyFile"), "client-ca-file": ("clientCAFile",)}
"""Flag -> the fields that the flag overrides (kubeletConfigFlagPrecedence)."""
_REPLACE_PAIR = frozenset({"tlsCertFile", "tlsPrivateKeyFile", "serverTLSBootstrap"})
"""Fields with which the kubelet does not use kubelet.crt in --cert-dir (InitializeTLS in cmd/kubelet/app/server.go)."""
_KIND = "KubeletConfiguration"
_MAX_DEPTH, _MAX_DROP_INS = 8, 256


class KubeletConfiguration:
    """Reader of the kubelet's configuration."""

    def __init__(self, reader: DocumentReader, files: Files, units: UnitFiles) -> None:
        self._reader, self._files, self._units = reader, files, units
        self._merged_from: tuple[Manifest | None, ...] = ()
        self._merged: Manifest | None = None

    def flags(self) -> dict[str, tuple[str, str]]:
        """Return (value, file) of each flag, from the enabled unit, or else from the environment files of kubeadm."""
        found = dict[str, tuple[str, str]]()
        if unit := self._unit():
            files = {flag: place.file for flag, place in unit.places.items()}
            return {name: (value, files.get(name, unit.file)) for name, value in unit.container.flags if value}
        for path in _ENVIRONMENTS:
            self._reader.entry(path)
            parsed = self._files.value(path, _parse_environment)
            found.update((name, (value, path)) for name, value in (parsed.flags if parsed else ()) if value)
        return found

    def _unit(self) -> Service | None:
        units = (each for each in self._units.services() if each.component == KUBELET and not each.obstacle)
        return next(units, None)

    def manifest(self) -> Manifest | None:
        """Return the configuration merged with the drop-ins, or None if there is no readable file.

        The result is the same object until a file changes. With drop-ins, its paths are absolute.
        """
        flags = self.flags()
        base = self._reader.manifest(_file(flags))
        drop_ins = [self._reader.manifest(path) for path in self._drop_ins(flags)]
        read_from = (base, *drop_ins)
        if len(read_from) != len(self._merged_from) or any(
            one is not other for one, other in zip(read_from, self._merged_from, strict=True)
        ):
            self._merged_from = read_from
            self._merged = _merged(base, [each for each in drop_ins if each]) if drop_ins else base
        return self._merged

    def unread_files(self) -> Iterator[UnreadFile]:
        """Yield each file that certmond cannot read, and each drop-in with which the kubelet does not start."""
        flags = self.flags()
        if self._unit() is None:
            for path in _ENVIRONMENTS:
                if fact := self._fact(path, optional=True):
                    yield UnreadFile("kubelet.flags", f"any flag of the kubelet in {path}", path, fact)
        file = _file(flags)
        if fact := self._fact(file, optional="config" not in flags) or _malformed(self._reader.manifest(file)):
            yield UnreadFile("kubelet.config", f"any field in {file}", file, fact)
        for path in self._drop_ins(flags):
            drop_in = self._reader.manifest(path)
            fact = self._fact(path) or _malformed(drop_in)
            if not fact and drop_in and drop_in.fields.get("kind") != _KIND:
                fact = f"{path} is not of kind {_KIND}, so the kubelet does not start with this file"
            if fact:
                yield UnreadFile("kubelet.config-dir", f"any field in {path}", path, fact)

    def _fact(self, path: str, *, optional: bool = False) -> str:
        """Return the reason for a failed read, or "". An optional file can be missing."""
        entry = self._reader.entry(path)
        return entry.fault.detail if entry.fault and not (optional and entry.missing) else ""

    def serving(self) -> KubeletServing | None:
        """Return the file that the kubelet serves, or None if there is no readable configuration file."""
        merged = self.manifest()
        if merged is None or not merged.fields:
            return None
        return kubelet_serving(merged.fields, {name: value for name, (value, _) in self.flags().items()})

    def flags_manifest(self) -> Manifest:
        """Return the flags as the text of an environment file."""
        return Manifest(" ".join(f"--{name}={value}" for name, (value, _) in self.flags().items()), {}, {}, FLAGS)

    def sources(self) -> Iterator[tuple[str, Container]]:
        """Yield each file with its fields or flags, without the fields that a flag overrides."""
        flags, merged = self.flags(), self.manifest()
        hidden = {field for flag, fields in _FIELDS.items() if flag in flags for field in fields}
        if merged:
            fields = kubelet_fields(merged.fields, merged.path).flags
            yield merged.path, Container("kubelet", tuple(each for each in fields if each[0] not in hidden), {})
            if not _REPLACE_PAIR.isdisjoint(name for name, _ in fields):
                flags.pop("cert-dir", None)
        if flags.get("rotate-server-certificates", ("false", ""))[0] == "true":
            flags.pop("cert-dir", None)
        for path in dict.fromkeys((*_ENVIRONMENTS, *(file for _, file in flags.values()))):
            own = tuple((name, value) for name, (value, file) in flags.items() if file == path)
            if own:
                yield path, Container("kubelet", own, {})

    def manifest_directory(self) -> str:
        """Return the directory or the single file of the static Pods, or "" if the configuration names none.

        A relative path starts at the directory of the configuration file (configfiles.go, resolveRelativePaths).
        """
        merged, flags = self.manifest(), self.flags()
        field = as_text(merged.fields.get("staticPodPath")) if merged else ""
        base = posixpath.dirname(merged.path) if merged and "pod-manifest-path" not in flags else "/"
        given = flags.get("pod-manifest-path", (field, ""))[0]
        return posixpath.normpath(posixpath.join(base, given)) if given else ""

    def _drop_ins(self, flags: Mapping[str, tuple[str, str]]) -> Iterator[str]:
        directory, _ = flags.get("config-dir", ("", ""))
        return self._walk(_absolute(directory)) if directory else iter(())

    def _walk(self, directory: str, depth: int = 0) -> Iterator[str]:
        """Yield the drop-ins in the order of filepath.WalkDir, which does not follow symlinks."""
        for name in self._files.listing(directory)[:_MAX_DROP_INS]:
            path = posixpath.join(directory, name)
            entry = self._reader.entry(path)
            if entry.is_directory and not entry.is_link and depth < _MAX_DEPTH:
                yield from self._walk(path, depth + 1)
            elif name.endswith(".conf"):
                yield path


def _merged(base: Manifest | None, drop_ins: list[Manifest]) -> Manifest:
    fields = _resolved(base.fields, posixpath.dirname(base.path)) if base else {}
    for each in drop_ins:
        if each.fields.get("kind") == _KIND:
            fields = _patched(fields, each.fields)
    path, text = (base.path, base.text) if base else (CONFIG, "")
    return Manifest("\n".join([text, *(each.text for each in drop_ins)]), {}, _resolved(fields, "/"), path)


def _malformed(manifest: Manifest | None) -> str:
    """Return a fact about a file that is not a YAML mapping, or ""."""
    return f"{manifest.path} {manifest.fault}" if manifest and manifest.fault else ""


def _file(flags: Mapping[str, tuple[str, str]]) -> str:
    return _absolute(flags.get("config", (CONFIG, ""))[0])


def _parse_environment(data: bytes, _path: str) -> Container:
    return kubelet_environment(data.decode("utf-8", "replace"))


def _absolute(path: str) -> str:
    return posixpath.join("/", path)  # the working directory of a unit is /


def _patched(target: Any, patch: Any, depth: int = 0) -> Any:
    """Return a JSON document after a merge patch (RFC 7396)."""
    if not isinstance(patch, Mapping) or depth > _MAX_DEPTH:
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _patched(result.get(name), value, depth + 1)
    return result


def _resolved(fields: Mapping[str, Any], directory: str) -> dict[str, Any]:
    """Return the fields with absolute paths."""
    result = dict(fields)
    for name in _PATHS:
        if path := as_text(result.get(name)):
            result[name] = posixpath.join(directory, path)
    authentication = result.get("authentication")
    x509 = authentication.get("x509") if isinstance(authentication, Mapping) else None
    if (
        isinstance(authentication, Mapping)
        and isinstance(x509, Mapping)
        and (path := as_text(x509.get("clientCAFile")))
    ):
        result["authentication"] = {
            **authentication,
            "x509": {**x509, "clientCAFile": posixpath.join(directory, path)},
        }
    return result
