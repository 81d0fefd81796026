"""Catalogue: the certificates that a node should have, and their requirements.

This module defines the models and the rules for a single entry. `config` merges the profile with the operator's list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from enum import StrEnum

from pydantic import Field, ValidationInfo, field_validator

from certmond.pki.catalog.field_types import (
    AbsolutePath,
    AlternativeName,
    Duration,
    Many,
    Mode,
    Model,
    Name,
    Owner,
    Sentence,
    Subject,
    Usage,
    has_wildcard,
)
from certmond.pki.findings import Severity

SELF = "self"
"""Value of `ca` for a self-signed certificate in the same file."""

DEFAULT_EXCLUDE = (
    ".*", "*.key", "*.csr", "*.pub", "*~", "*.bak", "*.old", "*.orig", "*.tmp", "*.rpmsave", "*.dpkg-*", "expired",
    "kubelet-client-????-??-??-??-??-??.pem", "kubelet-server-????-??-??-??-??-??.pem",
)  # fmt: skip
"""Names that a glob skips: keys, requests, backups, `pki/expired`, and the kubelet's rotated PEM files."""


class Kind(StrEnum):
    """Kind of the contents of a file. A `key-pair` contains the service-account keys, and no certificate."""

    FILE = "file"
    KUBECONFIG = "kubeconfig"
    BUNDLE = "bundle"
    KUBELET = "kubelet"
    KEY_PAIR = "key-pair"


class KeyAlgorithm(StrEnum):
    """Algorithms of new keys: the values of `encryptionAlgorithm` in kubeadm's v1beta4 configuration, and Ed25519."""

    RSA_2048 = "RSA-2048"
    RSA_3072 = "RSA-3072"
    RSA_4096 = "RSA-4096"
    ECDSA_P256 = "ECDSA-P256"
    ECDSA_P384 = "ECDSA-P384"
    ED25519 = "Ed25519"


ROOT_CAS = ("ca", "etcd-ca", "front-proxy-ca")
"""Names of the entries whose CA certmond can rotate."""
_STARS = re.compile(r"(/[^/*?\[]*(\*[^/*?\[]*)?)+")


class CertificateSpec(Model):
    """Path and requirements of one certificate. A text may contain facts of the node, such as `${node_name}`."""

    name: Name = Field(description="the name of the certificate in reports, metrics and references")
    path: AbsolutePath = Field(
        description="the file of the certificate. A path with `*`, `?` or `[…]` matches any number of files. `**` "
        "matches any number of directories."
    )
    kind: Kind = Field(
        default=Kind.FILE,
        strict=False,
        description="`file`: PEM, DER or PKCS#12, with the certificate and optionally its chain. `kubeconfig`: the "
        "client certificates in a kubeconfig. `bundle`: independent certificates, each with a separate verdict. "
        "`kubelet`: a PEM file that the kubelet rotates. `key-pair`: `path` is a public key and `key` its private "
        "key.",
    )
    key: AbsolutePath | None = Field(
        default=None,
        description="the file of the private key. If one file has the certificate and the key, repeat `path` here. If "
        "`path` is a glob, omit `key` or repeat the glob. If certmond does not renew the certificates, `key` may have "
        "as many `*` as `path`, each for the same text, as in `member-*.pem` and `member-*-key.pem`.",
    )
    key_optional: bool = Field(
        default=False, description="the key may be on another host, as with an external CA or on a worker"
    )
    authority: bool = Field(
        default=False,
        description="the file contains only Root CA certificates. `ca` and `embedded_ca` can name only such an entry.",
    )
    ca: Many[str] = Field(
        default=(),
        description="the entries of the trust anchors: the certificate must have a path to one of them. `self` is a "
        "self-signed certificate in the same file. By default the trust anchor is `self`, or else the last certificate "
        "of the file.",
    )
    subject: Many[Subject] = Field(
        default=(),
        description="accepted subjects, such as `CN=kubernetes-admin,O=system:masters`, with attributes in any order. "
        "certmond signs these subjects with the key of the CA, even if the present certificate has another subject. It "
        "signs a subject with `system:` or `kubeadm:` only if this list contains that subject. `certmond init` issues "
        "the first subject of the list.",
    )
    usages: Many[Usage] = Field(
        default=(),
        description="required usages, by their Kubernetes names. `key encipherment` is required for RSA keys only.",
    )
    names: Many[AlternativeName] = Field(default=(), description="required subjectAltName entries: `DNS:…` or `IP:…`")
    mode: Mode | None = Field(
        default=None,
        description="the maximum mode of the file; by default all users may read the file, and only the owner may "
        "write the file",
    )
    key_mode: Mode = Field(
        default=0o600,
        description="the maximum mode of the key file, and of any file that contains a key",
    )
    owner: Owner | None = Field(
        default=None,
        description="`user` or `user:group` that must own the files. Only this owner and root may write the files. If "
        "another user can write the files, certmond does not copy their contents into a new certificate. If another "
        "user can replace the files, certmond does not renew the certificate.",
    )
    renew_before: Duration | None = Field(
        default=None,
        description="the certificate is due this long before its end; by default the value of the configuration",
    )
    validity: Duration | None = Field(
        default=None, description="the validity of a new certificate; by default the value of the configuration"
    )
    key_algorithm: KeyAlgorithm | None = Field(
        default=None,
        strict=False,
        description="the algorithm of a new key; by default the algorithm of the old key, or else the value of the "
        "configuration",
    )
    keep_key: bool = Field(
        default=False,
        description="a renewal reuses the key, so that only one file changes (the default for etcd). A signer of kind "
        "`kubeadm` cannot reuse the key, because kubeadm creates a new one.",
    )
    signer: Name | None = Field(
        default=None,
        description="the signer of a new certificate: an entry of `signers`; `local`, the default: the CA's key on "
        "this node; `none`: no signer",
    )
    renewed_by: Sentence | None = Field(
        default=None,
        validate_default=True,
        description="the component that renews the certificate instead of certmond, and the time of the renewal, in a "
        "few words. certmond then never renews the certificate. Findings and plans contain this text. `null`: certmond "
        "renews the certificate.",
    )
    chain: bool = Field(default=True, description="the file may contain more than one certificate")
    kubeconfig: AbsolutePath | None = Field(
        default=None, description="for kind `kubelet`: the kubeconfig that must refer to the PEM file"
    )
    embedded_ca: Name | None = Field(
        default=None,
        description="the entry of the CA: the kubeconfig must embed all certificates of this CA, and no others",
    )
    optional: bool = Field(default=False, description="a missing file is not a finding")
    at_most: Severity | None = Field(
        default=None,
        strict=False,
        description="the maximum severity of the findings, for a certificate of low importance",
    )
    mentioned_in: Many[AbsolutePath] = Field(
        default=(),
        description="files, such as the manifest of a static Pod: the absence of the certificate is a finding only if "
        "one of these files contains its path",
    )
    belongs_with: Many[AbsolutePath] = Field(
        default=(), description="files: the absence of the certificate is a finding only if one of these files exists"
    )
    exclude: Many[str] = Field(
        default=DEFAULT_EXCLUDE,
        description="names of files and directories that a glob skips. The default has files that are not certificates "
        "in use.",
    )
    password_file: AbsolutePath | None = Field(
        default=None, description="for PKCS#12: a file with the password in its first line"
    )
    consumers: Many[str] = Field(default=(), description="the services that use the certificate")
    renewed_at_start: Duration | None = Field(
        default=None,
        description="each service in `consumers` issues the certificate again if it starts within this time before the "
        "end of the certificate. With `for_renewal` of `restart`, certmond restarts the service when the certificate "
        "is due. The entry needs `renewed_by` and `consumers`.",
    )
    copy_of: Name | None = Field(
        default=None,
        description="the entry of the original: the file must contain the same certificates as the original on this "
        "node. certmond renews no copy, so this entry needs `renewed_by`.",
    )

    @property
    def is_glob(self) -> bool:
        """Whether `path` is a pattern for any number of files."""
        return has_wildcard(self.path)

    def key_of(self, path: str) -> str | None:
        """Return the key file of the certificate at `path`, or None if the entry names no key."""
        if not self.is_glob or self.key is None:
            return self.key
        if self.key == self.path:
            return path
        texts = re.fullmatch(re.escape(self.path).replace(r"\*", "([^/]*)"), path)
        given = iter(texts.groups() if texts else ())
        return re.sub(r"\*", lambda star: next(given, star[0]), self.key)

    @property
    def is_trust(self) -> bool:
        """Whether several nodes must have the same file: a trust anchor, or the keys of service-account tokens."""
        return self.authority or self.kind is Kind.KEY_PAIR

    @property
    def ca_remedy(self) -> str:
        """The action that replaces this CA, with the command if certmond can rotate it."""
        if self.name not in ROOT_CAS:
            return "replace it with the tool that issued it, then each certificate below it"
        return "rotate it: certmond root-ca rotate" + ("" if self.name == ROOT_CAS[0] else f" --family {self.name}")

    @property
    def conditional(self) -> bool:
        """Whether other files of the node decide whether the certificate should exist."""
        return bool(self.mentioned_in or self.belongs_with)

    @field_validator("copy_of")
    @classmethod
    def _is_renewed_elsewhere(cls, original: str | None, info: ValidationInfo) -> str | None:
        if original and not info.data.get("renewed_by"):
            raise ValueError("must be absent without `renewed_by`, because certmond does not renew a copy")
        return original

    @field_validator("renewed_at_start")
    @classmethod
    def _names_who_starts(cls, within: timedelta | None, info: ValidationInfo) -> timedelta | None:
        if within and not (info.data.get("renewed_by") and info.data.get("consumers")):
            raise ValueError(
                "must be absent without `renewed_by` and `consumers`, which name the service that issues the "
                "certificate at its start"
            )
        return within

    @field_validator("key")
    @classmethod
    def _key_fits(cls, key: str | None, info: ValidationInfo) -> str | None:
        path = info.data.get("path", "")
        if key is None and info.data.get("kind") is Kind.KEY_PAIR:
            raise ValueError("must be given for kind key-pair")
        if key is not None and key != path and has_wildcard(path) and not _has_same_stars(path, key):
            raise ValueError("must be absent, equal to `path`, or have as many `*` as `path`, if `path` is a glob")
        return key

    @field_validator("renewed_by")
    @classmethod
    def _key_is_renewable(cls, renewed_by: str | None, info: ValidationInfo) -> str | None:
        key, path = info.data.get("key"), info.data.get("path", "")
        if not renewed_by and has_wildcard(path) and key not in {None, path}:
            raise ValueError("must be given, because `path` and `key` are different globs: certmond cannot renew these")
        return renewed_by


def _has_same_stars(path: str, key: str) -> bool:
    """Return whether both have the same number of `*`, at most one in a name, and no other wildcard."""
    return path.count("*") == key.count("*") and all(map(_STARS.fullmatch, (path, key)))


def anchors_first(specs: Iterable[CertificateSpec]) -> tuple[CertificateSpec, ...]:
    """Return the entries in the given order, but with all authorities first."""
    return tuple(sorted(specs, key=lambda spec: not spec.authority))
