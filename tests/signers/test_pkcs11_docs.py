"""The program for PKCS#11 and its section in docs/signers.md work with a CA key in a SoftHSM token."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certmond.errors import RefusedError, UnreachableError
from certmond.formats.private_key import make_key
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.template import Template, general_name
from certmond.pki.x509.certificate import parse_certificate
from certmond.signers.protocol import Request
from tests.builders import DAY, make_ca
from tests.conftest import real_part
from tests.key_search import files_with_key
from tests.softhsm import PIN, Token, issued, token
from tests.test_renewal import CA, PKI, Host, kubeconfig

pytestmark = [pytest.mark.real("openssl"), pytest.mark.real("softhsm2-util"), pytest.mark.real("pkcs11-tool")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Token:
    return token(tmp_path_factory.mktemp("token"))


def request(**changes: Any) -> Request:
    """Return a request for a serving certificate, whose template has these changes."""
    now = datetime.now(UTC)
    template = Template(
        x509.Name.from_rfc4514_string("CN=kube-apiserver,O=shop"), now, now + DAY, KeyAlgorithm.ECDSA_P256,
        frozenset({"digital signature"}), ("server auth",), (general_name("DNS:kubernetes"),),
    )  # fmt: skip
    return Request("apiserver", Grant(replace(template, **changes)), make_key(template.key), "node-1")


class TokenNode(Host):
    """A node whose CA key is in `token`. The signer of the documentation signs its two leaves."""

    def __init__(self, place: Path, token: Token) -> None:
        self.token = token
        super().__init__(place, "apiserver", "admin.conf", now=datetime.now(UTC), signers=[token.signer])
        self.at(CA["key"]).unlink()
        self.put(CA["path"], token.ca.public_bytes(Encoding.PEM))
        for name, entry in self.entries.items():
            entry["signer"] = token.signer["name"]
            asked = request(
                subject=x509.Name.from_rfc4514_string(entry["subject"]),
                extended_usages=tuple(entry["usages"]),
                names=tuple(map(general_name, entry.get("names", ()))),
            )
            leaf = issued(x509.load_pem_x509_certificate(token.sign(asked)), asked.key)
            if name == "admin.conf":
                self.put(entry["path"], kubeconfig(issued(token.ca, self.ca.key), leaf), 0o600)
            else:
                self.put(entry["path"], leaf.pem)
                self.put(entry["key"], leaf.key_pem, 0o600)

    def document(self) -> dict[str, Any]:
        """The configuration file, whose CA entry permits a missing key, as the profile of kubeadm does."""
        found = super().document()
        found["certificates"] = [CA | {"key_optional": True}, *found["certificates"][1:]]
        return found


@pytest.mark.long
def test_certmond_renews_the_leaves_of_a_ca_in_a_token(made: Token, tmp_path: Path) -> None:
    """`renew` installs new certificates that the key in the token has signed. Go's rules and openssl accept both, and
    no finding remains. No file of the node, of certmond or of the token contains the private key of the CA.
    """
    node = TokenNode(tmp_path / "host", made)
    before = node.serials()
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(node.document()))
    options = ["--config", config, "--root", node.root, "--state-dir", node.state, "renew", "--all", "--no-restart"]
    command, variables = [sys.executable, "-m", "certmond", *map(str, options)], os.environ | {"HOME": str(made.place)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert PIN.decode() not in done.stdout + done.stderr
    after = node.serials()
    assert before.keys() == after.keys() == {"apiserver", "admin.conf"}
    assert before.items().isdisjoint(after.items())
    node.now = datetime.now(UTC)
    assert node.unwell() == []
    user = yaml.safe_load(node.at("/etc/kubernetes/admin.conf").read_bytes())["users"][0]["user"]
    admin = base64.b64decode(user["client-certificate-data"])
    for name, pem in (("sslserver", node.at(f"{PKI}/apiserver.crt").read_bytes()), ("sslclient", admin)):
        (tmp_path / "leaf.pem").write_bytes(pem)
        words = [str(node.at(CA["path"])), str(tmp_path / "leaf.pem")]
        command = [real_part("openssl"), "verify", "-x509_strict", "-purpose", name, "-CAfile", *words]
        subprocess.run(command, check=True, capture_output=True)
    files = [*node.files(), *(path for path in made.place.rglob("*") if path.is_file())]
    assert len(made.files()) > 2
    assert files_with_key(files, made.public) == []
    assert [path for path in node.files() if PIN in path.read_bytes()] == []


def test_the_search_finds_a_key_in_every_form(made: Token, tmp_path: Path) -> None:
    """A file that contains the key of a CA as PEM, as DER, in a kubeconfig or as a number is found."""
    key = ec.generate_private_key(ec.SECP256R1())
    forms = [
        key.private_bytes(encoding, form, NoEncryption())
        for encoding in (Encoding.PEM, Encoding.DER)
        for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL)
    ]
    forms += [b"client-key-data: " + base64.b64encode(forms[0]), key.private_numbers().private_value.to_bytes(32)]
    for number, content in enumerate(forms):
        (tmp_path / str(number)).write_bytes(b"text\n" + content)
    files = sorted(tmp_path.iterdir())
    assert files_with_key(files, key.public_key()) == files
    assert files_with_key(files, made.public) == []


def test_the_program_signs_only_what_the_request_says(made: Token) -> None:
    """The certificate has the subject, names and usages of the request, CA:FALSE, 90 days, and a random serial. The
    program rejects a request for a CA certificate.
    """
    asked = request()
    certificate = x509.load_pem_x509_certificate(made.sign(asked))
    facts = parse_certificate(certificate.public_bytes(Encoding.DER))
    assert facts.attributes == {"CN=kube-apiserver", "O=shop"}
    assert facts.names == frozenset({"DNS:kubernetes"})
    assert facts.extended_usages == frozenset({"server auth"})
    assert facts.usages == frozenset({"digital signature"})
    assert facts.is_ca is False
    assert facts.not_after - facts.not_before == timedelta(days=90)
    certificate.verify_directly_issued_by(made.ca)
    assert x509.load_pem_x509_certificate(made.sign(asked)).serial_number != certificate.serial_number
    with pytest.raises(RefusedError, match="refused apiserver: this program signs no CA certificate"):
        made.sign(request(is_ca=True))
    with pytest.raises(RefusedError, match="does not support POLL"):
        made.sign(replace(request(), cookie="x"))


@pytest.mark.parametrize("status", [0, 3])
def test_the_program_leaves_no_file(made: Token, tmp_path: Path, status: int) -> None:
    """The program removes its private directory after a success and after a failure."""
    command = [word if status == 0 else word.replace("object=ca;", "object=other;") for word in made.signer["command"]]
    variables = {"CERTMONGER_CSR": request().pem().decode(), "TMPDIR": str(tmp_path), "HOME": str(made.place)}
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, check=False)
    assert done.returncode == status
    assert (b"BEGIN CERTIFICATE" in done.stdout) is (status == 0)
    assert list(tmp_path.iterdir()) == []


def test_no_process_has_the_pin_in_its_arguments_or_environment(made: Token, tmp_path: Path) -> None:
    """The program and each openssl that it starts have the path of the PIN, and not the PIN."""
    log, wrapper = tmp_path / "log", tmp_path / "openssl"
    record = f"cat /proc/$$/cmdline /proc/$$/environ /proc/$PPID/cmdline /proc/$PPID/environ >> {log}"
    wrapper.write_text(f'#!/bin/sh\n{record}\nexec {real_part("openssl")} "$@"\n')
    wrapper.chmod(0o700)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        made.sign(request())
    assert log.read_bytes().count(b"pin-source=file:") > 1
    assert PIN not in log.read_bytes()


def test_the_program_names_the_missing_part(made: Token, tmp_path: Path) -> None:
    """Without a PIN, with a wrong PIN, token or CA, and with a PIN in an argument, the program names the cause."""
    program, configuration, ca, uri = made.signer["command"]

    def problem(*command: str) -> str:
        with pytest.raises((RefusedError, UnreachableError)) as raised:
            made.sign(request(), (program, *command))
        assert PIN.decode() not in str(raised.value)
        return str(raised.value)

    other = tmp_path / "other"
    assert f"is not configured: {other} is missing or empty" in problem(
        configuration, ca, uri.replace(str(made.pin), str(other))
    )
    other.write_text("0000")
    assert "cannot reach its CA: Could not" in problem(configuration, ca, uri.replace(str(made.pin), str(other)))
    assert "cannot reach its CA: Could not" in problem(configuration, ca, uri.replace("kubernetes", "other"))
    assert "use pin-source=file:FILE" in problem(configuration, ca, "pkcs11:object=ca?pin-value=1234")
    assert "has no pin-source=file:FILE" in problem(configuration, ca, "pkcs11:object=ca")
    assert "is not configured: usage: pkcs11 OPENSSL_CONF CA_CERT KEY_URI" in problem(configuration)
    now = datetime.now(UTC)
    foreign = make_ca(not_before=now - DAY, not_after=now + 100 * DAY)
    other.write_bytes(foreign.pem)
    assert "cannot reach its CA: CA certificate and CA private key do not match" in problem(
        configuration, str(other), uri
    )
    other.write_bytes(make_ca(key=foreign.key, not_before=now - DAY, not_after=now + 80 * DAY).pem)
    assert f"refused apiserver: {other} expires in less than 90 days; rotate the CA" in problem(
        configuration, str(other), uri
    )
