"""Every signer, with and without `keep_key`, for every form of a certificate on a node: after any answer the
certificate and the key on the disk match, or the old ones are still there.
"""

from __future__ import annotations

import base64
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from certmond.controllers.executor import Executor, Outcome
from certmond.errors import ConfigError, RefusedError, UnreachableError, WaitingError
from certmond.formats.private_key import PrivateKey, make_key
from certmond.notify.audit import Audit
from certmond.notify.event_log import Journal
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.planning.steps import Issue, Plan
from certmond.pki.signing.template import builder
from certmond.signers import protocol
from certmond.signers.protocol import Request
from tests.builders import DAY, YEAR, Issued, make_ca, make_leaf
from tests.cluster.api_server import ApiServer
from tests.cluster.patience import be_patient
from tests.renewal.test_key_pair import lying
from tests.sampling import sample
from tests.test_renewal import CA, CURRENT, DATED, Helper, Host, copies, kubeconfig, now
from tests.tracing import distinct, kill_at, record

STAND_IN = Path(__file__).parent / "signers/kubeadm_stand_in.py"
PAIR = {"path": "/etc/app/leaf.crt", "key": "/etc/app/leaf.key"}
FORMS: dict[str, dict[str, Any]] = {
    "pair": PAIR,
    "pkcs1": PAIR,
    "chain": PAIR,
    "combined": {"path": "/etc/app/leaf.pem", "key": "/etc/app/leaf.pem"},
    "key first": {"path": "/etc/app/leaf.pem", "key": "/etc/app/leaf.pem"},
    "glob": {"path": "/etc/app/*.pem", "key": "/etc/app/*.pem"},
    "linked": {"path": "/etc/app/leaf.crt", "key": "/etc/app/leaf.key"},
    "kubeconfig": {"kind": "kubeconfig", "path": "/etc/app/leaf.conf", "embedded_ca": "ca"},
    "two users": {"kind": "kubeconfig", "path": "/etc/app/leaf.conf", "embedded_ca": "ca"},
    "kubelet": {"kind": "kubelet", "path": CURRENT, "key": CURRENT},
    "plain kubelet": {"kind": "kubelet", "path": CURRENT, "key": CURRENT},
    "shared pair": PAIR,
    "shared key": PAIR,
}
"""Each form of a certificate with its key, as an entry."""
OTHER = {"path": "/etc/app/other.crt", "key": PAIR["key"], "keep_key": True}


class One(Host):
    """A node with one certificate of a form, which is due now by the real clock, and the answers of a test signer."""

    def __init__(self, place: Path, form: str, *, keep: bool, ca: Issued | None = None, **settings: Any) -> None:
        self.place, self.now, self.form, self.keep = place, now(), form, keep
        self.root, self.state, self.settings = place / "root", place / "state", settings
        self.ca = ca or make_ca(not_before=self.now - 2 * YEAR, not_after=self.now + 9 * YEAR)
        fields = {"subject": "CN=leaf", "usages": ["client auth"], "key_mode": "0600", "keep_key": keep}
        self.entries = {"leaf": FORMS[form] | fields}
        if form == "shared pair":
            self.entries["same"] = FORMS[form] | fields
        elif form == "shared key":
            self.entries["other"] = OTHER | {"subject": "CN=other", "usages": ["client auth"]}
        self.put(CA["path"], self.ca.pem)
        self.put(CA["key"], self.ca.key_pem, 0o600)
        kind = "rsa" if form == "pkcs1" else "ec"
        self.leaf = make_leaf(
            self.ca, "leaf", key=kind, not_before=self.now - YEAR,
            not_after=self.now + (DAY if "kubelet" in form else 10 * DAY), extended_usages=["client auth"],
        )  # fmt: skip
        self.keys = [self.ca.key, self.leaf.key]
        self._lay_down()
        self.answer: Callable[[Request], protocol.Issued] | None = None

    def _lay_down(self) -> None:
        pem, key = self.leaf.pem, self.leaf.key_pem
        match self.form:
            case "combined" | "glob":
                self.put("/etc/app/leaf.pem", pem + key, 0o600)
            case "key first":
                self.put("/etc/app/leaf.pem", key + pem, 0o600)
            case "kubeconfig":
                self.put("/etc/app/leaf.conf", kubeconfig(self.ca, self.leaf), 0o600)
            case "two users":
                document = yaml.safe_load(kubeconfig(self.ca, self.leaf))
                torn = {"client-certificate-data": "AAAA", "client-key-data": "AAAA"}
                document["users"].insert(0, {"name": "torn", "user": torn})
                self.put("/etc/app/leaf.conf", yaml.safe_dump(document).encode(), 0o600)
            case "kubelet":
                self.put(DATED, pem + key, 0o600)
                self.at(CURRENT).symlink_to(DATED)
            case "plain kubelet":
                self.put(CURRENT, pem + key, 0o600)
            case "linked":
                self.put("/etc/real/one.crt", pem)
                self.put("/etc/real/two.key", key, 0o600)
                self.at("/etc/app").mkdir()
                self.at("/etc/app/leaf.crt").symlink_to("../real/one.crt")
                self.at("/etc/app/leaf.key").symlink_to("../real/two.key")
            case _:
                if self.form == "pkcs1":
                    key = self.leaf.key_as(PrivateFormat.TraditionalOpenSSL)
                self.put(PAIR["path"], pem + (self.ca.pem if self.form == "chain" else b""))
                self.put(PAIR["key"], key, 0o600)
        if self.form == "shared key":
            other = make_leaf(self.ca, "other", key=self.leaf.key, not_after=self.now + YEAR)
            self.put(OTHER["path"], other.pem)  # type: ignore[arg-type]

    def real(self, path: str) -> Path:
        """Return the file to which a path of the node resolves."""
        place = self.at(path)
        while place.is_symlink():
            target = os.readlink(place)
            place = self.at(target) if target.startswith("/") else place.parent / target
        return place

    def pairs(self) -> list[tuple[x509.Certificate, Any]]:
        """The certificate and the key that each entry has on the disk, read without certmond."""
        found = []
        for fields in self.entries.values():
            path = str(fields["path"]).replace("*", "leaf")
            content = self.real(path).read_bytes()
            if fields.get("kind") == "kubeconfig":
                user = next(each for each in yaml.safe_load(content)["users"] if each["name"] == "admin")["user"]
                content = base64.b64decode(user["client-certificate-data"])
                key = base64.b64decode(user["client-key-data"])
            else:
                key = self.real(str(fields["key"]).replace("*", "leaf")).read_bytes()
            found.append((x509.load_pem_x509_certificates(content)[0], load_pem_private_key(key, None)))
        return found

    def belongs_together(self) -> bool:
        return all(_spki(certificate.public_key()) == _spki(key.public_key()) for certificate, key in self.pairs())

    def contents(self) -> dict[str, bytes]:
        """Every file of the node."""
        return {str(path): path.read_bytes() for path in self.root.rglob("*") if path.is_file()}

    def executor(self) -> Executor:
        """Return an executor that calls `answer` for a certificate."""

        class Answering:
            @staticmethod
            def sign(request: Request) -> protocol.Issued:
                assert self.answer is not None
                return self.answer(request)

        return Executor(
            self.config, root=str(self.root), state_dir=self.state, audit=Audit(Journal("none"), self.state, "test"),
            signer=lambda _: Answering, clock=lambda: self.now,
        )  # fmt: skip

    def renew(self) -> tuple[Outcome, ...]:
        """Make one pass with the signer `answer`."""
        return self.executor().execute(self.plan())


def _spki(key: Any) -> bytes:
    found: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return found


def held(form: str, *, keep: bool) -> bool:
    """Return the holds: a certificate that shares its key with another entry is not renewed with a new one."""
    return form == "shared key" and not keep


# --- whatever a signer answers ----------------------------------------------------------------------------------------


def signed(host: One, request: Request, key: PrivateKey) -> bytes:
    made = builder(request.template, key.public_key(), x509.random_serial_number(), host.ca.cert)
    pem: bytes = made.sign(host.ca.key, SHA256()).public_bytes(Encoding.PEM)
    return pem


def another(request: Request) -> PrivateKey:
    return make_key(request.template.key or KeyAlgorithm.ECDSA_P256)


def own_key(host: One, request: Request) -> protocol.Issued:
    key = another(request)
    return protocol.Issued(signed(host, request, key), key)


def refused(host: One, request: Request) -> protocol.Issued:
    raise RefusedError(f"no {request.name}")


def unreachable(host: One, request: Request) -> protocol.Issued:
    raise UnreachableError(f"no {request.name}")


def waits(host: One, request: Request) -> protocol.Issued:
    raise WaitingError(f"no {request.name}", 60, "cookie")


def defective(host: One, request: Request) -> protocol.Issued:
    raise ZeroDivisionError


ANSWERS: dict[str, tuple[Callable[[One, Request], protocol.Issued], str, str]] = {
    # the answer, and the outcome with a new key and with the kept key
    "the requested certificate": (lambda host, r: protocol.Issued(signed(host, r, r.key)), "done", "done"),
    "with its chain": (lambda host, r: protocol.Issued(signed(host, r, r.key) + host.ca.pem), "done", "done"),
    "its CA first": (lambda host, r: protocol.Issued(host.ca.pem + signed(host, r, r.key)), "done", "done"),
    "the same key given": (lambda host, r: protocol.Issued(signed(host, r, r.key), r.key), "done", "done"),
    "another key": (own_key, "done", "failed"),
    "another key, not given": (lambda host, r: protocol.Issued(signed(host, r, another(r))), "failed", "failed"),
    "a key that is not the certificate's": (
        lambda host, r: protocol.Issued(signed(host, r, r.key), another(r)), "failed", "failed",
    ),
    "a certificate and a key of others": (
        lambda host, r: protocol.Issued(signed(host, r, another(r)), another(r)), "failed", "failed",
    ),
    "the old one again": (lambda host, r: protocol.Issued(host.leaf.pem), "failed", "failed"),
    "nothing": (lambda host, r: protocol.Issued(b""), "failed", "failed"),
    "junk": (lambda host, r: protocol.Issued(b"-----BEGIN CERTIFICATE-----\nAAAA"), "failed", "failed"),
    "no": (refused, "failed", "failed"),
    "silence": (unreachable, "failed", "failed"),
    "a request to wait": (waits, "waiting", "waiting"),
    "a defect": (defective, "failed", "failed"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_after_any_answer_of_a_signer_the_pair_matches(tmp_path: Path, form: str, keep: bool) -> None:
    """The forms are a pair of files, PKCS#1 and PKCS#8, one file with both, a pattern's, a kubeconfig's, the kubelet's,
    one behind symlinks, and one that entries share. After each answer it is a new pair, or byte for byte the old one.
    """
    for number, (name, (answer, with_new, with_kept)) in enumerate(ANSWERS.items()):
        host = One(tmp_path / str(number), form, keep=keep)
        before, old = host.contents(), host.pairs()
        host.answer = lambda request, answer=answer, host=host: answer(host, request)
        outcomes = host.renew()
        where = f"{name}: {outcomes}"
        expected = [] if held(form, keep=keep) else [with_kept if keep else with_new]
        assert [outcome.result for outcome in outcomes] == expected, where
        assert host.belongs_together(), where
        if expected == ["done"]:
            (certificate, key), (former, former_key) = host.pairs()[0], old[0]
            assert certificate.serial_number != former.serial_number, where
            assert (_spki(key.public_key()) == _spki(former_key.public_key())) is keep, where
        else:
            assert host.contents() == before, where
        if expected != ["waiting"]:
            assert host.temporary() == [], where


@pytest.mark.long
@pytest.mark.parametrize("form", ["pair", "combined", "kubeconfig", "kubelet", "linked"])
def test_killed_with_a_key_that_the_signer_made(quick: Path, form: str) -> None:
    """Killed before or after any call that changes something, the next start leaves a whole pair, of the old key or of
    the one that the signer gave.
    """
    host = One(quick / "original", form, keep=False)

    def start(twin: One) -> list[str]:
        twin.answer = lambda request: own_key(twin, request)
        executor = twin.executor()
        executor.recover()
        return [outcome.result for outcome in executor.execute(twin.plan())]

    twins = (twin for twin in copies(host, quick) if isinstance(twin, One))
    twin = next(twins)
    stops = record(lambda: start(twin))
    assert twin.belongs_together()
    chosen = sample(distinct(stops), 10, f"a key that the signer made, {form}", kind=lambda n: stops[n])
    seen_new = 0
    for n in chosen:
        twin = next(twins)
        where = f"killed at {n}, {kill_at(lambda twin=twin: start(twin), n)}"  # type: ignore[misc]
        results = start(twin)
        assert results in ([], ["done"]), where
        seen_new += not results
        assert twin.belongs_together(), where
        assert twin.temporary() == [], where
    assert 0 < seen_new < len(chosen)


def test_a_promise_for_a_new_key_does_not_count_for_one_that_is_kept(tmp_path: Path) -> None:
    """The answer to a request for a new key, filed before the entry got `keep_key`, does not belong to the key on the
    disk. certmond does not install it, and sends the next request with that key.
    """
    host = One(tmp_path, "pair", keep=False)
    host.answer = lambda request: waits(host, request)
    assert [outcome.result for outcome in host.renew()] == ["waiting"]
    before = host.contents()
    host.entries["leaf"]["keep_key"] = True
    host.now += DAY
    host.answer = lambda request: protocol.Issued(signed(host, request, request.key))
    (outcome,) = host.renew()
    assert (outcome.result, host.contents()) == ("failed", before)
    assert outcome.message == (
        "the certificate from local for leaf would not match its key: /etc/app/leaf.crt does not match the key in "
        "/etc/app/leaf.key"
    )
    host.now += DAY
    assert [outcome.result for outcome in host.renew()] == ["done"]
    assert host.belongs_together()
    assert host.pairs()[0][1].private_numbers() == host.leaf.key.private_numbers()  # type: ignore[union-attr]


def test_a_bundle_has_no_key_that_does_not_sign(tmp_path: Path) -> None:
    """A derived file whose key is damaged is not written: the present one stays."""
    bundle = {"name": "haproxy", "kind": "pem-bundle", "source": "leaf", "path": "/etc/haproxy/leaf.pem"}
    host = One(tmp_path, "pkcs1", keep=True, derived=[bundle])
    host.at("/etc/haproxy").mkdir()
    host.put(PAIR["key"], lying(host.leaf.key), 0o600)
    host.now -= 60 * DAY  # no certificate is due
    (outcome,) = host.renew()
    assert outcome.result == "failed"
    assert "PEM block 2: Go refuses this private key" in outcome.message
    assert not host.at("/etc/haproxy/leaf.pem").exists()


# --- with the real signers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_ca_on_this_node_signs_every_form(tmp_path: Path, form: str, keep: bool) -> None:
    """The cases are a new key and the kept key."""
    host = One(tmp_path, form, keep=keep)
    renewed(host, host.start())


def renewed(host: One, outcomes: list[Outcome]) -> None:
    """Assert that the pair is new, with the old key exactly if it is kept."""
    expected = [] if held(host.form, keep=host.keep) else ["done"]
    assert [outcome.result for outcome in outcomes] == expected, outcomes
    assert host.belongs_together()
    certificate, key = host.pairs()[0]
    assert (certificate.serial_number == host.leaf.cert.serial_number) is (not expected)
    assert (_spki(key.public_key()) == _spki(host.leaf.key.public_key())) is (host.keep or not expected)


@pytest.mark.long
@pytest.mark.parametrize("form", [form for form in FORMS if form != "shared key"])
def test_kubeadm_signs_every_form_with_its_own_key(tmp_path: Path, form: str) -> None:
    """kubeadm makes the key, which is installed with the certificate. The configuration refuses an entry that keeps its
    key.
    """
    command = [sys.executable, str(STAND_IN), "v1.31.0"]
    host = One(tmp_path, form, keep=False, signers=[{"name": "adm", "kind": "kubeadm", "command": command}])
    for fields in host.entries.values():
        fields["signer"] = "adm"
    renewed(host, host.start())
    host.entries["leaf"]["keep_key"] = True
    with pytest.raises(ConfigError, match=r"leaf keeps its key .* write `keep_key: false` in the entry leaf"):
        _ = host.config


def test_kubeadm_never_tears_the_pair_of_an_entry_that_keeps_its_key(tmp_path: Path) -> None:
    """Even without that check, the step would be refused before anything is written."""
    command = [sys.executable, str(STAND_IN), "v1.31.0"]
    host = One(tmp_path, "pair", keep=False, signers=[{"name": "adm", "kind": "kubeadm", "command": command}])
    host.entries["leaf"]["signer"] = "adm"
    before, enforcer = host.contents(), host.enforcer()
    (step,) = host.plan().steps
    assert isinstance(step, Issue)
    (outcome,) = enforcer.executor.execute(Plan((replace(step, keep_key=True),)))
    assert outcome.result == "failed"
    assert outcome.message.startswith("adm created a new key for leaf, whose entry keeps the present key; set")
    assert host.contents() == before
    assert host.belongs_together()


HELPER_ENDS = {0: "done", 2: "failed", 3: "failed", 4: "failed", 5: "waiting", 17: "failed", 99: "failed"}


@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_helper_signs_every_form(tmp_path: Path, form: str, keep: bool) -> None:
    """A helper by certmonger's contract signs the request of the key; however it ends otherwise, the old pair stays."""
    signer = {"name": "site", "kind": "command", "command": [str(tmp_path / "helper/helper")]}
    host = One(tmp_path / "host", form, keep=keep, signers=[signer])
    for fields in host.entries.values():
        fields["signer"] = "site"
    helper, before = Helper(tmp_path / "helper", host.ca), host.contents()
    ends = {2: "failed", 17: "failed"} if form != "pair" else HELPER_ENDS
    for status in sorted(set(ends) - {0}) if not held(form, keep=keep) else ():
        helper.answers(status, "1\ncookie\n" if status == 5 else "because")
        assert [outcome.result for outcome in host.start_once()] == [HELPER_ENDS[status]], status
        assert host.contents() == before
        host.now += DAY / 8
    helper.answers(0)
    host.now = now() + DAY
    renewed(host, host.start())


@pytest.mark.real("openssl")
@pytest.mark.parametrize("keep", [False, True])
def test_a_helper_that_signs_another_request_changes_nothing(tmp_path: Path, keep: bool) -> None:
    """A certificate of a key that is not the entry's is refused, with and without `keep_key`."""
    signer = {"name": "site", "kind": "command", "command": [str(tmp_path / "helper")]}
    host = One(tmp_path / "host", "pair", keep=keep, signers=[signer])
    host.entries["leaf"]["signer"] = "site"
    unrelated = tmp_path / "unrelated.pem"
    unrelated.write_bytes(make_leaf(host.ca, "leaf", not_after=host.now + 90 * DAY).pem)
    (tmp_path / "helper").write_text(f"#!/bin/sh\ncat {shlex.quote(str(unrelated))}\n")
    (tmp_path / "helper").chmod(0o700)
    before = host.contents()
    (outcome,) = host.start_once()
    assert outcome.result == "failed"
    assert "wrote no certificate for the key of leaf" in outcome.message
    assert host.contents() == before


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    be_patient(monkeypatch)
    (tmp_path / "api").mkdir()
    with ApiServer(tmp_path / "api") as server:
        yield server


@pytest.mark.long
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_cluster_signs_every_form(tmp_path: Path, api: ApiServer, form: str, keep: bool) -> None:
    """A CertificateSigningRequest of the key is filed, and its certificate installed after the approval. While it
    waits, and after a denial, the old pair stays.
    """
    host = One(tmp_path / "host", form, keep=keep, ca=api.ca, signers=[{"name": "api", "kind": "csr"}])
    host.put("/etc/kubernetes/kubelet.conf", Path(api.kubeconfig).read_bytes(), 0o600)
    for fields in host.entries.values():
        fields["signer"] = "api"
    before = host.contents()
    if not held(form, keep=keep):
        assert [outcome.result for outcome in host.start_once()] == ["waiting"]
        api.decide("Denied")
        host.now += DAY / 24
        assert [outcome.result for outcome in host.start_once()] == ["failed"]
        assert host.contents() == before
        api.objects.clear()
        host.now += DAY / 4
        assert [outcome.result for outcome in host.start_once()] == ["waiting"]
        assert host.contents() == before
        api.decide("Approved")
        host.now += DAY / 24
    renewed(host, host.start())
