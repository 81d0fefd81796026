"""The Root CA that an operator brings: accepted if Kubernetes can live with it, otherwise refused by name."""

from __future__ import annotations

import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from certmond.errors import ConfigError
from certmond.pki.assessment.certificate_rules import ROOT_CA_ONLY
from certmond.renewal.operator_ca_reader import RootCAKeyPair, read_authority
from tests.builders import (
    DAY,
    NOW,
    Issued,
    bundle,
    integer,
    make_ca,
    make_intermediate,
    make_leaf,
    pem_block,
    reissue,
    tlv,
)
from tests.conftest import real_part


class Files:
    def __init__(self, place: Path) -> None:
        self.certificate, self.key = place / "own.crt", place / "own.key"

    def give(self, certificate: bytes, key: bytes) -> RootCAKeyPair:
        self.certificate.write_bytes(certificate)
        self.key.write_bytes(key)
        return read_authority(str(self.certificate), str(self.key), NOW)

    def refused(self, certificate: bytes, key: bytes) -> list[str]:
        """Return the problems of the files, after asserting that none quotes a key."""
        with pytest.raises(ConfigError) as caught:
            self.give(certificate, key)
        files = str(self.certificate), str(self.key)
        assert all(
            problem.startswith((*files, *(f"certmond cannot read {file}" for file in files), "the private key"))
            for problem in caught.value.problems
        )
        assert all(line not in str(caught.value) for line in key.decode("latin-1").splitlines()[1:-1])
        return [problem.replace(f"{self.certificate.parent}/", "") for problem in caught.value.problems]


def damaged(ca: Issued) -> bytes:
    """The RSA key of `ca` with one number changed."""
    assert isinstance(ca.key, rsa.RSAPrivateKey)
    key = ca.key.private_numbers()
    public = key.public_numbers
    numbers = (0, public.n, public.e, key.d, key.p, key.q + 1, key.dmp1, key.dmq1, key.iqmp)  # RFC 8017, A.1.2
    return pem_block("RSA PRIVATE KEY", tlv(0x30, *map(integer, numbers)))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["rsa", "rsa-4096", "ec", "ec-p384", "ed25519"])
def test_a_good_one(files: Files, kind: str) -> None:
    """A self-signed CA that is in date and may sign is accepted, with a key of any kind that Kubernetes takes."""
    ca = make_ca("Example Root", key=kind)
    given = files.give(ca.pem, ca.key_pem)
    assert given.certificate == ca.facts
    assert given.key.public_key() == ca.key.public_key()
    assert "PRIVATE" not in repr(given)
    assert "key" not in repr(given).partition("certificate=")[0]


def test_other_encodings(files: Files) -> None:
    """Certificate and key may be DER, the key PKCS#1, and text may surround the PEM."""
    ca = make_ca(key="rsa")
    assert files.give(ca.der, ca.key_as(PrivateFormat.PKCS8, encoding=Encoding.DER)).certificate == ca.facts
    text = b"Example Root CA\n" + ca.pem + b"\n\n"
    assert files.give(text, ca.key_as(PrivateFormat.TraditionalOpenSSL)).certificate == ca.facts


def test_a_weak_signature_is_accepted(files: Files) -> None:
    """No verifier checks the signature of a trust anchor, so SHA-1 is accepted."""
    ca = make_ca(hash="sha1")
    assert files.give(ca.pem, ca.key_pem).certificate == ca.facts


def test_no_key_usage_permits_all(files: Files) -> None:
    """A CA without keyUsage may sign."""
    ca = make_ca(usages=None)
    assert files.give(ca.pem, ca.key_pem).certificate == ca.facts


ROOT = make_ca("root")


@pytest.mark.parametrize(
    ("ca", "reported"),
    [
        (make_intermediate(ROOT, "sub"), f"own.crt: CN=sub is not self-signed (issuer CN=root); {ROOT_CA_ONLY}"),
        (make_ca("leaf", is_ca=False), "own.crt: CN=leaf lacks basicConstraints CA:TRUE"),
        (make_ca("none", is_ca=None), "own.crt: CN=none lacks basicConstraints CA:TRUE"),
        (make_ca("mute", usages=["digital signature"]), "own.crt: CN=mute has a keyUsage without keyCertSign"),
        (make_ca(not_after=NOW - DAY), "own.crt expired on 2026-11-23 12:00 UTC"),
        (make_ca(not_before=NOW + DAY), "own.crt is not valid before 2026-11-25 12:00 UTC"),
        (make_ca(key="rsa-1024"), "own.crt has the key RSA-1024"),
        (make_ca(key="ec-p224"), "own.crt has the key ECDSA-224"),
        (make_ca(signing_key=make_ca().key), "own.crt: CN=kubernetes is not self-signed"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_ca_that_kubernetes_cannot_use(files: Files, ca: Issued, reported: str) -> None:
    """A CA that would be critical in the cluster is refused with the same words."""
    found = files.refused(ca.pem, ca.key_pem)
    assert any(problem.startswith(reported) for problem in found), found


@pytest.mark.parametrize("kind", ["ed448", "dsa"])
def test_keys_that_kubernetes_cannot_use(files: Files, kind: str) -> None:
    """So is a key of a kind that no component of Kubernetes uses."""
    ca = make_ca(hash="sha256", key=kind) if kind == "dsa" else make_ca(key=kind, signing_key=ROOT.key)
    assert any("is not an RSA, ECDSA or Ed25519 key" in problem for problem in files.refused(ca.pem, ca.key_pem))


def test_an_old_version(files: Files) -> None:
    """A certificate of version 1 has no way to say that it is a CA, and is refused for that."""
    ca = make_ca(version=1)
    assert files.refused(ca.pem, ca.key_pem) == [
        "own.crt has version 1, which has no basicConstraints CA:TRUE; give another CA"
    ]


def test_another_key(files: Files) -> None:
    """The key has to be that of the certificate."""
    (problem,) = files.refused(ROOT.pem, make_ca().key_pem)
    assert problem.startswith("own.key is not the private key of ")


def test_a_damaged_key(files: Files) -> None:
    """A key whose numbers do not fit each other is refused before anything depends on it."""
    ca = make_ca(key="rsa")
    assert files.refused(ca.pem, damaged(ca)) == [
        "the private key in own.key is damaged: a signature made with it does not verify; give an intact key"
    ]


def test_several_certificates(files: Files) -> None:
    """One certificate is given: no chain, no bundle."""
    reported = "own.crt contains 2 certificates; give exactly one, the Root CA"
    assert files.refused(bundle(ROOT, make_ca()), ROOT.key_pem) == [reported]
    twice = bundle(ROOT, reissue(ROOT))
    assert files.refused(twice, ROOT.key_pem) == [reported]


def test_none(files: Files) -> None:
    """A file without a certificate is reported, and so is one without a key, both at once."""
    assert files.refused(ROOT.key_pem, ROOT.pem) == [
        "own.crt contains 0 certificates; give exactly one, the Root CA",
        "own.key contains no usable private key; replace it with the right key",
    ]


@pytest.mark.parametrize("content", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nrubbish\n", bytes(2 << 20)])
def test_rubbish(files: Files, content: bytes) -> None:
    """Whatever the files hold, one sentence for each says what is wrong."""
    problems = files.refused(content, content)
    assert [[name for name in ("own.crt", "own.key") if name in each] for each in problems] == [
        ["own.crt"],
        ["own.key"],
    ]


def test_an_encrypted_key(files: Files) -> None:
    """A key with a passphrase is refused, because Kubernetes cannot read it."""
    (problem,) = files.refused(ROOT.pem, ROOT.key_as(PrivateFormat.PKCS8, b"secret"))
    assert "own.key is encrypted" in problem


def test_unreadable_files(files: Files, tmp_path: Path) -> None:
    """A missing path, or one that is no file, is reported, both at once."""
    os.mkfifo(files.key)
    with pytest.raises(ConfigError) as caught:
        read_authority(str(files.certificate), str(files.key), NOW)
    assert caught.value.problems == (
        f"certmond cannot read {files.certificate} (No such file or directory); give the certificate of the CA",
        f"certmond cannot read {files.key} (it is not a regular file); give the CA's private key",
    )


def test_root_ca_only() -> None:
    """An intermediate is refused with the reason that Kubernetes has."""
    assert ROOT_CA_ONLY == "Kubernetes supports only Root CAs, not intermediate CAs"


def test_a_leaf(files: Files) -> None:
    """A certificate that is no CA is reported with each missing property."""
    leaf = make_leaf(ROOT, "leaf")
    found = files.refused(leaf.pem, leaf.key_pem)
    assert len(found) == 3
    for fact in ("not self-signed", "lacks basicConstraints CA:TRUE", "without keyCertSign"):
        assert any(fact in problem for problem in found)


@pytest.mark.real("openssl")
def test_what_openssl_made(files: Files, tmp_path: Path) -> None:
    """A Root CA by the usual command of openssl is accepted: its key PKCS#8, and CA:TRUE without any key usage."""
    command = [real_part("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-keyout", str(files.key), "-out",
               str(files.certificate), "-days", "3650", "-subj", "/CN=Example Root"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    found = read_authority(str(files.certificate), str(files.key), datetime.now(UTC))
    assert found.certificate.subject == "CN=Example Root"
