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

from certmond.config import Config, parse
from certmond.errors import ConfigError, MalformedError
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
    "kubelet-server-self": ("kubelet tls-cert-file tls-private-key-file", "kubelet tlsCertFile tlsPrivateKeyFile"),
    "": ("kube-apiserver tls-sni-cert-key", "kube-controller-manager tls-cert-file tls-private-key-file",
         "kube-scheduler tls-cert-file tls-private-key-file"),
}  # fmt: skip
_REPEATED = ("tls-sni-cert-key", "service-account-key-file")  # of any other flag, the last one counts
