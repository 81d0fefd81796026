"""The examples in docs/signers.md work as described."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.cluster.csr_signer import KUBELET_CLIENT, KUBELET_SERVING
from certmond.errors import RefusedError, SigningError, UnreachableError
from certmond.formats.private_key import make_key
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.catalog.settings import SignerSpec
from certmond.pki.catalog.validator import validated
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.template import Template, general_name
from certmond.pki.x509.certificate import Certificate, parse_certificate
from certmond.signers.command import CommandSigner
from certmond.signers.protocol import Request
from tests.builders import NOW, YEAR, Issued, make_ca
from tests.conftest import real_part

TEXT = (Path(__file__).parents[2] / "docs" / "signers.md").read_text()
SCRIPTS = dict(re.findall(r"```sh\n(?=#!/bin/sh\n# ([\w-]+))(.*?)```", TEXT, re.DOTALL))
YAML = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)]
pytestmark = pytest.mark.real("openssl")


def request() -> Request:
    template = Template(
        subject=x509.Name.from_rfc4514_string("CN=kube-apiserver,O=shop"),
        not_before=NOW,
        not_after=NOW + YEAR,
        key=KeyAlgorithm.ECDSA_P256,
        usages=frozenset({"digital signature"}),
        extended_usages=("server auth",),
        names=(general_name("DNS:kubernetes"), general_name("IP:10.96.0.1")),
    )
    return Request("apiserver", Grant(template), make_key(template.key), "node-1")


class Helper:
    """A script of the documentation, and a CA in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.directory = directory
        self.path = self.program(name, SCRIPTS[name].replace("/etc/certmond", str(directory)))
        self.ca = make_ca(key="rsa")
        (directory / "ca.crt").write_bytes(self.ca.pem)
        (directory / "ca.key").write_bytes(self.ca.key_pem)

    def program(self, name: str, content: str) -> str:
        path = self.directory / name
        path.write_text(content)
        path.chmod(0o700)
        return str(path)

    def sign(self, asked: Request) -> bytes:
        signer = CommandSigner("ca", (self.path, str(self.directory)), time_limit=timedelta(seconds=20))
        return signer.sign(asked).pem


def facts(pem: bytes) -> Certificate:
    return parse_certificate(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))


def check(pem: bytes, ca: Issued, tmp_path: Path) -> None:
    """Assert that the certificate has the requested fields, and that OpenSSL verifies it."""
    made = facts(pem)
    assert made.attributes == {"CN=kube-apiserver", "O=shop"}
    assert made.names == frozenset({"DNS:kubernetes", "IP:10.96.0.1"})
    assert made.extended_usages == frozenset({"server auth"})
    assert made.is_ca is False
    (tmp_path / "leaf.pem").write_bytes(pem)
    files = [str(tmp_path / "ca.crt"), str(tmp_path / "leaf.pem")]
    command = [real_part("openssl"), "verify", "-no_check_time", "-CAfile", *files]
    subprocess.run(command, check=True, capture_output=True)
    assert made.authority_key_id == ca.subject_key_id


def test_the_openssl_script_signs(tmp_path: Path) -> None:
    """A real run of the script for OpenSSL signs the request, for 90 days, with another serial each time."""
    helper = Helper(tmp_path, "sign-with-openssl")
    pem = helper.sign(request())
    check(pem, helper.ca, tmp_path)
    made = facts(pem)
    assert made.not_after - made.not_before == timedelta(days=90)
    assert made.serial != facts(helper.sign(request())).serial
    assert made.usages == frozenset({"digital signature"})


def test_the_openssl_script_refuses(tmp_path: Path) -> None:
    """It signs no CA, says that it has no key, and answers no other operation."""
    helper = Helper(tmp_path, "sign-with-openssl")
    asked = request()
    with pytest.raises(RefusedError, match="refused apiserver: no CA is signed here"):
        helper.sign(replace(asked, grant=Grant(replace(asked.template, is_ca=True))))
    with pytest.raises(RefusedError, match="does not support POLL"):
        helper.sign(replace(asked, cookie="x"))
    (tmp_path / "ca.crt").write_bytes(make_ca().pem)
    with pytest.raises(UnreachableError, match=r"cannot reach its CA: .+"):
        helper.sign(asked)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(RefusedError, match=f"is not configured: there is no CA key in {tmp_path}"):
        helper.sign(asked)


STAND_INS = {
    "step": 'eval "certificate=\\${$#}"; shift $(($# - 2)); {sign} -in "$1" -out "$certificate"',
    "vault": 'for word; do case $word in csr=@*) {sign} -in "${word#csr=@}" ;; esac; done',
    "cfssl": 'shift $(($# - 1)); {sign} -in "$1"',
    "cfssljson": 'cat > "$2.pem"',
}


@pytest.mark.parametrize("name", ["sign-with-step", "sign-with-vault", "sign-with-cfssl"])
def test_the_other_scripts_hand_over_what_is_signed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripts for step-ca, Vault and cfssl hand over the request and the certificate, and what went wrong."""
    helper = Helper(tmp_path, name)
    (tmp_path / "vault-token").write_text("hunter2")
    sign = f"{real_part('openssl')} x509 -req -CA {tmp_path}/ca.crt -CAkey {tmp_path}/ca.key -copy_extensions copy"
    sign += f" -extfile {tmp_path}/extensions -days 90"
    (tmp_path / "extensions").write_text("authorityKeyIdentifier=keyid\n")
    for program, content in STAND_INS.items():
        helper.program(program, f"#!/bin/sh -e\n{content.replace('{sign}', sign)}\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    check(helper.sign(request()), helper.ca, tmp_path)
    for program in STAND_INS:
        helper.program(program, "#!/bin/sh\necho one >&2\necho 'no route to the CA' >&2\nexit 1\n")
    with pytest.raises(UnreachableError, match=r"cannot reach its CA: no route to the CA$"):
        helper.sign(request())
    with pytest.raises(SigningError, match="does not support POLL"):
        helper.sign(replace(request(), cookie="x"))


def test_every_script_is_tested() -> None:
    """The tests run every script of the page."""
    assert TEXT.count("#!/bin/sh") == len(SCRIPTS) == 4


def test_the_examples_of_configuration_are_valid() -> None:
    """Each signer in an example is one that the configuration takes, and has every kind's fields right."""
    specs = [validated(SignerSpec, row) for block in YAML for row in block.get("signers", ())]
    assert [spec.kind for spec in specs] == ["command", "local", "kubeadm", "command", "command"]


def test_the_cluster_role_is_what_the_signer_uses() -> None:
    """The role names the two signers that certmond approves for, and the verbs that its calls need."""
    (role,) = (block for block in YAML if block.get("kind") == "ClusterRole")
    granted = {(rule["resources"][0], verb) for rule in role["rules"] for verb in rule["verbs"]}
    assert granted == {
        ("certificatesigningrequests", "create"), ("certificatesigningrequests", "get"),
        ("certificatesigningrequests/approval", "update"), ("signers", "approve"), ("nodes", "get"),
    }  # fmt: skip
    (signers,) = (rule["resourceNames"] for rule in role["rules"] if "resourceNames" in rule)
    assert signers == [KUBELET_CLIENT, KUBELET_SERVING]
