"""Discovery of a configuration that fits a node, from the flags of the node's components.

This module defines the assignment of flags to entries of the catalogue.
"""

from __future__ import annotations

import posixpath
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

import yaml

from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.errors import MalformedError
from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.catalog_observer import Store
from certmond.files.glob import expand
from certmond.files.references.component_sources import ComponentSources
from certmond.files.references.node_kubelet_reader import CONFIG as KUBELET_CONFIG
from certmond.files.references.node_kubelet_reader import KubeletConfiguration
from certmond.files.references.unit_files import Place, UnitFiles
from certmond.formats.kubeconfig import Kubeconfig, parse_kubeconfig
from certmond.formats.manifest import Container, Manifest, parse_manifest
from certmond.pki.catalog.component_certificate_flags import FLAGS, KUBELET
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.validator import validated
from certmond.pki.x509.certificate_file_parser import Document, decode
from certmond.pki.x509.path_building import signed_by

_MANIFESTS, _KUBELET_CONF = "/etc/kubernetes/manifests", "/etc/kubernetes/kubelet.conf"
_KUBELET_SERVER = "/var/lib/kubelet/pki/kubelet-server-current.pem"

# Entry -> the flags that name its `path`, as "component flag". If several flags name different files, the profile's
# path takes precedence, then the first flag of the row. Each other file becomes a separate entry. So does each file of
# the row "". A third word is the flag of the key, if `catalog.component_certificate_flags` does not contain this flag.
_FLAGS = {
    "ca": ["kube-controller-manager root-ca-file", "kube-apiserver client-ca-file", "kubelet client-ca-file",
           "kube-controller-manager cluster-signing-cert-file", "kubelet clientCAFile",
           "kube-controller-manager client-ca-file", "kubelet.conf certificate-authority"],
    "apiserver": ["kube-apiserver tls-cert-file"],
    "apiserver-kubelet-client": ["kube-apiserver kubelet-client-certificate"],
    "front-proxy-ca": ["kube-apiserver requestheader-client-ca-file"],
    "front-proxy-client": ["kube-apiserver proxy-client-cert-file"],
    "etcd-ca": ["etcd trusted-ca-file", "kube-apiserver etcd-cafile", "etcd peer-trusted-ca-file"],
    "etcd-server": ["etcd cert-file"], "etcd-peer": ["etcd peer-cert-file"],
    "apiserver-etcd-client": ["kube-apiserver etcd-certfile"],
    "sa": ["kube-apiserver service-account-key-file service-account-signing-key-file"],
    "controller-manager.conf": ["kube-controller-manager kubeconfig"], "scheduler.conf": ["kube-scheduler kubeconfig"],
    "kubelet-client": ["kubelet.conf client-certificate client-key"], "kubelet-server": ["kubelet serverTLSBootstrap"],
    "kubelet-server-self": ["kubelet tls-cert-file", "kubelet tlsCertFile"],
    "": ["kube-apiserver tls-sni-cert-key", "kube-controller-manager tls-cert-file", "kube-scheduler tls-cert-file"],
}  # fmt: skip
_ROWS = {(row.component, row.name): row for row in FLAGS}


class _Source(NamedTuple):
    """A file that contains flags or equivalent fields of a component."""

    file: str
    # Text before the name of a flag in comments of the configuration.
    prefix: str
    component: Container
    places: Mapping[str, Place] = MappingProxyType({})

    def named(self, flag: str) -> str:
        """Return the file and the name of a flag, for a comment."""
        place = self.places.get(flag)
        return f"{place.file} {place.text}" if place else f"{self.prefix}{flag}"

    def on_host(self, path: str) -> str:
        """Return the path on the host that corresponds to `path` in the component, or "" if there is no such path."""
        return "" if re.search(r"[\x00*?[]|.{4096}", path, re.DOTALL) else self.component.on_host(path) or ""


_Claim = tuple[_Source, str, dict[str, tuple[str, str]]]  # …, flag, field of the entry: (value, flag of the value)


def discover(config: Config, root: str) -> str:
    """Return a configuration for the node below `root`, as YAML with comments.

    The configuration contains an entry for each difference from the profile of `config`.
    """
    return _Discovery(config, root).text()


class _Discovery:
    def __init__(self, config: Config, root: str) -> None:
        self._config, self._root, self._files = config, root, Files(root)
        self._profile = {spec.name: spec for spec in parse((), profile=config.profile).certificates}
        self._specs = dict(self._profile)  # the resulting entries
        self._owners = {path: name for name, spec in self._profile.items() for path in self._paths(spec)}
        self._entries: dict[str, tuple[list[str], dict[str, Any]]] = {}  # entries to write: comments, fields
        self._named: dict[str, str] = {}  # entries of the profile -> the file that names them
        self._notes: list[str] = []
        reader = DocumentReader(self._files, own_root=False)
        units = UnitFiles(reader, self._files)
        kubelet = KubeletConfiguration(reader, self._files, units)
        components = ComponentSources(reader, self._files, kubelet, units, manifests=_MANIFESTS, proc="")
        self._sources = [*self._kubelet_sources(kubelet)]
        own = (spec.kubeconfig for spec in self._profile.values() if spec.kubeconfig)
        self._conf = self._setting("kubeconfig") or next(own, _KUBELET_CONF)
        self._manifests = components.static_pods()
        self._sources += [*self._conf_sources(), *self._pod_sources(components.manifests())]
        services = (each for each in units.services() if each.component != KUBELET and not each.obstacle)
        self._sources += [_Source(it.file, f"{it.file} --", it.container, it.places) for it in services]

    def text(self) -> str:
        left = [(name, claim) for name, rows in _FLAGS.items() for claim in self._place(name, [*self._claims(rows)])]
        absent = [name for name in self._profile if self._is_absent(name)]
        for name, claim in left:
            self._add(name, *claim)
        for spec in map(self._specs.__getitem__, self._named):
            signers = self._signers(spec.path) if spec.ca else []
            if signers and self._profile.keys().isdisjoint(signers):
                self._change(
                    spec.name,
                    f"{signers[0]} has signed the certificate; the profile has {spec.ca[0]}",
                    ca=(signers[0],),
                )
        if not self._entries and len(absent) == len(self._profile):
            self._notes.append(
                f"no file of a Kubernetes node exists below {self._root}; choose another directory with --root"
            )
        elif not self._entries and not self._notes:
            self._notes.append(f"this node does not differ from the profile {self._config.profile}")
        text = "".join(map(_comment, self._notes)) + _yaml({"profile": self._config.profile})
        name = self._config.node_name or Store((), self._root).observe().facts.get("node_name", "")
        with suppress(ValueError):  # the files might contain an invalid name
            text += _yaml({"node_name": validated(Config, {"node_name": name}).node_name})
        text += "".join(map(_comment, self._references()))
        text += "certificates:\n" if self._entries else ""
        for comments, fields in self._entries.values():
            text += textwrap.indent("".join(map(_comment, comments)) + _yaml([fields]), "  ")
        return text + (_comment(f"not on this node: {', '.join(absent)}") if absent else "")

    def _references(self) -> Iterator[str]:
        """Yield a sentence for each file that a component of the node names, and that has no entry.

        The sentence states whether certmond watches the file.
        """
        for seen in Store(tuple(self._specs.values()), self._root, references=True).observe().observations:
            if not seen.is_watched:
                yield seen.faults[0].detail
            elif seen.named_by and seen.name == seen.spec.name:
                yield f"{seen.named_by} names {seen.path}: certmond watches this file as {seen.name} without an entry"

    def _manifest(self, path: str) -> Manifest:
        return self._files.value(path, parse_manifest) or Manifest("", {}, {})

    def _paths(self, spec: CertificateSpec) -> Sequence[str]:
        """Return the path of an entry, or the paths that match the pattern of the entry."""
        return expand(self._files, spec.path, spec.exclude).paths if spec.is_glob else (spec.path,)

    def _is_there(self, path: str) -> bool:
        return not self._files.entry(path).missing

    def _setting(self, *flags: str) -> str:
        pairs = [(source, flag) for flag in flags for source in self._sources]
        return next((source.on_host(each) for source, flag in pairs for each in source.component.values(flag)), "")

    def _noted(self, path: str, content: Any) -> Any:
        """Return `content`, the parsed content of the file at `path`. Add a note if the file is unusable."""
        if self._is_there(path) and not content:
            fault = self._files.entry(path).fault
            self._notes.append(
                f"{fault.detail if fault else f'{path} is broken'}: this configuration omits files that {path} names"
            )
        return content

    def _kubelet_sources(self, kubelet: KubeletConfiguration) -> Iterator[_Source]:
        config = kubelet.manifest()
        path = config.path if config else KUBELET_CONFIG
        fields = self._noted(path, config and config.fields)
        for file, component, places in reversed([(it.file, it.container, it.places) for it in kubelet.sources()]):
            if fields or file != path:
                yield _Source(file, f"{file} " if file == path else f"{file} --", component, places)

    def _conf_sources(self) -> Iterator[_Source]:
        """Yield a source with the paths of the CA, the certificate and the key that the kubelet's kubeconfig names."""
        if config := self._files.value(self._conf, _parse_kubeconfig):
            users = [user for user in config.users if user.name == config.current_user]
            flags = [("certificate-authority", cluster.ca.path or "") for cluster in config.clusters if cluster.ca]
            # The path of an embedded certificate is the path of the kubeconfig.
            flags += [("client-certificate", each.certificate.path or self._conf) for each in users if each.certificate]
            flags += [("client-key", each.key.path or "") for each in users if each.key]
            yield _Source(self._conf, f"{self._conf} ", Container("kubelet.conf", tuple(flags), {}))

    def _pod_sources(self, manifests: Sequence[str]) -> Iterator[_Source]:
        for path in manifests:
            for container in self._noted(path, [*self._manifest(path).containers]):
                yield _Source(path, f"{posixpath.basename(path)} --", container)

    def _claims(self, rows: Sequence[str]) -> Iterator[_Claim]:
        for component, flag, *others in map(str.split, rows):
            row = _ROWS.get((component, flag))
            key_flags = [*others, *([row.key_flag] if row and row.key_flag else [])]
            for source in (source for source in self._sources if source.component.name == component):
                for value in source.component.values(flag)[0 if row and row.repeated else -1 :]:
                    path, _, pair = value.partition(",") if flag == "tls-sni-cert-key" else (value, "", "")
                    path = _KUBELET_SERVER if flag == "serverTLSBootstrap" else path
                    found = {"path": (path, flag), "key": (pair.partition(":")[0], flag)}
                    found.update(("key", (key, by)) for by in key_flags for key in source.component.values(by))
                    hosts = {field: (source.on_host(at), source.named(by)) for field, (at, by) in found.items() if at}
                    if "path" in hosts and all(at for at, _ in hosts.values()):
                        yield source, flag, hosts
                    else:
                        self._notes.append(
                            f"{source.named(flag)}: certmond ignores {value}, which is not a file of this host"
                        )

    def _place(self, name: str, claims: Sequence[_Claim]) -> Iterator[_Claim]:
        """Set the paths of the entry `name` to the paths in the flags. Yield the flags that need a separate entry.

        Ignore flags that name a file of another entry of the profile.
        """
        claims = [claim for claim in claims if self._owners.get(claim[2]["path"][0], name) == name]
        spec, paths = self._profile.get(name), [fields["path"][0] for *_, fields in claims]
        own = spec.path if spec and spec.path in paths else next(iter(paths), "")
        changes: dict[str, tuple[str, str]] = {}
        for source, flag, fields in claims:
            if spec is None or fields["path"][0] != own:
                yield source, flag, fields
            elif name != "kubelet-client" or own == spec.path or not self._is_there(spec.path):
                self._named.setdefault(name, source.file)
                changes = fields | changes
        if changes and spec and spec.key and own != spec.path:
            stem = posixpath.splitext(own)[0]
            beside = next(filter(self._is_there, (f"{stem}.key", f"{stem}-key.pem")), f"{stem}.key")
            changes.setdefault("key", (own if spec.key == spec.path else beside, f"beside {own}"))
        if changes and own == self._conf:
            changes["kind"] = (Kind.KUBECONFIG.value, f"{own} contains the credentials")
        for field, (value, flag_name) in changes.items():
            self._change(name, f"{flag_name}: the profile has {getattr(spec, field)}", **{field: value})

    def _change(self, name: str, comment: str, **fields: Any) -> None:
        new = {field: value for field, value in fields.items() if value != getattr(self._specs[name], field)}
        if new:
            self._specs[name] = replace(self._specs[name], **new)
            comments, written = self._entries.setdefault(name, ([], {"name": name}))
            comments.append(comment)
            written.update(new)

    def _is_absent(self, name: str) -> bool:
        """Return whether the file of an entry is not on the node, and no file of the node names this file.

        Also change the fields of the entry that name other files, or that decide whether the entry requires the file.
        """
        named, is_there = self._named.get(name), any(map(self._is_there, self._paths(self._specs[name])))
        why = f"kubelet's staticPodPath {self._manifests}, kubeconfig {self._conf}"
        for field in ("mentioned_in", "belongs_with") if named or is_there else ():
            old = getattr(self._specs[name], field)
            self._change(name, f"{why}: the profile has {', '.join(old)}", **{field: tuple(map(self._moved, old))})
        spec = self._specs[name]
        mentioned = any(spec.path in self._manifest(path).text for path in spec.mentioned_in)
        beside = any(map(self._is_there, spec.belongs_with))
        if spec.kubeconfig and (named or is_there):
            self._change(name, f"kubelet's kubeconfig: the profile has {spec.kubeconfig}", kubeconfig=self._conf)
        if named and (spec.optional or not (mentioned or beside)):
            self._change(name, f"{named} requires this file", optional=False, belongs_with=(*spec.belongs_with, named))
        elif (beside or not spec.conditional) and not (named or mentioned or is_there):
            self._change(name, "not expected: the file is not on this node, and no flag names it", optional=True)
        return not (named or mentioned or is_there)

    def _moved(self, place: str) -> str:
        files = [source.file for source in self._sources if place == f"{_MANIFESTS}/{source.component.name}.yaml"]
        return self._conf if place == _KUBELET_CONF else place if place in files else next(iter(files), place)

    def _add(self, entry: str, source: _Source, flag: str, fields: dict[str, tuple[str, str]]) -> None:
        """Add an entry for the file that `flag` names.

        Add no entry if the file already has an entry, or contains keys for service-account tokens.
        """
        given = {field: value for field, (value, _) in fields.items()}
        # Service-account keys do not expire, so they get no entry.
        if entry == "sa" or any(given["path"] in {it.path, it.key, it.kubeconfig} for it in self._specs.values()):
            return
        stem = f"{source.component.name}-{flag}"
        names = (entry, stem, *(f"{stem}-{number}" for number in range(2, len(self._specs) + 3)))
        name = next(name for name in names if name and name not in self._specs)
        new: dict[str, Any] = {"name": name, **given, "belongs_with": source.file}
        if entry.endswith("ca"):
            new |= {"authority": True, "key_optional": True}
        elif entry.endswith(".conf") or given["path"] == self._conf:
            new["kind"] = Kind.KUBECONFIG.value
        elif signers := self._signers(given["path"]):
            new["ca"] = signers[0]
        self._specs[name] = validated(CertificateSpec, new)
        self._entries[name] = [f"{source.named(flag)}: the profile has no entry for this file"], new

    def _signers(self, path: str) -> list[str]:
        leaf = self._document(path).certificates
        authorities = [(spec.name, self._document(spec.path)) for spec in self._specs.values() if spec.authority]
        return [
            name for name, file in authorities if any(signed_by(one, ca) for one in leaf for ca in file.certificates)
        ]

    def _document(self, path: str) -> Document:
        return self._files.value(path, decode) or Document()


def _parse_kubeconfig(data: bytes, path: str) -> Kubeconfig | None:
    with suppress(MalformedError):
        return parse_kubeconfig(data, path)
    return None


def _comment(text: str) -> str:
    return "# " + "".join(character if character.isprintable() else " " for character in text) + "\n"


def _yaml(value: object) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, width=1 << 16))
