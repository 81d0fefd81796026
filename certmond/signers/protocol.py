"""Interface of all signers, and the request to a signer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, replace
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.formats.private_key import PrivateKey
from certmond.immutable_class import immutable
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.template import Template, extensions
from certmond.pki.x509.certificate import Certificate, load_request


@immutable
class Request:
    """The request for one certificate: the granted content, the key to certify, and the certificate to replace (`old`).

    A repeated request contains the `cookie` of the signer's last response, and the PKCS#10 of the first request
    (`csr`). While the signer waits, the signer calls `alive` at least every second.
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
        """The granted content of the certificate."""
        return self.grant.template

    def requests_the_same(self, csr: bytes) -> bool:
        """Return whether the earlier request `csr` (PEM) requests the same content. The keys can differ.

        Raises MalformedError if `csr` is not a request.
        """
        sent, wanted = load_request(csr), load_request(replace(self, csr=None).pem())
        return sent.subject == wanted.subject and {*sent.extensions} == {*wanted.extensions}

    def pem(self) -> bytes:
        """Return the earlier request or, without an earlier request, a new PKCS#10 request (RFC 2986), as PEM."""
        if self.csr is not None:
            return self.csr
        builder = x509.CertificateSigningRequestBuilder(self.template.subject)
        for extension, critical in extensions(self.template):
            builder = builder.add_extension(extension, critical)
        digest = None if isinstance(self.key, ed25519.Ed25519PrivateKey) else SHA256()
        return builder.sign(self.key, digest).public_bytes(Encoding.PEM)


@immutable
class Issued:
    """Response of a signer. `pem` contains the certificate, followed by its chain.

    `key` is the private key if the signer created the key, otherwise None.
    """

    pem: bytes
    key: PrivateKey | None = field(default=None, repr=False)


class Signer(Protocol):
    """Interface of a signer. The caller verifies each response, because certmond does not trust a signer."""

    def sign(self, request: Request) -> Issued:
        """Return the certificate for `request`.

        Raises RefusedError if the request cannot succeed, UnreachableError if a retry might succeed, and WaitingError
        if the signer has not decided yet. Raises KeyUnusableError if the key of the CA is unusable.
        """
        ...
