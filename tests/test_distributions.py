"""The profiles of other distributions than kubeadm: a fresh node has no finding, each defect has one, and certmond
respects the component that renews.
"""

from __future__ import annotations

import base64
import json
import os
import posixpath
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography import x509

from certmond.cli.main import cli
from certmond.config.model import Config
from certmond.config.parser import parse
from certmond.config.shipped_profiles import DEFAULT_PROFILE, profiles
from certmond.discovery.distribution import distributions
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.endpoint import Served
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.services.service_observation import Live
from certmond.pki.services.staleness import Surroundings
from certmond.services.content_times import Changes
from certmond.services.file_usage import survey
from certmond.services.service_state_collector import SurroundingsObserver
from tests.builders import DAY, NOW, YEAR, Issued, cross_sign, make_ca, make_intermediate, reissue
from tests.distributions import MAKERS, Tree, key_of, kops_worker, member_entry, name_of, traditional
from tests.node import Node, sans_of

REPOSITORY = Path(__file__).parents[1]
AT = NOW + DAY
STARTER = {"k3s", "rke2", "k0s", "microshift"}  # they renew their certificates each time that they start
RESTARTS = {
    "k3s": ": certmond restart k3s",
    "rke2": ": certmond restart rke2-server",
    "k0s": ": certmond restart k0scontroller",
}
"""The command for the servers of a distribution that issues certificates again at its start."""
FOREIGN = STARTER | {"kubespray", "k8s-snap", "kops"}  # certmond renews none of the entries in TRAPS
K3S, RKE2, K0S = "/var/lib/rancher/k3s/server", "/var/lib/rancher/rke2/server", "/var/lib/k0s/pki"
MICROSHIFT = "/var/lib/microshift"
KUBESPRAY = "/etc/ssl/etcd/ssl"
MICROK8S, ETCD = "/var/snap/microk8s/current/certs", "/etc/etcd"


class Trap(NamedTuple):
    """A leaf of the tree, its entry, the entry of its CA, and a name that it must have."""

    entry: str
    path: str
    name: str


TRAPS = {
    "k3s": Trap("serving-kube-apiserver", f"{K3S}/tls/serving-kube-apiserver.crt", "DNS:kubernetes.default"),
    "rke2": Trap("serving-kube-apiserver", f"{RKE2}/tls/serving-kube-apiserver.crt", "DNS:kubernetes.default"),
    "k0s": Trap("server", f"{K0S}/server.crt", "DNS:kubernetes.default"),
    "microk8s": Trap("server", f"{MICROK8S}/server.crt", "IP:127.0.0.1"),
    "etcd": Trap("etcd-server", f"{ETCD}/pki/server.crt", "IP:127.0.0.1"),
    "microshift": Trap(
        "kube-apiserver-localhost-serving",
        f"{MICROSHIFT}/certs/kube-apiserver-localhost-signer/kube-apiserver-localhost-serving/server.crt",
        "DNS:localhost",
    ),
    "k8s-snap": Trap("apiserver", "/etc/kubernetes/pki/apiserver.crt", "DNS:kubernetes.default"),
    "kops": Trap("apiserver", "/srv/kubernetes/kube-apiserver/server.crt", "DNS:kubernetes.default"),
    "kubespray": Trap("etcd-member", f"{KUBESPRAY}/member-node-1.pem", "IP:127.0.0.1"),
    "starlingx": Trap("etcd-server", f"{ETCD}/etcd-server.crt", "IP:127.0.0.1"),
}


@pytest.fixture(params=MAKERS)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tree(profile: str, tmp_path: Path) -> Tree:
    return MAKERS[profile](tmp_path)


def run(tree: Tree, verb: str, *more: str, at: datetime | None = AT) -> Result:
    when = ("--at", f"{at:%Y-%m-%dT%H:%M:%SZ}") if at else ()
    return CliRunner().invoke(cli, [*verb.split(), "--root", str(tree.root), *when, *more])


def plain(tree: Tree, text: str) -> str:
    """Return the output of certmond as on the node itself, without the root of the tree."""
    return text.replace(f"certmond --root {tree.root} ", "certmond ").replace(str(tree.root), "")


def check(tree: Tree, profile: str, at: datetime = AT) -> tuple[int, dict[str, Any]]:
    done = run(tree, "check", "--profile", profile, "-o", "json", at=at)
    return done.exit_code, json.loads(plain(tree, done.stdout))


def issued_at(tree: Tree, path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(tree.at(path).read_bytes())


def reasons_of(entry: dict[str, Any]) -> set[str]:
    return {item["reason"] for item in entry["findings"]}


def reported(document: dict[str, Any]) -> dict[str, set[str]]:
    """Return the reasons of the findings of each entry."""
    found = dict[str, set[str]]()
    for entry in document["certificates"]:
        found.setdefault(entry["name"], set()).update(reasons_of(entry) - {"nonpositive_serial"})
    return found


@pytest.mark.long
def test_what_a_distribution_makes_is_well(profile: str, tree: Tree) -> None:
    """On a fresh node, `check` exits 0, and its only findings are serial numbers of 0."""
    code, document = check(tree, profile)
    assert code == 0
    findings = [item for entry in document["certificates"] for item in entry["findings"]] + document["findings"]
    assert {(item["reason"], item["severity"]) for item in findings} <= {("nonpositive_serial", "info")}
    assert all(entry["chain_valid"] and entry["key_matches"] in {True, None} for entry in document["certificates"])
    assert {spec.name for spec in parse((), profile=profile).certificates if spec.path in tree.leaves} <= {
        entry["name"] for entry in document["certificates"]
    }


OTHER_ENTRIES = {
    "kubespray": ("etcd-ca", "etcd-server", "apiserver-etcd-client"), "k8s-snap": ("datastore-client", "k8sd-cluster"),
    "kops": ("aws-iam-authenticator", "cilium-etcd-ca", "cilium-etcd-client", "kops-controller-cilium-ca",
             "kube-router.kubeconfig", "pki-etcd-ca", "pki-etcd-client"),
}  # fmt: skip
"""Entries of a kind of installation that the tree is not."""


@pytest.mark.long
def test_a_profile_has_every_certificate_of_its_tree(profile: str, tree: Tree) -> None:
    """Each file with a certificate in it has an entry, and each entry is in the tree or need not be."""
    listed = parse((), profile=profile).certificates
    seen = {each.path for each in Store(listed, str(tree.root)).observe().observations}
    files = (path for path in tree.root.rglob("*") if path.suffix in {".crt", ".pem"})
    files = (path for path in files if not path.stem.endswith("-key"))
    made = {
        f"/{path.relative_to(tree.root)}" for path in files if path.is_symlink() or b" CERTIFICATE" in path.read_bytes()
    }
    retired = {path for path in made if "-2026-" in path}
    assert made - retired - seen == set()
    absent = {spec.name for spec in listed if not spec.is_glob and not os.path.lexists(tree.at(spec.path))}
    assert all(spec.optional or spec.conditional for spec in listed)
    assert absent <= {"super-admin.conf", "kubelet-server", "kubelet-server-self", "etcd-peer",
                      "etcd-healthcheck-client", "ca-remote", *OTHER_ENTRIES.get(profile, ())}  # fmt: skip


@pytest.mark.long
def test_an_expired_leaf_is_a_finding(profile: str, tree: Tree) -> None:
    """An expired leaf is critical, and the remedy names the component that renews it."""
    trap = TRAPS[profile]
    tree.leaf(trap.path, not_before=NOW - YEAR, not_after=NOW - DAY)
    code, document = check(tree, profile)
    assert code == 2
    assert "expired" in reported(document)[trap.entry]
    (entry,) = (entry for entry in document["certificates"] if entry["path"] == trap.path)
    (message,) = (item["message"] for item in entry["findings"] if item["reason"] == "expired")
    assert message.endswith(f"renew the certificate: certmond renew {trap.entry}") is (profile not in FOREIGN)
    assert ("it is renewed by " in message) is (profile in FOREIGN)


@pytest.mark.long
def test_each_expired_leaf_is_a_finding(profile: str, tree: Tree) -> None:
    """If all leaves of a node have expired, `check` reports each of them as expired."""
    for path in tree.leaves:
        tree.leaf(path, not_before=NOW - YEAR, not_after=NOW - DAY)
    code, document = check(tree, profile)
    assert code == 2
    expired = {entry["path"] for entry in document["certificates"] if "expired" in reasons_of(entry)}
    assert set(tree.leaves) <= expired


def with_tokens(place: Path, ca: Issued | None = None) -> Tree:
    """Create MicroK8s with kubeconfigs that contain tokens. `ca` is the CA of the cluster that the node has joined."""
    tree = MAKERS["microk8s"](place)
    if ca:
        tree.authority(f"{MICROK8S}/ca.crt", ca, mode=0o660, key_mode=0o660)
        tree.leaf(f"{MICROK8S}/server.crt")
        for name in ("kubelet", "apiserver-kubelet-client"):
            tree.at(f"{MICROK8S}/{name}.crt").unlink()
            tree.at(f"{MICROK8S}/{name}.key").unlink()
    embedded = base64.b64encode(tree.authorities[f"{MICROK8S}/ca.crt"].pem).decode()
    authority = {"server": "https://127.0.0.1:16443", "certificate-authority-data": embedded}
    for name in ("client", "controller", "scheduler", "kubelet", "proxy"):
        context = {"cluster": "c", "user": "u"}
        config = {
            "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": context}],
            "clusters": [{"name": "c", "cluster": authority}], "users": [{"name": "u", "user": {"token": "t"}}],
        }  # fmt: skip
        tree.write(f"/var/snap/microk8s/current/credentials/{name}.config", yaml.safe_dump(config), 0o660)
    return tree


def test_microk8s_can_authenticate_with_tokens(tmp_path: Path) -> None:
    """The kubeconfigs of older releases contain tokens, and have no finding."""
    code, document = check(with_tokens(tmp_path), "microk8s")
    assert code == 0
    assert not [entry for entry in document["certificates"] if reasons_of(entry) - {"nonpositive_serial"}]
    assert "client.config#ca:c" in {entry["name"] for entry in document["certificates"]}


def test_the_commands_for_an_operator_of_microk8s_exist() -> None:
    """`microk8s refresh-certs --cert` has three values, and none for the leaves that are valid for ten years
    (canonical/microk8s, scripts/wrappers/refresh_certs.py, `certs`). `refresh-certs DIR` issues them again.
    """
    specs = {each.name: each for each in parse((), profile="microk8s").certificates}
    texts = {
        name: spec.renewed_by for name, spec in specs.items() if spec.renewed_by and "refresh-certs" in spec.renewed_by
    }
    values = {name: found[1] for name, text in texts.items() if (found := re.search(r"--cert ([\w.-]+)", text))}
    assert values == {"ca": "ca.crt"}
    leaves = {"kubelet", "client", "controller", "scheduler", "proxy"}
    kubeconfigs = {f"{name}.config" for name in leaves}
    assert {name for name, text in texts.items() if "refresh-certs DIR" in text} == leaves | kubeconfigs
    assert {name for name, spec in specs.items() if not spec.renewed_by} == {
        "server", "front-proxy-client", "apiserver-kubelet-client",
    }  # fmt: skip


def test_pairs_of_microk8s_that_no_component_reads_are_not_critical(tmp_path: Path) -> None:
    """A node that has joined a cluster with tokens keeps the pairs of its earlier CA, and `check` exits 1."""
    ca = make_ca("10.152.183.1", key="rsa", usages=["cert sign", "crl sign"], not_before=NOW, not_after=NOW + 10 * YEAR)
    code, document = check(with_tokens(tmp_path, ca), "microk8s")
    assert code == 1
    found = {entry["name"] for entry in document["certificates"] if "no_path" in reasons_of(entry)}
    assert found == {"client", "controller", "scheduler", "proxy"}


@pytest.mark.long
def test_no_certificate_has_two_entries(profile: str, tree: Tree) -> None:
    """If the profile has the file that a flag names, the flag adds no entry, and certmond watches every reference."""
    _, document = check(tree, profile)
    assert not [entry for entry in document["certificates"] if entry["named_by"]]
    names: dict[str, set[str]] = {}
    for entry in document["certificates"]:
        file = os.path.realpath(tree.at(entry["path"]))
        names.setdefault(f"{file} {entry['serial']}", set()).add(entry["name"].partition("#")[0])
    assert not [found for found in names.values() if len(found) > 1]


@pytest.mark.long
def test_a_leaf_of_another_ca_is_a_finding(profile: str, tree: Tree) -> None:
    """A leaf whose CA has the right name and another key has no path."""
    trap = TRAPS[profile]
    ca, _ = tree.leaves[trap.path]
    twin = make_ca("", subject=tree.authorities[ca].subject)
    tree.leaf(trap.path, by=twin)
    code, document = check(tree, profile)
    assert code == 2
    assert reported(document)[trap.entry] == {"no_path"}


@pytest.mark.long
def test_a_missing_name_is_a_finding(profile: str, tree: Tree) -> None:
    """A server's certificate without a name that its clients use is a warning."""
    trap = TRAPS[profile]
    _, wanted = tree.leaves[trap.path]
    tree.leaf(trap.path, names=[name for name in wanted["names"] if name != trap.name])
    code, document = check(tree, profile)
    assert code == 1
    assert reported(document)[trap.entry] == {"missing_name"}


@pytest.mark.long
def test_a_missing_usage_is_a_finding(profile: str, tree: Tree) -> None:
    """A server's certificate that is for clients only is critical."""
    trap = TRAPS[profile]
    tree.leaf(trap.path, extended_usages=["client auth"])
    code, document = check(tree, profile)
    assert code == 2
    assert "wrong_usage" in reported(document)[trap.entry]


@pytest.mark.long
def test_a_truncated_file_is_a_finding(profile: str, tree: Tree) -> None:
    """A truncated file is malformed, whether the leaf or the CA behind it is cut."""
    trap = TRAPS[profile]
    whole = tree.at(trap.path).read_bytes()
    tree.at(trap.path).write_bytes(whole[:-100])
    code, document = check(tree, profile)
    assert code == 2
    assert "malformed" in reported(document)[trap.entry]


@pytest.mark.parametrize("profile", ["k3s", "rke2"])
def test_a_chain_in_the_wrong_order_is_a_finding(profile: str, tree: Tree) -> None:
    """If the CA precedes the leaf in one file, Go would use the CA as the leaf."""
    trap = TRAPS[profile]
    ca, _ = tree.leaves[trap.path]
    tree.at(trap.path).write_bytes(tree.authorities[ca].pem + tree.issued[trap.path].pem)
    code, document = check(tree, profile)
    assert code == 2
    assert reported(document)[trap.entry] == {"unexpected_chain"}


@pytest.mark.long
def test_a_key_that_others_can_read_is_a_finding(profile: str, tree: Tree) -> None:
    """The mode of a key is at most that of the distribution."""
    trap = TRAPS[profile]
    tree.at(key_of(trap.path)).chmod(0o664)
    code, document = check(tree, profile)
    assert code == 2
    assert reported(document)[trap.entry] == {"too_open"}


@pytest.mark.parametrize("profile", sorted(STARTER))
def test_a_certificate_of_another_component_is_not_renewed(profile: str, tree: Tree) -> None:
    """Ten days before the end the plan has no step, and names the component that renews and the time. `renew` refuses
    with the same.
    """
    at = NOW - DAY + YEAR - 10 * DAY
    plan = run(tree, "plan", "--profile", profile, "-o", "json", at=at)
    document = json.loads(plain(tree, plan.stdout))
    assert plan.exit_code == 1  # the due certificates need another component
    assert document["steps"] == []
    assert {each["renewed_by"] for each in document["waiting"]} - {None}
    held = {each["target"]: each["because"] for each in document["held"]}
    trap = TRAPS[profile]
    spec = next(spec for spec in parse((), profile=profile).certificates if spec.name == trap.entry)
    fact = f"certmond does not renew this certificate; it is renewed by {spec.renewed_by}"
    assert held[trap.entry] == fact + RESTARTS.get(profile, "")
    assert "start" in str(spec.renewed_by)
    code, findings = check(tree, profile, at)
    assert code == 1
    assert reported(findings)[trap.entry] == {"nearing_expiry"}
    refused = run(tree, f"renew {trap.entry}", "--profile", profile, "--dry-run", at=None)
    assert refused.exit_code != 0
    assert str(spec.renewed_by) in str(refused.exception)


@pytest.mark.parametrize("profile", sorted(STARTER))
def test_the_forecast_names_the_component_that_renews(profile: str, tree: Tree) -> None:
    """A certificate that another component renews has one due event and one expiry event, each with that component."""
    done = run(tree, "forecast", "--for", "2y", "--profile", profile, "-o", "json")
    trap = TRAPS[profile]
    events = [each for each in json.loads(plain(tree, done.stdout))["events"] if each["target"] == trap.entry]
    assert [each["what"] for each in events] == ["due", "expire"]
    said = f"certmond does not renew this certificate; it is renewed by {specs(profile)[trap.entry].renewed_by}"
    said += RESTARTS.get(profile, "")
    assert all(said in each["detail"] for each in events)
    assert not [each for each in json.loads(done.stdout)["events"] if each["what"] in {"renew", "restart"}]


@pytest.mark.parametrize("profile", RESTARTS)
def test_the_forecast_has_the_restarts_that_renew(profile: str, tree: Tree, tmp_path: Path) -> None:
    """With `for_renewal`, one restart a year renews all leaves of a server and the kubeconfigs that embed them. No leaf
    is due or expires. k0s permits any validity, so the forecast ends at its first restart.
    """
    config = tmp_path / "config.yaml"
    config.write_text("{mode: enforce, restart: {for_renewal: true}}")
    done = run(tree, "forecast", "--for", "3y", "--config", str(config), "--profile", profile, "-o", "json")
    events = json.loads(done.stdout)["events"]
    restarts = [each["target"] for each in events if each["what"] == "restart"]
    assert restarts == [RESTARTS[profile].rpartition(" ")[2]] * (1 if profile == "k0s" else 3)
    leaves = {name for name, spec in specs(profile).items() if spec.renewed_at_start}
    kubeconfigs = {"k0s": {"admin.conf", "ccm.conf", "scheduler.conf", "konnectivity.conf"}}
    expected = leaves | kubeconfigs.get(profile, {f"{profile}.yaml"})
    assert {each["target"] for each in events if each["what"] == "renew"} == expected
    assert not [each for each in events if each["bad"] and not each["target"].startswith("kubelet-")]


@pytest.mark.parametrize("key", ["ca.key", "front-proxy-ca.key", "etcd/ca.key"])
@pytest.mark.parametrize("content", [None, b"garbage", "other"])
def test_without_the_key_of_a_ca_k0s_is_not_restarted(tmp_path: Path, key: str, content: bytes | str | None) -> None:
    """A start might then create a new CA or fail. Neither the plan nor the hint recommends a restart."""
    tree = MAKERS["k0s"](tmp_path)
    if content is None:
        tree.at(f"{K0S}/{key}").unlink()
    else:
        tree.at(f"{K0S}/{key}").write_bytes(content if isinstance(content, bytes) else make_ca("other").key_pem)
    config = tmp_path / "config.yaml"
    config.write_text("{mode: enforce, restart: {for_renewal: true}}")
    arguments = ("plan", "--config", str(config), "--profile", "k0s", "-o", "json")
    document = json.loads(plain(tree, run(tree, *arguments, at=NOW + YEAR - 10 * DAY).stdout))
    held = {each["target"]: each["because"] for each in document["held"]}
    assert document["steps"] == []
    fact = f"certmond finds no key in {K0S}/{key} that matches the CA"
    leaves = {name for name, spec in specs("k0s").items() if spec.renewed_at_start} | {"admin.conf", "ccm.conf"}
    assert {name for name in held if fact in held[name]} >= leaves
    config.write_text("{mode: enforce}")
    shown = plain(tree, run(tree, *arguments, at=NOW + YEAR - 10 * DAY).stdout)
    assert fact in shown
    assert "certmond restart k0scontroller" not in shown


@pytest.mark.parametrize("profile", ["k0s", "microk8s"])
@pytest.mark.parametrize("family", ["ca", "front-proxy-ca"])
def test_a_ca_that_others_replace_is_not_rotated(profile: str, tree: Tree, family: str) -> None:
    """`root-ca stage` and `rotate` refuse it and name the component that replaces it. Nothing is written."""
    for verb in ("root-ca stage --generate", "root-ca rotate --plan"):
        done = run(tree, verb, "--profile", profile, "--family", family, at=None)
        assert done.exit_code != 0
        assert f"certmond does not rotate {family}, which is renewed by an operator" in str(done.exception)
    assert not tree.at("/var/lib/certmond").exists()


@pytest.mark.parametrize("profile", ["k3s", "rke2", "k0s", "microk8s"])
def test_another_ca_in_its_place_begins_no_rotation(profile: str, tree: Tree) -> None:
    """If another component exchanges CAs, certmond follows none: in enforce mode, too, the plan has no step."""
    family = {"k3s": "server-ca", "rke2": "server-ca"}.get(profile, "ca")
    spec = next(spec for spec in parse((), profile=profile).certificates if spec.name == family)
    tree.authority(spec.path, make_ca("", subject=tree.authorities[spec.path].subject))
    tree.write("/config.yaml", f"profile: {profile}\nmode: enforce\n")
    done = run(tree, "plan", "--config", str(tree.at("/config.yaml")), "-o", "json")
    assert json.loads(done.stdout)["steps"] == []
    _, document = check(tree, profile)
    assert "no_path" in {reason for reasons in reported(document).values() for reason in reasons}
    assert "root_ca_changed" not in {reason for reasons in reported(document).values() for reason in reasons}


@pytest.mark.parametrize("profile", ["k3s", "rke2"])
@pytest.mark.parametrize("family", ["ca", "etcd-ca", "front-proxy-ca", "sa"])
def test_the_cas_of_k3s_have_no_family(profile: str, tree: Tree, family: str) -> None:
    """The distribution replaces all of them together. A CA of another origin is refused, with the section about the
    steps. Nothing is written.
    """
    section = "replace-the-cas-of-k3s-or-rke2"
    for verb in ("root-ca stage --generate", "root-ca rotate --plan", "root-ca show"):
        done = run(tree, verb, "--profile", profile, "--family", family, at=None)
        assert done.exit_code == 2
        assert f"Omit --family: {profile} replaces all of its CAs together." in done.stderr
    if family != "sa":
        done = run(tree, "root-ca stage --reuse-key", "--profile", profile, "--family", family, at=None)
        text = f"certmond does not rotate {family}, because each CA in the configuration is renewed by an operator, by"
        assert plain(tree, str(done.exception)) == f"{text} `certmond root-ca rotate` (docs/profiles.md#{section})"
    assert f"\n### {section.replace('-', ' ')}\n" in (REPOSITORY / "docs/profiles.md").read_text().lower()
    assert not tree.at("/var/lib/certmond").exists()


class NewCA(NamedTuple):
    """The CAs in a file for `rotate-ca`, as the script of k3s creates them."""

    signing: Issued  # the intermediate CA that signs leaves
    root: Issued
    cross_signed: Issued  # the Root CA, signed by the old Root CA
    old: Issued

    @property
    def pem(self) -> bytes:
        return b"".join(each.pem for each in self)


def replaced_cas(tree: Tree) -> dict[str, NewCA]:
    """Return new CAs by the path of the file that they replace."""
    own: dict[str, Any] = {
        "names": None, "not_before": AT, "not_after": AT + 20 * YEAR,
        "usages": ["digital signature", "key encipherment", "cert sign"],
    }  # fmt: skip
    found = dict[str, NewCA]()
    for path, old in tree.authorities.items():
        name = posixpath.basename(path)
        root = make_ca(f"{name}-root@1", **own)
        found[path] = NewCA(make_intermediate(root, f"{name}@1", **own), root, cross_sign(root, by=old, **own), old)
    return found


def restart_with(tree: Tree, cas: Mapping[str, NewCA], profile: str, *, agent: bool) -> None:
    """Write the files of the server or of the agent as a start writes them: CAs, and leaves with their chains."""
    data = f"/var/lib/rancher/{profile}"
    server, own = f"{data}/server/tls", f"{data}/agent"
    for path, ca in cas.items():
        if not agent:
            tree.write(path, ca.pem)
            tree.write(key_of(path), traditional(ca.signing) + traditional(ca.root), 0o600)
        elif path in {f"{server}/client-ca.crt", f"{server}/server-ca.crt"}:
            tree.write(f"{own}/{posixpath.basename(path)}", ca.pem, 0o600)
    for path, (of, _) in tree.leaves.items():
        if path.startswith(f"{own if agent else server}/"):
            made = tree.leaf(path, by=cas[of].signing, not_before=AT, not_after=AT + YEAR)
            tree.at(path).write_bytes(made.pem + cas[of].pem)
    if not agent:
        user = tree.issued[f"{server}/client-admin.crt"]
        embedded = tree.at(f"{server}/client-admin.crt").read_bytes(), traditional(user)
        tree.kubeconfig(f"/etc/rancher/{profile}/{profile}.yaml", *embedded, cas[f"{server}/server-ca.crt"].pem)


OF_SERVER = {"client-ca", "server-ca", "request-header-ca", "etcd-server-ca", "etcd-peer-ca"}
OF_AGENT = {"agent-client-ca", "agent-server-ca"}


def of_cas(tree: Tree, profile: str) -> tuple[int, set[tuple[str, str, str]]]:
    """Return the exit status of `check`, and the name, reason and severity of each finding."""
    code, document = check(tree, profile, AT + DAY)
    assert document["findings"] == []
    return code, {
        (entry["name"], item["reason"], item["severity"])
        for entry in document["certificates"]
        for item in entry["findings"]
        if item["reason"] != "nonpositive_serial"
    }


def intermediates(names: set[str], *, cross_signed: bool = True) -> set[tuple[str, str, str]]:
    """Return the info findings for the first certificate, and for the cross-signed third one, of these entries."""
    ends = ("", "#3") if cross_signed else ("",)
    return {(f"{name}{end}", "ca_not_self_signed", "info") for name in names for end in ends}


@pytest.mark.long
@pytest.mark.parametrize("profile", ["k3s", "rke2"])
def test_cas_that_k3s_has_replaced_are_well(profile: str, tree: Tree) -> None:
    """After `rotate-ca` with cross-signed CAs, `check` exits 0 after the start of the server, after the start of its
    agent, and without the old Root CA. The only new findings are info findings about intermediate CAs whose Root CA is
    in the same file. If that Root CA is missing, the finding is critical.
    """
    cas = replaced_cas(tree)
    assert of_cas(tree, profile) == (0, set())
    restart_with(tree, cas, profile, agent=False)
    assert of_cas(tree, profile) == (0, intermediates(OF_SERVER))
    restart_with(tree, cas, profile, agent=True)
    assert of_cas(tree, profile) == (0, intermediates(OF_SERVER | OF_AGENT))
    alone = {path: NewCA(*ca[:2], ca.root, ca.root) for path, ca in cas.items()}  # a repeated certificate is one
    for agent in (False, True):
        restart_with(tree, alone, profile, agent=agent)
    assert of_cas(tree, profile) == (0, intermediates(OF_SERVER | OF_AGENT, cross_signed=False))
    for path in (
        f"/var/lib/rancher/{profile}/agent/server-ca.crt",
        f"/var/lib/rancher/{profile}/server/tls/server-ca.crt",
    ):
        tree.write(
            path, next(ca.signing.pem for ca in cas.values() if ca.signing.subject == name_of("CN=server-ca.crt@1"))
        )
    code, found = of_cas(tree, profile)
    assert code == 2
    assert ("agent-server-ca", "ca_not_self_signed", "critical") in found


@pytest.mark.parametrize("profile", ["k3s", "rke2"])
def test_a_leaf_of_the_old_ca_is_valid_beside_the_new_ca(profile: str, tree: Tree) -> None:
    """Without the old Root CA in the file, such a leaf is critical."""
    cas = replaced_cas(tree)
    restart_with(tree, cas, profile, agent=False)
    path = f"/var/lib/rancher/{profile}/server/tls/client-scheduler.crt"
    tree.leaf(path, not_before=AT, not_after=AT + YEAR)
    assert of_cas(tree, profile) == (0, intermediates(OF_SERVER))
    ca = cas[tree.leaves[path][0]]
    tree.write(tree.leaves[path][0], ca.signing.pem + ca.root.pem)
    assert ("client-scheduler", "no_path", "critical") in of_cas(tree, profile)[1]


@pytest.mark.parametrize("profile", ["k3s"])
@pytest.mark.parametrize(
    ("left", "reason", "severity"),
    [
        (200, None, None),
        (100, "nearing_expiry", "warning"),
        (3, "nearing_expiry", "critical"),
        (-1, "expired", "warning"),
    ],
)
def test_the_old_root_ca_in_the_file_is_reported_near_its_end(
    profile: str, tree: Tree, left: int, reason: str | None, severity: str | None
) -> None:
    """The finding names the fourth certificate of the file."""
    cas = replaced_cas(tree)
    for path, ca in cas.items():
        end = AT + DAY + left * DAY
        cas[path] = ca._replace(old=reissue(ca.old, not_before=NOW - 9 * YEAR, not_after=end))
    restart_with(tree, cas, profile, agent=False)
    code, found = of_cas(tree, profile)
    assert found - intermediates(OF_SERVER) == (
        {(f"{name}#4", reason, severity) for name in OF_SERVER} if reason else set()
    )
    assert code == {None: 0, "warning": 1, "critical": 2}[severity]


@pytest.mark.long
@pytest.mark.parametrize(
    ("profile", "entries"),
    [
        ("microk8s", {"server", "front-proxy-client"}),
        ("etcd", {"etcd-server", "etcd-peer"}),
        ("starlingx", {"etcd-server", "apiserver-etcd-client", "etcd-client"}),
    ],
)
def test_what_no_other_component_renews_is_planned(profile: str, tree: Tree, entries: set[str], tmp_path: Path) -> None:
    """Ten days before their end the leaves that no distribution renews are due, signed by the CA's key. If a group can
    write the files, as on MicroK8s, the entries must declare it.
    """
    config = tmp_path / "config.yaml"
    shared = (*sorted(entries), "ca", "front-proxy-ca") if profile == "microk8s" else ()
    owners = [{"name": name, "owner": "root:root"} for name in shared]
    config.write_text(yaml.safe_dump({"profile": profile, "certificates": owners}))
    plan = run(tree, "plan", "--config", str(config), "-o", "json", at=NOW + YEAR - 10 * DAY)
    steps = {step["target"]: step for step in json.loads(plan.stdout)["steps"]}
    reserved = profile == "etcd"  # two clients with a reserved subject, which no entry of the profile fixes
    assert plan.exit_code == (2 if reserved else 1)
    assert entries <= set(steps)
    assert all(steps[name]["step"] == "issue" for name in entries)


@pytest.mark.long
def test_starlingx_renews_admin_conf_with_what_is_made_from_it(tmp_path: Path) -> None:
    """HAProxy's bundle is made again with admin.conf, and those that read them are restarted by SM."""
    tree = MAKERS["starlingx"](tmp_path)
    plan = run(tree, "plan", "--profile", "starlingx", "-o", "json", at=NOW + YEAR - 10 * DAY)
    steps = [(step["step"], step["target"], step["restarts"]) for step in json.loads(plan.stdout)["steps"]]
    assert ("issue", "admin.conf", ["sysinv-conductor", "cert-mon", "dccertmon"]) in steps
    assert ("derive", "haproxy-client-bundle", ["haproxy"]) in steps
    assert not [target for _, target, _ in steps if target == "haproxy-client"]
    commands = {each.name: each for each in parse((), profile="starlingx").services if each.kind == "command"}
    assert commands["haproxy"].command == ("/usr/bin/sm-restart-safe", "service", "haproxy")
    assert {each.name: each.pid_file for each in commands.values()} == {
        "etcd": "/run/etcd.pid", "haproxy": "/run/haproxy.pid", "sysinv-conductor": "/run/sysinv-conductor.pid",
        "cert-mon": "/run/cert-mon.pid", "dccertmon": "/run/resource-agents/dccertmon.pid",
        "nfv-vim": "/run/nfv-vim.pid",
    }  # fmt: skip


def rotation_restarts(tree: Tree) -> dict[str, list[str]]:
    """Return the restarts of each phase of a rotation of the Root CA, as `root-ca rotate --plan` prints them."""
    options = ("--profile", "starlingx", "--state-dir", str(tree.at("/state")))
    assert run(tree, "root-ca stage --generate", *options, at=None).exit_code == 0
    plan = run(tree, "root-ca rotate --plan", *options, "-o", "json", at=None)
    return {each["phase"]: each["restarts"] for each in json.loads(plan.stdout)["phases"]}


@pytest.mark.long
def test_starlingx_restarts_haproxy_in_each_phase_that_changes_its_files(tmp_path: Path) -> None:
    """HAProxy reads the Root CA and its client certificate only at its start (starlingx/stx-puppet, kubernetes.pp,
    platform::kubernetes::haproxy). In each of these phases, it restarts after the kubelet.
    """
    planned = rotation_restarts(MAKERS["starlingx"](tmp_path))
    assert {phase for phase, names in planned.items() if "haproxy" in names} == {"trust", "issue", "distrust"}
    assert all(names.index("kubelet") < names.index("haproxy") for names in planned.values() if "haproxy" in names)


def test_a_node_of_starlingx_without_the_bundle_has_no_haproxy(tmp_path: Path) -> None:
    """On a worker, HAProxy has no bundle and does not run, so no phase of a rotation restarts it."""
    tree = MAKERS["starlingx"](tmp_path)
    tree.at("/etc/kubernetes/pki/haproxy_client.pem").unlink()
    planned = rotation_restarts(tree)
    assert planned["trust"]
    assert not [phase for phase, names in planned.items() if "haproxy" in names]


@pytest.mark.long
def test_starlingx_is_probed_at_the_port_of_its_manifest(tmp_path: Path) -> None:
    """certmond probes the API server on 16443, as its flags define, and etcd where the profile defines."""
    tree, config = MAKERS["starlingx"](tmp_path), parse((), profile="starlingx")
    store = Store(config.certificates, str(tree.root))
    store.observe()
    found = survey(store.components(), config.services, {})
    assert "127.0.0.1:16443" in {str(endpoint) for endpoint in found.serving}
    assert parse((), profile="starlingx").services[0].serves == {"etcd-server": ("127.0.0.1:2379",)}


ENDPOINTS = {
    "k3s": {"127.0.0.1:6444", "127.0.0.1:10250", "127.0.0.1:10257", "127.0.0.1:10259", "127.0.0.1:2379"},
    "rke2": {"127.0.0.1:6443", "127.0.0.1:10250", "127.0.0.1:10257", "127.0.0.1:10259", "127.0.0.1:2379"},
    "k0s": {"127.0.0.1:6443", "127.0.0.1:9443", "127.0.0.1:10250", "127.0.0.1:2379"},
    "microk8s": {"127.0.0.1:16443", "127.0.0.1:10250"},
    "etcd": {"127.0.0.1:2379"},
    "starlingx": {"127.0.0.1:2379", "127.0.0.1:16443"},
    "kubespray": {"127.0.0.1:6443"},
    "k8s-snap": {"127.0.0.1:6443", "127.0.0.1:10250", "127.0.0.1:2379"},
    "kops": {"127.0.0.1:443", "127.0.0.1:10250", "127.0.0.1:10257", "127.0.0.1:10259"},
    "microshift": {
        "localhost@127.0.0.1:6443",
        "kubernetes@127.0.0.1:6443",
        "127.0.0.1:10250",
        "127.0.0.1:10257",
        "127.0.0.1:10259",
        "127.0.0.1:2379",
    },
}
WORKERS: dict[str, tuple[Callable[[Tree], None], set[str], set[str]]] = {
    "k3s": (lambda tree: tree.remove(K3S, "/etc/rancher/k3s"), {"127.0.0.1:10250"}, {"k3s-agent"}),
    "rke2": (lambda tree: tree.remove(RKE2, "/etc/rancher/rke2"), {"127.0.0.1:10250"}, {"rke2-agent"}),
    "k0s": (lambda tree: tree.remove(K0S, "/var/lib/k0s/etcd"), {"127.0.0.1:10250"}, {"k0sworker"}),
    "microk8s": (
        lambda tree: tree.join_as_worker(),
        {"127.0.0.1:10250"},
        {"dqlite", "kubelite", "cluster-agent"},
    ),
}


def around(tree: Tree, config: Config) -> Surroundings:
    return seen_around(tree, config)[1]


def seen_around(tree: Tree, config: Config) -> tuple[Store, Surroundings]:
    store = Store(config.certificates, str(tree.root))
    inventory = store.observe()
    there = SurroundingsObserver(config, str(tree.root), Changes(tree.root / "state", keeps=False), acting=False)
    return store, there.around(store, inventory, {})


@pytest.mark.parametrize("profile", ["k3s", "rke2", "k0s", "microk8s", "etcd"])
def test_another_served_certificate_is_reported_in_observe_mode(profile: str, tree: Tree) -> None:
    """If a port of the distribution serves an older certificate, the finding names the service to restart."""
    config = parse((), profile=profile)
    store, found = seen_around(tree, config)
    trap = TRAPS[profile]
    endpoint, (service, _) = next((at, who) for at, who in found.survey.serving.items() if who[1] == trap.path)
    older = make_ca("older")
    later = datetime.now(UTC) + DAY
    live = Live(later, {}, {endpoint: Served(older.der, "TLSv1.3", later)})
    assessment = assess(store.observe(), later, around=replace(found, live=live))
    (status,) = (each for each in assessment.statuses if each.seen.name == trap.entry)
    (reported,) = (each for each in status.findings if each.reason == "served_differs")
    assert reported.message.endswith(f"restart {service}")
    assert service in {each.name for each in config.services}


@pytest.mark.parametrize(
    ("profile", "ports"),
    [("k3s", [6443, 10258]), ("rke2", [9345]), ("k0s", [10257, 10259]), ("microk8s", [10257, 10259]), ("etcd", [])],
)
def test_some_ports_have_a_certificate_in_no_file(profile: str, ports: list[int], tree: Tree) -> None:
    """The service of the distribution creates it, and a restart renews it. A worker has no such port."""
    config = parse((), profile=profile)
    found = around(tree, config).survey.listeners
    assert [(each.address, each.port) for each in found] == [("127.0.0.1", port) for port in ports]
    assert {each.service for each in found.values()} <= {each.name for each in config.services}
    assert all(each.renewed_by.endswith(f"run: certmond restart {each.service}") for each in found.values())
    if profile in WORKERS:
        WORKERS[profile][0](tree)
        assert around(tree, config).survey.listeners == {}


@pytest.mark.parametrize("profile", ["k3s", "rke2"])
def test_a_port_whose_optional_file_is_missing_has_a_certificate_in_no_file(tree: Tree, profile: str) -> None:
    """In older releases of k3s the scheduler creates its certificate in memory, and there is no file for it."""
    config = parse((), profile=profile)
    tree.remove(f"{K3S if profile == 'k3s' else RKE2}/tls/kube-scheduler")
    found = {str(at): each for at, each in around(tree, config).survey.listeners.items()}
    assert found["127.0.0.1:10259"].service == ("k3s" if profile == "k3s" else "rke2-server")
    assert "restart it" in found["127.0.0.1:10259"].renewed_by
    assert "127.0.0.1:10257" not in found


def test_the_ports_are_those_of_the_distribution(profile: str, tree: Tree) -> None:
    """certmond probes the ports where a default installation serves."""
    found = around(tree, parse((), profile=profile)).survey.serving
    assert {str(endpoint) for endpoint in found} - {"127.0.0.1:10250"} == ENDPOINTS[profile] - {"127.0.0.1:10250"}
    assert {str(endpoint) for endpoint in found} >= ENDPOINTS[profile]


@pytest.mark.parametrize("profile", WORKERS)
def test_a_worker_needs_no_control_plane(profile: str, tree: Tree) -> None:
    """On a worker no file of a control plane is missing, no port of one is probed, and only the services of a worker
    are expected.
    """
    make, endpoints, services = WORKERS[profile]
    make(tree)
    code, document = check(tree, profile)
    assert code == 0
    assert document["certificates"]
    found = around(tree, parse((), profile=profile))
    assert {str(endpoint) for endpoint in found.survey.serving} == endpoints
    assert {service.name for service in found.services} == services


def test_discover_names_the_distribution_of_a_node(profile: str, tree: Tree) -> None:
    """`discover` names the distribution that it detects, and proposes its profile, which fits."""
    (seen,) = distributions(str(tree.root))
    assert seen.profile == profile
    done = run(tree, "discover", at=None)
    assert done.exit_code == 0
    assert seen.marker in done.stdout
    proposed = yaml.safe_load(done.stdout)
    assert proposed["profile"] == profile
    assert "certificates" not in proposed or profile == "starlingx"


def test_the_error_names_the_profile_that_fits(profile: str, tree: Tree) -> None:
    """If no certificate of the profile exists, the error names the profile that fits."""
    other = "etcd" if profile != "etcd" else "k3s"
    for verb in ("check", "plan"):
        done = run(tree, verb, "--profile", other)
        assert done.exit_code != 0
        assert f"--profile {profile}" in str(done.exception)


def test_discover_keeps_a_profile_that_is_named(tmp_path: Path) -> None:
    """`discover` keeps a profile that the command names, and reports that another one would fit."""
    tree = MAKERS["k3s"](tmp_path)
    done = run(tree, "discover", "--profile", "kubeadm", at=None)
    assert yaml.safe_load(done.stdout)["profile"] == "kubeadm"
    assert "`profile: k3s`" in done.stdout


def test_the_default_is_kubeadm(node: Node) -> None:
    """Without a profile, certmond expects a node of kubeadm, and distinguishes it from the others."""
    assert [each.profile for each in distributions(str(node.root))] == [DEFAULT_PROFILE]
    assert set(profiles()) == {*MAKERS, DEFAULT_PROFILE}


@pytest.mark.long
def test_check_names_the_profile_that_fits_better(profile: str, tree: Tree) -> None:
    """`check` names the distribution if another profile is configured, and does not if its profile or none is."""
    other = tree.at("/other.yaml")
    other.write_text(f"profile: k3s\ncertificates: [{{name: own, path: '{TRAPS[profile].path}'}}]\n")
    marker = f"{distributions(str(tree.root))[0].marker} exists"
    done = run(tree, "check", "--config", str(other))
    assert (marker in done.stderr) is (profile != "k3s")
    assert (f"write `profile: {profile}`" in done.stderr) is (profile != "k3s")
    assert marker not in done.stdout
    for fits in (profile, "none"):
        other.write_text(f"profile: {fits}\ncertificates: [{{name: own, path: '{TRAPS[profile].path}.copy'}}]\n")
        assert marker not in run(tree, "check", "--config", str(other)).stderr


def test_a_pair_of_kubespray_is_a_certificate_with_its_key(tmp_path: Path) -> None:
    """Each certificate of a pattern has the key of the same host, and a key of another host is a mismatch."""
    tree = MAKERS["kubespray"](tmp_path)
    tree.write(f"{KUBESPRAY}/member-node-1-key.pem", tree.at(f"{KUBESPRAY}/member-node-2-key.pem").read_bytes(), 0o600)
    code, document = check(tree, "kubespray")
    assert code == 2
    wrong = {entry["path"] for entry in document["certificates"] if entry["key_matches"] is False}
    assert wrong == {f"{KUBESPRAY}/member-node-1.pem"}


def test_kubespray_renews_the_certificates_of_etcd_as_a_unit(tmp_path: Path) -> None:
    """In their last days, the plan holds each certificate of kubespray for etcd, and names the playbook as the renewer.

    The user etcd owns the directory. The findings name no other problem of the files.
    """
    tree = MAKERS["kubespray"](tmp_path)
    for path in (path for path in tree.leaves if path.startswith(KUBESPRAY)):
        tree.leaf(path, not_before=NOW - YEAR, not_after=AT + 5 * DAY)
    document = json.loads(run(tree, "plan", "--profile", "kubespray", "-o", "json").stdout)
    assert not document["steps"]
    held = {each["target"]: each["because"] for each in document["held"]}
    assert set(held) == {"etcd-member", "etcd-admin", "etcd-node"}
    assert all("renewed by kubespray" in because and "playbook" in because for because in held.values())
    code, document = check(tree, "kubespray")
    assert code == 2
    assert {each for reasons in reported(document).values() for each in reasons} == {"nearing_expiry"}


def test_an_entry_with_the_owner_renews_a_member_of_kubespray(tmp_path: Path) -> None:
    """An operator's entry for the member of this host names the user etcd, the subject and the names.

    The new certificate has this subject and these names, and the files still belong to the user etcd.
    """
    tree, path = MAKERS["kubespray"](tmp_path), f"{KUBESPRAY}/member-node-1.pem"
    old, (uid, gid) = issued_at(tree, path), (tree.at(path).stat().st_uid, tree.at(path).stat().st_gid)
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"profile": "kubespray", "certificates": [member_entry(tree)]}))
    done = run(tree, "renew etcd-member", "--config", str(config), "--no-restart",
               "--state-dir", str(tmp_path / "state"), at=None)  # fmt: skip
    assert done.exit_code == 0, done.output
    new = issued_at(tree, path)
    assert new.serial_number != old.serial_number
    assert (new.subject, sorted(sans_of(new))) == (old.subject, sorted(sans_of(old)))
    for each in (path, key_of(path)):
        now = tree.at(each).stat()
        assert (now.st_uid, now.st_gid, now.st_mode & 0o777) == (uid, gid, 0o640)
    verify = ["openssl", "verify", "-CAfile", str(tree.at(f"{KUBESPRAY}/ca.pem")), "-purpose", "sslserver"]
    assert subprocess.run([*verify, str(tree.at(path))], capture_output=True, check=False).returncode == 0


def test_the_flags_of_kops_are_followed(tmp_path: Path) -> None:
    """A manifest of kOps has the suffix `.manifest` and starts go-runner. A new flag in it is an entry."""
    tree, file = MAKERS["kops"](tmp_path), "/srv/kubernetes/kube-apiserver/oidc.crt"
    manifest = tree.at("/etc/kubernetes/manifests/kube-apiserver.manifest")
    manifest.write_text(manifest.read_text().replace("--secure-port=443", f"--oidc-ca-file={file}"))
    tree.write(file, make_ca("oidc", not_before=NOW - YEAR, not_after=AT + 10 * DAY).pem)
    code, document = check(tree, "kops")
    assert code == 1
    assert reported(document)["kube-apiserver.oidc-ca-file"] == {"nearing_expiry"}


def test_a_second_ca_of_kops_is_no_finding(tmp_path: Path) -> None:
    """While kOps rotates its CA, `ca.crt` has both CAs, and the kubeconfigs of a control plane embed the primary."""
    tree = MAKERS["kops"](tmp_path)
    ca = tree.at("/srv/kubernetes/ca.crt")
    ca.write_bytes(ca.read_bytes() + make_ca("kubernetes-ca", not_before=NOW - DAY, not_after=NOW + 10 * YEAR).pem)
    code, document = check(tree, "kops")
    assert (code, {name for name, reasons in reported(document).items() if reasons}) == (0, set())


@pytest.mark.parametrize("name", ["i-0123456789abcdef0", "ip-192-0-2-11.eu-central-1.compute.internal"])
def test_a_worker_of_kops_has_no_finding(tmp_path: Path, name: str) -> None:
    """Each certificate of a worker is in the catalogue, and no file of a control plane is missing.

    The name of the node is that of the instance on AWS, and was its private DNS name in older releases.
    """
    tree = kops_worker(tmp_path, name)
    assert [each.profile for each in distributions(str(tree.root))] == ["kops"]
    code, document = check(tree, "kops")
    kubeconfigs = ("kubelet.kubeconfig", "kube-proxy.kubeconfig")
    names = {"ca", "kubelet-server", *kubeconfigs, *(f"{each}#ca:local" for each in kubeconfigs)}
    assert (code, reported(document)) == (0, {each: set() for each in names})
    assert not document["findings"]
    assert not document["coverage"]["references"]


def test_a_worker_of_kops_near_its_end_is_reported(tmp_path: Path) -> None:
    """An operator must replace a worker before its certificates end, and the finding has the command of kOps."""
    code, document = check(kops_worker(tmp_path), "kops", at=NOW + 465 * DAY)
    ending = {name for name, reasons in reported(document).items() if reasons == {"nearing_expiry"}}
    assert (code, ending) == (2, {"kubelet-server", "kubelet.kubeconfig", "kube-proxy.kubeconfig"})
    messages = [item["message"] for entry in document["certificates"] for item in entry["findings"]]
    assert all("kops rolling-update cluster" in message for message in messages)


def test_discover_resolves_patterns(tmp_path: Path) -> None:
    """An entry with a pattern is on the node if a file matches. Flags that name its files change no other entry."""
    tree = MAKERS["kubespray"](tmp_path)
    text = run(tree, "discover", at=None).stdout
    absent = next(line for line in text.splitlines() if "not on this node" in line)
    assert "etcd-member" not in absent
    assert "etcd-server" in absent
    tree.remove("/etc/ssl/etcd")
    assert "etcd-member" in run(tree, "discover", "--profile", "kubespray", at=None).stdout.split("not on this node")[1]


@pytest.mark.long
def test_discover_finds_the_bundle_of_starlingx(tmp_path: Path) -> None:
    """The bundle of HAProxy matches a pattern, so `discover` does not report it as absent."""
    tree = MAKERS["starlingx"](tmp_path)
    absent = run(tree, "discover", at=None).stdout.split("not on this node")[1]
    assert "haproxy-client" not in absent
    tree.at("/etc/kubernetes/pki/haproxy_client.pem").unlink()
    assert "haproxy-client" in run(tree, "discover", at=None).stdout.split("not on this node")[1]


def test_two_distributions_on_one_node_are_both_named(tmp_path: Path) -> None:
    """If a node has files of two distributions, `discover` names both and proposes neither."""
    MAKERS["k3s"](tmp_path)
    tree = MAKERS["k0s"](tmp_path)
    done = run(tree, "discover", at=None)
    assert "`profile: k3s`" in done.stdout
    assert "`profile: k0s`" in done.stdout
    assert yaml.safe_load(done.stdout)["profile"] == DEFAULT_PROFILE


def test_metrics_name_each_certificate(profile: str, tree: Tree) -> None:
    """Each certificate of the profile that is there has its series in observe mode."""
    done = run(tree, "metrics", "--profile", profile)
    assert done.exit_code == 0
    assert f'certmond_certificate_not_after_timestamp_seconds{{certificate="{TRAPS[profile].entry}"' in done.stdout
    assert 'certmond_mode{mode="observe"} 1' in done.stdout


def specs(profile: str) -> dict[str, CertificateSpec]:
    return {spec.name: spec for spec in parse((), profile=profile).certificates}


@pytest.mark.parametrize("profile", ["k3s", "rke2"])
def test_k3s_and_rke2_differ_in_their_names_only(profile: str) -> None:
    """The same code makes both: entries, subjects and paths are the same, except for the name of the program."""
    theirs = {name.replace(profile, "k3s"): spec for name, spec in specs(profile).items()}
    assert theirs.keys() == specs("k3s").keys()
    for name, spec in specs("k3s").items():
        assert theirs[name].path.replace(profile, "k3s") == spec.path
        assert [each.replace(profile, "k3s") for each in theirs[name].subject] == list(spec.subject)
        assert theirs[name].usages == spec.usages
    tls = f"/var/lib/rancher/{profile}/server/tls"
    assert theirs["server-ca"].path == f"{tls}/server-ca.crt"
    assert theirs["etcd-server-client"].path == f"{tls}/etcd/server-client.crt"
    assert theirs["client-supervisor"].subject == (f"CN=system:{profile}-supervisor,O=system:masters",)


def test_every_path_of_a_distribution_is_below_its_own_directories() -> None:
    """No profile uses a path of another distribution."""
    places = {
        "k3s": ("/var/lib/rancher/k3s/", "/etc/rancher/"), "rke2": ("/var/lib/rancher/rke2/", "/etc/rancher/"),
        "k0s": ("/var/lib/k0s/", "/run/k0s/"), "microk8s": ("/var/snap/microk8s/current/",), "etcd": ("/etc/etcd/",),
        "starlingx": ("/etc/kubernetes/", "/etc/etcd/", "/var/lib/kubelet/", "/etc/ssl/private/", "/etc/docker/",
                      "/etc/ldap/certs/", "/etc/pki/ca-trust/", "/etc/swanctl/", "/run/ceph/", "/opt/platform/config/",
                      "/etc/haproxy/", "/etc/docker-distribution/"),
        "microshift": ("/var/lib/microshift/",), "k8s-snap": ("/etc/kubernetes/", "/var/snap/k8s/"),
        "kops": ("/srv/kubernetes/", "/etc/kubernetes/", "/var/lib/k", "/mnt/"),
        "kubespray": ("/etc/kubernetes/", "/etc/ssl/etcd/", "/etc/etcd.env", "/var/lib/kubelet/"),
    }  # fmt: skip
    for profile, roots in places.items():
        for spec in specs(profile).values():
            assert spec.path.startswith(roots), f"{profile}: {spec.path}"
            assert all(path.startswith(roots) for path in (*spec.belongs_with, *spec.mentioned_in)), spec.name


def test_every_entry_that_is_used_names_who_uses_it() -> None:
    """Each entry has a consumer, except those that people use and those that are sources of other files."""
    alone = {
        "k3s": {"k3s.yaml"}, "rke2": {"rke2.yaml"}, "k0s": {"admin.conf"},
            "microk8s": {"client.config", "client", "controller", "scheduler", "proxy"},
        "etcd": {"etcdctl-etcd-client", "apiserver-etcd-client"},
        "starlingx": {"super-admin.conf", "etcd-healthcheck-client", "etcd-client"},
        "microshift": {"kubeadmin-remote.kubeconfig"}, "k8s-snap": {"admin.conf"},
        "kops": {"kops-controller", "kops-controller-ca", "kops-controller-cilium-ca", "kops-channels.kubeconfig",
                 "aws-iam-authenticator", "cilium-etcd-ca", "cilium-etcd-client", "kubectl.kubeconfig",
                 "kube-router.kubeconfig"},
        "kubespray": {"admin.conf", "super-admin.conf", "etcd-healthcheck-client", "etcd-admin"},
    }  # fmt: skip
    for profile, names in alone.items():
        used = [spec for spec in specs(profile).values() if profile != "starlingx" or not spec.renewed_by]
        assert {spec.name for spec in used if not spec.consumers} == names


@pytest.mark.parametrize("profile", sorted(STARTER))
def test_a_starter_reloads_what_it_writes_at_its_start(profile: str) -> None:
    """A file that is written after the start of the process is in `reloads`, so that it does not wait for a restart."""
    for service in parse((), profile=profile).services:
        used = {spec.name for spec in specs(profile).values() if service.name in spec.consumers}
        assert used == set(service.reloads), service.name


def test_every_entry_of_a_starter_names_the_component_that_renews() -> None:
    """certmond renews nothing of k3s, RKE2 and k0s, so each entry names the component that does."""
    for profile in STARTER:
        assert all(spec.renewed_by for spec in specs(profile).values())
    assert not any(spec.renewed_by for spec in specs("etcd").values())
    own = {spec.name for spec in specs("starlingx").values() if not spec.renewed_by}
    assert own == {*specs("kubeadm"), "etcd-client", "haproxy-client"} - {
        spec.name for spec in specs("kubeadm").values() if spec.renewed_by
    }


@pytest.mark.parametrize("profile", ["k3s", "rke2"])
def test_a_kubeconfig_that_trusts_another_ca_is_a_finding(profile: str, tree: Tree) -> None:
    """The administrator's kubeconfig embeds leaf and CA as a chain, and the server's CA, which it has to trust."""
    path = f"/etc/rancher/{profile}/{profile}.yaml"
    text = yaml.safe_load(tree.at(path).read_text())
    text["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(make_ca().pem).decode()
    tree.write(path, yaml.safe_dump(text), 0o600)
    code, document = check(tree, profile)
    assert code == 2
    assert reported(document)[f"{profile}.yaml"] == {"embedded_ca_differs"}


def test_a_kubelet_of_k0s_that_no_longer_rotates_is_a_finding(tmp_path: Path) -> None:
    """The link that k0s's kubelet moves is watched at the path of k0s."""
    tree = MAKERS["k0s"](tmp_path)
    current = tree.at("/var/lib/k0s/kubelet/pki/kubelet-client-current.pem")
    content = tree.at(str(current.readlink())).read_bytes()
    current.unlink()
    current.write_bytes(content)
    current.chmod(0o600)
    code, document = check(tree, "k0s")
    assert code == 1
    assert reported(document)["kubelet-client"] == {"not_a_symlink"}


def test_kinds_are_those_of_the_files() -> None:
    """A file with the suffix of a kubeconfig is one."""
    for profile in MAKERS:
        for spec in specs(profile).values():
            stem, ending = posixpath.splitext(posixpath.basename(spec.path))
            is_kubeconfig = ending in {".conf", ".config", ".yaml"} or stem == "kubeconfig"
            assert (spec.kind is Kind.KUBECONFIG) == is_kubeconfig, spec.path
