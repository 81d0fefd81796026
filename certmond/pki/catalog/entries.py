"""Catalogue: the certificates that a node should have, and their requirements. A new certificate is a new entry.

The profiles in the package and the operator's `certificates:` list have the same schema. Owns the models and the rules
within them. `config` reads them from YAML and merges profile and operator. Never reads a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from certmond.pki.catalog.field_types import (
    AbsolutePath,
    AlternativeName,
    Duration,
    EndpointText,
    HealthAddress,
    Many,
    Mode,
    Model,
    Name,
    Owner,
    Sentence,
    Subject,
    Usage,
    has_wildcard,
    words,
)
from certmond.pki.findings import Severity

SELF = "self"
"""In `ca`: the self-signed certificate in the file is the trust anchor (the kubelet's default serving certificate)."""

DEFAULT_EXCLUDE = (
    ".*", "*.key", "*.csr", "*.pub", "*~", "*.bak", "*.old", "*.orig", "*.tmp", "*.rpmsave", "*.dpkg-*", "expired",
    "kubelet-client-????-??-??-??-??-??.pem", "kubelet-server-????-??-??-??-??-??.pem",
)  # fmt: skip
"""Names that a glob skips: keys, requests, backups, `pki/expired`, and the kubelet's rotated PEM files."""


class Kind(StrEnum):
    """What a file holds. A `key-pair` has no certificate: the service-account keys."""

    FILE = "file"
    KUBECONFIG = "kubeconfig"
    BUNDLE = "bundle"
    KUBELET = "kubelet"
    KEY_PAIR = "key-pair"


class KeyAlgorithm(StrEnum):
    """Keys that certmond makes, by kubeadm's names (v1beta4, `encryptionAlgorithm`), and Ed25519."""

    RSA_2048 = "RSA-2048"
    RSA_3072 = "RSA-3072"
    RSA_4096 = "RSA-4096"
    ECDSA_P256 = "ECDSA-P256"
    ECDSA_P384 = "ECDSA-P384"
    ED25519 = "Ed25519"


T = TypeVar("T")


class CertificateSpec(Model):
    """One row: where a certificate is, and what it must be. Text may use the node's facts, as in `${node_name}`."""

    name: Name = Field(description="its name in reports, metrics and references")
    path: AbsolutePath = Field(
        description="the file. With `*`, `?` or `[…]` any number of files, and with `**` any number of directories."
    )
    kind: Kind = Field(
        default=Kind.FILE,
        strict=False,
        description="`file`: PEM, DER or PKCS#12, the certificate and perhaps its chain. `kubeconfig`: the "
        "client certificates in one. `bundle`: certificates that have nothing to do with each "
        "other, each judged by itself. `kubelet`: a PEM that the kubelet rotates. `key-pair`: "
        "`path` is a public key and `key` its private one.",
    )
    key: AbsolutePath | None = Field(
        default=None,
        description="its private key; the same file where that holds both. With a glob: left out, or the same "
        "text as `path`.",
    )
    key_optional: bool = Field(
        default=False, description="the key may be elsewhere, as with an external CA or on a worker"
    )
    authority: bool = Field(
        default=False,
        description="it holds Root CA certificates and nothing else; only such an entry can be in `ca` and "
        "`embedded_ca`",
    )
    ca: Many[str] = Field(
        default=(),
        description="the entries of which it must chain to one; `self` for a self-signed certificate in its own "
        "file, which is also what nothing means",
    )
    subject: Many[Subject] = Field(
        default=(),
        description="subjects that are accepted, as in `CN=kubernetes-admin,O=system:masters`; their order within does "
        "not matter. The CA signs them whatever the file says; the first is what `certmond init` issues. Subjects with "
        "`system:` or `kubeadm:` are signed only where they stand here.",
    )
    usages: Many[Usage] = Field(
        default=(),
        description="what it must be good for, in Kubernetes' names of usages; `key encipherment` is asked of "
        "RSA keys only",
    )
    names: Many[AlternativeName] = Field(
        default=(), description="what it must carry as subjectAltName: `DNS:…` or `IP:…`"
    )
    mode: Mode | None = Field(
        default=None,
        description="the most that the mode of its file may permit; by default nobody but the owner may write",
    )
    key_mode: Mode = Field(
        default=0o600,
        description="the most that the mode of its key's file may permit, and so of any file with a key in it",
    )
    owner: Owner | None = Field(
        default=None,
        description="`user` or `user:group` that its files must belong to, and who may write them besides root. Where "
        "another user can write them, the certificate is not renewed with what its file says; where another user can "
        "replace them, it is not renewed.",
    )
    renew_before: Duration | None = Field(
        default=None, description="it is due so long before its end; by default what the file says for all"
    )
    validity: Duration | None = Field(
        default=None, description="how long a new one is good for; by default what the file says for all"
    )
    key_algorithm: KeyAlgorithm | None = Field(
        default=None,
        strict=False,
        description="of a new key; by default that of the old one, else what the file says for all",
    )
    keep_key: bool = Field(
        default=False,
        description="it is renewed with the key that it has, so that only one file changes (etcd: the default). "
        "A signer of kind `kubeadm` cannot: it makes its own key",
    )
    signer: Name | None = Field(
        default=None,
        description="what signs a new one: an entry of `signers`; `local`, the default: the key of its CA on "
        "this node; `none`: nobody does",
    )
    renewed_by: Sentence | None = Field(
        default=None,
        description="who renews it in certmond's place, and when, in a few words: certmond then never does, and its "
        "findings and plans say this instead. `null`: certmond does.",
    )
    chain: bool = Field(default=True, description="its file may hold more than the one certificate")
    kubeconfig: AbsolutePath | None = Field(
        default=None, description="for kind `kubelet`: the kubeconfig that has to refer to it"
    )
    embedded_ca: Name | None = Field(
        default=None, description="the entry whose certificates the kubeconfig has to embed, no more and no fewer"
    )
    optional: bool = Field(default=False, description="that it is not there is no finding")
    at_most: Severity | None = Field(
        default=None, strict=False, description="the most severe that its findings can be, where little depends on it"
    )
    mentioned_in: Many[AbsolutePath] = Field(
        default=(),
        description="it is missing only if one of these files names its path, such as a static pod's manifest",
    )
    belongs_with: Many[AbsolutePath] = Field(
        default=(), description="it is missing only if one of these files is there"
    )
    exclude: Many[str] = Field(
        default=DEFAULT_EXCLUDE,
        description="names that a glob passes over, of files and directories: by default what is no certificate in use",
    )
    password_file: AbsolutePath | None = Field(
        default=None, description="for PKCS#12: a file with the password in its first line"
    )
    consumers: Many[str] = Field(default=(), description="the services that use it")

    @property
    def is_glob(self) -> bool:
        """Whether `path` is a pattern for any number of files."""
        return has_wildcard(self.path)

    @property
    def is_trust(self) -> bool:
        """Whether several nodes must agree on it: a trust anchor, or the keys of service-account tokens."""
        return self.authority or self.kind is Kind.KEY_PAIR

    @property
    def conditional(self) -> bool:
        """Whether other files of the node decide that it should exist."""
        return bool(self.mentioned_in or self.belongs_with)

    @field_validator("key")
    @classmethod
    def _key_fits(cls, key: str | None, info: ValidationInfo) -> str | None:
        path = info.data.get("path", "")
        if key is None and info.data.get("kind") is Kind.KEY_PAIR:
            raise ValueError("must be given for kind key-pair")
        if key not in {None, path} and has_wildcard(path):
            raise ValueError("must be left out, or repeat the path, where that is a glob")
        return key


class ServiceSpec(Model):
    """A service of this node that uses certificates: how it is restarted, and what it picks up by itself."""

    name: Name = Field(description="its name in reports and references")
    kind: Literal["systemd", "static-pod", "command"] = Field(description="what restarts it")
    unit: str | None = Field(default=None, description="for kind `systemd`: the unit, such as `kubelet.service`")
    pod: str | None = Field(
        default=None, description="for kind `static-pod`: the name of the container, such as `kube-apiserver`"
    )
    command: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(
        default=(), description="for kind `command`: a list of the program and its arguments; no shell is between"
    )
    environment: Mapping[str, str] = Field(
        default={}, description="for kind `command`: variables that it is given, by name"
    )
    time_limit: Duration = Field(
        default=timedelta(minutes=2), description="for the command, or for the unit's job, to end"
    )
    grace: Duration = Field(
        default=timedelta(seconds=30),
        description="for kind `static-pod`: from SIGTERM to SIGKILL, for a process that does not end by itself. What "
        "`--shutdown-delay-duration` of the component says comes on top.",
    )
    drain: Duration | None = Field(
        default=None,
        description="for kind `static-pod`: how long a process may go on that listens no longer where it serves; then "
        "it is ended with SIGKILL, although its `grace` is not over. By default it has the whole `grace`.",
    )
    restart_takes: Duration | None = Field(
        default=None,
        description="about how long it takes from the end of the process until a new one serves, as it was measured. "
        "`certmond root-ca rotate --plan` tells with it how long a single control plane is without this service.",
    )
    means: Literal["restart", "reload"] = Field(
        default="restart",
        description="for kind `systemd`: how it takes up what is new: `restart`, or `reload` where the unit has one",
    )
    reloads: Many[str] = Field(
        default=(), description="the certificates that it reads again by itself, so that a new one needs no restart"
    )
    serves: Mapping[str, Many[EndpointText]] = Field(
        default={},
        description="what it serves where: names of certificates, each with one or more of `ADDRESS:PORT`, or "
        "`NAME@ADDRESS:PORT` where the server is asked by a name. certmond looks there whether it "
        "is what the file has. By default what the flags of a component say.",
    )
    health: Many[HealthAddress] = Field(
        default=(),
        description="where it says that it is well: `http://ADDRESS:PORT/PATH`, `https://…` (200 to 399, 401 "
        "and 403 are well) or `tcp://ADDRESS:PORT` (it takes a connection). By default a static "
        "pod's readiness or liveness probe, and the kubelet's `healthzPort`.",
    )
    after: Many[str] = Field(
        default=(), description="the services that are restarted before it; no two may wait for each other"
    )
    belongs_with: Many[AbsolutePath] = Field(
        default=(), description="it is a service of this node only if one of these files is there"
    )
    not_with: Many[AbsolutePath] = Field(
        default=(), description="it is no service of this node if one of these files is there"
    )

    @property
    def changes_instance(self) -> bool:
        """Whether a new process replaces the old one when it reads new files."""
        return self.kind != "command" and self.means == "restart"

    @field_validator("means")
    @classmethod
    def _reloads_a_unit(cls, means: str, info: ValidationInfo) -> str:
        if means == "reload" and info.data.get("kind") != "systemd":
            raise ValueError("must be restart where the kind is not systemd")
        return means

    @field_validator("unit", "pod", "command")
    @classmethod
    def _belongs_to_kind(cls, value: T, info: ValidationInfo) -> T:
        kind = {"unit": "systemd", "pod": "static-pod", "command": "command"}[info.field_name or ""]
        if not value and info.data.get("kind") == kind:
            raise ValueError(f"must be given for kind {kind}")
        return value


def anchors_first(specs: Iterable[CertificateSpec]) -> tuple[CertificateSpec, ...]:
    """Return the entries with every authority before the certificates that it signs, otherwise in the given order."""
    return tuple(sorted(specs, key=lambda spec: not spec.authority))
