"""The rotation of a CA whose key is on no node: a signer outside of certmond issues the leaves."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.pki.planning.steps import Issue, Plan
from certmond.pki.rotation.phases import Mode, Phase, Rotation, abort
from certmond.pki.x509.certificate import Certificate, parse_certificate
from certmond.rotation.staged_ca import Part, Staging
from tests.builders import Issued
from tests.key_search import files_with_key
from tests.rotation_node import RotatingNode, kubeconfig, root_ca
from tests.signers.test_pkcs11_docs import request
from tests.softhsm import Token, issued, public_key, token

pytestmark = pytest.mark.real("openssl")


class ExternalNode(RotatingNode):
    """A node without the key of its CA, whose leaves come from signers of kind `command`."""

    def __init__(self, place: Path, commands: dict[str, list[str]], **more: Any) -> None:
        self.commands = commands
        super().__init__(place, **more)
        (self.files / "ca.key").unlink()

    def configure(self, **more: Any) -> None:
        signers = [{"name": name, "kind": "command", "command": command} for name, command in self.commands.items()]
        super().configure(signers=signers, **more)
        path = self.place / "config.yaml"
        document = yaml.safe_load(path.read_text())
        ca, *leaves = document["certificates"]
        ca["key_optional"] = True
        for entry in leaves:
            entry["signer"] = entry["name"] if entry["name"] in self.commands else next(iter(self.commands), "local")
        path.write_text(yaml.safe_dump(document))


def facts(certificate: x509.Certificate) -> Certificate:
    return parse_certificate(certificate.public_bytes(Encoding.DER))


class Rotated:
    """A node whose CA is in a token, and a new CA in the token. The token signs with the old CA until `switch`."""

    def __init__(self, place: Path, made: Token, *, hurried: bool = False) -> None:
        self.new, self._new_signer = made.another
        self.old, self.token = made.ca, made
        self.node = node = ExternalNode(place, {"token": made.signer["command"]}, hurried=hurried)
        node.put("ca.crt", made.ca.public_bytes(Encoding.PEM))
        web, user = self._leaf("web", "server auth"), self._leaf("user", "client auth")
        node.put("web.crt", web.pem)
        node.put("web.key", web.key_pem)
        node.put("user.conf", kubeconfig(issued(made.ca, None), user))

    def _leaf(self, name: str, usage: str) -> Issued:
        asked = request(subject=x509.Name.from_rfc4514_string(f"CN={name}"), extended_usages=(usage,))
        return issued(x509.load_pem_x509_certificate(self.token.sign(asked)), asked.key)

    def begin(self) -> None:
        node, old, new = self.node, facts(self.old), facts(self.new)
        Staging(node.state).put(Part.NEW, "ca", new, None)
        made = Rotation("20261124T120000Z-abcdef", "ca", Mode.OVERLAP, (old,), new, Phase.PREPARE, node.clock())
        enforcer = node.enforcer()
        enforcer.see()
        enforcer.rotating.start(made)

    def switch(self, *, back: bool = False) -> None:
        """Configure the signer to sign with the new CA, or with the old CA (`back`)."""
        self.node.commands = {"token": self.token.signer["command"] if back else self._new_signer}
        self.node.configure()

    def renew(self) -> None:
        """Renew the leaves by a command, as a message of the phase demands."""
        done = self.node.certmond("renew", "web", "user.conf")
        assert done.returncode == 0, done.stderr

    def passes(self, until: Phase | None = None) -> Iterator[str]:
        """Pass after pass, until this phase or the end of the rotation. After each pass, no file has a key of a CA."""
        for _ in range(2000):
            if self.node.record is None or self.node.phase is until:
                return
            yield self.node.step() or ""
            for each in (self.old, self.new):
                assert files_with_key(self.files(), public_key(each)) == []
        raise AssertionError(f"it does not become idle: {self.node.record}")

    def files(self) -> list[Path]:
        """Return every file of the node and of certmond, and the files of the token, which are encrypted."""
        places = (self.node.place, self.token.place)
        return [path for place in places for path in place.rglob("*") if path.is_file()]

    def waits(self) -> str:
        """Return the conditions that the phase waits for."""
        enforcer = self.node.enforcer()
        assessment, around = enforcer.see()
        enforcer.rotate(assessment, around, enforcer.plan(assessment, around=around))
        return "; ".join(enforcer.rotating.waits)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Token:
    return token(tmp_path_factory.mktemp("token"))


@pytest.fixture
def rotated(quick: Path, made: Token, monkeypatch: pytest.MonkeyPatch) -> Rotated:
    monkeypatch.setenv("HOME", str(made.place))  # where SoftHSM reads its configuration
    return Rotated(quick / "place", made)


@pytest.mark.long
@pytest.mark.real("softhsm2-util")
def test_a_ca_in_a_token_follows_another(rotated: Rotated) -> None:
    """No node ever has the key of a CA. The phase `issue` waits until the signer signs with the new CA, and names the
    signer, the CA and the next command. At the end only the new CA is trusted, and it has signed all leaves.
    """
    node, new = rotated.node, facts(rotated.new)
    before = node.read("web.crt"), node.user()
    rotated.begin()
    assert [*rotated.passes(Phase.ISSUE)] != []
    assert node.trust() == node.embedded() == (facts(rotated.old), new)
    assert (node.read("web.crt"), node.user()) == before
    passes = rotated.passes()
    said = next(each for each in passes if "failed" in each)
    assert "is from a CA that must not sign in this phase of the rotation; wait until the signer token" in said
    assert (node.read("web.crt"), node.user(), node.phase) == (*before, Phase.ISSUE)
    assert "web.crt is still signed by the old CA (the attempt failed once: " in (waits := rotated.waits())
    assert (
        f"the CA with the SHA-256 {new.sha256[:16]}…, or configure this signer to do so, then run: certmond renew web"
        in waits
    )
    rotated.switch()
    rotated.renew()
    assert [*passes] != []
    assert node.phases() == ["prepare", "detach", "trust", "issue", "distrust", "attach", "done", "done"]
    assert node.trust() == node.embedded() == (new,)
    anchor = issued(rotated.new, None)
    assert node.verifies(node.read("web.crt"), anchor, usage="sslserver")
    assert node.verifies(node.user(), anchor, usage="sslclient")
    assert node.belongs("web.crt")
    assert node.belongs("user.conf")
    assert node.staged == []
    assert not (node.files / "ca.key").exists()
    assert node.findings() == {}


@pytest.mark.long
@pytest.mark.real("softhsm2-util")
def test_an_abort_in_issue_waits_for_the_old_ca(quick: Path, made: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an abort in `issue`, the phase waits until the signer signs with the old CA again. At the end only the old
    CA is trusted, and it has signed all leaves.
    """
    monkeypatch.setenv("HOME", str(made.place))
    rotated = Rotated(quick / "place", made, hurried=True)  # so that no pause after an attempt lasts
    node, old = rotated.node, facts(rotated.old)
    rotated.begin()
    assert [*rotated.passes(Phase.ISSUE)] != []
    rotated.switch()
    passes = rotated.passes()
    next(each for each in passes if "done" in each and node.verifies(node.user(), issued(rotated.new, None)))
    enforcer = node.enforcer()
    enforcer.see()
    assert enforcer.rotation_state.rotation
    enforcer.rotating.change(abort(enforcer.rotation_state.rotation, node.clock()))
    said = next(each for each in passes if "failed" in each)
    assert f"wait until the signer token signs with the CA with the SHA-256 {old.sha256[:16]}…" in said
    rotated.switch(back=True)
    assert [*passes] != []
    assert node.trust() == node.embedded() == (old,)
    anchor = issued(rotated.old, None)
    assert node.verifies(node.read("web.crt"), anchor, usage="sslserver")
    assert node.verifies(node.user(), anchor, usage="sslclient")
    assert node.staged == []


@pytest.mark.long
@pytest.mark.real("softhsm2-util")
def test_the_new_ca_signs_nothing_before_all_trust_it(rotated: Rotated) -> None:
    """If the signer signs with the new CA already in `trust`, certmond installs no certificate, also not by request."""
    node = rotated.node
    rotated.begin()
    assert [*rotated.passes(Phase.TRUST)] != []
    node.walk(lambda: len(node.embedded()) == 2)
    before = node.tree()
    rotated.switch()
    enforcer = node.enforcer()
    assessment, around = enforcer.see()
    plan = enforcer.plan(assessment, frozenset({"web"}), around=around)
    (step,) = (each for each in plan.steps if isinstance(each, Issue))
    assert step.under == facts(rotated.old)
    (outcome,) = enforcer.executor.execute(Plan((step,)))
    assert outcome.result == "failed"
    assert f"token signs with the CA with the SHA-256 {facts(rotated.old).sha256[:16]}…" in outcome.message
    assert node.tree() == before


def test_only_the_certificate_is_staged(quick: Path) -> None:
    """`stage` takes CERT without KEY, says that this node needs no key, and refuses KEY. `rotate --plan` lists the
    leaves and no key.
    """
    node, new = ExternalNode(quick / "place", {"site": [sys.executable, "--version"]}), root_ca()
    certificate, key = node.place / "new.crt", node.place / "new.key"
    certificate.write_bytes(new.pem)
    key.write_bytes(new.key_pem)
    refused = node.hurry("root-ca", "stage", str(certificate), str(key))
    assert (refused.code, node.staged) == (2, [])
    assert "only nodes that sign may have a CA key" in refused.err
    staged = node.hurry("root-ca", "stage", str(certificate))
    assert staged.code == 0, staged.err
    assert staged.out.endswith(
        "\nthis node needs no key of the CA, because these signers issue all leaves of the CA: site\n"
    )
    assert node.staged == ["new.crt", "new.family"]
    plan = node.hurry("root-ca", "rotate", "--plan")
    assert plan.code == 0
    assert "web.crt is issued again by the new CA" in plan.out
    assert "ca.key" not in plan.out
    assert plan.err.count("refused") == 0


def test_a_leaf_that_the_key_of_the_ca_signs_needs_the_key(quick: Path) -> None:
    """If one leaf has the signer `local`, `stage` does not say that no key is needed, and `rotate` names the leaf."""
    node, new = ExternalNode(quick / "place", {"web": [sys.executable, "--version"]}), root_ca()
    path = node.place / "config.yaml"
    document = yaml.safe_load(path.read_text())
    document["certificates"][2]["signer"] = "local"
    path.write_text(yaml.safe_dump(document))
    certificate = node.place / "new.crt"
    certificate.write_bytes(new.pem)
    staged = node.hurry("root-ca", "stage", str(certificate))
    assert (staged.code, "needs no key" in staged.out) == (0, False)
    refused = node.hurry("root-ca", "rotate")
    assert refused.code == 2
    assert f"no other signer issues {node.files}/user.conf; set `signer` in these entries" in refused.err
    assert node.record is None


def test_a_node_with_a_key_still_needs_the_new_key(quick: Path) -> None:
    """External signers of all leaves change nothing on a node that has the key of the CA."""
    node, new = ExternalNode(quick / "place", {"site": [sys.executable, "--version"]}), root_ca()
    node.put("ca.key", node.old.key_pem)
    certificate = node.place / "new.crt"
    certificate.write_bytes(new.pem)
    refused = node.hurry("root-ca", "stage", str(certificate))
    assert refused.code == 2
    assert "give the private key of" in refused.err


def test_new_dates_of_the_ca_need_no_key(quick: Path) -> None:
    """A CA with the key of the present CA signs no leaf again, so a node without this key rotates to it."""
    node = ExternalNode(quick / "place", {})
    new = root_ca(key=node.old.key)
    certificate, before = node.place / "new.crt", (node.read("web.crt"), node.user())
    certificate.write_bytes(new.pem)
    staged = node.hurry("root-ca", "stage", str(certificate))
    assert (staged.code, "mode reissue" in staged.out) == (0, True), staged.err
    assert "refused" not in node.hurry("root-ca", "rotate", "--plan").err
    done = node.hurry("root-ca", "rotate")
    assert done.code == 0, done.err
    assert node.trust() == node.embedded() == (new.facts,)
    assert (node.read("web.crt"), node.user()) == before
    assert (node.staged, node.findings()) == ([], {})
