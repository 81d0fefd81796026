"""certmond signs no forged content of a file that it renews: neither the daemon nor a command nor a rotation, with any
signer.

Five forgeries are beside a genuine certificate of the same form, all of them expired. Each forgery claims the group
system:masters, or a name to which its holder has no right.
"""

from __future__ import annotations

import ast
import base64
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from certmond.config.renewal_policy import policy_of
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.planning.planner_inputs import Circumstances
from certmond.pki.planning.renewals import plan
from certmond.pki.x509.certificate_file_parser import decode
from certmond.signers.protocol import Request
from certmond.state.renewals import Ledger
from tests import preloaded_certmond
from tests.builders import DAY, YEAR, Issued, integer, make_ca, make_leaf, pem_block, tlv
from tests.cluster.api_server import ApiServer
from tests.daemon_harness import running
from tests.deadline import DEADLINE
from tests.forgeries import DEVELOPERS, MASTERS, forgeries
from tests.test_renewal import CA, Helper, Host, certmond, kubeconfig, now

MALLORY, BOB = 64_999, 64_998
"""Unprivileged users of the host."""
FORMS = ("file", "kubeconfig", "kubelet")


@dataclass
class Forged:
    """A node on which each form of certificate is there five times forged, and once genuine."""

    host: Host
    files: dict[str, Path] = field(default_factory=dict)
    genuine: dict[str, Path] = field(default_factory=dict)

    def contents(self) -> dict[str, bytes]:
        return {name: path.read_bytes() for name, path in self.files.items()}

    def serials(self, names: dict[str, Path]) -> dict[str, int]:
        """The certificates in these files."""
        found = {}
        for name, path in names.items():
            content = path.read_bytes()
            if content.startswith(b"apiVersion"):
                user = yaml.safe_load(content)["users"][0]["user"]
                content = base64.b64decode(user["client-certificate-data"])
            found[name] = decode(content, name).certificates[0].serial
        return found


def write(host: Host, form: str, directory: str, issued: Issued) -> tuple[dict[str, Any], Path]:
    """Write a certificate in its form below a separate directory. Return its entry and its file."""
    match form:
        case "kubeconfig":
            path = f"{directory}/user.conf"
            host.put(path, kubeconfig(host.ca, issued), 0o600)
            return {"kind": "kubeconfig", "path": path}, host.at(path)
        case "kubelet":
            path, dated = f"{directory}/client-current.pem", f"{directory}/client-2025-01-01-00-00-00.pem"
            host.put(dated, issued.pem + issued.key_pem, 0o600)
            host.at(path).symlink_to(dated)
            return {"kind": "kubelet", "path": path, "key": path}, host.at(dated)
        case _:
            host.put(f"{directory}/app.crt", issued.pem)
            host.put(f"{directory}/app.key", issued.key_pem, 0o600)
            return {"path": f"{directory}/app.crt", "key": f"{directory}/app.key"}, host.at(f"{directory}/app.crt")


def forged_node(place: Path, signer: dict[str, Any] | None = None, forms: tuple[str, ...] = FORMS) -> Forged:
    """Return the node. Each directory belongs to root, except the one that another user can write."""
    host = Host(place, "apiserver", now=now())
    host.entries = {}
    made = Forged(host)
    past: Any = {"not_before": host.now - YEAR, "not_after": host.now - DAY}
    forged: dict[str, Callable[[], Issued]] = {
        "genuine": lambda: make_leaf(host.ca, "mallory", **past),
        **forgeries(host.ca, host.now, **past),
        "shared": lambda: make_leaf(host.ca, "mallory", **past),
    }
    for form in forms:
        for name, forge in forged.items():
            directory = f"/srv/{form}/{name}"
            entry, path = write(host, form, directory, forge())
            host.entries[f"{form}-{name}"] = entry | ({"signer": signer["name"]} if signer else {})
            (made.genuine if name == "genuine" else made.files)[f"{form}-{name}"] = path
        host.at(f"/srv/{form}/shared").chmod(0o777)
        # certmond has installed a later certificate in place of the older one, without the group.
        identity = (f"{form}-older", host.entries[f"{form}-older"]["path"])
        attempt = Attempt(host.now - 30 * DAY, sha256="0" * 64, ends_at=host.now + YEAR)
        Ledger(host.state).store(identity, attempt)
    if signer:
        host.settings["signers"] = [signer]
    return made


def refused(status: dict[str, Any]) -> set[str]:
    return {
        entry["name"]
        for entry in status["certificates"]
        if any(found["reason"] == "not_issued_by_ca" and found["severity"] == "critical" for found in entry["findings"])
    }


@pytest.fixture
def forged(tmp_path: Path) -> Forged:
    return forged_node(tmp_path / "node")


@pytest.mark.long
def test_the_daemon_signs_no_forged_certificate(forged: Forged, tmp_path: Path) -> None:
    """The daemon leaves each forged file byte for byte, reports not_issued_by_ca for it, and renews the genuine
    ones.
    """
    before, serials = forged.contents(), forged.serials(forged.genuine)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(forged.host.document()))
    with running(forged.host.root, tmp_path, "--config", str(config), "--state-dir", str(forged.host.state)) as daemon:
        daemon.until(
            lambda: (
                all(daemon.reasons(name) == set() for name in forged.genuine)
                and daemon.number('certmond_planned_steps{step="issue"}') == 0
            ),
            "the genuine ones are renewed",
        )
        assert refused(daemon.status()) == {*forged.files}
        daemon.stop()
    assert forged.contents() == before
    assert serials.items().isdisjoint(forged.serials({name: renewed(p) for name, p in forged.genuine.items()}).items())


def renewed(path: Path) -> Path:
    """Return the path of the present certificate: the kubelet's PEM has a new name each time."""
    current = path.with_name("client-current.pem")
    return path.parent / Path(current.readlink()).name if current.is_symlink() else path


@pytest.mark.long
@pytest.mark.parametrize("how", ["all", "names"])
def test_a_command_signs_no_forged_certificate(forged: Forged, how: str) -> None:
    """`certmond renew` prints the reason for each, and leaves its file. With --all, the genuine ones are renewed."""
    before, serials = forged.contents(), forged.serials(forged.genuine)
    arguments = ["--all"] if how == "all" else [*forged.files]
    done = certmond(forged.host, "renew", *arguments)
    assert forged.contents() == before
    for name in forged.files:
        assert f"{name}" in done.stdout + done.stderr
    if how == "names":
        assert done.returncode == 3
        assert done.stderr.count("certmond does not sign the certificate with the CA's key") == len(forged.files)
    else:
        assert serials.items().isdisjoint(
            forged.serials({name: renewed(path) for name, path in forged.genuine.items()}).items()
        )


@pytest.mark.long
def test_a_dry_run_shows_what_would_be_signed(forged: Forged) -> None:
    """`certmond renew NAME --dry-run` prints the entry that would fix the content of the file, and the missing
    fields.
    """
    done = certmond(forged.host, "renew", "file-self-signed", "--dry-run")
    assert done.returncode == 3
    shown = yaml.safe_load(done.stdout)["certificates"]
    assert shown == [
        {"name": "file-self-signed", "subject": "CN=mallory,O=system:masters", "usages": ["client auth"], "names": []}
    ]
    assert "is reserved, but the entry does not specify exactly this subject" in done.stderr


@pytest.mark.long
def test_an_entry_that_fixes_everything_is_signed_whatever_the_file_says(forged: Forged) -> None:
    """The new certificate has what the entry fixes, and no part of the forged certificate."""
    forged.host.entries["file-self-signed"] |= {"subject": "CN=app", "usages": ["client auth"]}
    done = certmond(forged.host, "renew", "file-self-signed")
    assert (done.returncode, done.stderr) == (0, "")
    (made,) = decode(forged.files["file-self-signed"].read_bytes(), "").certificates
    assert made.subject == "CN=app"
    assert made.extended_usages == frozenset({"client auth"})
    assert not made.names


@pytest.mark.long
@pytest.mark.real("openssl")
def test_a_helper_is_not_asked_for_a_forged_certificate(tmp_path: Path) -> None:
    """A signer of kind `command` gets requests for the genuine certificates alone."""
    signer = {"name": "site", "kind": "command", "command": [str(tmp_path / "helper" / "helper")]}
    made = forged_node(tmp_path / "node", signer)
    helper = Helper(tmp_path / "helper", made.host.ca)
    helper.answers(0)
    before = made.contents()
    certmond(made.host, "renew", "--all")
    assert made.contents() == before
    assert [call["CERTMONGER_REQ_SUBJECT"] for call in helper.calls()] == ["CN=mallory"] * len(made.genuine)


@pytest.mark.long
def test_kubeadm_is_not_asked_for_a_forged_certificate(tmp_path: Path) -> None:
    """A signer of kind `kubeadm` signs the genuine certificates alone."""
    stand_in = Path(__file__).parent / "signers/kubeadm_stand_in.py"
    command = tmp_path / "kubeadm"
    log = tmp_path / "calls"
    command.write_text(f'#!/bin/sh\necho "$*" >>{log}\nexec {sys.executable} {stand_in} v1.34.0 "$@"\n')
    command.chmod(0o755)
    signer = {"name": "kubeadm", "kind": "kubeadm", "command": [str(command)]}
    made = forged_node(tmp_path / "node", signer)
    before = made.contents()
    certmond(made.host, "renew", "--all")
    assert made.contents() == before
    calls = [line for line in log.read_text().splitlines() if "kubeconfig user" in line]
    assert len(calls) == len(made.genuine)
    assert all("system:masters" not in line and "developers" not in line for line in calls)


@pytest.mark.long
def test_a_copied_certificate_of_another_user_is_not_renewed_for_the_owner(tmp_path: Path) -> None:
    """The owner that an entry declares can write the file: with the public certificate of another user in it, and
    without that user's key, nothing is signed. With the key it is renewed.
    """
    host = Host(tmp_path / "node", "apiserver", now=now())
    host.entries = {}
    past: Any = {"not_before": host.now - YEAR, "not_after": host.now - DAY}
    bobs, own = make_leaf(host.ca, "bob", **past), make_leaf(host.ca, "mallory", **past)
    for name, certificate in (("copied", bobs), ("own", own)):
        host.entries[name] = {"owner": str(MALLORY), **write(host, "file", f"/home/{name}", certificate)[0]}
        host.put(f"/home/{name}/app.key", own.key_pem, 0o600)
        for path in (host.at(f"/home/{name}"), *host.at(f"/home/{name}").iterdir()):
            os.chown(path, MALLORY, MALLORY)
    done = certmond(host, "renew", "--all")
    assert "not renewed: copied" in done.stdout
    assert host.at("/home/copied/app.crt").read_bytes() == bobs.pem
    assert host.at("/home/own/app.crt").read_bytes() != own.pem


def owned(host: Host, name: str, certificate: bytes, key: bytes, **fields: Any) -> None:
    """Write an entry below a directory of its unprivileged owner."""
    entry = {"path": f"/home/{name}/app.crt", "key": f"/home/{name}/app.key", "owner": str(MALLORY), **fields}
    host.entries[name] = entry
    host.put(entry["path"], certificate)
    host.put(entry["key"], key, 0o600)
    for path in (host.at(f"/home/{name}"), *host.at(f"/home/{name}").iterdir()):
        os.chown(path, MALLORY, MALLORY)


@pytest.fixture
def plain(tmp_path: Path) -> Host:
    """A node with a CA and no entries."""
    host = Host(tmp_path / "node", "apiserver", now=now())
    host.entries = {}
    return host


def past(host: Host) -> Any:
    return {"not_before": host.now - YEAR, "not_after": host.now - DAY}


@pytest.mark.long
def test_the_numbers_of_a_public_key_are_no_private_key(plain: Host) -> None:
    """The key of another user's certificate has to sign: one that is built from its public numbers does not count."""
    bobs = make_leaf(plain.ca, "bob", key="rsa", **past(plain))
    numbers: Any = bobs.key.public_key().public_numbers()  # type: ignore[union-attr]
    made_up = tlv(0x30, *map(integer, (0, numbers.n, numbers.e, 3, 3, 5, 3, 3, 3)))
    owned(plain, "copied", bobs.pem, pem_block("RSA PRIVATE KEY", made_up))
    assert certmond(plain, "renew", "copied").returncode == 3
    assert plain.at("/home/copied/app.crt").read_bytes() == bobs.pem


@pytest.mark.long
def test_a_key_that_a_symlink_of_the_owner_leads_to_is_not_possessed(plain: Host) -> None:
    """root could read a key through it that its owner cannot."""
    bobs = make_leaf(plain.ca, "bob", **past(plain))
    owned(plain, "copied", bobs.pem, b"")
    plain.put("/etc/bob.key", bobs.key_pem, 0o600)
    key = plain.at("/home/copied/app.key")
    key.unlink()
    key.symlink_to("/etc/bob.key")
    os.chown(key, MALLORY, MALLORY, follow_symlinks=False)
    assert certmond(plain, "renew", "copied").returncode in {2, 3}
    assert plain.at("/home/copied/app.crt").read_bytes() == bobs.pem


@pytest.mark.long
def test_a_ca_file_that_another_user_can_write_proves_nothing(plain: Host) -> None:
    """A CA that this user adds to it vouches for nothing."""
    other = make_ca("x", not_before=plain.now - YEAR, not_after=plain.now + YEAR)
    bobs = make_leaf(other, "bob", **past(plain))
    owned(plain, "app", bobs.pem, bobs.key_pem)
    plain.put(CA["path"], plain.ca.pem + other.pem)
    os.chown(plain.at(CA["path"]), MALLORY, MALLORY)
    assert certmond(plain, "renew", "app").returncode == 3
    assert plain.at("/home/app/app.crt").read_bytes() == bobs.pem


@pytest.mark.long
@pytest.mark.real("openssl")
@pytest.mark.parametrize("status", [2, 5])
def test_a_narrower_certificate_stays_recorded_whatever_the_signer_does(
    plain: Host, tmp_path: Path, status: int
) -> None:
    """After a signer fails or has not decided, certmond still records that it issued a narrower certificate. It does
    not renew the wider one that the owner restores.
    """
    plain.settings["signers"] = [{"name": "site", "kind": "command", "command": [str(tmp_path / "helper" / "helper")]}]
    helper = Helper(tmp_path / "helper", plain.ca)
    wide = make_leaf(plain.ca, "app", names=["DNS:a", "DNS:b"], **past(plain))
    narrow = make_leaf(plain.ca, "app", names=["DNS:a"], **past(plain))
    owned(plain, "app", narrow.pem, narrow.key_pem, signer="site")
    helper.answers(0)
    assert certmond(plain, "renew", "app").returncode == 0
    helper.answers(status, "600\ncookie\n")
    certmond(plain, "renew", "app")
    owned(plain, "app", wide.pem, wide.key_pem, signer="site")
    helper.answers(0)
    done = certmond(plain, "renew", "app")
    assert done.returncode == 3
    assert "certmond installed a later certificate on" in done.stderr


@pytest.mark.long
def test_init_makes_no_key_where_others_could_take_it(tmp_path: Path) -> None:
    """`certmond init` refuses a directory of certificates that every user can write, and names it."""
    root = tmp_path / "root"
    (root / "etc/kubernetes/pki/etcd").mkdir(parents=True)
    (root / "etc/kubernetes/pki").chmod(0o777)
    config = tmp_path / "config.yaml"
    config.write_text("profile: kubeadm\nnode_name: node-1\ninit: {advertise_address: 192.0.2.1}\n")
    host = Host(tmp_path / "unused", "apiserver")
    host.root, host.state = root, tmp_path / "state"
    done = certmond_with(config, host, "init")
    assert done.returncode == 3
    assert "/etc/kubernetes/pki can be written by every user (mode 0777)" in done.stderr


def certmond_with(config: Path, host: Host, *arguments: str) -> Any:
    options = ["--config", str(config), "--root", str(host.root), "--state-dir", str(host.state)]
    return preloaded_certmond.run([*options, *arguments], DEADLINE)


@pytest.mark.long
@pytest.mark.parametrize("approve", [False, True])
def test_no_request_is_filed_or_approved_for_a_forged_certificate(tmp_path: Path, *, approve: bool) -> None:
    """A signer of kind `csr` files no CertificateSigningRequest for any forged certificate, and so approves none."""
    with ApiServer(tmp_path) as api:
        kubeconfig_path = "/etc/kubernetes/certmond.conf"
        signer = {"name": "cluster", "kind": "csr", "kubeconfig": kubeconfig_path, "approve": approve}
        made = forged_node(tmp_path / "node", signer)
        for source in (Path(api.kubeconfig), Path(api.kubeconfig).with_name("client.pem")):
            name = "certmond.conf" if source.suffix == ".conf" else source.name
            made.host.put(f"/etc/kubernetes/{name}", source.read_bytes(), 0o600)
        before = made.contents()
        certmond(made.host, "renew", "--all")
        filed = [each["spec"]["request"] for each in api.objects.values()]
    assert made.contents() == before
    asked = [x509.load_pem_x509_csr(base64.b64decode(text)).subject.rfc4514_string() for text in filed]
    assert asked == ["CN=mallory"] * len(made.genuine)


def test_in_a_rotation_no_leaf_of_a_shared_directory_is_signed(tmp_path: Path) -> None:
    """The leaves of the old CA are issued again, except those whose directory another user can write, and those of a
    reserved subject that the entry does not name. The plan has the reason for each.
    """
    host = Host(tmp_path / "node", "apiserver", now=now())
    host.entries = {}
    good: Any = {"not_before": host.now - DAY, "not_after": host.now + YEAR}
    for name, subject in (("plain", "app"), ("shared", "app"), ("reserved", "system:app")):
        host.entries[name] = write(host, "file", f"/srv/{name}", make_leaf(host.ca, subject, **good))[0]
    host.at("/srv/shared").chmod(0o777)
    assessment, _ = host.enforcer().see()
    leaves = {status.seen.identity: host.ca.facts for status in assessment.certificates if status.seen.name != "ca"}
    made = plan(assessment, policy_of(host.config), {}, Circumstances(), reissue=leaves)
    assert [step.target for step in made.steps] == ["plain"]
    assert {held.target: held.because for held in made.held} == {
        "shared": "certmond does not sign the certificate with the CA's key: /srv/shared can be written "
        "by every user (mode 0777), "
        "who could take the key of a new certificate; change the owner to root, or set `owner` in the entry to the "
        "permitted user",
        "reserved": "certmond does not sign the certificate with the CA's key: the subject "
        "CN=system:app is reserved, but the entry "
        "does not specify exactly this subject",
    }


def test_in_a_rotation_no_forged_leaf_is_signed(forged: Forged) -> None:
    """Even if each leaf were issued again at once, only the genuine ones would be."""
    assessment, _ = forged.host.enforcer().see()
    leaves = {each.seen.identity: forged.host.ca.facts for each in assessment.certificates if each.seen.name != "ca"}
    made = plan(assessment, policy_of(forged.host.config), {}, Circumstances(), reissue=leaves)
    assert {step.target for step in made.steps} == {*forged.genuine}
    assert {held.target for held in made.held if "#" not in held.target} == {*forged.files}


def test_no_file_is_made_from_a_forged_certificate(forged: Forged) -> None:
    """A derived file of a genuine certificate is made when that is renewed; one of a forged certificate is not."""
    names = ("file-genuine", *(name for name in forged.files if name.startswith("file-")))
    for name in names:
        forged.host.at(f"/etc/{name}").mkdir(parents=True)
    forged.host.settings["derived"] = [
        {"name": f"of-{name}", "kind": "pem-bundle", "source": name, "path": f"/etc/{name}/bundle.pem"}
        for name in names
    ]
    enforcer = forged.host.enforcer()
    enforcer.executor.execute(enforcer.plan(enforcer.see()[0]))
    made = [name for name in names if forged.host.at(f"/etc/{name}/bundle.pem").exists()]
    assert made == ["file-genuine"]


def test_a_change_between_plan_and_signature_stops_the_signature(tmp_path: Path) -> None:
    """certmond applies the rule again when it signs: a directory that became writable for others since the plan stops
    the step.
    """
    host = Host(tmp_path / "node", "apiserver", now=now())
    made = host.plan()
    host.at("/etc/kubernetes/pki").chmod(0o777)
    (outcome,) = host.enforcer().executor.execute(made)
    assert outcome.result == "failed"
    assert "/etc/kubernetes/pki can be written by every user (mode 0777)" in outcome.message


@pytest.mark.long
def test_only_one_function_grants_a_signature() -> None:
    """Only `pki.signing.policy` makes a Grant, and each request for a certificate has one."""
    makers = set()
    for path in (Path(__file__).parent.parent / "certmond").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Grant":
                makers.add(path.name)
    assert makers == {"policy.py"}
    assert Request.__dataclass_fields__["grant"].default is MISSING


def wide_and_narrow(host: Host) -> tuple[Issued, Issued]:
    """Return an old, long-lived certificate of the entry's owner, and the due one that replaced it."""
    wide = make_leaf(host.ca, subject=DEVELOPERS, not_before=host.now - 2 * YEAR, not_after=host.now + 60 * DAY)
    narrow = make_leaf(host.ca, "mallory", not_before=host.now - YEAR, not_after=host.now + DAY)
    return wide, narrow


@pytest.mark.long
def test_an_older_certificate_that_ends_later_restores_no_right(plain: Host) -> None:
    """After certmond has issued a narrower certificate, the CA's key signs no successor of the wider one, whatever its
    end.
    """
    wide, narrow = wide_and_narrow(plain)
    plain.settings["validity"] = "30d"
    owned(plain, "app", narrow.pem, narrow.key_pem)
    assert certmond(plain, "renew", "app").returncode == 0
    owned(plain, "app", wide.pem, wide.key_pem)
    done = certmond(plain, "renew", "app")
    assert done.returncode == 3
    assert "certmond installed a later certificate on" in done.stderr
    assert plain.at("/home/app/app.crt").read_bytes() == wide.pem


@pytest.mark.long
def test_an_older_certificate_under_another_name_restores_no_right(plain: Host) -> None:
    """In a pattern that its owner can write, a file of another name does not hide that certmond has since renewed the
    certificate of this common name.
    """
    wide, narrow = wide_and_narrow(plain)
    plain.entries["many"] = {"path": "/home/many/*.pem", "key": "/home/many/*.pem", "owner": str(MALLORY)}
    plain.settings["validity"] = "30d"

    def put_alone(name: str, issued: Issued) -> None:
        for path in plain.root.glob("home/many/*.pem"):
            path.unlink()
        plain.put(f"/home/many/{name}.pem", issued.pem + issued.key_pem, 0o600)
        for path in (plain.at("/home/many"), *plain.at("/home/many").iterdir()):
            os.chown(path, MALLORY, MALLORY)

    put_alone("a", narrow)
    assert certmond(plain, "renew", "--all").returncode == 0
    put_alone("b", wide)
    done = certmond(plain, "renew", "--all")
    assert "certmond installed a later certificate on" in done.stdout
    assert plain.at("/home/many/b.pem").read_bytes() == wide.pem + wide.key_pem


# A sixth attempt: to break the file, and have it made again


def broken(host: Host, form: str, name: str, content: bytes, **fields: Any) -> Path:
    """Write an entry whose file was damaged after it held `content`: no part of it is readable as a whole."""
    leaf = make_leaf(host.ca, "app", not_before=host.now - DAY, not_after=host.now + YEAR)
    entry, path = write(host, form, f"/srv/{form}/{name}", leaf)
    host.entries[f"{form}-{name}"] = entry | fields
    path.write_bytes(content)
    return path


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_a_broken_file_of_which_the_entry_fixes_nothing_is_not_made_again(plain: Host, form: str) -> None:
    """Neither the daemon nor a command issues a certificate for fields that an entry leaves open, also if the file had
    a forged certificate before it was cut off.
    """
    forged = make_ca(subject=MASTERS, is_ca=None, usages=None, names=None, extended_usages=["client auth"])
    for name, content in (("empty", b""), ("cut", forged.pem[:-40] + forged.key_pem[:-40])):
        path = broken(plain, form, name, content)
        assert plain.start_once() == ()
        assert certmond(plain, "renew", f"{form}-{name}").returncode == 3
        assert path.read_bytes() == content


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_file_is_made_again_with_what_its_entry_fixes_alone(plain: Host, form: str) -> None:
    """Whatever the file contained, and whatever its owner and mode: the new certificate is that of the entry, and the
    files belong to root and are closed.
    """
    forged = make_ca(subject=MASTERS, is_ca=None, usages=None, names=None, extended_usages=["client auth"])
    fixed = {"subject": "CN=app", "usages": ["client auth"], "owner": "root:root"}
    if form == "kubeconfig":
        fixed["embedded_ca"] = "ca"
        api = {"advertise-address": "192.0.2.1", "secure-port": "6443"}
        flags = [f"--{name}={value}" for name, value in api.items()]
        pod = {
            "kind": "Pod",
            "spec": {"containers": [{"name": "kube-apiserver", "command": ["kube-apiserver", *flags]}]},
        }
        plain.put("/etc/kubernetes/manifests/kube-apiserver.yaml", yaml.safe_dump(pod).encode(), 0o600)
    path = broken(plain, form, "fixed", forged.pem[:-40], **fixed)
    os.chown(path, MALLORY, MALLORY)
    path.chmod(0o666)
    (outcome,) = plain.start_once()
    assert (outcome.result, outcome.message) == ("done", outcome.message)
    assert outcome.issued
    assert (outcome.issued.subject, outcome.issued.extended_usages) == ("CN=app", frozenset({"client auth"}))
    assert not outcome.issued.names
    for made in (renewed(path), path.with_name("app.key")):
        if made.exists():
            status = made.stat()
            assert (status.st_uid, status.st_mode & 0o022) == (0, 0)
            assert b"PRIVATE KEY" not in made.read_bytes() or status.st_mode & 0o077 == 0


@pytest.mark.long
@pytest.mark.parametrize("form", FORMS)
def test_a_broken_file_is_not_made_again_where_another_user_can_take_the_key(plain: Host, form: str) -> None:
    """No key, neither a new one nor one of the archive, is written to a directory that every user can write."""
    path = broken(plain, form, "shared", b"", subject="CN=app", usages=["client auth"], embedded_ca="ca")
    path.parent.chmod(0o777)
    before = sorted(path.parent.iterdir())
    assert plain.start_once() == ()
    assert certmond(plain, "renew", f"{form}-shared").returncode == 3
    assert (sorted(path.parent.iterdir()), path.read_bytes()) == (before, b"")


@pytest.mark.long
def test_nothing_is_restored_through_a_symlink_of_another_user(plain: Host) -> None:
    """An unprivileged owner makes the key's name a symlink to a file of root and breaks the certificate: the target of
    the link is unchanged.
    """
    leaf = make_leaf(plain.ca, "app", not_before=plain.now - YEAR, not_after=plain.now + 5 * DAY)
    owned(plain, "app", leaf.pem, leaf.key_pem, subject="CN=app", usages=["client auth"])
    assert [outcome.result for outcome in plain.start_once()] == ["done"]
    plain.put("/etc/precious", b"root's", 0o600)
    for name in ("app.crt", "app.key"):
        link = plain.at(f"/home/app/{name}")
        link.unlink()
        link.symlink_to("/etc/precious")
        os.chown(link, MALLORY, MALLORY, follow_symlinks=False)
    assert "done" not in {outcome.result for outcome in plain.start_once()}
    assert certmond(plain, "archive", "restore", "app").returncode != 0
    assert plain.at("/etc/precious").read_bytes() == b"root's"


@pytest.mark.long
def test_breaking_a_file_restores_no_earlier_right(plain: Host) -> None:
    """The certificate in the archive is valid and has a name that the entry no longer fixes. The narrower certificate
    that certmond issued is destroyed. The repaired file has the names of the entry.
    """
    wide = make_leaf(plain.ca, "app", names=["DNS:a", "DNS:b"], extended_usages=["server auth"],
                     not_before=plain.now - YEAR, not_after=plain.now + 10 * DAY)  # fmt: skip
    fixed = {"subject": "CN=app", "usages": ["server auth"], "names": ["DNS:a"]}
    owned(plain, "app", wide.pem, wide.key_pem, **fixed)
    plain.start()
    narrow = make_leaf(plain.ca, "app", names=["DNS:a"], extended_usages=["server auth"], not_after=plain.now + YEAR)
    identity = ("app", "/home/app/app.crt")
    Ledger(plain.state).store(identity, Attempt(plain.now, sha256=narrow.facts.sha256, ends_at=plain.now + YEAR))
    plain.at("/home/app/app.crt").write_bytes(b"")
    for outcome in (*plain.start_once(), *plain.start_once()):
        assert outcome.issued is None or outcome.issued.names == frozenset({"DNS:a"})
    assert wide.pem != plain.at("/home/app/app.crt").read_bytes()
    assert certmond(plain, "renew", "app").returncode == 0
    (made,) = decode(plain.at("/home/app/app.crt").read_bytes(), "").certificates[:1]
    assert made.names == frozenset({"DNS:a"})
