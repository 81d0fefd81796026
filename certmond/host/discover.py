"""The flags of a node's components -> the configuration that fits the node, with a comment on every difference.

Owns the table of the flags that name files of the catalogue, and the words for how a node differs from its profile. Only
what a flag names is believed: whether a file is right is for the checks to say. Reads through `Files` alone, and gives
a configuration that loads, whatever the node's files hold.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from certmond.config import Config, parse
from certmond.errors import MalformedError
from certmond.host.files import Files
from certmond.host.kubeconfig import Kubeconfig, parse_kubeconfig
from certmond.host.manifest import Container, Manifest, containers, flag_values, parse_manifest
from certmond.host.store import Store
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.encoding import Document, decode
from certmond.pki.path import signed_by

_MANIFESTS, _KUBELET_CONF = "/etc/kubernetes/manifests", "/etc/kubernetes/kubelet.conf"
_KUBELET_CONFIG, _KUBELET_SERVER = "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/pki/kubelet-server-current.pem"
_KUBELET_FLAGS = ("/etc/default/kubelet", "/etc/sysconfig/kubelet", "/var/lib/kubelet/kubeadm-flags.env")
_TRUST_STORES = ("/etc/ssl/certs/", "/etc/pki/ca-trust/", "/etc/ca-certificates/", "/usr/")  # the distribution's

# Entry: what names its `path` and `key`, as "component flag [flag of the key]". Where several name it, the profile's
# own file is believed first, then the first one here; the others are entries of their own, as are those of "".
_FLAGS = {
    "ca": ["kube-controller-manager root-ca-file", "kube-apiserver client-ca-file",
           "kube-controller-manager cluster-signing-cert-file cluster-signing-key-file",
           "kube-controller-manager client-ca-file", "kubelet client-ca-file", "kubelet clientCAFile",
           "kubelet.conf certificate-authority"],
    "apiserver": ["kube-apiserver tls-cert-file tls-private-key-file"],
    "apiserver-kubelet-client": ["kube-apiserver kubelet-client-certificate kubelet-client-key"],
    "front-proxy-ca": ["kube-apiserver requestheader-client-ca-file",
                       "kube-controller-manager requestheader-client-ca-file"],
    "front-proxy-client": ["kube-apiserver proxy-client-cert-file proxy-client-key-file"],
    "etcd-ca": ["etcd trusted-ca-file", "kube-apiserver etcd-cafile", "etcd peer-trusted-ca-file"],
    "etcd-server": ["etcd cert-file key-file"],
    "etcd-peer": ["etcd peer-cert-file peer-key-file"],
    "apiserver-etcd-client": ["kube-apiserver etcd-certfile etcd-keyfile"],
    "sa": ["kube-apiserver service-account-key-file service-account-signing-key-file"],
    "controller-manager.conf": ["kube-controller-manager kubeconfig"],
    "scheduler.conf": ["kube-scheduler kubeconfig"],
    "kubelet-client": ["kubelet.conf client-certificate client-key"],
    "kubelet-server": ["kubelet serverTLSBootstrap"],
    "kubelet-server-self": ["kubelet tls-cert-file tls-private-key-file", "kubelet tlsCertFile tlsPrivateKeyFile"],
    "": ["kube-apiserver tls-sni-cert-key", "kube-controller-manager tls-cert-file tls-private-key-file",
         "kube-scheduler tls-cert-file tls-private-key-file"],
}  # fmt: skip
_REPEATED = ("tls-sni-cert-key", "service-account-key-file")  # of any other flag, the last one counts
_yaml = partial(yaml.safe_dump, sort_keys=False, width=sys.maxsize)


class _Source(NamedTuple):
    """A file of the node that gives flags, or fields that are as good, to a component; `says` precedes their names."""

    file: str
    says: str
    component: Container

    def of(self, flag: str) -> list[str]:
        found = [value for name, value in self.component.flags if name == flag and value]
        return found if flag in _REPEATED else found[-1:]

    def on_host(self, path: str) -> str:
        """Where the host has `path`; "" where nowhere, or where no entry can say it."""
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
        self._named: dict[str, _Source] = {}  # entries of the profile, and what names them
        self._notes: list[str] = []
        self._sources = [*self._kubelet_sources()]
        self._conf = self._setting("kubeconfig") or _KUBELET_CONF
        self._manifests = self._setting("pod-manifest-path", "staticPodPath") or _MANIFESTS
        self._sources += [*self._conf_sources(), *self._pod_sources()]

    def text(self) -> str:
        claims = {entry: [*self._claims(entry, rows)] for entry, rows in _FLAGS.items()}
        left = [claim for entry in claims for claim in self._place(entry, claims[entry])]
        absent = [name for name in self._profile if self._is_absent(name)]
        for source in self._sources:  # any other flag, if its file holds certificates
            left += [("", source, flag, {"path": (source.on_host(value), flag)}) for flag, value in source.component.flags]
        for claim in left:
            self._add(*claim)
        if not self._sources and len(absent) == len(self._profile):
            self._notes += [f"there is nothing of a Kubernetes node below {self._root}; name another place with --root"]
        elif not self._entries:
            self._notes += [f"nothing on this node differs from the profile {self._config.profile}"]
        text = "".join(map(_comment, self._notes)) + _yaml({"profile": self._config.profile} | self._node_name())
        text += "certificates:\n" if self._entries else ""
        for comments, fields in self._entries.values():
            text += textwrap.indent("".join(map(_comment, comments)) + _yaml([fields]), "  ")
        return text + (_comment(f"not on this node: {', '.join(absent)}") if absent else "")

    def _node_name(self) -> dict[str, str]:
        name = self._config.node_name or Store((), self._root).observe().facts.get("node_name", "")
        with suppress(ValidationError):  # what the files say may be no name of a node
            return {"node_name": str(Config(node_name=name).node_name)}
        return {}

    def _document(self, path: str) -> Document:
        return self._files.value(path, decode) or Document()

    def _manifest(self, path: str) -> Manifest:
        return self._files.value(path, parse_manifest) or Manifest("", {}, {})

    def _is_there(self, path: str) -> bool:
        return not self._files.entry(path).missing

    def _setting(self, *flags: str) -> str:
        return next((value for flag in flags for source in self._sources for value in source.of(flag)), "")

    def _fields(self, path: str) -> Mapping[str, Any]:
        """What is in a YAML file; that one has nothing to tell is noted."""
        fields, fault = self._manifest(path).fields, self._files.entry(path).fault
        if self._is_there(path) and not fields:
            self._notes.append(f"{fault.detail if fault else f'{path} is not YAML'}: what it names is not in here")
        return fields

    def _kubelet_sources(self) -> Iterator[_Source]:
        for path in _KUBELET_FLAGS:
            words = re.sub(r"(?m)^\s*#.*|^\s*\w+=|[\"']", " ", self._manifest(path).text).split()
            yield _Source(path, f"{path} --", Container("kubelet", tuple(flag_values(words)), {}))
        fields = self._fields(_KUBELET_CONFIG)
        values = {str(name): value for name, value in fields.items() if isinstance(value, str)}
        values["serverTLSBootstrap"] = _KUBELET_SERVER if fields.get("serverTLSBootstrap") is True else ""
        with suppress(AttributeError, KeyError, TypeError):  # there is no such thing in it
            values["clientCAFile"] = str(fields["authentication"]["x509"]["clientCAFile"] or "")
        yield _Source(_KUBELET_CONFIG, f"{_KUBELET_CONFIG} ", Container("kubelet", tuple(values.items()), {}))
