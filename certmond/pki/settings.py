"""What the configuration says of issuing: who signs, what is made from what, when to wait.

Owns these models and the rules that hold within them, as `catalog` does for certificates and services. Never looks at a
node.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from certmond.pki.fields import AbsolutePath, Duration, Mode, Model, Name, Owner, words

LOCAL, NOBODY = "local", "none"
"""In `signer`: the key of the certificate's CA on this node, which needs no entry; and that nothing is signed."""


class SignerSpec(Model):
    """Something that signs certificates. Which fields it has depends on its kind."""

    name: Name
    kind: Literal["local", "kubeadm", "csr", "command"] = Field(
        description="the CA's key on this node, `kubeadm certs renew`, the Kubernetes API, or a program"
    )
    command: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(
        default=(), description="for kind command: a certmonger helper and its arguments; for kubeadm: its program"
    )
    time_limit: Duration = Field(default=timedelta(seconds=20), description="for one call of a program or of the API")
    ca_profile: str | None = Field(default=None, description="for kind command: what the helper is told as CA profile")
    passphrase: Name | None = Field(
        default=None, description="for kind local: the systemd credential with the passphrase of the CA's key"
    )
    kubeconfig: AbsolutePath | None = Field(
        default=None, description="for kind csr: with whose rights; by default kubelet.conf"
    )
    approve: bool = Field(
        default=False, description="for kind csr: approve requests of our own, if they are for this node's identity"
    )

    @field_validator("command")
    @classmethod
    def _belongs_to_kind(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value and info.data.get("kind") == "command":
            raise ValueError("must be given for kind command")
        return value


class DerivedSpec(Model):
    """A file that is made from a certificate of the catalogue, and made again whenever that changes."""

    name: Name
    kind: Literal["pem-bundle", "kubeconfig"] = Field(
        description="`pem-bundle`: certificate, then key, in one file, as HAProxy reads it; `kubeconfig`: a copy"
    )
    source: Name = Field(description="the entry of `certificates` that it is made from")
    path: AbsolutePath
    mode: Mode = Field(default=0o600, description="the mode that it is made with")
    owner: Owner | None = Field(default=None, description="user, or user:group, that it is made to belong to")


class HoldSpec(Model):
    """When nothing is renewed although it is due: until a certificate gets critical."""

    file: AbsolutePath | None = Field(default=None, description="while this file is there")
    command: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(
        default=(), description="while this program and its arguments exit with 0"
    )
    unsynchronised_clock: bool = Field(default=True, description="while this host's clock is not synchronised")
