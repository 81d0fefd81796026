"""Catalogue: the certificates that a node should have, and the requirements for these certificates.

This module defines the models and the rules for a single entry. `config` merges the entries of the profile with the
entries of the operator's configuration.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any

from certmond.pki.catalog.annotations import Beside
from certmond.pki.catalog.field_types import (
    AbsolutePath,
    AlternativeName,
    Duration,
    Flag,
    Many,
    Mode,
    Name,
    Owner,
    Sentence,
    Subject,
    Usage,
    has_wildcard,
)
from certmond.pki.catalog.model_class import model, setting
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


def _is_renewed_elsewhere(original: str | None, others: Mapping[str, Any]) -> None:
    if original and not others.get("renewed_by"):
        raise ValueError("must be absent without `renewed_by`, because certmond does not renew a copy")


def _names_who_starts(within: timedelta | None, others: Mapping[str, Any]) -> None:
    if within and not (others.get("renewed_by") and others.get("consumers")):
        raise ValueError(
            "must be absent unless `renewed_by` and `consumers` name the service that issues the certificate "
            "when the service starts"
        )


def _describes_an_authority(intermediates: bool, others: Mapping[str, Any]) -> None:
    if intermediates and not others.get("authority"):
        raise ValueError("must be absent without `authority: true`")


def _key_fits(key: str | None, others: Mapping[str, Any]) -> None:
    path = others.get("path", "")
    if key is None and others.get("kind") is Kind.KEY_PAIR:
        raise ValueError("must be given for kind key-pair")
    if key is not None and key != path and has_wildcard(path) and not _has_same_stars(path, key):
        raise ValueError(
            "must be absent, be equal to `path`, or contain as many `*` as `path`, because `path` is a glob"
        )


def _has_same_stars(path: str, key: str) -> bool:
    """Return whether both paths contain equally many `*`, at most one in each component, and no other wildcard."""
    return path.count("*") == key.count("*") and all(map(_STARS.fullmatch, (path, key)))


@model
class CertificateSpec:
    """Path and requirements of one certificate. Subjects and names can contain facts, such as `${node_name}`."""

    name: Name = setting(
        "the name of the certificate in reports, metrics and references",
    )
    path: AbsolutePath = setting(
        "the file of the certificate. A path with `*`, `?` or `[…]` matches any number of files. `**` "
        "matches any number of nested directories.",
    )
    kind: Kind = setting(
        "`file`: PEM, DER or PKCS#12, with the certificate and optionally its chain. `kubeconfig`: the "
        "client certificates in a kubeconfig. `bundle`: independent certificates, each with a separate verdict. "
        "`kubelet`: a PEM file that the kubelet rotates. `key-pair`: `path` is a public key, and `key` is the "
        "corresponding private key.",
        default=Kind.FILE,
    )
    key: Annotated[AbsolutePath | None, Beside(_key_fits)] = setting(
        "the file of the private key. If one file contains the certificate and the key, repeat `path` "
        "here. If `path` is a glob, omit `key`, repeat the glob, or write as many `*` in `key` as in `path`, as in "
        "`member-*.pem` and `member-*-key.pem`. Each `*` in `key` then represents the same text as the corresponding "
        "`*` in `path`.",
        default=None,
    )
    key_optional: Flag = setting(
        "the key can be on another host, as for an external CA or for a CA on a worker",
        default=False,
    )
    authority: Flag = setting(
        "the file contains only Root CA certificates. The fields `ca` and `embedded_ca` of other entries "
        "can refer only to an entry with this setting.",
        default=False,
    )
    intermediates: Annotated[Flag, Beside(_describes_an_authority)] = setting(
        "with `authority`: the file can also contain intermediate and cross-signed CAs. For these CAs, the "
        "severity of `ca_not_self_signed` is info if the file also contains their Root CA.",
        default=False,
    )
    ca: Many[str] = setting(
        "the entries of the trust anchors. The certificate must have a certification path to one of these "
        "trust anchors. `self` is a self-signed certificate in the same file. By default, the trust anchor is `self`, "
        "or the last certificate in the file if the file contains no self-signed certificate.",
        default=(),
    )
    subject: Many[Subject] = setting(
        "accepted subjects, such as `CN=kubernetes-admin,O=system:masters`, with attributes in any order. "
        "certmond signs these subjects with the key of the CA, even if the present certificate has another subject. "
        "certmond signs a subject with the prefix `system:` or `kubeadm:` in an attribute only if this list contains "
        "that subject. `certmond init` issues a certificate with the first subject of the list.",
        default=(),
    )
    usages: Many[Usage] = setting(
        "required key usages and extended key usages, by their Kubernetes names. `key encipherment` is "
        "required for RSA keys only.",
        default=(),
    )
    names: Many[AlternativeName] = setting(
        "required subject alternative names. Each name has the form `DNS:…` or `IP:…`, or is the fact "
        "`${control_plane_name}`.",
        default=(),
    )
    mode: Mode | None = setting(
        "the maximum mode of the file. By default, all users may read the file, and only the owner may write the file.",
        default=None,
    )
    key_mode: Mode = setting(
        "the maximum mode of the key file, and of any file that contains a key",
        default=0o600,
    )
    owner: Owner | None = setting(
        "required owner of the files, as `user` or `user:group`, with names or numbers. Only this owner "
        "and root may write the files. If another user can write the files, certmond does not copy the "
        "contents of the old certificate into a new certificate. If another user can replace the files, "
        "certmond does not renew the certificate.",
        default=None,
    )
    renew_before: Duration | None = setting(
        "the time between the renewal point and the expiration of the certificate. The default is the "
        "top-level `renew_before`.",
        default=None,
    )
    validity: Duration | None = setting(
        "the validity period of a new certificate. The default is the top-level `validity`.",
        default=None,
    )
    key_algorithm: KeyAlgorithm | None = setting(
        "the algorithm of a new key. The default is the algorithm of the old key or, without an old key, "
        "the top-level `key_algorithm`.",
        default=None,
    )
    keep_key: Flag = setting(
        "a renewal reuses the key, so that only one file changes. The profiles set this value for the "
        "server and peer certificates of etcd. A signer of kind `kubeadm` cannot reuse the key, because kubeadm "
        "creates a new key.",
        default=False,
    )
    signer: Name | None = setting(
        "the signer of a new certificate. The value is the name of an entry in `signers`, `local` for "
        "the CA's key on this node, or `none` for no signer. The default is `local`.",
        default=None,
    )
    renewed_by: Sentence | None = setting(
        "a short text with the component that renews the certificate instead of certmond, and the time of "
        "the renewal. With this text, certmond never renews the certificate. Findings and plans contain this text. "
        "If the value is `null`, certmond renews the certificate.",
        default=None,
    )
    chain: Flag = setting(
        "the file may contain more than one certificate",
        default=True,
    )
    kubeconfig: AbsolutePath | None = setting(
        "for kind `kubelet`: the kubeconfig that must refer to the PEM file",
        default=None,
    )
    embedded_ca: Name | None = setting(
        "the entry of the CA for the kubeconfig. The kubeconfig must embed all certificates of this "
        "entry, and no other certificates.",
        default=None,
    )
    optional: Flag = setting(
        "certmond reports no finding if the file is missing, or if a kubeconfig contains a token instead "
        "of a certificate",
        default=False,
    )
    at_most: Severity | None = setting(
        "the maximum severity of the findings, for a certificate of low importance",
        default=None,
    )
    mentioned_in: Many[AbsolutePath] = setting(
        "certmond reports a missing certificate only if one of these files, such as the manifest of a "
        "static Pod, contains the path of the certificate",
        default=(),
    )
    belongs_with: Many[AbsolutePath] = setting(
        "certmond reports a missing certificate only if one of these files exists",
        default=(),
    )
    exclude: Many[str] = setting(
        "names of files and directories that a glob skips. The default skips files that are not certificates in use.",
        default=DEFAULT_EXCLUDE,
    )
    password_file: AbsolutePath | None = setting(
        "for PKCS#12: the file that contains the password in its first line",
        default=None,
    )
    consumers: Many[str] = setting(
        "the services that use the certificate",
        default=(),
    )
    renewed_at_start: Annotated[Duration | None, Beside(_names_who_starts)] = setting(
        "each service in `consumers` issues the certificate again if the service starts within this time "
        "before the end of the certificate. If `restart.for_renewal` is true, certmond restarts the service when the "
        "certificate is due. The entry needs `renewed_by` and `consumers`.",
        default=None,
    )
    copy_of: Annotated[Name | None, Beside(_is_renewed_elsewhere)] = setting(
        "the entry of the original. The file must contain the same certificates as the original on this "
        "node. certmond does not renew a copy, so the entry of a copy requires `renewed_by`.",
        default=None,
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


def anchors_first(specs: Iterable[CertificateSpec]) -> tuple[CertificateSpec, ...]:
    """Return the entries in the given order, but with all authorities first."""
    return tuple(sorted(specs, key=lambda spec: not spec.authority))
