"""The key of a CA on this node signs what it may, and otherwise reports the reason."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat

from certmond.errors import KeyUnusableError, RefusedError
from certmond.formats.private_key import key_pem, make_key
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.template import Template, Terms, first, general_name
from certmond.pki.x509.certificate import Certificate, parse_certificate
from certmond.signers.local_ca import LocalSigner, self_signed
from certmond.signers.protocol import Request
from tests.builders import DAY, NOW, YEAR, Issued, bundle, make_ca, make_intermediate, make_leaf, reissue
from tests.conftest import real_part

SPEC = CertificateSpec(name="apiserver", path="/pki/apiserver.crt", key="/pki/apiserver.key", usages=("server auth",))
NAMES = ("DNS:kubernetes", "IP:10.96.0.1")
pytestmark = pytest.mark.real("openssl")


def wanted(
    algorithm: KeyAlgorithm = KeyAlgorithm.ECDSA_P256, issuer_end: datetime | None = NOW + 10 * YEAR
) -> Template:
    terms = Terms(now=NOW, issuer_end=issuer_end, facts={}, key=algorithm)
    return first(SPEC, "CN=kube-apiserver", NAMES if issuer_end else (), terms)


def request(template: Template | None = None) -> Request:
    template = template or wanted()
    return Request("apiserver", Grant(template), make_key(template.key), "node-1")


@pytest.fixture
def signer(tmp_path: Path) -> Any:
    """Makes a signer of files with this content."""

    def make(certificate: bytes, key: bytes, passphrase: str | None = None, now: datetime = NOW) -> LocalSigner:
        (tmp_path / "ca.crt").write_bytes(certificate)
        (tmp_path / "ca.key").write_bytes(key)
        return LocalSigner(str(tmp_path / "ca.crt"), str(tmp_path / "ca.key"), passphrase, clock=lambda: now)

    return make


def certificates(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def facts(pem: bytes) -> Certificate:
    return parse_certificate(certificates(pem)[0].public_bytes(Encoding.DER))


def openssl(*arguments: str | Path, stdin: bytes = b"") -> str:
    done = subprocess.run([real_part("openssl"), *map(str, arguments)], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def verify(leaf: bytes, root: bytes, tmp_path: Path, untrusted: bytes = b"") -> None:
    for name, content in {"leaf.pem": leaf, "root.pem": root, "between.pem": untrusted or root}.items():
        (tmp_path / name).write_bytes(content)
    moment = str(int(NOW.timestamp()))
    said = openssl(
        "verify", "-x509_strict", "-purpose", "sslserver", "-attime", moment, "-CAfile", tmp_path / "root.pem",
        "-untrusted", tmp_path / "between.pem", tmp_path / "leaf.pem",
    )  # fmt: skip
    assert said.strip().endswith("OK")


@pytest.mark.long
@pytest.mark.parametrize("algorithm", KeyAlgorithm)
@pytest.mark.parametrize(
    ("ca_key", "signature"),
    [
        ("rsa", "sha256WithRSAEncryption"),
        ("ec", "ecdsa-with-SHA256"),
        ("ec-p384", "ecdsa-with-SHA384"),
        ("ec-p521", "ecdsa-with-SHA512"),
        ("ed25519", "ED25519"),
    ],
)
def test_openssl_verifies_it(signer: Any, tmp_path: Path, ca_key: str, signature: str, algorithm: KeyAlgorithm) -> None:
    """OpenSSL strictly verifies what any kind of CA signed for any kind of key, and reads the requested fields."""
    ca = make_ca(key=ca_key)
    asked = request(wanted(algorithm))
    issued = signer(ca.pem, ca.key_pem).sign(asked)
    verify(issued.pem, ca.pem, tmp_path)
    text = openssl("x509", "-noout", "-text", stdin=issued.pem)
    assert f"Signature Algorithm: {signature}" in text
    assert "CA:FALSE" in text
    assert "TLS Web Server Authentication" in text
    assert "DNS:kubernetes, IP Address:10.96.0.1" in text
    assert issued.key is None
    assert certificates(issued.pem)[0].public_key() == asked.key.public_key()


def test_serial_number_is_random_and_positive(signer: Any) -> None:
    """A serial number is positive, has at most 159 bits, and does not come twice (RFC 5280, 4.1.2.2)."""
    ca = make_ca()
    made = signer(ca.pem, ca.key_pem)
    serials = {certificates(made.sign(request()).pem)[0].serial_number for _ in range(20)}
    assert len(serials) == 20
    assert all(0 < serial < 1 << 159 for serial in serials)
    assert max(serials).bit_length() > 140


def test_ends_with_its_ca(signer: Any) -> None:
    """A certificate ends no later than the CA that signs it, whatever the template says."""
    ca = make_ca(not_after=NOW + 90 * DAY)
    issued = signer(ca.pem, ca.key_pem).sign(request())
    assert facts(issued.pem).not_after == NOW + 90 * DAY


def test_of_several_certificates_the_keys_own_signs(signer: Any, tmp_path: Path) -> None:
    """In a file with the old and the new Root CA of one name, the one that the key belongs to signs."""
    old, new = make_ca(), make_ca()
    issued = signer(bundle(old, new), new.key_pem).sign(request())
    verify(issued.pem, new.pem, tmp_path)
    assert facts(issued.pem).authority_key_id == new.subject_key_id


def test_of_one_key_the_certificate_that_lasts_signs(signer: Any) -> None:
    """Of two certificates of one key, one expired or shorter, the one that lasts longest signs."""
    old = make_ca(not_after=NOW + DAY)
    new = reissue(old)
    issued = signer(bundle(old, new), old.key_pem).sign(request())
    assert facts(issued.pem).not_after == NOW + YEAR


def test_a_certificate_that_may_sign_is_preferred(signer: Any) -> None:
    """A certificate of the CA's key that may not sign is ignored."""
    ca = make_ca(not_after=NOW + 30 * DAY)
    useless = make_leaf(ca, key=ca.key, not_after=NOW + 20 * YEAR)
    issued = signer(bundle(useless, ca), ca.key_pem).sign(request())
    assert facts(issued.pem).not_after == NOW + 30 * DAY


def test_an_intermediate_brings_its_chain(signer: Any, tmp_path: Path) -> None:
    """Where an intermediate signs, the certificates up to the root, and not the root, follow the leaf."""
    root = make_ca("root")
    upper = make_intermediate(root, "upper")
    lower = make_intermediate(upper, "lower")
    issued = signer(bundle(lower, upper, root), lower.key_pem).sign(request())
    verify(issued.pem, root.pem, tmp_path, untrusted=issued.pem)
    assert certificates(issued.pem)[1:] == [lower.cert, upper.cert]


@pytest.mark.parametrize(
    ("ca", "reason"),
    [
        (make_ca(is_ca=False), r"lacks CA:TRUE; replace it"),
        (make_ca(is_ca=None), r"lacks CA:TRUE; replace it"),
        (make_ca(usages=["digital signature"]), r"key usage lacks keyCertSign; replace"),
        (
            make_ca(extra=[("2.5.29.36", False, b"\x30\x00")]),
            r"cryptography refuses the certificate: .*; replace that CA",
        ),
        (make_ca(not_after=NOW), r"expired at 2026-11-24 12:00:00 UTC; rotate the CA first"),
        (make_ca(not_before=NOW + DAY), r"not valid before 2026-11-25 12:00:00 UTC; check this host's clock"),
    ],
)
def test_a_ca_that_may_not_sign_is_refused(signer: Any, tmp_path: Path, ca: Issued, reason: str) -> None:
    """A certificate that is no CA, may not sign, or is not in date signs nothing; the file and the remedy are named."""
    with pytest.raises(RefusedError, match=rf"the certificate in {tmp_path}/ca.crt \(CN=kubernetes\) .*{reason}"):
        signer(ca.pem, ca.key_pem).sign(request())


def test_a_ca_without_key_usage_may_sign(signer: Any) -> None:
    """A CA without the keyUsage extension may sign: an absent extension restricts nothing."""
    ca = make_ca(usages=None)
    assert signer(ca.pem, ca.key_pem).sign(request()).pem


def test_no_ca_is_signed(signer: Any) -> None:
    """A template for a CA is refused: certmond makes Root CAs, and those sign themselves."""
    ca = make_ca()
    with pytest.raises(RefusedError, match="to create a CA, run: certmond init"):
        signer(ca.pem, ca.key_pem).sign(request(replace(wanted(), is_ca=True)))


@pytest.mark.parametrize("certificate", [make_ca().pem, b"", b"no certificate"])
def test_the_key_of_another_ca_is_refused(signer: Any, tmp_path: Path, certificate: bytes) -> None:
    """A key whose certificate is not in the file signs nothing."""
    other = make_ca()
    expected = re.escape(
        f"{tmp_path}/ca.crt contains no certificate of the key in {tmp_path}/ca.key; restore the certificate"
    )
    with pytest.raises(RefusedError, match=expected):
        signer(certificate, other.key_pem).sign(request())


def test_missing_files_are_named(tmp_path: Path, signer: Any) -> None:
    """A file that is not there is named, with the remedy; the key's absence is a matter of the key."""
    ca = make_ca()
    made = signer(ca.pem, ca.key_pem)
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(RefusedError, match=rf"cannot read .*{tmp_path}/ca.crt \(No such file.*; restore the file"):
        made.sign(request())
    (tmp_path / "ca.key").unlink()
    with pytest.raises(KeyUnusableError, match=rf"cannot read .*{tmp_path}/ca.key \(No such file.*; restore the file"):
        made.sign(request())


@pytest.mark.timeout(10)
def test_only_a_regular_file_of_sane_size_is_read(tmp_path: Path, signer: Any) -> None:
    """A FIFO is not waited for, and a device or a file beyond 1 MiB is not read."""
    ca = make_ca()
    made = signer(ca.pem, ca.key_pem)
    key = tmp_path / "ca.key"
    key.unlink()
    os.mkfifo(key)
    with pytest.raises(KeyUnusableError, match="it is not a regular file"):
        made.sign(request())
    key.unlink()
    key.symlink_to("/dev/zero")
    with pytest.raises(KeyUnusableError, match="it is not a regular file"):
        made.sign(request())
    key.unlink()
    key.write_bytes(ca.key_pem + b"\n" * (1 << 20))
    with pytest.raises(KeyUnusableError, match="File too large"):
        made.sign(request())


def test_files_are_read_at_the_moment_of_use(tmp_path: Path, signer: Any) -> None:
    """The content of the CA's files at the time of the signature counts, not an earlier one."""
    old, new = make_ca(), make_ca()
    made = signer(old.pem, old.key_pem)
    made.sign(request())
    (tmp_path / "ca.crt").write_bytes(new.pem)
    (tmp_path / "ca.key").write_bytes(new.key_pem)
    verify(made.sign(request()).pem, new.pem, tmp_path)


def encrypted(ca: Issued) -> bytes:
    return ca.key_as(PrivateFormat.PKCS8, b"correct horse")


def test_an_encrypted_key_is_opened_with_a_credential(
    tmp_path: Path, signer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first line of the systemd credential opens an encrypted key."""
    ca = make_ca()
    (tmp_path / "ca-passphrase").write_text("correct horse\nnot this\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    verify(signer(ca.pem, encrypted(ca), "ca-passphrase").sign(request()).pem, ca.pem, tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "wrong horse\n",
            "replace it with the right key; or put the passphrase of this key into the credential ca-passphrase",
        ),
        ("", "is empty; its first line must be the passphrase"),
        (None, r"certmond cannot read .* \(No such file.*; add LoadCredentialEncrypted=ca-passphrase:FILE to the unit"),
    ],
)
def test_a_wrong_credential_is_reported(
    tmp_path: Path, signer: Any, monkeypatch: pytest.MonkeyPatch, content: str | None, reason: str
) -> None:
    """The error names a missing, empty or wrong credential with the remedy, and never quotes it."""
    ca = make_ca()
    if content is not None:
        (tmp_path / "ca-passphrase").write_text(content)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(KeyUnusableError, match=reason) as raised:
        signer(ca.pem, encrypted(ca), "ca-passphrase").sign(request())
    assert "horse" not in str(raised.value)


def test_an_encrypted_key_without_a_credential_is_reported(signer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An encrypted key without a configured or passed credential is reported with the remedy."""
    ca = make_ca()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(KeyUnusableError, match="is encrypted; provide its passphrase as a systemd credential"):
        signer(ca.pem, encrypted(ca)).sign(request())
    with pytest.raises(KeyUnusableError, match="is not available to this process; add LoadCredentialEncrypted="):
        signer(ca.pem, encrypted(ca), "ca-passphrase").sign(request())


@pytest.mark.long
@pytest.mark.parametrize("algorithm", KeyAlgorithm)
def test_a_root_ca_signs_itself(tmp_path: Path, signer: Any, algorithm: KeyAlgorithm) -> None:
    """A new Root CA of any kind of key is self-signed, and OpenSSL verifies what it then signs."""
    usages = frozenset({"digital signature", "cert sign"})
    template = replace(wanted(algorithm), is_ca=True, usages=usages, extended_usages=(), names=())
    key = make_key(algorithm)
    root = self_signed(template, key)
    made = facts(root)
    assert made.is_ca
    assert made.self_issued
    assert made.has_usage("cert sign")
    assert made.authority_key_id == made.subject_key_id
    leaf = signer(root, key_pem(key)).sign(request(replace(wanted(), names=(general_name("DNS:a"),)))).pem
    verify(leaf, root, tmp_path)
