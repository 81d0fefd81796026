"""The command line on the tree of a real kubeadm node: its output, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, pkcs12
from cryptography.x509.oid import NameOID

from certmond.cli.options import UNKNOWN
from certmond.pki.findings import Reason
from tests import preloaded_certmond
from tests.builders import make_ca, make_leaf
from tests.daemon_harness import Running, running
from tests.deadline import DEADLINE
from tests.node import DATA, PKI, Node, key_pem, pem, public_pem
from tests.reference_node import ReferenceNode, pod

AT = "2026-12-01T00:00:00Z"
NAMES = {
    "ca", "apiserver", "apiserver-kubelet-client", "front-proxy-ca", "front-proxy-client", "etcd-ca", "etcd-server",
    "etcd-peer", "etcd-healthcheck-client", "apiserver-etcd-client", "admin.conf", "controller-manager.conf",
    "scheduler.conf", "kubelet-client",
}  # fmt: skip
LOOKS = ("check", "plan", "forecast --for 1y", "renew apiserver --dry-run")
UNPRIVILEGED = ("setpriv", "--bounding-set", "-all", "--inh-caps", "-all")
"""Makes root subject to the modes of files, like every user."""


def certmond(*arguments: str | Path, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    if not before:
        return preloaded_certmond.run([*map(str, arguments)], DEADLINE)
    command = [*before, sys.executable, "-m", "certmond", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)


def check(root: Path, at: str = AT, *more: str | Path) -> tuple[int, dict[str, Any]]:
    done = certmond("check", "--root", root, "--at", at, "-o", "json", *more)
    assert not done.stderr
    return done.returncode, json.loads(done.stdout)


def kubeadms_view() -> dict[str, str]:
    """name -> EXPIRES, as `kubeadm certs check-expiration` printed it of the same tree."""
    lines = (DATA / "kubeadm-1.24.check-expiration.txt").read_text().splitlines()
    rows = [line.split("  ") for line in lines if " UTC " in line]
    return {row[0].strip(): next(cell.strip() for cell in row if "UTC" in cell) for row in rows}


@pytest.mark.long
def test_a_healthy_node_is_well(node: Node) -> None:
    """On a real kubeadm node `check` exits 0 with every certificate proven, and reports only the serial numbers of its
    CAs.
    """
    code, document = check(node.root)
    assert code == 0
    assert {entry["name"] for entry in document["certificates"]} == NAMES
    assert all(entry["chain_valid"] and entry["key_matches"] for entry in document["certificates"])
    findings = [item for entry in document["certificates"] for item in entry["findings"]] + document["findings"]
    assert {(item["reason"], item["severity"]) for item in findings} == {("nonpositive_serial", "info")}
    assert document["schema"] == 1
    assert document["taken_at"] == AT
    assert document["node"] == "controller-0"
    assert document["mode"] == "observe"


@pytest.mark.long
def test_serial_numbers_of_zero_are_one_line_of_the_wide_table(node: Node) -> None:
    """With serial numbers of zero, each row reads `ok`, and only `-o wide` has one line with these certificates."""
    arguments = ("check", "--root", node.root, "--at", AT)
    table, wide = certmond(*arguments).stdout, certmond(*arguments, "-o", "wide").stdout
    assert "nonpositive_serial" not in table
    assert [line.split()[-1] for line in table.splitlines()[1 : len(NAMES) + 1]] == ["ok"] * len(NAMES)
    (line,) = (line for line in wide.splitlines() if "nonpositive_serial" in line)
    assert line.startswith(
        "info     ca, front-proxy-ca, etcd-ca: the serial number is not positive; no action is necessary"
    )


@pytest.mark.long
def test_it_agrees_with_kubeadm(node: Node) -> None:
    """Every expiry date is the one that `kubeadm certs check-expiration` prints."""
    _, document = check(node.root)
    own_side = {
        entry["name"]: datetime.fromisoformat(entry["not_after"]).strftime("%b %d, %Y %H:%M UTC")
        for entry in document["certificates"]
    }
    theirs = kubeadms_view()
    assert len(theirs) == 13
    assert {name: own_side[name] for name in theirs} == theirs


@pytest.mark.long
def test_openssl_agrees(node: Node) -> None:
    """Subject, serial number, dates and fingerprint are those that openssl reads."""
    _, document = check(node.root)
    entry = next(entry for entry in document["certificates"] if entry["name"] == "apiserver")
    shown = subprocess.run(
        ["openssl", "x509", "-in", node.path(f"{PKI}/apiserver.crt"), "-noout", "-serial", "-fingerprint", "-sha256"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert int(shown[0].partition("=")[2], 16) == int(entry["serial"])
    assert shown[0].partition("=")[2].lower() == entry["serial_hex"]
    assert f" {entry['serial_hex']} " in certmond("check", "--root", node.root, "--at", AT, "-o", "wide").stdout
    assert shown[1].partition("=")[2].replace(":", "").lower() == entry["sha256"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("at", "code", "reason"),
    [("2027-11-10T00:00:00Z", 1, "nearing_expiry"), ("2027-11-25T00:00:00Z", 2, "expired")],
)
def test_the_exit_code_is_the_worst_severity(node: Node, at: str, code: int, reason: str) -> None:
    """A warning exits 1, a critical finding 2, as monitoring plugins do."""
    found, document = check(node.root, at)
    assert found == code
    leaf = next(entry for entry in document["certificates"] if entry["name"] == "apiserver")
    assert [item["reason"] for item in leaf["findings"]] == [reason]


@pytest.mark.long
def test_trust_anchors_are_listed(node: Node) -> None:
    """Each trust anchor has its own entry, and every leaf names the one that it chains to."""
    _, document = check(node.root)
    anchors = {entry["name"]: entry for entry in document["trust_anchors"]}
    assert set(anchors) == {"ca", "etcd-ca", "front-proxy-ca"}
    assert all(entry["self_signed"] for entry in anchors.values())
    used = {entry["name"]: entry["trust_anchor"] for entry in document["certificates"]}
    assert used["apiserver"] == anchors["ca"]["sha256"]
    assert used["etcd-peer"] == anchors["etcd-ca"]["sha256"]


@pytest.mark.long
def test_json_has_exactly_the_promised_fields(node: Node) -> None:
    """The JSON has the fields that others build on."""
    _, document = check(node.root)
    assert set(document) == {
        "schema",
        "taken_at",
        "node",
        "mode",
        "next_event",
        "coverage",
        "ca_only",
        "certificates",
        "trust_anchors",
        "findings",
        "all_findings",
    }
    promised = {"name", "path", "kind", "subject", "issuer", "serial", "serial_hex", "sha256", "not_before",
                "not_after", "renew_at", "trust_anchor", "chain_valid", "key_matches", "served",
                "findings"}  # fmt: skip
    for entry in document["certificates"]:
        assert promised <= set(entry)
        assert entry["kind"] in {"file", "kubeconfig", "bundle", "kubelet"}
    anchor = {"name", "path", "subject", "serial", "serial_hex", "sha256", "not_before", "not_after", "self_signed",
              "findings"}  # fmt: skip
    assert anchor == set(document["trust_anchors"][0])


@pytest.mark.long
@pytest.mark.parametrize(
    ("at", "code", "label"), [("2027-11-10T00:00:00Z", 1, "held    "), ("2027-11-25T00:00:00Z", 2, "critical")]
)
def test_plan_names_what_no_step_solves(node: Node, at: str, code: int, label: str) -> None:
    """Without the key of the CA, `plan` exits 1 with each due certificate and the obstacle, and 2 after the end of a
    certificate. Each certificate has one line, and `plan` does not state that there is nothing to do.
    """
    node.path(f"{PKI}/ca.key").unlink()
    place = ("plan", "--root", node.root, "--at", at)
    done = certmond(*place)
    assert (done.returncode, done.stderr) == (code, "")
    assert "nothing to do" not in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if " apiserver: " in line)
    assert line.startswith(f"{label} apiserver: ")
    assert f"the CA's key {node.path(f'{PKI}/ca.key')} is not on this node" in line
    document = json.loads(certmond(*place, "-o", "json").stdout)
    renewers = {each["target"]: each["renewed_by"] for each in document["waiting"]}
    assert renewers["apiserver"] is None
    assert renewers["kubelet-client"] == ("the kubelet" if code == 1 else None)
    serious = {(each["certificate"], each["reason"]) for each in document["unresolved"]}
    assert (("apiserver", "expired") in serious) is (code == 2)


@pytest.mark.long
def test_one_member_has_all_findings(node: Node) -> None:
    """`all_findings` has each finding once, with its certificate, and the most severe findings come first."""
    node.path(f"{PKI}/apiserver.crt").write_text("no certificate")
    node.path(f"{PKI}/sa.key").chmod(0o640)
    _, document = check(node.root)
    found = document["all_findings"]
    expected = [
        {"certificate": entry["name"], "path": entry["path"], **item}
        for entry in document["certificates"]
        for item in entry["findings"]
    ]
    loose = [{"reason": each["reason"], "message": each["message"]} for each in found if each["certificate"] is None]
    assert sorted(map(str, expected)) == sorted(str(each) for each in found if each["certificate"])
    assert loose == [{"reason": each["reason"], "message": each["message"]} for each in document["findings"]]
    assert [each["reason"] for each in document["findings"]] == ["too_open"]
    assert (found[0]["certificate"], found[0]["path"]) == ("apiserver", f"/{PKI}/apiserver.crt")
    ranks = [["critical", "warning", "info"].index(each["severity"]) for each in found]
    assert ranks == sorted(ranks)


@pytest.mark.long
def test_it_counts_the_certificates_by_source(node: Node) -> None:
    """`check` ends with the number of certificates by source, and the number of files that certmond does not watch."""
    world = ReferenceNode(node, datetime.fromisoformat(AT) + timedelta(days=5))
    world.add_flags("kube-apiserver", "--oidc-ca-file=/in/the/image.crt")
    code, document = check(node.root)
    entries = {entry["name"] for entry in document["certificates"]}
    named = {entry["name"].partition("#")[0] for entry in document["certificates"] if entry["named_by"]}
    assert (code, document["coverage"]["unwatched"]) == (2, 1)
    assert named == world.names - {"kube-apiserver.oidc-ca-file"}  # a later flag takes precedence
    assert document["coverage"]["entries"] + document["coverage"]["references"] == len(entries)
    due = {e["name"].partition("#")[0] for e in document["certificates"] if "nearing_expiry" in str(e["findings"])}
    assert named <= due
    last = certmond("check", "--root", node.root, "--at", AT).stdout.splitlines()[-1]
    count = document["coverage"]
    expected = f"{count['entries']} of the catalogue, {count['references']} only in references"
    assert last == f"certificates: {expected}; files not watched: 1"
    assert "certmond_unwatched_references 1\n" in certmond("metrics", "--root", node.root, "--at", AT).stdout


@pytest.mark.long
def test_the_profile_none_follows_no_references(node: Node) -> None:
    """With `profile: none`, certmond watches the listed certificates only."""
    ReferenceNode(node, datetime.fromisoformat(AT) + timedelta(days=5))
    config = node.root / "none.yaml"
    config.write_text("profile: none\ncertificates: [{name: ca, path: /etc/kubernetes/pki/ca.crt, authority: true}]\n")
    _, document = check(node.root, AT, "--config", config)
    assert [entry["name"] for entry in document["certificates"]] == ["ca"]


@pytest.mark.long
def test_a_path_without_a_known_trust_anchor_is_unverified(node: Node) -> None:
    """Without `ca` in its entry, nothing proves who has signed the certificate, so the column CHAIN does not read
    `valid`. An expired certificate has no valid path in any case. The values in the JSON do not change.
    """
    config = node.root / "none.yaml"
    paths = {"alone": "apiserver.crt", "signed": "apiserver-kubelet-client.crt", "ca": "ca.crt"}
    entries: list[dict[str, Any]] = [
        {"name": name, "path": f"/etc/kubernetes/pki/{path}"} for name, path in paths.items()
    ]
    entries[1]["ca"], entries[2]["authority"] = "ca", True
    config.write_text(yaml.safe_dump({"profile": "none", "certificates": entries}))
    found = {}
    for at in (AT, "2036-01-01T00:00:00Z"):
        rows = certmond("check", "--root", node.root, "--at", at, "--config", config).stdout.splitlines()[1:4]
        found[at] = {row.split()[0]: row.split()[-3] for row in rows}
    assert found[AT] == {"alone": "unverified", "signed": "valid", "ca": "valid"}
    assert found["2036-01-01T00:00:00Z"]["alone"] == "no"
    _, document = check(node.root, AT, "--config", config)
    assert [entry["chain_valid"] for entry in document["certificates"]] == [True] * 3


@pytest.mark.long
def test_yaml_is_the_same_document(node: Node) -> None:
    """`-o yaml` has the same document as `-o json`."""
    _, document = check(node.root)
    done = certmond("check", "--root", node.root, "--at", AT, "-o", "yaml")
    assert yaml.safe_load(done.stdout) == document


@pytest.mark.long
@pytest.mark.parametrize("output", ["table", "wide"])
def test_the_table_shows_each_certificate_and_each_remedy(node: Node, output: str) -> None:
    """The table has a line for each certificate, and below it every finding with its remedy."""
    node.path(f"{PKI}/apiserver.key").chmod(0o644)
    done = certmond("check", "--root", node.root, "--at", AT, "-o", output)
    assert done.returncode == 2
    assert all(any(line.startswith(name) for line in done.stdout.splitlines()) for name in NAMES)
    assert f"chmod 0600 {node.path(f'{PKI}/apiserver.key')}" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.long
def test_global_options_stand_before_or_after_the_verb(node: Node) -> None:
    """`certmond --root T check` and `certmond check --root T` are the same."""
    before = certmond("--root", node.root, "check", "--at", AT, "-o", "json")
    after = certmond("check", "--root", node.root, "--at", AT, "-o", "json")
    assert before.returncode == after.returncode == 0
    assert before.stdout == after.stdout


@pytest.mark.long
def test_the_option_after_the_verb_counts(node: Node, tmp_path: Path) -> None:
    """If a global option is given twice, the one after the verb counts."""
    assert certmond("--root", tmp_path, "check", "--root", node.root, "--at", AT).returncode == 0


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--nonsense"),
        ("check", "--at", "tomorrow"),
        ("check", "--at", "2026-12-01T00:00:00"),
        ("check", "--root", "/nowhere"),
        ("check", "--profile", "nonsense"),
        ("check", "--config", "/nowhere.yaml"),
        ("check", "-o", "xml"),
        ("status", "--runtime-dir", "/nowhere"),
        ("serve", "--listen", "nonsense"),
        ("explain", "nonsense"),
        ("nonsense",),
        ("config", "validate", "--config", "/nowhere.yaml"),
    ],
    ids=" ".join,
)
def test_an_impossible_command_exits_3(arguments: tuple[str, ...]) -> None:
    """A wrong option, time, root, profile, configuration or runtime directory exits 3, with one clear text."""
    done = certmond(*arguments)
    assert done.returncode == 3
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


def test_the_exit_collects_no_garbage() -> None:
    """A command ends without a garbage collection of the loaded modules."""
    show = "import atexit, gc, sys; atexit.register(lambda: print(gc.get_freeze_count() > 10_000))"
    code = f"{show}; sys.argv[1:] = ['version']; from certmond.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=DEADLINE)
    assert done.stdout.splitlines()[-1] == "True"


@pytest.mark.long
def test_an_empty_root_exits_3(tmp_path: Path) -> None:
    """A root without a single certificate of the profile exits 3, because silence must not look healthy."""
    done = certmond("check", "--root", tmp_path)
    assert done.returncode == 3
    assert f"no certificate of the profile 'kubeadm' exists below {tmp_path}; run certmond on a node" in done.stderr


@pytest.mark.long
def test_status_shows_what_the_daemon_rendered(node: Node, tmp_path: Path) -> None:
    """`status` prints the running daemon's last assessment, and exits as `check` does."""
    work = tmp_path / "work"
    work.mkdir()
    certificate, _ = node.mint(node.certificate(f"{PKI}/apiserver.crt"), usages=("client",))
    node.write(f"{PKI}/apiserver.crt", pem(certificate))
    with running(node.root, work) as daemon:
        daemon.until(lambda: "key_mismatch" in daemon.reasons("apiserver"), "the pair is no longer given time")
        before = daemon.status()
        done = certmond("status", "--runtime-dir", daemon.runtime, "-o", "json")
        assert done.returncode == 2
        assert json.loads(done.stdout) in (before, daemon.status())  # a pass may come between


@pytest.mark.long
def test_status_of_an_empty_node_exits_3(tmp_path: Path) -> None:
    """`status` of a daemon without any certificate exits 3, like `check`, with the remedy."""
    for name in ("work", "node"):
        (tmp_path / name).mkdir()
    with running(tmp_path / "node", tmp_path / "work") as daemon:
        done = certmond("status", "--runtime-dir", daemon.runtime)
    assert done.returncode == 3
    assert "no certificate" in done.stderr
    assert "certmond check" in done.stderr


@pytest.mark.long
def test_status_of_a_node_with_only_references_exits_3(tmp_path: Path) -> None:
    """Without a certificate of the profile, `status` and `check` exit 3, although a flag names a certificate."""
    for name in ("work", "node/etc/kubernetes/manifests", "node/etc/extra"):
        (tmp_path / name).mkdir(parents=True)
    root = tmp_path / "node"
    (root / "etc/extra/ca.crt").write_bytes(make_ca("extra").pem)
    fields = pod("konnectivity-server")
    container = fields["spec"]["containers"][0]
    container["command"].append("--cluster-ca-cert=/etc/extra/ca.crt")
    container["volumeMounts"].append({"name": "extra", "mountPath": "/etc/extra"})
    fields["spec"]["volumes"].append({"name": "extra", "hostPath": {"path": "/etc/extra"}})
    (root / "etc/kubernetes/manifests/konnectivity-server.yaml").write_text(yaml.safe_dump(fields))
    with running(root, tmp_path / "work") as daemon:
        assert [entry["name"] for entry in daemon.status()["certificates"]] == ["konnectivity-server.cluster-ca-cert"]
        done = certmond("status", "--runtime-dir", daemon.runtime)
    checked = certmond("check", "--root", root)
    assert (done.returncode, checked.returncode) == (3, 3)
    assert "finds no certificate of its profile" in done.stderr
    assert "no certificate of the profile 'kubeadm' exists" in checked.stderr


@pytest.mark.long
def test_status_of_a_node_with_only_keys_exits_as_check(tmp_path: Path) -> None:
    """`status` has the exit code of `check` on a node on which the entries name keys, but no certificate."""
    work, pki = tmp_path / "work", tmp_path / "node/etc/kubernetes/pki"
    work.mkdir()
    pki.mkdir(parents=True)
    key = ec.generate_private_key(ec.SECP256R1())
    (pki / "sa.key").write_bytes(key_pem(key))
    (pki / "sa.key").chmod(0o600)
    (pki / "sa.pub").write_bytes(public_pem(key))
    config = work / "config.yaml"
    entry = {"name": "sa", "kind": "key-pair", "path": f"/{PKI}/sa.pub", "key": f"/{PKI}/sa.key"}
    config.write_text(yaml.safe_dump({"profile": "none", "certificates": [entry]}))
    with running(tmp_path / "node", work, "--config", str(config)) as daemon:
        done = certmond("status", "--runtime-dir", daemon.runtime)
        assert daemon.status()["coverage"]["catalogued"] == 1
    checked = certmond("check", "--root", tmp_path / "node", "--config", config)
    assert (done.returncode, checked.returncode) == (0, 0), done.stderr


@pytest.mark.long
def test_metrics_prints_one_pass(node: Node) -> None:
    """`metrics` prints the exposition text of one look, for a textfile collector."""
    done = certmond("metrics", "--root", node.root, "--at", AT)
    assert done.returncode == 0
    assert done.stdout.count("certmond_certificate_chain_valid{") == len(NAMES)
    assert 'certmond_findings{severity="critical"} 0' in done.stdout


@pytest.mark.long
def test_metrics_are_escaped_for_a_terminal_only(node: Node) -> None:
    """A program reads a name with control characters unchanged. A terminal gets it escaped."""
    name = "etc/extra/a\x1b[2Jb\x07.crt"
    node.path("etc/extra").mkdir()
    node.write(name, node.read(f"{PKI}/apiserver.crt"))
    config = node.root / "config.yaml"
    config.write_text("certificates: [{name: extra, path: /etc/extra/*.crt}]")
    command = ("metrics", "--root", node.root, "--config", config)
    assert f'path="/{name}"' in certmond(*command).stdout
    terminal, end = pty.openpty()
    with open(terminal, "rb", buffering=0) as screen:
        process = subprocess.Popen([sys.executable, "-m", "certmond", *map(str, command)], stdout=end)
        os.close(end)
        shown = bytearray()
        with suppress(OSError):  # EIO, when the writer has ended
            while piece := screen.read(1 << 16):
                shown += piece
        assert process.wait() == 0
    assert rb'path="/etc/extra/a\x1b[2Jb\x07.crt"' in shown
    assert not {0x1B, 0x07} & set(shown)


@pytest.mark.long
def test_metrics_replaces_a_file(node: Node, tmp_path: Path) -> None:
    """`metrics --output-file` replaces the file as a whole, readable for all users, and prints nothing. A failure is
    reported.
    """
    file = tmp_path / "certmond.prom"
    file.write_text("old")
    with file.open() as reader:
        done = certmond("metrics", "--root", node.root, "--at", AT, "--output-file", file)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert reader.read() == "old"
    assert file.read_text().count("certmond_certificate_chain_valid{") == len(NAMES)
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.glob("*certmond.prom*")) == [file]
    done = certmond("metrics", "--root", node.root, "--output-file", tmp_path / "none/certmond.prom")
    assert done.returncode == 3
    assert str(tmp_path / "none/certmond.prom") in done.stderr


@pytest.mark.long
def test_metrics_replaces_nothing_but_a_file(node: Node, tmp_path: Path) -> None:
    """A target of `metrics --output-file` that is no regular file stays, also behind a symlink: `--output-file
    /dev/null` as root does not replace /dev/null.
    """
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for target in (pipe, link):
        done = certmond("metrics", "--root", node.root, "--at", AT, "--output-file", target)
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.startswith(f"certmond: {target} could not be written (it is not a regular file): ")
    assert (pipe.is_fifo(), link.is_symlink()) == (True, True)


@pytest.mark.long
@pytest.mark.parametrize("arguments", LOOKS)
def test_a_verb_that_reads_needs_no_kubeconfig(node: Node, tmp_path: Path, arguments: str) -> None:
    """The kubeconfig of the restart lock is not read, and may be unreadable for the caller."""
    node.path("closed").symlink_to("closed")  # which is closed to root, too
    own = tmp_path / "config.yaml"
    own.write_text("cluster: {kubeconfig: /closed/certmond.conf}\n")
    reported = [certmond(*arguments.split(), "--root", node.root, *more) for more in ((), ("--config", own))]
    assert [done.returncode for done in reported] == [reported[0].returncode] * 2
    assert [done.stderr for done in reported] == ["", ""]
    assert reported[0].returncode != UNKNOWN


@pytest.mark.long
def test_a_verb_that_reads_runs_as_any_user(node: Node, tmp_path: Path) -> None:
    """A state directory that the caller may not read counts as empty, also if the command names it."""
    closed = tmp_path / "state"
    closed.mkdir(mode=0)
    with running(node.root, tmp_path) as daemon:
        for verb in (*LOOKS, f"status --runtime-dir {daemon.runtime}"):
            given: list[str | Path] = [*verb.split(), "--root", node.root, "--state-dir", closed]
            done = certmond(*given, before=UNPRIVILEGED if os.geteuid() == 0 else ())
            assert (verb, done.stderr) == (verb, "")
            assert done.returncode != UNKNOWN


@pytest.mark.long
def test_every_verb_has_help() -> None:
    """Each verb explains itself."""
    listed = certmond("--help").stdout
    for verb in ("run", "serve", "check", "status", "metrics", "config", "discover", "explain", "demo", "version"):
        assert f"\n  {verb}" in listed
        assert certmond(verb, "--help").returncode == 0


def test_the_version() -> None:
    """`--version` and the verb say the same: the name and the version."""
    assert certmond("--version").stdout == certmond("version").stdout == f"certmond {version('certmond')}\n"


@pytest.mark.long
def test_a_time_with_a_zone_is_taken_as_it_is(node: Node) -> None:
    """`--at` with an offset means that instant."""
    done = certmond("check", "--root", node.root, "--at", "2026-12-01T02:00:00+02:00", "-o", "json")
    assert json.loads(done.stdout)["taken_at"] == AT


@pytest.mark.long
def test_no_plugin_of_pydantic_is_loaded(node: Node, tmp_path: Path) -> None:
    """A package that registers a plugin of pydantic executes no code in a process of certmond."""
    (tmp_path / "intruder.py").write_text("print('intruder')\nplugin = None\n")
    (described := tmp_path / "intruder-1.dist-info").mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: intruder\nVersion: 1\n")
    (described / "entry_points.txt").write_text("[pydantic]\nintruder = intruder:plugin\n")
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = certmond("check", "--root", node.root, "--at", AT, "-o", "json", before=("env", f"PYTHONPATH={path}"))
    assert done.returncode == 0
    assert "intruder" not in done.stdout


def test_a_reader_that_goes_is_no_traceback(node: Node) -> None:
    """`certmond check | head -1` ends quietly."""
    command = f"{sys.executable} -m certmond check --root {node.root} --at {AT} -o json | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_status_of_a_dead_daemon_exits_3(node: Node, tmp_path: Path) -> None:
    """`status` exits 3 when the daemon that rendered it has ended, whatever it last reported."""
    work = tmp_path / "work"
    work.mkdir()
    with running(node.root, work) as daemon:
        daemon.until(lambda: certmond("status", "--runtime-dir", daemon.runtime).returncode == 0, "status exits 0")
        daemon.stop()
        done = certmond("status", "--runtime-dir", daemon.runtime)
    assert done.returncode == 3
    assert "the daemon is not running: start it with `systemctl start certmond`" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"schema": 2}', '{"schema": 1, "taken_at": "x"}', "[" * 100_000])
def test_a_broken_status_file_is_no_traceback(tmp_path: Path, text: str) -> None:
    """A file that is no status document exits 3 with one clear text."""
    (tmp_path / "status.json").write_text(text)
    done = certmond("status", "--runtime-dir", tmp_path)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00"])
def test_a_time_beyond_the_calendar_is_refused(at: str) -> None:
    """A time that no calendar has in UTC exits 3."""
    done = certmond("check", "--at", at)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments",
    [
        ("forecast", "--at", "9999-12-31T23:59:59Z", "--for", "100y"),
        ("forecast", "--at", "9000-01-01T00:00:00Z", "--for", "100y", "--profile", "none"),
        ("forecast", "--at", "9998-12-31T23:59:59Z", "--for", "1y"),
        ("forecast", "--at", "0001-01-01T00:00:00Z", "--for", "1y"),
        ("plan", "--at", "9999-12-31T23:59:59Z"),
        ("plan", "--at", "0001-01-01T00:00:00Z"),
    ],
)
def test_no_verb_ends_beyond_the_calendar_with_a_traceback(node: Node, arguments: tuple[str, ...]) -> None:
    """An operation beyond the last year, or before the first, is an error."""
    done = certmond(*arguments, "--root", node.root)
    assert "Traceback" not in done.stderr
    if arguments[:3:2] == ("forecast", "9999-12-31T23:59:59Z"):
        assert done.returncode == 3
        assert "certmond supports only the years 1 to 9999" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(
    "arguments", [("renew", "--all"), ("renew", "apiserver"), ("init",), ("archive", "restore", "apiserver")]
)
def test_a_verb_that_writes_refuses_a_configuration_that_others_can_write(
    node: Node, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """The rule also holds in observe mode; a dry run is allowed."""
    config = tmp_path / "config.yaml"
    config.write_text("mode: observe\n")
    config.chmod(0o666)
    given: tuple[str | Path, ...] = (
        *arguments,
        "--config",
        config,
        "--root",
        node.root,
        "--state-dir",
        tmp_path / "state",
    )
    done = certmond(*given)
    assert done.returncode == 3
    assert "is writable by other users" in done.stderr
    assert "is writable by other users" not in certmond(*given, "--dry-run").stderr
    assert not (tmp_path / "state").exists()


@pytest.mark.long
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_not_a_warning(node: Node, unbuffered: str) -> None:
    """Output that cannot be written exits 3 with one message, also if Python does not buffer the output."""
    command = f"{sys.executable} -m certmond check --root {node.root} --at {AT} > /dev/full"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=DEADLINE, check=False,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    assert done.returncode == 3
    fact = "certmond: cannot write the output (No space left on device)"
    assert done.stderr == f"{fact}; check the file or program that receives it\n"


@pytest.mark.parametrize(
    ("mistake", "reported"),
    [("raise ValueError('SEC' + 'RET')", "an unexpected ValueError in"), ("bytearray(1 << 62)", "enough memory")],
)
def test_a_defect_of_certmond_is_not_a_warning(mistake: str, reported: str) -> None:
    """An unexpected error and a lack of memory exit 3. The message quotes nothing that could be a key."""
    broken = f"from certmond.cli import main\n@main.cli.command()\ndef broken(): {mistake}\nmain.main()"
    done = subprocess.run([sys.executable, "-c", broken, "broken"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert reported in done.stderr
    assert "SECRET" not in done.stderr


@pytest.mark.parametrize("obstacle", ["take_descriptors()", "traceback.format_tb = None"])
def test_a_defect_without_a_traceback_is_not_a_warning(obstacle: str) -> None:
    """If Python cannot format the traceback, for example without descriptors, an unexpected error exits 3. The message
    quotes nothing.
    """
    broken = f"""
import os, resource, traceback
from contextlib import suppress
from certmond.cli import main

def take_descriptors():
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    with suppress(OSError):
        while True:
            os.open("/dev/null", os.O_RDONLY)

@main.cli.command()
def broken():
    {obstacle}
    raise ValueError("SEC" + "RET")

main.main()
"""
    done = subprocess.run([sys.executable, "-c", broken, "broken"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "certmond: an unexpected ValueError in" in done.stderr
    assert "SECRET" not in done.stderr


@pytest.mark.long
@pytest.mark.parametrize("closed", ["<&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_change_nothing(node: Node, tmp_path: Path, closed: str) -> None:
    """The daemon works and ends in good order, and no file that is opened gets the number of a stream."""
    work = tmp_path / "run"
    work.mkdir()
    command = f'"$@" {closed}'
    daemon = (sys.executable, "-m", "certmond", "--root", node.root, "--state-dir", tmp_path / "state")
    process = subprocess.Popen(["bash", "-c", f"exec {command}", "bash", *daemon, "run", "--runtime-dir", work])
    try:
        alive = Running(process, work, Path(os.devnull))  # type: ignore[arg-type]
        alive.until((work / "heartbeat.json").exists, "alive")
        streams = {os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)}
        assert not [each for each in streams if each.startswith(str(tmp_path)) or "anon_inode" in each]
        assert alive.stop() == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
def test_a_warning_of_a_library_is_not_printed(node: Node) -> None:
    """A name longer than RFC 5280 allows does not print a line of cryptography's source."""
    with pytest.warns(UserWarning, match="length"):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x" * 65, _validate=False)])
    node.write(f"{PKI}/front-proxy-client.crt", make_leaf(make_ca(), subject=name).pem)
    assert certmond("check", "--root", node.root, "--at", AT).stderr == ""


@pytest.mark.long
def test_colours_that_are_asked_for_are_there(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in a pipe is plain, but where FORCE_COLOR asks for colours, as for `less -R`."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in certmond("check", "--root", node.root, "--at", AT).stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in certmond("check", "--root", node.root, "--at", AT).stdout


@pytest.mark.long
@pytest.mark.parametrize("arguments", ["check", "check -o json", "metrics", "plan", "config schema", "check --help"])
def test_a_closed_pipe_is_not_a_warning(node: Node, arguments: str) -> None:
    """If the reader of a pipe has ended, like `head`, the exit code is 3, without a message."""
    (reading, output), where = os.pipe(), ["--root", str(node.root)]
    os.close(reading)
    command = [sys.executable, "-m", "certmond", *where, *arguments.split()]
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, timeout=DEADLINE, check=False)
    os.close(output)
    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.long
@pytest.mark.parametrize("arguments", ["check --root /nowhere", "nonsense", "renew --config /nowhere apiserver"])
def test_a_closed_stderr_does_not_change_the_exit_code(arguments: str) -> None:
    """If stderr cannot be written either, the exit code is still 3, and not that of a warning."""
    command = f"{sys.executable} -m certmond {arguments} 2> /dev/full"
    assert subprocess.run(["bash", "-c", command], timeout=DEADLINE, check=False).returncode == 3


@pytest.mark.long
def test_a_file_that_cannot_be_read_is_no_failing_output(tmp_path: Path) -> None:
    """An unexpected error of the system is reported as such, and not as one of the output."""
    (tmp_path / "archive").symlink_to("archive")
    done = certmond("archive", "list", "--state-dir", tmp_path)
    assert done.returncode == 3
    assert done.stderr == (
        f"certmond: cannot read or write {tmp_path}/archive (Too many levels of symbolic links); check the permissions "
        "of the file\n"
    )


@pytest.mark.long
def test_no_name_reaches_the_terminal_as_a_command(node: Node) -> None:
    """Control characters in a subject are shown as escapes."""
    certificate, key = node.mint(node.certificate(f"{PKI}/apiserver.crt"), subject="CN=evil\x1b[2J\x07")
    node.write(f"{PKI}/apiserver.crt", pem(certificate))
    node.write(f"{PKI}/apiserver.key", key_pem(key))
    done = certmond("check", "--root", node.root, "--at", AT, "-o", "wide")
    assert done.returncode == 2
    assert "\x1b" not in done.stdout
    assert r"evil\x1b[2J" in done.stdout


def test_an_error_does_not_print_the_key_that_it_quotes() -> None:
    """A failure whose text quotes a private key is reported without it, and exits 3."""
    code = (
        "import sys, certmond.cli.main as verbs\n"
        "from certmond.errors import CertmondError\n"
        "def fails(**_): raise CertmondError(f'the answer was: {sys.argv[1]}')\n"
        "verbs.cli.main = fails\n"
        "verbs.main()"
    )
    command = [sys.executable, "-c", code, make_ca().key_pem.decode().strip()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (UNKNOWN, "certmond: the answer was: [private key removed]\n")


@pytest.mark.long
def test_check_prints_only_the_named_certificates(node: Node) -> None:
    """With names, `check` prints these certificates, and its status is that of their findings."""
    node.write(f"{PKI}/apiserver.crt", "broken")
    table = certmond("check", "--root", node.root, "--at", AT, "ca", "front-proxy-client")
    assert table.returncode == 0
    rows = [line.split()[0] for line in table.stdout.splitlines() if " UTC " in line and "next due" not in line]
    assert rows == ["ca", "front-proxy-client"]
    assert certmond("check", "--root", node.root, "--at", AT, "apiserver").returncode == 2


@pytest.mark.long
def test_check_refuses_an_unknown_certificate(node: Node) -> None:
    """An unknown name is an error that lists the certificates of the node."""
    done = certmond("check", "--root", node.root, "apiserve")
    assert done.returncode == UNKNOWN
    assert "this node has no certificate apiserve; the certificates are: admin.conf, apiserver, " in done.stderr


@pytest.mark.long
def test_quiet_prints_no_table(node: Node) -> None:
    """With -q, a command prints no table, and its exit status is the result. JSON is still printed."""
    node.write(f"{PKI}/apiserver.crt", "broken")
    for before, after in ((("-q",), ()), ((), ("--quiet",))):
        done = certmond(*before, "check", "--root", node.root, *after)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert json.loads(certmond("check", "-q", "--root", node.root, "-o", "json").stdout)["schema"] == 1


@pytest.mark.long
def test_no_color_is_an_option(node: Node) -> None:
    """--no-color removes the colors that FORCE_COLOR would add."""
    node.write(f"{PKI}/apiserver.crt", "broken")
    colored = certmond("check", "--root", node.root, before=("env", "FORCE_COLOR=1"))
    plain = certmond("check", "--no-color", "--root", node.root, before=("env", "FORCE_COLOR=1"))
    assert "\x1b[3" in colored.stdout
    assert "\x1b[3" not in plain.stdout


def test_explain_alone_lists_the_runbook() -> None:
    """Without a reason, `explain` prints one line for each section: its name and its first sentence."""
    done = certmond("explain")
    assert done.returncode == 0
    assert re.search(r"^missing +Restore the file with the command in the finding$", done.stdout, re.MULTILINE)
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {*Reason}


@pytest.mark.long
def test_a_status_without_a_daemon_names_the_next_command(tmp_path: Path) -> None:
    """If no daemon has written a status, the message names the command that starts the daemon."""
    done = certmond("status", "--runtime-dir", tmp_path)
    assert (done.returncode, done.stdout) == (UNKNOWN, "")
    fact = f"the daemon is not running, because {tmp_path}/status.json does not exist"
    assert done.stderr == f"certmond: {fact}; start it: systemctl start certmond\n"


@pytest.mark.long
def test_the_status_of_a_directory_is_not_that_of_this_host(node: Node, tmp_path: Path) -> None:
    """With --root, `status` exits with 3 and names `check`, unless the user gives the directory of a daemon."""
    done = certmond("status", "--root", node.root)
    assert (done.returncode, done.stdout) == (UNKNOWN, "")
    assert done.stderr.endswith(f"to check {node.root} without a daemon, run: certmond --root {node.root} check\n")
    given = certmond("status", "--root", node.root, "--runtime-dir", tmp_path)
    assert f"{tmp_path}/status.json does not exist" in given.stderr


@pytest.mark.long
@pytest.mark.parametrize("command", ["check", "plan", "forecast"])
def test_an_empty_machine_is_one_sentence(tmp_path: Path, command: str) -> None:
    """On a machine without files of Kubernetes, a command prints one sentence and no table."""
    done = certmond(command, "--root", tmp_path)
    assert (done.returncode, done.stdout) == (UNKNOWN, "")
    fact = f"no certificate of the profile 'kubeadm' exists below {tmp_path}"
    remedy = "run certmond on a node of a cluster, or list the certificates in the configuration (`profile: none`)"
    assert done.stderr == f"certmond: {fact}; {remedy}\n"


def test_a_caller_that_ignores_sigchld_changes_nothing(tmp_path: Path) -> None:
    """certmond gets the exit status of its child processes, for example of the one that opens a PKCS#12 file."""
    leaf = make_leaf(make_ca())
    content = pkcs12.serialize_key_and_certificates(b"x", leaf.key, leaf.cert, None, BestAvailableEncryption(b"secret"))
    (tmp_path / "x.p12").write_bytes(content)
    (tmp_path / "password").write_bytes(b"secret")
    config = tmp_path / "config.yaml"
    entry = {"name": "x", "path": "/x.p12", "password_file": "/password", "ca": []}
    config.write_text(json.dumps({"profile": "none", "certificates": [entry]}))
    found = certmond(
        "--root", tmp_path, "check", "--config", config, "-o", "json", before=("env", "--ignore-signal=CHLD")
    )
    assert (found.returncode, found.stderr) == (2, "")
    [shown] = json.loads(found.stdout)["certificates"]
    assert shown["subject"] == leaf.facts.subject
