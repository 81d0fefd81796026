"""kubeadm signs in a separate directory, with its own key. Here a stand-in does what its source does."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from certmond.errors import RefusedError, SigningError, UnreachableError
from certmond.formats.private_key import key_pem, make_key
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.template import BACKDATE, Template, general_name
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import public_key_of
from certmond.renewal.key_pair import KeyPair, key_pair
from certmond.signers.kubeadm import KubeadmSigner
from certmond.signers.protocol import Request
from tests.builders import Issued, make_ca, make_leaf
from tests.deadline import DEADLINE

STAND_IN = Path(__file__).with_name("kubeadm_stand_in.py")
NAMES = ("DNS:node-1", "DNS:kubernetes", "IP:10.96.0.1", "IP:fd00::1")


def template(
    usages: tuple[str, ...] = ("server auth",),
    subject: str = "CN=kube-apiserver",
    names: tuple[str, ...] = NAMES,
    key: KeyAlgorithm = KeyAlgorithm.RSA_2048,
    days: int = 90,
) -> Template:
    now = datetime.now(UTC).replace(microsecond=0)
    return Template(
        subject=x509.Name.from_rfc4514_string(subject),
        not_before=now - BACKDATE,
        not_after=now + timedelta(days=days),
        key=key,
        usages=frozenset({"digital signature", "key encipherment"}),
        extended_usages=usages,
        names=tuple(map(general_name, names)),
    )


CLIENT = template(("client auth",), "O=kubeadm:cluster-admins,CN=kubernetes-admin", ())


def request(name: str = "apiserver", made: Template | None = None) -> Request:
    made = made or template()
    return Request(name, Grant(made), make_key(KeyAlgorithm.ECDSA_P256), "node-1")


class Kubeadm:
    """A kubeadm whose version and behavior a test can set."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.state.mkdir(mode=0o700)
        self.ca = self.new_ca()
        self.program = directory / "kubeadm"
        self.seen = directory / "seen"
        self.be("v1.31.0")

    def new_ca(self) -> Issued:
        now = datetime.now(UTC)
        ca = make_ca(not_before=now - timedelta(1), not_after=now + timedelta(3650))
        (self.directory / "real-ca.crt").write_bytes(ca.pem)
        (self.directory / "real-ca.key").write_bytes(ca.key_pem)
        return ca

    def be(self, version: str, instead: str = "") -> None:
        """`instead` is shell that is run before the stand-in, except for `kubeadm version`."""
        run = shlex.join([sys.executable, str(STAND_IN), version])
        before = f'echo "$@" >> {self.seen}\ncase "$1" in version) ;; *)\n:\n{instead}\n;; esac'
        self.program.write_text(f'#!/bin/sh\n{before}\nexec {run} "$@"\n')
        self.program.chmod(0o700)

    def signer(self, seconds: float = DEADLINE) -> KubeadmSigner:
        return KubeadmSigner(
            (str(self.program),),
            str(self.directory / "real-ca.crt"),
            str(self.directory / "real-ca.key"),
            directory=str(self.state),
            time_limit=timedelta(seconds=seconds),
        )


@pytest.fixture
def kubeadm(tmp_path: Path) -> Kubeadm:
    return Kubeadm(tmp_path)


def facts(pem: bytes) -> Certificate:
    (made,) = decode(pem, "it").certificates
    return made


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "apiserver", "apiserver-kubelet-client", "front-proxy-client", "etcd-server", "etcd-peer",
        "etcd-healthcheck-client", "apiserver-etcd-client",
    ],
)  # fmt: skip
def test_kubeadm_renews_a_pair_by_the_template(kubeadm: Kubeadm, name: str) -> None:
    """Each of kubeadm's pairs is renewed with the subject, names, usages and lifetime of the template, by its CA."""
    asked = request(name)
    issued = kubeadm.signer().sign(asked)
    made = facts(issued.pem)
    assert made.subject == "CN=kube-apiserver"
    assert made.names == frozenset(NAMES)
    assert made.extended_usages == frozenset({"server auth"})
    assert abs(made.not_after - asked.template.not_after) < timedelta(minutes=2)
    x509.load_pem_x509_certificate(issued.pem).verify_directly_issued_by(kubeadm.ca.cert)


@pytest.mark.long
@pytest.mark.parametrize(("name", "made"), [("apiserver", template()), ("admin.conf", CLIENT)])
def test_kubeadm_makes_the_key(kubeadm: Kubeadm, name: str, made: Template) -> None:
    """The key that comes back is kubeadm's, belongs to the certificate, and is not the request's."""
    asked = request(name, made)
    issued = kubeadm.signer().sign(asked)
    assert issued.key is not None
    assert public_key_of(issued.key) == facts(issued.pem).key
    assert public_key_of(issued.key) != public_key_of(asked.key)


@pytest.mark.long
@pytest.mark.parametrize(
    ("subject", "attributes"),
    [
        ("O=kubeadm:cluster-admins,CN=kubernetes-admin", {"CN=kubernetes-admin", "O=kubeadm:cluster-admins"}),
        ("CN=system:kube-scheduler", {"CN=system:kube-scheduler"}),
        ("O=a,O=b c,CN=-x $HOME", {"CN=-x $HOME", "O=a", "O=b c"}),
    ],
)
def test_kubeadm_makes_client_credentials(kubeadm: Kubeadm, subject: str, attributes: set[str]) -> None:
    """Any client certificate of one CN and any O comes out of `kubeadm kubeconfig user`, its lifetime as asked for."""
    asked = request("admin.conf", template(("client auth",), subject, ()))
    made = facts(kubeadm.signer().sign(asked).pem)
    assert made.attributes == attributes
    assert made.extended_usages == frozenset({"client auth"})
    assert abs(made.not_after - asked.template.not_after) < timedelta(minutes=2)


@pytest.mark.long
@pytest.mark.parametrize("algorithm", [KeyAlgorithm.RSA_3072, KeyAlgorithm.ECDSA_P256, KeyAlgorithm.ECDSA_P384])
def test_kubeadm_makes_the_requested_kind_of_key(kubeadm: Kubeadm, algorithm: KeyAlgorithm) -> None:
    """From v1.31 on the configuration of kubeadm has the kind of key."""
    issued = kubeadm.signer().sign(request(made=template(key=algorithm)))
    assert str(facts(issued.pem).key).removesuffix("-256").removesuffix("-384") in algorithm.value


@pytest.mark.parametrize(
    ("version", "algorithm"),
    [("v1.31.0", KeyAlgorithm.ED25519), ("v1.30.9", KeyAlgorithm.ECDSA_P256), ("v1.24.17", KeyAlgorithm.RSA_4096)],
)
def test_an_unsupported_kind_of_key_is_refused(kubeadm: Kubeadm, version: str, algorithm: KeyAlgorithm) -> None:
    """A kind that this kubeadm cannot make is refused before the call."""
    kubeadm.be(version)
    expected = f"kubeadm {version} cannot create a {algorithm.value} key; choose another signer"
    with pytest.raises(RefusedError, match=expected):
        kubeadm.signer().sign(request(made=template(key=algorithm)))


@pytest.mark.long
@pytest.mark.parametrize("version", ["v1.22.0", "v1.24.17", "v1.30.14", "v1.34.2", "v1.36.0-alpha.1+abc"])
@pytest.mark.parametrize(("name", "made"), [("apiserver", template()), ("admin.conf", CLIENT)])
def test_each_version_gets_a_configuration_that_it_reads(
    kubeadm: Kubeadm, version: str, name: str, made: Template
) -> None:
    """v1beta3 before v1.31, v1beta4 since: without asking the node, the cluster or the Internet for anything."""
    kubeadm.be(version)
    assert kubeadm.signer().sign(request(name, made)).pem


@pytest.mark.long
def test_kubeadm_works_in_a_private_directory(kubeadm: Kubeadm) -> None:
    """It has links to the CA and a certificate, in a directory that no other user may enter, and writes there."""
    look = f"d=$(dirname \"${{4#--config=}}\"); stat -c '%a %F %n' $d $d/etcd $d/etcd/* > {kubeadm.seen}.ls"
    kubeadm.be("v1.31.0", look)
    before = {path: path.read_bytes() for path in kubeadm.directory.glob("real-ca.*")}
    kubeadm.signer().sign(request("etcd-server"))
    listing = (kubeadm.directory / "seen.ls").read_text().splitlines()
    modes, kinds, names = zip(*((*line.split(" ", 1), Path(line).name) for line in listing), strict=True)
    assert modes[:2] == ("700", "700")
    assert [kind.partition(" /")[0] for kind in kinds[2:]] == ["symbolic link", "symbolic link", "regular file"]
    assert names[2:] == ("ca.crt", "ca.key", "server.crt")
    assert {path: path.read_bytes() for path in before} == before
    assert list(kubeadm.state.iterdir()) == []


@pytest.mark.parametrize("instead", ["exit 1", "kill -9 $$", "sleep 60"])
def test_the_directory_goes_whatever_happens(kubeadm: Kubeadm, instead: str) -> None:
    """Nothing is left where kubeadm fails, dies or hangs."""
    kubeadm.be("v1.31.0", instead)
    with pytest.raises(SigningError):
        kubeadm.signer(seconds=2).sign(request())
    assert list(kubeadm.state.iterdir()) == []


@pytest.mark.long
def test_leftovers_of_a_crash_are_removed(kubeadm: Kubeadm) -> None:
    """A directory that a crash of certmond left, with a key in it, is removed by the next call. Nothing else is."""
    left = kubeadm.state / "kubeadm-crashed"
    left.mkdir()
    (left / "apiserver.key").write_text("a key")
    (kubeadm.state / "journal").write_text("stays")
    kubeadm.signer().sign(request())
    assert [path.name for path in kubeadm.state.iterdir()] == ["journal"]


@pytest.mark.parametrize(
    ("name", "made", "reason"),
    [
        (
            "ca",
            replace(template(), is_ca=True),
            "ca is a CA, which kubeadm does not renew; to create a CA, run: certmond init",
        ),
        (
            "apiserver",
            template(subject="OU=x,CN=a"),
            "subjects with one CN and any number of O attributes, not OU=x,CN=a; choose another",
        ),
        (
            "apiserver",
            template(subject="O=x"),
            "subjects with one CN and any number of O attributes, not O=x; choose another",
        ),
        (
            "admin.conf",
            template(("client auth",), r"O=a\,b,CN=x", ()),
            "that contains a comma, a quote or a line break; choose another",
        ),
        (
            "admin.conf",
            template(("client auth",), 'O=a\\"b,CN=x', ()),
            "an O attribute that is empty, or that contains a comma",
        ),
        (
            "apiserver",
            replace(template(), names=(x509.RFC822Name("a@b"),)),
            "only DNS names and IP addresses as subject alternative names",
        ),
        (
            "web",
            template(),
            "kubeadm has no certificate web, and issues other certificates only for clients; choose another",
        ),
        ("web", template(("client auth",)), "kubeadm has no certificate web"),
    ],
)
def test_an_unsupported_subject_is_refused(kubeadm: Kubeadm, name: str, made: Template, reason: str) -> None:
    """A subject, a name or a usage that kubeadm cannot make is refused before the call."""
    with pytest.raises(RefusedError, match=reason):
        kubeadm.signer().sign(request(name, made))
    assert not kubeadm.seen.exists()


def test_a_ca_without_its_key_is_reported(kubeadm: Kubeadm) -> None:
    """kubeadm fails without the CA's key or its own pair, and the error quotes it."""
    (kubeadm.directory / "real-ca.key").unlink()
    expected = (
        r"certs renew ended with status 1 \(Error checking external CA condition for ca .*\); run this command manually"
    )
    with pytest.raises(RefusedError, match=expected):
        kubeadm.signer().sign(request())


def test_a_kubeadm_that_renews_nothing_is_reported(kubeadm: Kubeadm) -> None:
    """kubeadm exits 0 for a certificate that it leaves. The signer detects that nothing was renewed, and the error
    quotes kubeadm.
    """
    kubeadm.be("v1.31.0", 'echo "Detected external ca, certificate for apiserver can\'t be renewed"; exit 0')
    expected = r"kubeadm did not renew apiserver \(Detected external ca, .* can't be renewed\); check that its CA"
    with pytest.raises(RefusedError, match=expected):
        kubeadm.signer().sign(request())


@pytest.mark.parametrize("version", ["v1.21.9", "kubeadm version: &version.Info{}", "", "v2.0.0"])
def test_what_is_no_kubeadm_is_refused(kubeadm: Kubeadm, version: str) -> None:
    """A program that is no kubeadm of v1.22 or newer is refused."""
    kubeadm.be(version)
    with pytest.raises(RefusedError, match=r"kubeadm is not kubeadm v1\.22 or newer; set `command` to a newer kubeadm"):
        kubeadm.signer().sign(request())


@pytest.mark.long
def test_a_failure_of_kubeadm_is_reported(kubeadm: Kubeadm, tmp_path: Path) -> None:
    """The error quotes its first line on stderr. A missing, hanging or killed kubeadm may succeed later."""
    kubeadm.be("v1.31.0", "echo 'failure loading ca' >&2; exit 1")
    expected = (
        r"kubeadm certs renew ended with status 1 \(failure loading ca\); run this command manually to see the cause"
    )
    with pytest.raises(RefusedError, match=expected):
        kubeadm.signer().sign(request())
    kubeadm.be("v1.31.0", "kill -9 $$")
    with pytest.raises(UnreachableError, match=r"kubeconfig user ended with status -9 \(\); run this command manually"):
        kubeadm.signer().sign(request("admin.conf", CLIENT))
    kubeadm.program.unlink()
    with pytest.raises(UnreachableError, match=r"cannot run .*kubeadm .*; install the program"):
        kubeadm.signer().sign(request())


HALF = (
    "contexts: [{name: b, context: {user: a}}]\ncurrent-context: b\nusers: [{name: a, user: {client-key-data: c2VjcmV0"
)


@pytest.mark.long
@pytest.mark.parametrize(
    "output",
    [
        "secret",
        "users: [secret",
        "users: []\nclusters: []",
        f"{HALF}}}}}]",
        f"{HALF}, client-certificate-data: c2VjcmV0}}}}]",
    ],
)
def test_what_kubeadm_prints_is_never_quoted(kubeadm: Kubeadm, output: str) -> None:
    """Standard output may contain a private key: if it is unreadable, or kubeadm fails, no part of it is quoted."""
    printed = kubeadm.directory / "printed"
    printed.write_text(output)
    kubeadm.be("v1.31.0", f"cat {printed}; exit 0")
    expected = "kubeadm wrote no (kubeconfig with a certificate and its|certificate with its) key"
    with pytest.raises(RefusedError, match=expected) as raised:
        kubeadm.signer().sign(request("admin.conf", CLIENT))
    assert "secret" not in str(raised.value)
    assert "c2VjcmV0" not in str(raised.value)
    kubeadm.be("v1.31.0", f"cat {printed}; exit 1")
    with pytest.raises(RefusedError) as raised:
        kubeadm.signer().sign(request("admin.conf", CLIENT))
    assert "secret" not in str(raised.value)


@pytest.mark.long
def test_another_key_than_the_certificates_is_refused(kubeadm: Kubeadm) -> None:
    """A pair that does not belong together is not taken."""
    other = kubeadm.directory / "other.key"
    other.write_bytes(key_pem(make_key(KeyAlgorithm.RSA_2048)))
    stand_in = shlex.join([sys.executable, str(STAND_IN), "v1.31.0"])
    spoil = f'{stand_in} "$@"; d=$(dirname "${{4#--config=}}"); cat {other} > $d/apiserver.key; exit 0'
    kubeadm.be("v1.31.0", spoil)
    with pytest.raises(RefusedError, match="kubeadm wrote no certificate with its key; run kubeadm manually"):
        kubeadm.signer().sign(request())
    kubeadm.be("v1.31.0", f'{stand_in} "$@"; d=$(dirname "${{4#--config=}}"); rm $d/apiserver.key; exit 0')
    with pytest.raises(RefusedError, match="kubeadm wrote no certificate with its key; run kubeadm manually"):
        kubeadm.signer().sign(request())


@pytest.mark.long
def test_the_stand_in_makes_what_kubeadm_makes(tmp_path: Path) -> None:
    """As kubeadm v1.22.6 did: a new RSA-2048 key whatever the pair had, in PKCS#1 and 0600, a certificate that begins
    with its CA and lasts a year; a pair that is not there, or whose CA has no key, is left alone with status 0.
    """
    now = datetime.now(UTC).replace(microsecond=0)
    ca = make_ca(not_before=now - timedelta(40), not_after=now + timedelta(3650))
    old = make_leaf(ca, "kube-apiserver", not_after=now + timedelta(3), extended_usages=["server auth"])
    certificate, key, config = (tmp_path / name for name in ("apiserver.crt", "apiserver.key", "kubeadm.yaml"))
    (tmp_path / "ca.crt").write_bytes(ca.pem)
    (tmp_path / "ca.key").write_bytes(ca.key_pem)
    config.write_text(yaml.safe_dump_all([
        {"apiVersion": "kubeadm.k8s.io/v1beta3", "kind": "InitConfiguration", "nodeRegistration":
            {"criSocket": "unix:///x"}, "localAPIEndpoint": {"advertiseAddress": "192.0.2.1"}},
        {"apiVersion": "kubeadm.k8s.io/v1beta3", "kind": "ClusterConfiguration", "kubernetesVersion": "v1.22.6",
         "certificatesDir": str(tmp_path)},
    ]))  # fmt: skip

    def run() -> tuple[int, str]:
        command = [sys.executable, str(STAND_IN), "v1.22.6", "certs", "renew", "apiserver", f"--config={config}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    assert run() == (0, "MISSING! certificate for apiserver\n")
    certificate.write_bytes(old.pem)
    assert run() == (0, "certificate for apiserver renewed\n")
    made = facts(certificate.read_bytes())
    assert made.not_before == ca.facts.not_before
    assert abs(made.not_after - now - timedelta(365)) < timedelta(minutes=2)
    assert (made.key.algorithm, made.key.bits) == ("RSA", 2048)
    assert made.key != old.facts.key
    assert key.read_text().startswith("-----BEGIN RSA PRIVATE KEY-----")
    assert key.stat().st_mode & 0o777 == 0o600
    assert key_pair(certificate.read_bytes(), key.read_bytes(), "", "") == KeyPair((made,))
    (tmp_path / "ca.key").unlink()
    assert run() == (0, "Detected external ca, certificate for apiserver can't be renewed\n")
    assert facts(certificate.read_bytes()) == made
    key.unlink()
    status, said = run()
    assert status == 1
    assert said.startswith("Error checking external CA condition for ca certificate authority: failure loading key")


@pytest.mark.long
def test_the_stand_in_fails_where_kubeadm_would_write_elsewhere(kubeadm: Kubeadm) -> None:
    """With --cert-dir alone kubeadm takes the cluster's directory, where it finds a cluster: it is never run so."""
    done = subprocess.run(
        [kubeadm.program, "certs", "renew", "apiserver", f"--cert-dir={kubeadm.state}"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"would ask the cluster" in done.stderr
    kubeadm.signer().sign(request())
    assert "--cert-dir" not in kubeadm.seen.read_text().splitlines()[-1]
