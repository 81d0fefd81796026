"""Entries of derived files: files that certmond writes from certificates, and copies of kubeconfigs.

This module defines the models and the rules for a single entry, as `entries` does for certificates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from certmond.pki.catalog.annotations import Beside
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.field_types import AbsolutePath, Mode, Name, Owner, has_wildcard
from certmond.pki.catalog.model_class import model, setting


def _matches_directories_only(path: str, others: Mapping[str, Any]) -> None:
    if has_wildcard(path.replace("/*/", "/", 1) if others.get("kind") == "copy" else path):
        raise ValueError("must be a path without a pattern, or, for kind copy, a path with one component `*`")


def _is_a_copy(write: str, others: Mapping[str, Any]) -> None:
    if write != "always" and others.get("kind") != "kubeconfig":
        raise ValueError("must be always unless the kind is kubeconfig")


@model
class DerivedSpec:
    """A file that certmond derives from a certificate of the catalogue: a PEM bundle, or a copy."""

    name: Name = setting(
        "the name of the derived file in plans and reports",
    )
    kind: Literal["pem-bundle", "kubeconfig", "copy"] = setting(
        "`pem-bundle`: one file with the certificate, followed by the key, as HAProxy requires. "
        "`kubeconfig`: a copy of a kubeconfig. certmond replaces an existing copy only if this copy has the same CA "
        "and user. `copy`: copies of the certificate file and the key file, with the same names, in the directory "
        "`path`.",
    )
    source: Name = setting(
        "the entry of `certificates` that is the source of the file. This entry can be a CA only for kind `copy`.",
    )
    path: Annotated[AbsolutePath, Beside(_matches_directories_only)] = setting(
        "the path of the derived file. For kind `copy`, this path is a directory, and certmond writes "
        "copies only if the directory exists. One component of this path can be `*`, which matches any "
        "directory name.",
    )
    mode: Mode = setting(
        "the maximum mode of the file, and the mode of a new file",
        default=0o600,
    )
    owner: Owner | None = setting(
        "the owner of the file, as `user` or `user:group`",
        default=None,
    )
    write: Annotated[Literal["always", "existing", "never"], Beside(_is_a_copy)] = setting(
        "`always`: certmond creates the file, and replaces it. Two more values are valid for kind "
        "`kubeconfig`. `existing`: certmond replaces an out-of-date copy that has the same server, but "
        "creates no file. `never`: certmond only reports an out-of-date copy.",
        default="always",
    )


class CopySpec(CertificateSpec):
    """An entry for a copy of a kubeconfig. certmond compares the copy with its source, but does not assess the copy."""
