"""New CAs of a distribution: their certificates, their keys, and clients that trust only the old Root CA."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.errors import KeyUnusableError
from certmond.formats.private_key import load_key, make_key
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.rotation.distribution_ca.new_ca_validation import NewCA, objections
from certmond.pki.signing.template import Template, builder, name_of
from certmond.pki.x509.certificate import Certificate, load, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.path_building import signed_by
from certmond.pki.x509.pem import blocks_in
from certmond.rotation.distribution_ca_generation import (
    GeneratedCA,
    PresentCA,
    contents,
    generate_distribution_ca,
    signing_root,
)
from certmond.signers.local_ca import signed
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_intermediate
from tests.conftest import real_part

OLD = make_ca("k3s-server-ca@1", names=None, not_before=NOW - YEAR, not_after=NOW + 9 * YEAR)


def present(*files: Issued, keys: bytes | None = OLD.key_pem) -> PresentCA:
    return PresentCA("k3s-server", "/tls/ca.crt", "/tls/ca.key", tuple(each.facts for each in files or (OLD,)), keys)


def parsed(made: GeneratedCA) -> tuple[Certificate, ...]:
    return decode(made.certificates, "").certificates


def validated(before: PresentCA, made: GeneratedCA) -> list[str]:
    new, key = parsed(made), decode(made.keys, "").key
    return [*objections(NewCA("ca", "/new", "/key", "/tls", before.certificates, new, key), NOW + DAY, "rotate-ca")]


def test_the_file_has_four_certificates() -> None:
    """They are an intermediate CA, its Root CA cross-signed and self-signed, and the old Root CA. The key file begins
    with the key of the intermediate CA. k3s would accept both files.
    """
    made = generate_distribution_ca(present(), NOW, 10 * YEAR)
    own, crossed, root, old = parsed(made)
    stamp = int(NOW.timestamp())
    assert own.subject == f"CN=k3s-server-ca@{stamp}"
    assert root.subject == crossed.subject == f"CN=k3s-server-root@{stamp}"
    assert old == OLD.facts
    assert signed_by(own, root)
    assert signed_by(own, crossed)
    assert signed_by(root, root)
    assert signed_by(crossed, old)
    keys = [load_key(each.text, "").public_key() for each in blocks_in(made.keys)]
    assert keys == [load(own.der).public_key(), load(root.der).public_key()]
    assert {each.text.splitlines()[0] for each in blocks_in(made.keys)} == {b"-----BEGIN EC PRIVATE KEY-----"}
    assert validated(present(), made) == []
    assert str(made) == "GeneratedCA(...)"


def test_the_dates() -> None:
    """The cross-signed certificate ends with the old Root CA, which limits its paths."""
    own, crossed, root, _ = parsed(generate_distribution_ca(present(), NOW, 10 * YEAR))
    assert root.not_after == own.not_after == (NOW + 10 * YEAR).replace(microsecond=0)
    assert crossed.not_after == OLD.facts.not_after
    assert root.not_before == NOW - timedelta(minutes=5)


@pytest.mark.parametrize(("given", "key"), [(None, "ECDSA-256"), (KeyAlgorithm.ECDSA_P384, "ECDSA-384")])
def test_the_algorithm(given: KeyAlgorithm | None, key: str) -> None:
    made = generate_distribution_ca(present(), NOW, YEAR, given)
    assert {str(each.key) for each in parsed(made)[:3]} == {key}


def test_the_next_replacement_begins_with_the_last_one() -> None:
    """The Root CA of the first replacement signs the Root CA of the second one."""
    first = generate_distribution_ca(present(), NOW, 10 * YEAR)
    before = PresentCA("k3s-server", "/tls/ca.crt", "/tls/ca.key", parsed(first), first.keys)
    second = generate_distribution_ca(before, NOW + DAY, 10 * YEAR)
    assert parsed(second)[3] == parsed(first)[2]
    assert validated(before, second) == []


def test_without_the_key_of_the_root_ca() -> None:
    """A missing key file, a file without the key of the Root CA, and a file without a Root CA are different facts."""
    own = make_intermediate(OLD, "own")
    cases = {
        "/tls/ca.key is missing, so certmond cannot cross-sign": present(keys=None),
        "/tls/ca.key contains no key of CN=k3s-server-ca@1": present(own, OLD, keys=own.key_pem),
        "/tls/ca.crt contains no Root CA": present(own, keys=own.key_pem),
        "/tls/ca.key contains no usable private key": present(keys=b"-----BEGIN PRIVATE KEY-----\n"),
    }
    for text, files in cases.items():
        with pytest.raises(KeyUnusableError, match=text.replace(".", r"\.")):
            signing_root(files)


def test_the_contents_by_path() -> None:
    assert contents([(present(), GeneratedCA(b"c", b"k"))]) == {"/tls/ca.crt": b"c", "/tls/ca.key": b"k"}


@pytest.mark.real("openssl")
def test_openssl_accepts_the_new_chain_with_each_trust_anchor(tmp_path: Path) -> None:
    """The server sends its leaf with the CA file, as k3s does. A client with the old Root CA accepts it, and so does a
    client with the new Root CA.
    """
    made = generate_distribution_ca(present(), NOW, 10 * YEAR)
    own, _, root, _ = parsed(made)
    key, terms = make_key(KeyAlgorithm.ECDSA_P256), frozenset({"digital signature"})
    template = Template(name_of("CN=leaf"), NOW - DAY, NOW + DAY, KeyAlgorithm.ECDSA_P256, terms, ("server auth",))
    signer = load_key(next(iter(blocks_in(made.keys))).text, "")
    leaf = signed(builder(template, key.public_key(), 1, load(own.der)), signer, "")
    (tmp_path / "chain").write_bytes(made.certificates)
    (tmp_path / "leaf").write_bytes(leaf.public_bytes(Encoding.PEM))
    for anchor in (OLD.facts, root):
        (tmp_path / "anchor").write_bytes(to_pem(anchor))
        command = [
            real_part("openssl"), "verify", "-attime", str(int(NOW.timestamp())), "-CAfile", "anchor", "-untrusted",
            "chain", "leaf",
        ]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
