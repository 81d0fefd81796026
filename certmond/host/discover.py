"""The flags of a node's components -> the configuration that fits the node, with a comment on every difference.

Owns the table of the flags that name a file of the catalogue, and the words that say where a node differs from its
profile. Only what a flag names is believed: whether a file is right is for the checks to say. Reads through `Files`
alone, writes nothing, and gives a configuration that loads whatever the node's files hold.
"""

from __future__ import annotations

import posixpath
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from certmond.config import Config, parse
from certmond.errors import MalformedError
from certmond.host.files import Files
from certmond.host.kubeconfig import Kubeconfig, Material, parse_kubeconfig
from certmond.host.manifest import Manifest, containers, flag_values, node_facts, parse_manifest
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.encoding import decode
from certmond.pki.path import signed_by

_MANIFESTS, _KUBELET_CONF = "/etc/kubernetes/manifests", "/etc/kubernetes/kubelet.conf"
_KUBELET_CONFIG, _KUBELET_SERVER = "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/pki/kubelet-server-current.pem"
_KUBELET_FLAGS = ("/etc/default/kubelet", "/etc/sysconfig/kubelet", "/var/lib/kubelet/kubeadm-flags.env")

# Entry: what names its `path` and `key`, as "component flag [flag of the key]". Where several name it, the profile's own
# file is believed first, then the first one here; the others are entries of their own, as are those of "".
_FLAGS = {
    "ca": ("kube-controller-manager root-ca-file", "kube-apiserver client-ca-file",
           "kube-controller-manager cluster-signing-cert-file cluster-signing-key-file",
           "kube-controller-manager client-ca-file", "kubelet client-ca-file", "kubelet clientCAFile",
           "kubelet.conf certificate-authority"),
    "apiserver": ("kube-apiserver tls-cert-file tls-private-key-file",),
    "apiserver-kubelet-client": ("kube-apiserver kubelet-client-certificate kubelet-client-key",),
    "front-proxy-ca": ("kube-apiserver requestheader-client-ca-file",
                       "kube-controller-manager requestheader-client-ca-file"),
    "front-proxy-client": ("kube-apiserver proxy-client-cert-file proxy-client-key-file",),
    "etcd-ca": ("etcd trusted-ca-file", "kube-apiserver etcd-cafile", "etcd peer-trusted-ca-file"),
    "etcd-server": ("etcd cert-file key-file",),
    "etcd-peer": ("etcd peer-cert-file peer-key-file",),
    "apiserver-etcd-client": ("kube-apiserver etcd-certfile etcd-keyfile",),
    "sa": ("kube-apiserver service-account-key-file service-account-signing-key-file",),
    "controller-manager.conf": ("kube-controller-manager kubeconfig",),
    "scheduler.conf": ("kube-scheduler kubeconfig",),
    "kubelet-client": ("kubelet.conf client-certificate client-key",),
    "kubelet-server": ("kubelet serverTLSBootstrap",),
    "kubelet-server-self": ("kubelet tls-cert-file tls-private-key-file", "kubelet tlsCertFile tlsPrivateKeyFile"),
    "": ("kube-apiserver tls-sni-cert-key", "kube-controller-manager tls-cert-file tls-private-key-file",
         "kube-scheduler tls-cert-file tls-private-key-file"),
}  # fmt: skip
_REPEATED = ("tls-sni-cert-key", "service-account-key-file")  # of any other flag, the last one counts


class _Source(NamedTuple):
    """A file of the node that gives flags (or fields: without dashes) to a component."""

    component: str
    file: str
    dashes: str
    values: tuple[tuple[str, str], ...]
    mounts: Mapping[str, str | None] = {}

    def of(self, flag: str) -> list[str]:
        found = [value for name, value in self.values if name == flag and value]
        return found if flag in _REPEATED else found[-1:]

    def says(self, flag: str) -> str:
        return f"{self.file.removeprefix(_MANIFESTS + '/')} {self.dashes}{flag}"

    def on_host(self, path: str) -> str:
        """Where the host has what the component knows as `path`; "" where nowhere, or where no entry can say it."""
        if not path.startswith("/") or len(path) > 4096 or re.search(r"[\x00*?[]", path):  # PATH_MAX
            return ""
        path = "/" + posixpath.normpath(path).lstrip("/")
        inside = max((mount for mount in self.mounts if f"{path}/".startswith(f"{mount}/")), key=len, default=None)
        host = "" if inside is None else self.mounts[inside]
        return "" if host is None else host + path[len(inside or "") :]


_Fields = dict[str, tuple[str, str]]  # of an entry: (value, the flag that says so)


def discover(config: Config, root: str) -> str:
    """The configuration that fits the node below `root`, as YAML: its profile, and what differs, with comments."""
    return _Discovery(config, Files(root)).text(root)


class _Discovery:
    def __init__(self, config: Config, files: Files) -> None:
        self._config, self._files, self._base = config, files, parse((), profile=config.profile)
        self._profile = {spec.name: spec for spec in self._base.certificates}
        self._specs = dict(self._profile)  # what the entries are to be
        self._entries: dict[str, tuple[list[str], dict[str, Any]]] = {}  # what is written of them: comments, fields
        self._named: dict[str, _Source] = {}  # entries of the profile that a flag names
        self._notes: list[str] = []
        self._sources = [*self._kubelet_sources()]
        self._conf = self._setting("kubeconfig") or _KUBELET_CONF
        self._manifests = self._setting("pod-manifest-path", "staticPodPath") or _MANIFESTS
        self._sources += [*self._conf_sources(), *self._pod_sources()]

    def text(self, root: str) -> str:
        """What `discover` gives."""
        left = [(name, *claim) for name, rows in _FLAGS.items() for claim in self._place(name, [*self._claims(rows)])]
        absent = [name for name in self._profile if self._settle(name)]
        for name, source, fields in left:
            self._add(name, source, fields)
        for source in self._sources:
            for _, value in source.values:
                self._look_into(source, _, source.on_host(value))
        for spec in tuple(self._specs.values()):
            self._find_signer(spec)
        if not self._sources and len(absent) == len(self._profile):
            self._notes.append(f"there is nothing of a Kubernetes node below {root}; name another place with --root")
        elif not self._entries:
            self._notes.append(f"nothing on this node differs from the profile {self._config.profile}")
        name = self._config.node_name or self._node_name()
        lines = [*map(_comment, self._notes), *_yaml({"profile": self._config.profile})]
        lines += [*(_yaml({"node_name": name}) if name else ()), *(["certificates:"] if self._entries else ())]
        for comments, fields in self._entries.values():
            lines += [f"  {line}" for line in (*map(_comment, comments), *_yaml([fields]))]
        return "\n".join([*lines, *([_comment(f"not on this node: {', '.join(absent)}")] if absent else ()), ""])

    def _node_name(self) -> str | None:
        etcd = next((source.file for source in self._sources if source.component == "etcd"), "/")
        hostname = self._manifest("/etc/hostname")
        facts = node_facts(
            apiserver=None,
            etcd=self._manifest(etcd),
            kubelet_conf=self._files.value(self._conf, _parse_kubeconfig),
            admin_conf=None,
            kubelet_config=None,
            kubelet_flags=self._manifest(_KUBELET_FLAGS[-1]),
            hostname=hostname.text.partition("\n")[0] if hostname else "",
        )
        try:
            return Config(node_name=facts.get("node_name")).node_name
        except ValidationError:
            return None

    def _manifest(self, path: str) -> Manifest | None:
        return self._files.value(path, parse_manifest)

    def _is_there(self, path: str) -> bool:
        return not self._files.entry(path).missing

    def _read(self, path: str) -> Mapping[str, Any]:
        """The fields of a YAML file; that one has none to give is noted."""
        manifest, fault = self._manifest(path), self._files.entry(path).fault
        if self._is_there(path) and not (manifest and manifest.fields):
            why = fault.detail if fault else f"{path} is no YAML mapping"
            self._notes.append(f"{why}; what it names is not in here")
        return manifest.fields if manifest else {}

    def _setting(self, *flags: str) -> str:
        return next((value for flag in flags for source in self._sources for value in source.of(flag)), "")

    def _kubelet_sources(self) -> Iterator[_Source]:
        for path in _KUBELET_FLAGS:
            if manifest := self._manifest(path):
                words = re.sub(r"(?m)^\s*#.*|^\s*\w+=|[\"']", " ", manifest.text).split()
                yield _Source("kubelet", path, "--", tuple(flag_values(words)))
        if fields := self._read(_KUBELET_CONFIG):
            x509 = _mapping(_mapping(fields.get("authentication")).get("x509"))
            values = {str(name): str(value) for name, value in fields.items() if isinstance(value, str | bool)}
            values["clientCAFile"] = str(x509.get("clientCAFile") or "")
            values["serverTLSBootstrap"] = _KUBELET_SERVER if fields.get("serverTLSBootstrap") is True else ""
            yield _Source("kubelet", _KUBELET_CONFIG, "", tuple(values.items()))

    def _conf_sources(self) -> Iterator[_Source]:
        """What the kubelet's kubeconfig refers to; itself, where it embeds credentials that are not rotated."""
        config, values = self._files.value(self._conf, _parse_kubeconfig), dict[str, str]()
        for user in config.users if config else ():
            if config and user.name == config.current_user and user.certificate:
                embedded = user.certificate.data is not None
                values["client-certificate"] = self._conf if embedded else user.certificate.path or ""
                values["client-key"] = user.key.path or "" if user.key and not embedded else ""
        pem = self._profile["kubelet-client"].path if "kubelet-client" in self._profile else ""
        rotates = self._setting("rotate-certificates", "rotateCertificates").lower() != "false"
        dated = fnmatchcase(values.get("client-certificate", ""), "*/kubelet-client-????-??-??-*.pem")
        if pem and self._is_there(pem) and (dated or (values.get("client-certificate") == self._conf and rotates)):
            values = {}  # the checks say that it should refer to the PEM that is rotated
        values |= (
            {"certificate-authority": cluster.ca.path or "" for cluster in config.clusters if cluster.ca}
            if config
            else {}
        )
        if config:
            yield _Source("kubelet.conf", self._conf, "", tuple(values.items()))

    def _pod_sources(self) -> Iterator[_Source]:
        for name in self._files.listing(self._manifests):
            path = posixpath.join(self._manifests, name)
            for pod in containers(self._read(path)) if re.fullmatch(r"[^.].*\.(yaml|yml|json)", name) else ():
                yield _Source(pod.name, path, "--", pod.flags, pod.mounts)

    def _claims(self, rows: tuple[str, ...]) -> Iterator[tuple[_Source, _Fields]]:
        for component, flag, *key_flags in map(str.split, rows):
            for source in (source for source in self._sources if source.component == component):
                for value in source.of(flag):
                    path, _, rest = value.partition(",") if flag == "tls-sni-cert-key" else (value, "", "")
                    keys = [
                        (rest.partition(":")[0], flag),
                        *((key, name) for name in key_flags for key in source.of(name)),
                    ]
                    given = {"path": (path, flag), "key": keys[-1]}
                    fields = {name: (source.on_host(at), source.says(by)) for name, (at, by) in given.items() if at}
                    if fields and all(place for place, _ in fields.values()):
                        yield source, fields
                    else:
                        self._notes.append(f"{source.says(flag)}: {value} is not followed, it is no file of this host")

    def _place(self, name: str, claims: list[tuple[_Source, _Fields]]) -> Iterator[tuple[_Source, _Fields]]:
        """Give the entry of that name what the claims say of it, and give back the claims that are of other files."""
        spec, paths = self._profile.get(name), [fields["path"][0] for _, fields in claims]
        own = None if spec is None or not paths else spec.path if spec.path in paths else paths[0]
        for source, fields in claims:
            if fields["path"][0] != own or spec is None:
                yield source, fields
                continue
            if own != spec.path and spec.key:
                key = own if spec.key == spec.path else posixpath.splitext(own)[0] + ".key"
                fields = {"key": (key, f"beside {own}"), **fields}
            if own == self._conf:
                fields = {**fields, "kind": (Kind.KUBECONFIG, f"{own} embeds its credentials")}
            self._named.setdefault(name, source)
            for field, (value, says) in fields.items():
                if value != getattr(self._specs[name], field):
                    self._change(name, f"{says}: the profile has {getattr(spec, field)}", **{field: value})

    def _settle(self, name: str) -> bool:
        """See to it that the entry is expected if it is named, and only then. True if it is neither there nor named."""
        spec, source = self._specs[name], self._named.get(name)
        if not self._is_there(spec.path) and not source and not spec.is_glob:
            mentioned = any((text := self._manifest(path)) and spec.path in text.text for path in spec.mentioned_in)
            if not spec.optional and not mentioned and any(map(self._is_there, spec.belongs_with)):
                self._change(
                    name, "it is not on this node, and nothing names it: the profile expects it", optional=True
                )
            return not mentioned
        for field in ("mentioned_in", "belongs_with", "kubeconfig"):
            old = getattr(spec, field)
            new = tuple(map(self._moved, old)) if isinstance(old, tuple) else old and self._moved(old)
            if new != old:
                self._change(name, f"{self._manifests}...: the profile looks at {old}", **{field: new})
        return False
