"""Each problem that the runbook repairs with `certmond renew NAME` is repaired by that command."""

from __future__ import annotations

import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import rsa

from certmond.cli.main import cli
from certmond.cli.runbook_search import explain
from certmond.pki.findings import Reason
from tests.conftest import real_part
from tests.node import PKI, Node, sha1_signed

CONFIGURATION = "key_algorithm: ECDSA-P256\nnode_name: node-1\ninit: {advertise_address: 192.0.2.10}\n"
API = f"{PKI}/apiserver"
KUBELET_LINK = "var/lib/kubelet/pki/kubelet-client-current.pem"
TODAY, DAY = datetime.now(UTC), timedelta(days=1)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("remedies")
    (root / "config.yaml").write_text(CONFIGURATION)
    assert certmond(root, "init").exit_code == 0
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "root", symlinks=True))


def certmond(root: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["--root", str(root), "--config", str(root / "config.yaml"), *words])


def reasons(root: Path) -> set[str]:
    at = datetime.now(UTC) + timedelta(minutes=1)  # until then two halves may be those of one change
    return set(re.findall(r"\[(\w+)\]$", certmond(root, "check", "--at", at.isoformat()).stdout, re.MULTILINE))


def foreign(name: str) -> Callable[[Path], None]:
    """Install the pair of another certificate in place of the API server's."""

    def change(pki: Path) -> None:
        for suffix in (".crt", ".key"):
            shutil.copyfile(pki / f"{name}{suffix}", pki / f"apiserver{suffix}")

    return change


def appended(text: Callable[[Path], str]) -> Callable[[Path], None]:
    def change(pki: Path) -> None:
        with (pki / "apiserver.crt").open("a") as file:
            file.write(text(pki))

    return change


def node(pki: Path) -> Node:
    """The node to which the directory belongs, as the helper that forges certificates."""
    made = Node.__new__(Node)  # without the tree that it would unpack
    made.root = pki.parents[2]
    return made


def reissued(**changes: Any) -> Callable[[Path], None]:
    """Return a function that issues the API server's certificate and key again, with these changes."""
    return lambda pki: node(pki).reissue(API, **changes)


def plain_pem(pki: Path) -> None:
    """Replace the symlink to the kubelet's PEM with a plain file."""
    link = pki.parents[2] / KUBELET_LINK
    content = (link.parent / link.readlink().name).read_bytes()  # the target is an absolute path of the node
    link.unlink()
    link.write_bytes(content)
    link.chmod(0o600)


DAMAGES: dict[Reason, Callable[[Path], object]] = {
    Reason.EXPIRED: reissued(start=TODAY - 9 * DAY, end=TODAY - DAY),
    Reason.NOT_YET_VALID: reissued(start=TODAY + DAY, end=TODAY + 300 * DAY),
    Reason.NEARING_EXPIRY: reissued(start=TODAY - 300 * DAY, end=TODAY + 3 * DAY),
    Reason.WEAK_KEY: reissued(key=rsa.generate_private_key(65537, 1024)),  # noqa: S505 - weak on purpose
    Reason.WEAK_SIGNATURE: lambda pki: node(pki).write(f"{API}.crt", sha1_signed(node(pki), API, f"{PKI}/ca")),
    Reason.NOT_A_SYMLINK: plain_pem,
    Reason.KEY_MISMATCH: lambda pki: shutil.copyfile(pki / "etcd/server.key", pki / "apiserver.key"),
    Reason.KEY_MISSING: lambda pki: (pki / "apiserver.key").unlink(),
    Reason.WRONG_SUBJECT: foreign("apiserver-kubelet-client"),
    Reason.WRONG_USAGE: foreign("apiserver-kubelet-client"),
    Reason.MISSING_NAME: foreign("apiserver-kubelet-client"),
    Reason.NO_PATH: foreign("front-proxy-client"),
    Reason.UNEXPECTED_CHAIN: appended(lambda pki: (pki / "ca.crt").read_text()),
    Reason.TRAILING_DATA: appended(lambda _: "junk\n"),
}


@pytest.mark.long
@pytest.mark.parametrize("reason", DAMAGES)
def test_a_renewal_repairs_what_the_runbook_promises(reason: Reason, root: Path) -> None:
    """A finding whose section has `certmond renew NAME` as a remedy exists before the command, and no finding exists
    after it.
    """
    assert "`certmond renew NAME`" in explain(reason)
    DAMAGES[reason](root / "etc/kubernetes/pki")
    assert reason in reasons(root)
    certmond(root, "renew", "kubelet-client" if reason is Reason.NOT_A_SYMLINK else "apiserver")
    assert not reasons(root)


ELSEWHERE = {
    Reason.MISSING: "tests/test_repairs.py",
    Reason.MALFORMED: "tests/test_repairs.py",
    Reason.KEY_UNUSABLE: "below, with the openssl of this machine",
    Reason.EMBEDDED_CA_DIFFERS: "below, with a kubeconfig",
}


def test_each_reason_that_a_renewal_clears_is_tested() -> None:
    """The reasons with `cleared_by_renewal` are those whose renewal a test executes. The runbook names it for each."""
    cleared = {reason for reason in Reason if reason.cleared_by_renewal}
    assert cleared == {*DAMAGES, *ELSEWHERE}
    assert not [reason for reason in cleared if "`certmond renew NAME`" not in explain(reason)]


@pytest.mark.real("openssl")
def test_renewing_replaces_a_key_with_explicit_curve_parameters(root: Path) -> None:
    """`certmond renew NAME` is the remedy of key_unusable."""
    key = root / f"{API}.key"
    with_parameters = [real_part("openssl"), "pkey", "-in", str(key), "-ec_param_enc", "explicit"]
    key.write_bytes(subprocess.run(with_parameters, capture_output=True, check=True).stdout)
    assert Reason.KEY_UNUSABLE in reasons(root)
    certmond(root, "renew", "apiserver")
    assert not reasons(root)


def test_renewing_a_kubeconfig_embeds_the_whole_of_the_ca(root: Path) -> None:
    """`certmond renew NAME` is the remedy of embedded_ca_differs."""
    kubeconfig = root / "etc/kubernetes/admin.conf"
    assert "`certmond renew NAME`" in explain(Reason.EMBEDDED_CA_DIFFERS)
    text = kubeconfig.read_text()
    (client,) = re.findall(r"client-certificate-data: (.*)", text)  # equivalent to any certificate other than the CA's
    kubeconfig.write_text(re.sub(r"(certificate-authority-data:) .*", rf"\1 {client}", text))
    assert Reason.EMBEDDED_CA_DIFFERS in reasons(root)
    certmond(root, "renew", "admin.conf")
    assert Reason.EMBEDDED_CA_DIFFERS not in reasons(root)


def test_init_creates_both_files_of_a_kubelet_without_its_pem(root: Path) -> None:
    """The last remedy of `missing`: if kubelet.conf is missing as well, `certmond init` creates the PEM and
    kubelet.conf.
    """
    for file in (root / "var/lib/kubelet/pki").iterdir():
        file.unlink()
    assert Reason.MISSING in reasons(root)
    (root / "etc/kubernetes/kubelet.conf").unlink()
    certmond(root, "init")
    assert not reasons(root)


@pytest.mark.long
def test_a_certificate_of_the_same_key_can_be_put_in_place_by_hand(root: Path) -> None:
    """docs/operations.md, several control planes on which everything has expired: `cp`, `renew --all`, kubelet.conf."""
    ca, kubelet = root / "etc/kubernetes/pki/ca.crt", root / "etc/kubernetes/kubelet.conf"
    certmond(root, "root-ca", "stage", "--reuse-key")
    shutil.copyfile(root / "var/lib/certmond/rotation/new.crt", ca)
    certmond(root, "renew", "--all")
    assert reasons(root) == {Reason.ROOT_CA_CHANGED, Reason.EMBEDDED_CA_DIFFERS}
    data = b64encode(ca.read_bytes()).decode()
    kubelet.write_text(re.sub(r"(certificate-authority-data:) .*", rf"\1 {data}", kubelet.read_text()))
    assert not reasons(root)
