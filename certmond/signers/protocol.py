"""The protocol that every signer follows, and the request that it is given. A signer writes nothing on the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.formats.private_key import PrivateKey
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.template import Template, extensions
from certmond.pki.x509.certificate import Certificate, load_request


@dataclass(frozen=True, slots=True)
class Request:
    """The request for one certificate: what is granted to be signed, the key that it certifies, and what it replaces.

    `authority` is the entry of the CA, None where the signer alone knows it. A signer that was asked before is given
    the `cookie` that it answered with, and the request as it was sent then (`csr`). `alive` is called every second at
    least while the signer waits for something.
    """

    name: str
    grant: Grant
    key: PrivateKey = field(repr=False)
    node_name: str
    old: Certificate | None = None
    authority: str | None = None
    cookie: str | None = None
    csr: bytes | None = None
    alive: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def template(self) -> Template:
        """What the certificate says."""
        return self.grant.template

    def is_asked_in(self, csr: bytes) -> bool:
        """Whether a request that was sent before, as PEM, asks for exactly what is granted now, whatever its key.

        Raises MalformedError for what is no request.
        """
        sent, asked = load_request(csr), load_request(replace(self, csr=None).pem())
        return sent.subject == asked.subject and {*sent.extensions} == {*asked.extensions}

    def pem(self) -> bytes:
        """The request as PKCS#10 (RFC 2986), signed with its key: the one that was sent before, if any."""
        if self.csr is not None:
            return self.csr
        builder = x509.CertificateSigningRequestBuilder(self.template.subject)
        for extension, critical in extensions(self.template):
            builder = builder.add_extension(extension, critical)
        digest = None if isinstance(self.key, ed25519.Ed25519PrivateKey) else SHA256()
        return builder.sign(self.key, digest).public_bytes(Encoding.PEM)


@dataclass(frozen=True, slots=True)
class Issued:
    """What a signer gave: PEM, the certificate first, then its chain. `key` is None unless it made its own."""

    pem: bytes
    key: PrivateKey | None = field(default=None, repr=False)


class Signer(Protocol):
    """Something that signs. What it gives is not trusted: the caller verifies it before use."""

    def sign(self, request: Request) -> Issued:
        """The certificate. Raises RefusedError, UnreachableError, or WaitingError where it must be asked again."""
        ...
