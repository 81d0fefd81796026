"""A complete rotation of the Root CA on a node with forged files: neither CA signs a forgery."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.rotation.phases import Mode, Phase
from certmond.pki.x509.certificate_file_parser import decode
from certmond.state.renewals import Ledger
from tests.builders import DAY, YEAR, Issued, make_leaf
from tests.forgeries import forgeries
from tests.rotation_node import RotatingNode, kubeconfig, root_ca

pytestmark = pytest.mark.real("openssl")

FORMS = ("file", "kubeconfig", "kubelet")
LEGITIMATE = frozenset({"CN=web", "CN=user", "CN=app"})
"""All subjects that the old CA has signed here and must sign again."""


class ForgedNode(RotatingNode):
    """A node that has each form of certificate once genuine and five times forged, or where another user can write."""

    def __init__(self, place: Path) -> None:
        self.entries: list[dict[str, Any]] = []
        self.certificates: dict[str, Path] = {}
        super().__init__(place)
        now = datetime.now(UTC)
        good: Any = {"not_before": now - 2 * DAY, "not_after": now + 60 * DAY}
        forged: dict[str, Callable[[], Issued]] = {
            "genuine": lambda: make_leaf(self.old, "app", **good),
            **forgeries(self.old, now, **good),
            "shared": lambda: make_leaf(self.old, "mallory", **good),
        }
        for form in FORMS:
            for name, forge in forged.items():
                self._install(form, name, forge())
            (self.files / form / "shared").chmod(0o777)
            older = self.files / form / "older"
            entry = next(each for each in self.entries if each["path"].startswith(f"{older}/"))
            # certmond has installed a later certificate in place of this one, without the group.
            Ledger(self.state).store(
                (entry["name"], entry["path"]), Attempt(now - DAY, sha256="0" * 64, ends_at=now + YEAR)
            )
        self.configure()

    def _install(self, form: str, name: str, issued: Issued) -> None:
        directory = self.files / form / name
        directory.mkdir(parents=True)
        entry: dict[str, Any] = {"name": f"{form}-{name}", "ca": "ca"}
        match form:
            case "kubeconfig":
                path = directory / "user.conf"
                path.write_bytes(kubeconfig(self.old, issued))
                path.chmod(0o600)
                entry |= {"kind": "kubeconfig", "path": str(path)}
            case "kubelet":
                dated, path = directory / "client-2026-01-01-00-00-00.pem", directory / "client-current.pem"
                dated.write_bytes(issued.pem + issued.key_pem)
                dated.chmod(0o600)
                path.symlink_to(dated)
                entry |= {"kind": "kubelet", "path": str(path), "key": str(path)}
            case _:
                path = directory / "app.crt"
                path.write_bytes(issued.pem)
                (directory / "app.key").write_bytes(issued.key_pem)
                (directory / "app.key").chmod(0o600)
                entry |= {"path": str(path), "key": str(directory / "app.key")}
        self.certificates[entry["name"]] = path
        self.entries.append(entry)

    def configure(self, **more: Any) -> None:
        super().configure(**more)
        path = self.place / "config.yaml"
        document = yaml.safe_load(path.read_text())
        document["certificates"] += self.entries
        path.write_text(yaml.safe_dump(document))

    def reset(self, names: set[str]) -> None:
        """Remove entries from the configuration."""
        self.entries = [entry for entry in self.entries if entry["name"] not in names]
        self.configure()

    @property
    def forged(self) -> dict[str, bytes]:
        """Return the content of the forged files, by entry."""
        return {name: path.read_bytes() for name, path in self.certificates.items() if not name.endswith("-genuine")}

    @property
    def genuine(self) -> list[bytes]:
        """The genuine certificates, as PEM."""
        found = []
        for path in (path for name, path in self.certificates.items() if name.endswith("-genuine")):
            content = path.read_bytes()
            if content.startswith(b"apiVersion"):
                content = base64.b64decode(yaml.safe_load(content)["users"][0]["user"]["client-certificate-data"])
            found.append(content)
        return found

    def signed_by(self, authority: Issued) -> set[str]:
        """The subjects of all certificates on the node and in its state directory that `authority` has signed."""
        subjects = set[str]()
        for path in (path for top in (self.files, self.state) for path in top.rglob("*") if path.is_file()):
            content = path.read_bytes()
            if b"client-certificate-data" in content and content.startswith(b"apiVersion"):
                content = base64.b64decode(yaml.safe_load(content)["users"][0]["user"]["client-certificate-data"])
            for each in decode(content, path.name).certificates:
                if not each.is_ca and self.verifies(x509_pem(each.der), authority):
                    subjects.add(each.subject)
        return subjects


def x509_pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


@pytest.mark.long
@pytest.mark.parametrize("mode", [Mode.OVERLAP, Mode.REPLACE])
def test_a_whole_rotation_signs_nothing_forged(tmp_path: Path, mode: Mode) -> None:
    """The new CA signs what the old one had signed, and nothing forged, in every phase. If the CA's key may sign no
    successor of a certificate whose file only root can write, the rotation waits in `issue` and names it. It continues
    when no entry names that file, and then only the new CA is in place. For a file that other users can write it does
    not wait, and names that file at the end.
    """
    node, new = ForgedNode(tmp_path / "place"), root_ca()
    before = node.forged
    node.begin(new, mode)
    unsigned = {f"{form}-older" for form in FORMS}
    for _ in range(25):
        node.step()
        assert node.forged == before
    assert node.phase is Phase.ISSUE
    waits = " ".join(waits_of(node))
    for name in unsigned:
        assert (
            f"{node.certificates[name]} is still signed by the old CA (certmond does not sign the certificate with "
            "the CA's key" in waits
        )
    assert "shared" not in waits
    node.reset(unsigned)
    node.walk()
    assert node.unwell(new) == []
    assert node.forged == before
    assert all(node.verifies(pem, new, usage="sslclient") for pem in node.genuine)
    assert node.signed_by(new) == LEGITIMATE
    end = next(each["message"] for each in reversed(node.audit()) if each.get("step") == "rotation")
    assert [form for form in FORMS if str(node.certificates[f"{form}-shared"]) not in end] == [], end


def waits_of(node: ForgedNode) -> tuple[str, ...]:
    enforcer = node.enforcer()
    assessment, around = enforcer.see()
    enforcer.rotate(assessment, around, enforcer.plan(assessment, around=around))
    return enforcer.rotating.waits


@pytest.mark.long
def test_an_abort_signs_nothing_forged(tmp_path: Path) -> None:
    """During an abort the old CA signs what it had signed before, and nothing forged."""
    node, new = ForgedNode(tmp_path / "place"), root_ca()
    before = node.forged
    node.begin(new)
    node.walk(lambda: node.phase is Phase.ISSUE)
    for _ in range(20):
        node.step()
    assert node.hurry("root-ca", "abort", "--no-wait").code == 0
    for _ in range(25):
        node.step()
        assert node.forged == before
    assert node.record is None
    assert node.unwell(node.old) == []
    assert node.signed_by(node.old) == LEGITIMATE | {"CN=mallory,O=developers", "CN=mallory"}  # as before
