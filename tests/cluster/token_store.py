"""Service account tokens for the API server of these tests: signed with one key, accepted with any of several.

It follows pkg/serviceaccount of Kubernetes: the header of a token names its key by the SHA-256 of its
SubjectPublicKeyInfo.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.cluster.lease_store import status

Json = dict[str, Any]


class TokenStore:
    """`key` signs; the public half of each of `known` verifies. `issued` are the tokens that were handed out."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.known = [self.key]
        self.issued: list[str] = []

    def request(self, namespace: str, name: str, asked: Json) -> tuple[int, Json]:
        if asked["spec"].get("expirationSeconds", 3600) < 600:
            return status(422, "spec.expirationSeconds: may not specify a duration less than 10 minutes", "Invalid")
        spki = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        head = {"alg": "ES256", "kid": _text(hashlib.sha256(spki).digest())}
        body = {"sub": f"system:serviceaccount:{namespace}:{name}"}
        signed = ".".join(_text(json.dumps(part).encode()) for part in (head, body))
        token = f"{signed}.{_text(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))}"
        self.issued.append(token)
        answer = {"token": token, "expirationTimestamp": "2026-11-24T12:00:00Z"}
        return 201, asked | {"metadata": {"name": name, "namespace": namespace}, "status": answer}

    def review(self, asked: Json) -> tuple[int, Json]:
        token = asked["spec"]["token"]
        signed, _, signature = token.rpartition(".")
        for key in self.known:
            try:
                key.public_key().verify(_bytes(signature), signed.encode(), ec.ECDSA(hashes.SHA256()))
            except InvalidSignature:
                continue
            user = json.loads(_bytes(signed.partition(".")[2]))["sub"]
            return 201, asked | {"status": {"authenticated": True, "user": {"username": user}}}
        error = f"[invalid bearer token {token}, square/go-jose: error in cryptographic primitive]"
        return 201, asked | {"status": {"authenticated": False, "error": error, "user": {}}}


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
