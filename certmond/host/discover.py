"""The flags of a node's components -> the configuration that fits the node, with a comment on every difference.

Owns the table of the flags that name a file of the catalogue, and the words that say where a node differs from its
profile. Only what a flag names is believed: whether a file is right is for the checks to say. Reads through `Files`
alone, writes nothing, and gives a configuration that loads whatever the node's files hold.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from certmond.config import Config, parse
from certmond.errors import MalformedError
from certmond.host.files import Files
from certmond.host.kubeconfig import Kubeconfig, Material, parse_kubeconfig
from certmond.host.manifest import Manifest, containers, flag_values, parse_manifest
from certmond.host.store import Store
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.certificate import Certificate
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
    values: Sequence[tuple[str, str]]
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


_Claim = tuple[_Source, str, dict[str, tuple[str, str]]]  # flag, and fields of an entry: (value, who says so)


def discover(config: Config, root: str) -> str:
    """The configuration that fits the node below `root`, as YAML: its profile, and what differs, with comments."""
    return _Discovery(config, root).text()


class _Discovery:
    def __init__(self, config: Config, root: str) -> None:
        self._config, self._root, self._files = config, root, Files(root)
        self._base = parse((), profile=config.profile)
        self._profile = {spec.name: spec for spec in self._base.certificates}
        self._specs = dict(self._profile)  # what the entries are to be
        self._entries: dict[str, tuple[list[str], dict[str, Any]]] = {}  # what is written of them: comments, fields
        self._named: dict[str, _Source] = {}  # entries of the profile that a flag names
        self._notes: list[str] = []
        self._sources = [*self._kubelet_sources()]
        self._conf = self._setting("kubeconfig") or _KUBELET_CONF
        self._manifests = self._setting("pod-manifest-path", "staticPodPath") or _MANIFESTS
        self._sources += [*self._conf_sources(), *self._pod_sources()]

    def text(self) -> str:
        left = [(name, claim) for name, rows in _FLAGS.items() for claim in self._place(name, [*self._claims(rows)])]
        absent = [name for name in self._profile if self._is_absent(name)]
        for name, claim in (*left, *self._others()):
            self._add(name, *claim)
        for spec in tuple(self._specs.values()):
            self._find_signer(spec)
        if not self._sources and len(absent) == len(self._profile):
            self._notes += [f"there is nothing of a Kubernetes node below {self._root}; name another place with --root"]
        elif not self._entries:
            self._notes += [f"nothing on this node differs from the profile {self._config.profile}"]
        lines = [*map(_comment, self._notes), *_yaml({"profile": self._config.profile} | self._node_name())]
        lines += ["certificates:"] if self._entries else []
        for comments, fields in self._entries.values():
            lines += [f"  {line}" for line in (*map(_comment, comments), *_yaml([fields]))]
        return "\n".join([*lines, *([_comment(f"not on this node: {', '.join(absent)}")] if absent else ()), ""])

    def _node_name(self) -> dict[str, str]:
        name = self._config.node_name or Store((), self._root).observe().facts.get("node_name", "")
        with suppress(ValidationError):  # what the files say may be no name of a node
            return {"node_name": str(Config(node_name=name).node_name)}
        return {}

    def _manifest(self, path: str) -> Manifest | None:
        return self._files.value(path, parse_manifest)

    def _is_there(self, path: str) -> bool:
        return not self._files.entry(path).missing

    def _certificates(self, path: str) -> tuple[Certificate, ...]:
        document = self._files.value(path, decode)
        return document.certificates if document else ()

    def _setting(self, *flags: str) -> str:
        return next((value for flag in flags for source in self._sources for value in source.of(flag)), "")

    def _fields(self, path: str) -> Mapping[str, Any]:
        """What is in a YAML file; that one has nothing to tell is noted."""
        manifest, fault = self._manifest(path), self._files.entry(path).fault
        if self._is_there(path) and not (manifest and manifest.fields):
            self._notes.append(f"{fault.detail if fault else f'{path} is not YAML'}: what it names is not in here")
        return manifest.fields if manifest else {}

    def _kubelet_sources(self) -> Iterator[_Source]:
        for path in _KUBELET_FLAGS:
            if manifest := self._manifest(path):
                words = re.sub(r"(?m)^\s*#.*|^\s*\w+=|[\"']", " ", manifest.text).split()
                yield _Source("kubelet", path, "--", tuple(flag_values(words)))
        if fields := self._fields(_KUBELET_CONFIG):
            values = {str(name): str(value) for name, value in fields.items() if isinstance(value, str | bool)}
            values["serverTLSBootstrap"] = _KUBELET_SERVER if fields.get("serverTLSBootstrap") is True else ""
            with suppress(AttributeError, KeyError, TypeError):  # there is no such thing in it
                values["clientCAFile"] = str(fields["authentication"]["x509"]["clientCAFile"] or "")
            yield _Source("kubelet", _KUBELET_CONFIG, "", tuple(values.items()))

    def _conf_sources(self) -> Iterator[_Source]:
        """What the kubelet's kubeconfig refers to: for embedded credentials, itself."""
        if config := self._files.value(self._conf, _parse_kubeconfig):
            values = [("certificate-authority", cluster.ca.path or "") for cluster in config.clusters if cluster.ca]
            for user in (user for user in config.users if user.certificate and user.name == config.current_user):
                values.append(("client-certificate", (user.certificate and user.certificate.path) or self._conf))
                values.append(("client-key", (user.key and user.key.path) or ""))
            yield _Source("kubelet.conf", self._conf, "", values)

    def _pod_sources(self) -> Iterator[_Source]:
        for name in self._files.listing(self._manifests):
            path = posixpath.join(self._manifests, name)
            for pod in containers(self._fields(path)) if re.fullmatch(r"[^.].*\.(yaml|yml|json)", name) else ():
                yield _Source(pod.name, path, "--", pod.flags, pod.mounts)

    def _claims(self, rows: tuple[str, ...]) -> Iterator[_Claim]:
        for component, flag, *key_flags in map(str.split, rows):
            for source in (source for source in self._sources if source.component == component):
                for value in source.of(flag):
                    path, _, rest = value.partition(",") if flag == "tls-sni-cert-key" else (value, "", "")
                    given = {"path": (path, flag), "key": (rest.partition(":")[0], flag)}
                    given |= {"key": (key, name) for name in key_flags for key in source.of(name)}
                    fields = {field: (source.on_host(at), source.says(by)) for field, (at, by) in given.items() if at}
                    if "path" in fields and all(at for at, _ in fields.values()):
                        yield source, flag, fields
                    else:
                        self._notes.append(f"{source.says(flag)}: {value} is not followed, it is no file of this host")

    def _place(self, name: str, claims: Sequence[_Claim]) -> Iterator[_Claim]:
        """Have the entry of that name say what the claims on one file say; those on other files are given back."""
        spec, paths = self._profile.get(name), [fields["path"][0] for _, _, fields in claims]
        own = spec.path if spec and spec.path in paths else next(iter(paths), "")
        for source, flag, fields in claims:
            if spec is None or fields["path"][0] != own:
                yield source, flag, fields
            elif name != "kubelet-client" or own == spec.path or not self._is_there(spec.path):
                self._named.setdefault(name, source)
                if own != spec.path and spec.key:
                    key = own if spec.key == spec.path else posixpath.splitext(own)[0] + ".key"
                    fields.setdefault("key", (key, f"beside {own}"))
                if own == self._conf:
                    self._change(name, f"{own} has the credentials inside", kind=Kind.KUBECONFIG)
                for field, (value, says) in fields.items():
                    self._change(name, f"{says}: the profile has {getattr(spec, field)}", **{field: value})

    def _change(self, name: str, comment: str, **fields: Any) -> None:
        new = {field: value for field, value in fields.items() if value != getattr(self._specs[name], field)}
        if new:
            comments, written = self._entries.setdefault(name, ([], {"name": name}))
            comments.append(comment)
            written.update(new)
            self._specs[name] = self._specs[name].model_copy(update=new)

    def _is_absent(self, name: str) -> bool:
        """Neither there nor named: not expected from now on. Whatever is named is expected, wherever the flag stands."""
        named, is_there = self._named.get(name), self._is_there(self._specs[name].path)
        for field in ("mentioned_in", "belongs_with", "kubeconfig") if named or is_there else ():
            old = getattr(self._specs[name], field)
            new = tuple(map(self._moved, old)) if isinstance(old, tuple) else old and self._moved(old)
            self._change(name, f"files of the node lie elsewhere: the profile has {field} {old}", **{field: new})
        spec = self._specs[name]
        mentioned = any((text := self._manifest(path)) and spec.path in text.text for path in spec.mentioned_in)
        beside = any(map(self._is_there, spec.belongs_with))
        if named and (spec.optional or not (mentioned or beside)):
            fields = {"optional": False, "belongs_with": (*spec.belongs_with, named.file)}
            self._change(name, f"{named.file} names it: the profile would not miss it", **fields)
        elif beside and not (named or is_there or mentioned):
            self._change(name, "not on this node, and no flag names it: the profile would miss it", optional=True)
        return not (named or is_there or mentioned)

    def _moved(self, place: str) -> str:
        files = [source.file for source in self._sources if place == f"{_MANIFESTS}/{source.component}.yaml"]
        return self._conf if place == _KUBELET_CONF else place if place in files else next(iter(files), place)

    def _others(self) -> Iterator[tuple[str, _Claim]]:
        """Flags that are not in the table, where their files hold certificates."""
        for source in self._sources:
            for flag, value in source.values:
                path = source.on_host(value)
                if path and not path.startswith(_TRUST_STORES) and (self._certificates(path) or self._config_at(path)):
                    yield "", (source, flag, {"path": (path, source.says(flag))})

    def _add(self, entry: str, source: _Source, flag: str, fields: dict[str, tuple[str, str]]) -> None:
        """An entry for a file that none has; its name is that of the profile's, or made of component and flag."""
        path, says = fields["path"]
        if any(path in {spec.path, spec.key, spec.kubeconfig} for spec in self._specs.values()):
            return
        if entry == "sa":
            self._notes.append(f"{says}: {path} holds keys, and none of them ends: there is no entry for it")
            return
        name = stem = entry if entry and entry not in self._specs else re.sub(r"[^A-Za-z0-9]+", "-", f"{source.component}-{flag}").strip("-")[:58] or "file"
        for number in itertools.count(2):
            ...
        certificates = self._certificates(path)
