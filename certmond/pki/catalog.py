"""The catalogue: which certificates a node should have, and what each must be. A new certificate is a new row.

The same schema serves the shipped profiles and the operator's `certificates:` list. Owns the models and the rules that
hold within them; `config` reads them from YAML and joins profile and operator. Never looks at a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from certmond.pki.fields import (
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
    Subject,
    Usage,
    has_wildcard,
    words,
)
from certmond.pki.reason import Severity

SELF = "self"
"""In `ca`: the file's own self-signed certificate is the trust anchor (the kubelet's default serving certificate)."""

DEFAULT_EXCLUDE = (
    ".*", "*.key", "*.csr", "*.pub", "*~", "*.bak", "*.old", "*.orig", "*.tmp", "*.rpmsave", "*.dpkg-*", "expired",
    "kubelet-client-????-??-??-??-??-??.pem", "kubelet-server-????-??-??-??-??-??.pem",
)  # fmt: skip
"""Names that a glob does not take up: keys, requests, backups, `pki/expired`, and the kubelet's retired PEM files."""


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

    name: Name
    path: AbsolutePath
    kind: Kind = Field(default=Kind.FILE, strict=False)
    key: AbsolutePath | None = Field(default=None, description="its private key; the same file where that holds both")
    key_optional: bool = Field(default=False, description="the key may be elsewhere (an external CA, a worker)")
    authority: bool = Field(default=False, description="holds trust anchors: Root CA certificates, nothing else")
    ca: Many[str] = Field(default=(), description="names of the entries it must chain to; `self` for its own file")
    subject: Many[Subject] = Field(default=(), description="accepted subjects, RFC 4514; the first is the one issued")
    usages: Many[Usage] = Field(default=(), description="what it must be good for, in Kubernetes' names of usages")
    names: Many[AlternativeName] = Field(default=(), description="DNS:… and IP:… that it must carry")
    mode: Mode | None = Field(default=None, description="the most that the certificate's file may permit")
    key_mode: Mode = Field(default=0o600, description="the most that the key's file may permit")
    owner: Owner | None = Field(default=None, description="user, or user:group, that its files must belong to")
    renew_before: Duration | None = Field(default=None, description="due so long before its end; else the general one")
    validity: Duration | None = Field(default=None, description="how long a new one is good for; else the general one")
    key_algorithm: KeyAlgorithm | None = Field(
        default=None, strict=False, description="of a new key; by default that of the old key, else the general one"
    )
    keep_key: bool = Field(default=False, description="is renewed with the key that it has")
    signer: Name | None = Field(
        default=None, description="what signs a new one; by default the key of its CA on this node; `none`: nobody does"
    )
    chain: bool = Field(default=True, description="its file may hold more than the one certificate")
    kubeconfig: AbsolutePath | None = Field(default=None, description="for the kubelet: what refers to it")
    embedded_ca: Name | None = Field(default=None, description="the entry whose certificates a kubeconfig must embed")
    optional: bool = Field(default=False, description="its absence is no finding")
    at_most: Severity | None = Field(
        default=None, strict=False, description="the most severe that its findings can be, where little depends on it"
    )
    mentioned_in: Many[AbsolutePath] = Field(default=(), description="missing only if one of these files names it")
    belongs_with: Many[AbsolutePath] = Field(default=(), description="missing only if one of these files is there")
    exclude: Many[str] = Field(default=DEFAULT_EXCLUDE, description="names that a glob in `path` passes over")
    password_file: AbsolutePath | None = Field(default=None, description="holds the password of a PKCS#12 file")
    consumers: Many[str] = Field(default=(), description="names of the services that use it")

    @property
    def is_glob(self) -> bool:
        """`path` stands for any number of files."""
        return has_wildcard(self.path)

    @property
    def is_trust(self) -> bool:
        """Others must agree on it: a trust anchor, or the keys of service-account tokens."""
        return self.authority or self.kind is Kind.KEY_PAIR

    @property
    def conditional(self) -> bool:
        """The node's other files say whether it should be there."""
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

    name: Name
    kind: Literal["systemd", "static-pod", "command"] = Field(description="what restarts it")
    unit: str | None = Field(default=None, description="for kind systemd: the unit")
    pod: str | None = Field(default=None, description="for kind static-pod: the container")
    command: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(
        default=(), description="for kind command: a program and its arguments"
    )
    environment: Mapping[str, str] = Field(default={}, description="for kind command: variables that it is given")
    time_limit: Duration = Field(
        default=timedelta(minutes=2), description="for the command, or for the unit's job, to end"
    )
    means: Literal["restart", "reload"] = Field(
        default="restart", description="for kind systemd: how it takes up what is new: a restart, or the unit's reload"
    )
    reloads: Many[str] = Field(default=(), description="names of certificates that it reads again without a restart")
    serves: Mapping[str, Many[EndpointText]] = Field(
        default={}, description="names of certificates, each with the ADDRESS:PORT or NAME@ADDRESS:PORT it is served at"
    )
    health: Many[HealthAddress] = Field(
        default=(), description="what tells that it is well: http://, https:// or tcp://ADDRESS:PORT"
    )
    after: Many[str] = Field(default=(), description="names of services that are restarted before it")

    @property
    def changes_instance(self) -> bool:
        """A new process takes the place of the old one when it takes up what is new."""
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
    """The rows with every authority before what it signs; otherwise in the given order."""
    return tuple(sorted(specs, key=lambda spec: not spec.authority))
