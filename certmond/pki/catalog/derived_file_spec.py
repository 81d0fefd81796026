"""Entries of derived files: files that certmond writes from certificates, and copies of kubeconfigs.

This module defines the models and the rules for a single entry, as `entries` does for certificates.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.field_types import AbsolutePath, Mode, Model, Name, Owner, has_wildcard


class DerivedSpec(Model):
    """A file that certmond derives from a certificate of the catalogue: a PEM bundle, or a copy."""

    name: Name = Field(description="the name of the derived file in plans and reports")
    kind: Literal["pem-bundle", "kubeconfig", "copy"] = Field(
        description="`pem-bundle`: one file with the certificate, followed by the key, as HAProxy requires. "
        "`kubeconfig`: a copy of a kubeconfig. certmond replaces an existing copy only if this copy has the same CA "
        "and user. `copy`: copies of the certificate file and the key file, with the same names, in the directory "
        "`path`."
    )
    source: Name = Field(
        description="the entry of `certificates` that is the source of the file. This entry can be a CA only for "
        "kind `copy`."
    )
    path: AbsolutePath = Field(
        description="the path of the derived file. For kind `copy`, this path is a directory, and certmond writes "
        "copies only if the directory exists. One component of this path can be `*`, which matches any "
        "directory name."
    )
    mode: Mode = Field(default=0o600, description="the maximum mode of the file, and the mode of a new file")
    owner: Owner | None = Field(default=None, description="the owner of the file, as `user` or `user:group`")
    write: Literal["always", "existing", "never"] = Field(
        default="always",
        description="`always`: certmond creates the file, and replaces it. Two more values are valid for kind "
        "`kubeconfig`. `existing`: certmond replaces an out-of-date copy that has the same server, but "
        "creates no file. `never`: certmond only reports an out-of-date copy.",
    )

    @field_validator("path")
    @classmethod
    def _matches_directories_only(cls, path: str, info: ValidationInfo) -> str:
        if has_wildcard(path.replace("/*/", "/", 1) if info.data.get("kind") == "copy" else path):
            raise ValueError("must be a path without a pattern, or, for kind copy, a path with one component `*`")
        return path

    @field_validator("write")
    @classmethod
    def _is_a_copy(cls, write: str, info: ValidationInfo) -> str:
        if write != "always" and info.data.get("kind") != "kubeconfig":
            raise ValueError("must be always unless the kind is kubeconfig")
        return write


class CopySpec(CertificateSpec):
    """An entry for a copy of a kubeconfig. certmond compares the copy with its source, but does not assess the copy."""
