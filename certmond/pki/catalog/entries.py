"""Catalogue: the certificates that a node should have, and the requirements for these certificates.

This module defines the models and the rules for a single entry. `config` merges the entries of the profile with the
entries of the operator's configuration.
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
"""Value in `ca` for a self-signed certificate in the same file."""

DEFAULT_EXCLUDE = (
    ".*", "*.key", "*.csr", "*.pub", "*~", "*.bak", "*.old", "*.orig", "*.tmp", "*.rpmsave", "*.dpkg-*", "expired",
    "kubelet-client-????-??-??-??-??-??.pem", "kubelet-server-????-??-??-??-??-??.pem",
)  # fmt: skip
"""Names that a glob skips by default: keys, requests, backups, `pki/expired`, and the kubelet's rotated PEM files."""


class Kind(StrEnum):
    """Kind of the contents of a file. A `key-pair` consists of the service-account keys, without a certificate."""

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
    """Path and requirements of one certificate. Subjects and names can contain facts, such as `${node_name}`."""

    name: Name = Field(description="the name of the certificate in reports, metrics and references")
    path: AbsolutePath = Field(
        description="the file of the certificate. A path with `*`, `?` or `[…]` matches any number of files. `**` "
        "matches any number of nested directories."
    )
    kind: Kind = Field(
        default=Kind.FILE,
        strict=False,
        description="`file`: PEM, DER or PKCS#12, with the certificate and optionally its chain. `kubeconfig`: the "
        "client certificates in a kubeconfig. `bundle`: independent certificates, each with a separate verdict. "
        "`kubelet`: a PEM file that the kubelet rotates. `key-pair`: `path` is a public key, and `key` is the "
        "corresponding private key.",
    )
    key: AbsolutePath | None = Field(
        default=None,
        description="the file of the private key. If one file contains the certificate and the key, repeat `path` "
        "here. If `path` is a glob, omit `key`, repeat the glob, or write as many `*` in `key` as in `path`, as in "
        "`member-*.pem` and `member-*-key.pem`. Each `*` in `key` then represents the same text as the corresponding "
        "`*` in `path`.",
    )
    key_optional: bool = Field(
        default=False,
        description="the key can be on another host, as for an external CA or for a CA on a worker",
    )
    authority: bool = Field(
        default=False,
        description="the file contains only Root CA certificates. The fields `ca` and `embedded_ca` of other entries "
        "can refer only to an entry with this setting.",
    )
    intermediates: bool = Field(
        default=False,
        description="with `authority`: the file can also contain intermediate and cross-signed CAs. For these CAs, the "
        "severity of `ca_not_self_signed` is info if the file also contains their Root CA.",
    )
    ca: Many[str] = Field(
        default=(),
        description="the entries of the trust anchors. The certificate must have a certification path to one of these "
        "trust anchors. `self` is a self-signed certificate in the same file. By default, the trust anchor is `self`, "
        "or the last certificate in the file if the file contains no self-signed certificate.",
    )
    subject: Many[Subject] = Field(
        default=(),
        description="accepted subjects, such as `CN=kubernetes-admin,O=system:masters`, with attributes in any order. "
        "certmond signs these subjects with the key of the CA, even if the present certificate has another subject. "
        "certmond signs a subject with the prefix `system:` or `kubeadm:` in an attribute only if this list contains "
        "that subject. `certmond init` issues a certificate with the first subject of the list.",
    )
    usages: Many[Usage] = Field(
        default=(),
        description="required key usages and extended key usages, by their Kubernetes names. `key encipherment` is "
        "required for RSA keys only.",
    )
    names: Many[AlternativeName] = Field(
        default=(),
        description="required subject alternative names. Each name has the form `DNS:…` or `IP:…`, or is the fact "
        "`${control_plane_name}`.",
    )
    mode: Mode | None = Field(
        default=None,
        description="the maximum mode of the file. By default, all users may read the file, and only the owner may "
        "write the file.",
    )
    key_mode: Mode = Field(
        default=0o600,
        description="the maximum mode of the key file, and of any file that contains a key",
    )
    owner: Owner | None = Field(
        default=None,
        description="required owner of the files, as `user` or `user:group`, with names or numbers. Only this owner "
        "and root may write the files. If another user can write the files, certmond does not copy the "
        "contents of the old certificate into a new certificate. If another user can replace the files, "
        "certmond does not renew the certificate.",
    )
    renew_before: Duration | None = Field(
        default=None,
        description="the time between the renewal point and the expiration of the certificate. The default is the "
        "top-level `renew_before`.",
    )
    validity: Duration | None = Field(
        default=None,
        description="the validity period of a new certificate. The default is the top-level `validity`.",
    )
    key_algorithm: KeyAlgorithm | None = Field(
        default=None,
        strict=False,
        description="the algorithm of a new key. The default is the algorithm of the old key or, without an old key, "
        "the top-level `key_algorithm`.",
    )
    keep_key: bool = Field(
        default=False,
        description="a renewal reuses the key, so that only one file changes. The profiles set this value for the "
        "server and peer certificates of etcd. A signer of kind `kubeadm` cannot reuse the key, because kubeadm "
        "creates a new key.",
    )
    signer: Name | None = Field(
        default=None,
        description="the signer of a new certificate. The value is the name of an entry in `signers`, `local` for "
        "the CA's key on this node, or `none` for no signer. The default is `local`.",
    )
    renewed_by: Sentence | None = Field(
        default=None,
        description="a short text with the component that renews the certificate instead of certmond, and the time of "
        "the renewal. With this text, certmond never renews the certificate. Findings and plans contain this text. "
        "If the value is `null`, certmond renews the certificate.",
    )
    chain: bool = Field(default=True, description="the file may contain more than one certificate")
    kubeconfig: AbsolutePath | None = Field(
        default=None, description="for kind `kubelet`: the kubeconfig that must refer to the PEM file"
    )
    embedded_ca: Name | None = Field(
        default=None,
        description="the entry of the CA for the kubeconfig. The kubeconfig must embed all certificates of this "
        "entry, and no other certificates.",
    )
    optional: bool = Field(
        default=False,
        description="certmond reports no finding if the file is missing, or if a kubeconfig contains a token instead "
        "of a certificate",
    )
    at_most: Severity | None = Field(
        default=None,
        strict=False,
        description="the maximum severity of the findings, for a certificate of low importance",
    )
    mentioned_in: Many[AbsolutePath] = Field(
        default=(),
        description="certmond reports a missing certificate only if one of these files, such as the manifest of a "
        "static Pod, contains the path of the certificate",
    )
    belongs_with: Many[AbsolutePath] = Field(
        default=(), description="certmond reports a missing certificate only if one of these files exists"
    )
    exclude: Many[str] = Field(
        default=DEFAULT_EXCLUDE,
        description="names of files and directories that a glob skips. The default skips files that are not "
        "certificates in use.",
    )
    password_file: AbsolutePath | None = Field(
        default=None, description="for PKCS#12: the file that contains the password in its first line"
    )
    consumers: Many[str] = Field(default=(), description="the services that use the certificate")
    renewed_at_start: Duration | None = Field(
        default=None,
        description="each service in `consumers` issues the certificate again if the service starts within this time "
        "before the end of the certificate. If `restart.for_renewal` is true, certmond restarts the service when the "
        "certificate is due. The entry needs `renewed_by` and `consumers`.",
    )
    copy_of: Name | None = Field(
        default=None,
        description="the entry of the original. The file must contain the same certificates as the original on this "
        "node. certmond does not renew a copy, so the entry of a copy requires `renewed_by`.",
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
        """Whether several nodes must have the same file: the file of a trust anchor or of the service-account keys."""
        return self.authority or self.kind is Kind.KEY_PAIR

    def ca_remedy(self, *, expired: bool, has_key: bool) -> str:
        """Return the remedy that replaces this CA. If certmond can rotate the CA, the remedy contains the commands.

        With the same key, the leaves of an expired CA are valid again. `has_key` is False if the node, such as a
        worker, lacks the key of the CA.
        """
        if self.name not in ROOT_CAS:
            return "replace the CA, and then each certificate that the CA signed, with the tool that issued the CA"
        made = "--reuse-key" if expired else "--generate"
        family = "" if self.name == ROOT_CAS[0] else f" --family {self.name}"
        if has_key:
            return f"rotate it: certmond root-ca stage {made}{family}, then: certmond root-ca rotate{family}"
        where = "create a CA on a node that has its key, and stage the certificate here"
        return f"{where}: certmond root-ca stage CERT{family}, then: certmond root-ca rotate{family}"

    @property
    def conditional(self) -> bool:
        """Whether other files of the node decide whether a missing certificate is a finding."""
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
                "must be absent unless `renewed_by` and `consumers` name the service that issues the certificate "
                "when the service starts"
            )
        return within

    @field_validator("intermediates")
    @classmethod
    def _describes_an_authority(cls, intermediates: bool, info: ValidationInfo) -> bool:
        if intermediates and not info.data.get("authority"):
            raise ValueError("must be absent without `authority: true`")
        return intermediates

    @field_validator("key")
    @classmethod
    def _key_fits(cls, key: str | None, info: ValidationInfo) -> str | None:
        path = info.data.get("path", "")
        if key is None and info.data.get("kind") is Kind.KEY_PAIR:
            raise ValueError("must be given for kind key-pair")
        if key is not None and key != path and has_wildcard(path) and not _has_same_stars(path, key):
            raise ValueError(
                "must be absent, be equal to `path`, or contain as many `*` as `path`, because `path` is a glob"
            )
        return key


def _has_same_stars(path: str, key: str) -> bool:
    """Return whether both paths contain equally many `*`, at most one in each component, and no other wildcard."""
    return path.count("*") == key.count("*") and all(map(_STARS.fullmatch, (path, key)))


def anchors_first(specs: Iterable[CertificateSpec]) -> tuple[CertificateSpec, ...]:
    """Return the entries in the given order, but with all authorities first."""
    return tuple(sorted(specs, key=lambda spec: not spec.authority))
