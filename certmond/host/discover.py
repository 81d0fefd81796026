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
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from certmond.config import Config, parse
from certmond.errors import MalformedError
from certmond.host.files import Files
from certmond.host.kubeconfig import Kubeconfig, Material, parse_kubeconfig
from certmond.host.manifest import Container, Manifest, containers, flag_values, parse_manifest
from certmond.host.store import Store
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.certificate import Certificate
from certmond.pki.encoding import decode
from certmond.pki.path import signed_by

_MANIFESTS, _KUBELET_CONF = "/etc/kubernetes/manifests", "/etc/kubernetes/kubelet.conf"
_KUBELET_CONFIG, _KUBELET_SERVER = "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/pki/kubelet-server-current.pem"
_KUBELET_FLAGS = ("/etc/default/kubelet", "/etc/sysconfig/kubelet", "/var/lib/kubelet/kubeadm-flags.env")
_TRUST_STORES = ("/etc/ssl/certs/", "/etc/pki/ca-trust/", "/etc/ca-certificates/", "/usr/")  # the distribution's own

# Entry: what names its `path` and `key`, as "component flag [flag of the key]". Where several name it, the profile's
# own file is believed first, then the first one here; the others are entries of their own, as are those of "".
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

    file: str
    dashes: str
    component: Container

    def of(self, flag: str) -> list[str]:
        found = [value for name, value in self.component.flags if name == flag and value]
        return found if flag in _REPEATED else found[-1:]

    def says(self, flag: str) -> str:
        return f"{self.file.removeprefix(_MANIFESTS + '/')} {self.dashes}{flag}"

    def on_host(self, path: str) -> str:
        """Where the host has `path`; "" where nowhere, or where an entry cannot say it."""
        fits = path.startswith("/") and len(path) <= 4096 and not re.search(r"[\x00*?[]", path)  # PATH_MAX
        return self.component.on_host("/" + posixpath.normpath(path).lstrip("/")) or "" if fits else ""


_Claim = tuple[str, _Source, str, dict[str, tuple[str, str]]]  # entry, …, flag, field: (value, what says so)


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
        self._named: dict[str, str] = {}  # entries of the profile -> the file that names them
        self._notes: list[str] = []
        self._sources = [*self._kubelet_sources()]
        self._conf = self._setting("kubeconfig") or _KUBELET_CONF
        self._manifests = self._setting("pod-manifest-path", "staticPodPath") or _MANIFESTS
        self._sources += [*self._conf_sources(), *self._pod_sources()]

    def text(self) -> str:
        left = [claim for entry, rows in _FLAGS.items() for claim in self._place(entry, [*self._claims(entry, rows)])]
        absent = [name for name in self._profile if self._is_absent(name)]
        for claim in (*left, *self._others()):
            self._add(claim)
        if not self._sources and len(absent) == len(self._profile):
            self._notes += [f"there is nothing of a Kubernetes node below {self._root}; name another place with --root"]
        elif not self._entries:
            self._notes += [f"nothing on this node differs from the profile {self._config.profile}"]
        lines = [*map(_comment, self._notes), *_yaml({"profile": self._config.profile} | self._node_name())]
        lines += ["certificates:"] if self._entries else []
        for comments, fields in self._entries.values():
            lines += [f"  {line}" for line in (*map(_comment, comments), *_yaml([fields]))]
        lines += [_comment(f"not on this node: {', '.join(absent)}")] if absent else []
        return "\n".join(lines) + "\n"

    def _node_name(self) -> dict[str, str]:
        name = self._config.node_name or Store((), self._root).observe().facts.get("node_name", "")
        with suppress(ValidationError):  # what the files say may be no name of a node
            return {"node_name": str(Config(node_name=name).node_name)}
        return {}

    def _text(self, path: str) -> str:
        manifest = self._files.value(path, parse_manifest)
        return manifest.text if manifest else ""

    def _is_there(self, path: str) -> bool:
        return not self._files.entry(path).missing

    def _setting(self, *flags: str) -> str:
        return next((value for flag in flags for source in self._sources for value in source.of(flag)), "")

    def _fields(self, path: str) -> Mapping[str, Any]:
        """What is in a YAML file; that one has nothing to tell is noted."""
        manifest, fault = self._files.value(path, parse_manifest), self._files.entry(path).fault
        if self._is_there(path) and not (manifest and manifest.fields):
            self._notes.append(f"{fault.detail if fault else f'{path} is not YAML'}: what it names is not in here")
        return manifest.fields if manifest else {}

    def _kubelet_sources(self) -> Iterator[_Source]:
        for path in filter(self._text, _KUBELET_FLAGS):
            words = re.sub(r"(?m)^\s*#.*|^\s*\w+=|[\"']", " ", self._text(path)).split()
            yield _Source(path, "--", Container("kubelet", tuple(flag_values(words)), {}))
        if fields := self._fields(_KUBELET_CONFIG):
            values = {str(name): str(value) for name, value in fields.items() if isinstance(value, str | bool)}
            values["serverTLSBootstrap"] = _KUBELET_SERVER if fields.get("serverTLSBootstrap") is True else ""
            with suppress(AttributeError, KeyError, TypeError):  # there is no such thing in it
                values["clientCAFile"] = str(fields["authentication"]["x509"]["clientCAFile"] or "")
            yield _Source(_KUBELET_CONFIG, "", Container("kubelet", tuple(values.items()), {}))

    def _conf_sources(self) -> Iterator[_Source]:
        """What the kubelet's kubeconfig refers to: for embedded credentials, itself."""
        if config := self._files.value(self._conf, _parse_kubeconfig):
            values = [("certificate-authority", cluster.ca.path or "") for cluster in config.clusters if cluster.ca]
            for user in (user for user in config.users if user.certificate and user.name == config.current_user):
                values.append(("client-certificate", (user.certificate and user.certificate.path) or self._conf))
                values.append(("client-key", (user.key and user.key.path) or ""))
            yield _Source(self._conf, "", Container("kubelet.conf", tuple(values), {}))

    def _pod_sources(self) -> Iterator[_Source]:
        for path in (posixpath.join(self._manifests, name) for name in self._files.listing(self._manifests)):
            if re.search(r"/[^./][^/]*\.(yaml|yml|json)$", path):
                yield from (_Source(path, "--", container) for container in containers(self._fields(path)))

    def _claims(self, entry: str, rows: tuple[str, ...]) -> Iterator[_Claim]:
        for component, flag, *key_flags in map(str.split, rows):
            for source in (source for source in self._sources if source.component.name == component):
                for value in source.of(flag):
                    path, _, pair = value.partition(",") if flag == "tls-sni-cert-key" else (value, "", "")
                    said = {"path": (path, flag), "key": (pair.partition(":")[0], flag)}
                    said |= {"key": (key, by) for by in key_flags for key in source.of(by)}
                    fields = {field: (source.on_host(at), source.says(by)) for field, (at, by) in said.items() if at}
                    if fields and all(at for at, _ in fields.values()):
                        yield entry, source, flag, fields
                    else:
                        self._notes.append(f"{source.says(flag)}: {value} is not followed, it is no file of this host")

    def _place(self, name: str, claims: Sequence[_Claim]) -> Iterator[_Claim]:
        """Have the entry of that name say what the claims on one file say; those on other files are given back."""
        spec, paths = self._profile.get(name), [fields["path"][0] for *_, fields in claims]
        own = spec.path if spec and spec.path in paths else next(iter(paths), "")
        for claim in claims:
            source, fields = claim[1], claim[3]
            if spec is None or fields["path"][0] != own:
                yield claim
            elif name != "kubelet-client" or own == spec.path or not self._is_there(spec.path):
                self._named.setdefault(name, source.file)
                if own != spec.path and spec.key:
                    beside = own if spec.key == spec.path else posixpath.splitext(own)[0] + ".key"
                    fields.setdefault("key", (beside, f"beside {own}"))
                for field, (value, says) in fields.items():
                    self._change(name, f"{says}: the profile has {getattr(spec, field)}", **{field: value})
                if own == self._conf:
                    self._change(name, f"{own} holds the credentials itself", kind=Kind.KUBECONFIG)

    def _change(self, name: str, comment: str, **fields: Any) -> None:
        new = {field: value for field, value in fields.items() if value != getattr(self._specs[name], field)}
        if new:
            self._specs[name] = self._specs[name].model_copy(update=new)
            comments, written = self._entries.setdefault(name, ([], {"name": name}))
            comments.append(comment)
            written.update(new)

    def _is_absent(self, name: str) -> bool:
        """Neither there nor named: not to be missed then. What is named is to be missed, wherever that is."""
        named, is_there = self._named.get(name), self._is_there(self._specs[name].path)
        for field in ("mentioned_in", "belongs_with", "kubeconfig") if named or is_there else ():
            old = getattr(self._specs[name], field) or ""
            new = self._moved(old) if isinstance(old, str) else tuple(map(self._moved, old))
            self._change(name, f"{new}: the profile has {old}", **({field: new} if new else {}))
        spec = self._specs[name]
        mentioned = any(spec.path in self._text(path) for path in spec.mentioned_in)
        beside = any(map(self._is_there, spec.belongs_with))
        if named and (spec.optional or not (mentioned or beside)):
            comment = f"{named} names it: the profile would not miss it"
            self._change(name, comment, optional=False, belongs_with=(*spec.belongs_with, named))
        elif beside and not (named or mentioned or is_there):
            self._change(name, "not on this node, and no flag names it: the profile would miss it", optional=True)
        return not (named or mentioned or is_there)

    def _moved(self, place: str) -> str:
        files = [source.file for source in self._sources if place == f"{_MANIFESTS}/{source.component.name}.yaml"]
        return self._conf if place == _KUBELET_CONF else place if place in files else next(iter(files), place)

    def _others(self) -> Iterator[_Claim]:
        """What flags that the table does not know name, where it holds certificates."""
        for source in self._sources:
            for flag, value in source.component.flags:
                path = source.on_host(value)
                if self._certificates(path) or self._files.value(path, _parse_kubeconfig):
                    yield "", source, flag, {"path": (path, source.says(flag))}

    def _add(self, entry: str, source: _Source, flag: str, fields: dict[str, tuple[str, str]]) -> None:
        """One more entry, for a file that none has."""
        (path, says), certificates = fields["path"], self._certificates(fields["path"][0])
        known = {each for spec in self._specs.values() for each in (spec.path, spec.key, spec.kubeconfig)}
        if path in known or path.startswith(_TRUST_STORES) or entry == "sa":  # keys do not end
            return
        stem = re.sub(r"[^A-Za-z0-9]+", "-", f"x{source.component.name}-{flag}")[:56]
        free = (name for name in (entry, stem, *(f"{stem}-{number}" for number in count(2))) if name and name not in self._specs)
        new: dict[str, Any] = {"name": next(free), **{field: value for field, (value, _) in fields.items()}}
        signers = (spec.name for spec in self._specs.values() if spec.authority and self._has_signed(spec, certificates))
        if entry.endswith("ca"):
            new |= {"authority": True, "key_optional": True}
        elif self._files.value(path, _parse_kubeconfig):
            new |= {"kind": Kind.KUBECONFIG}
        elif certificates and all(certificate.is_ca for certificate in certificates):
            new |= {"kind": Kind.BUNDLE}
        elif ca := next(signers, None)
            new |= {"ca": ca}
        new["belongs_with"] = source.file
        self._specs[new["name"]] = CertificateSpec.model_validate(new)
        self._entries[new["name"]] = [f"{says}: the profile has no entry for it"], new


def _parse_kubeconfig(data: bytes, path: str) -> Kubeconfig | None:
    with suppress(MalformedError):
        return parse_kubeconfig(data, path)
    return None


def _yaml(value: object) -> list[str]:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=sys.maxsize).splitlines()


def _comment(text: str) -> str:
    return "# " + "".join(character if character.isprintable() else " " for character in text)
