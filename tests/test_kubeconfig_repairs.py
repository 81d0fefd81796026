"""Repair of the broken cluster of a kubeconfig with intact credentials: certmond changes only its CA and its server."""

from __future__ import annotations

import base64
import copy
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.state.archive import Archive
from certmond.state.renewals import Ledger
from tests.builders import DAY, YEAR, make_ca, make_leaf
from tests.test_renewal import CA, Host, certmond
from tests.test_repairs import ADMIN, kinds, whole

TRUST = "certificate-authority-data"
PATH = ADMIN["path"]
Break = Callable[[dict[str, Any]], object]


def cut(cluster: dict[str, Any]) -> None:
    cluster[TRUST] = base64.b64encode(base64.b64decode(cluster[TRUST])[:200]).decode()


def with_(field: str, value: object) -> Break:
    return lambda cluster: cluster.update({field: value})


def without(field: str) -> Break:
    return lambda cluster: cluster.pop(field)


def both(cluster: dict[str, Any]) -> None:
    cluster.pop(TRUST)
    cluster.pop("server")


BROKEN: dict[str, Break] = {
    "truncated CA": cut,
    "CA without base64": with_(TRUST, "@@@@"),
    "CA without PEM": with_(TRUST, base64.b64encode(b"managed by a tool").decode()),
    "empty CA": with_(TRUST, ""),
    "null CA": with_(TRUST, None),
    "no CA": without(TRUST),
    "no server": without("server"),
    "empty server": with_("server", ""),
    "neither": both,
}


def read(host: Host) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(host.at(PATH).read_bytes())
    return document


def write(host: Host, document: dict[str, Any], mode: int = 0o600) -> bytes:
    content = b"# a comment\n" + yaml.safe_dump(document).encode()
    host.put(PATH, content, mode)
    return content


def node(place: Path, *, archived: bool) -> Host:
    """Return a node with the current time, at which commands run."""
    now = datetime.now(UTC).replace(microsecond=0)
    return whole(place, "admin.conf", archived=archived, now=now if archived else now - 40 * DAY)


def messages(host: Host) -> list[str]:
    return [each.message for status in host.look().statuses for each in status.findings if each.severity != "info"]


@pytest.mark.long
@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_cluster_is_repaired_in_the_file(tmp_path: Path, how: str, *, by_hand: bool) -> None:
    """certmond writes the present CA of `embedded_ca`, or the known server, into the cluster. It does not change the
    certificate, its key, other users, other clusters and comments. The damaged file is in the archive.
    """
    host = node(tmp_path, archived=False)
    wanted = read(host)
    wanted["users"].append({"name": "other", "user": {"token": "mine"}})
    wanted["clusters"].append({"name": "other", "cluster": {"server": "https://other.example"}})
    document = copy.deepcopy(wanted)
    BROKEN[how](document["clusters"][0]["cluster"])
    damaged, serials = write(host, document), host.serials()
    if by_hand:
        assert any("repair it: certmond renew admin.conf" in each for each in messages(host)), messages(host)
        done = certmond(host, "renew", "admin.conf")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    else:
        assert kinds(host.start_once()) == [("restore", "done")]
    assert read(host) == wanted
    assert host.at(PATH).read_bytes().startswith(b"# a comment\n")
    assert host.serials() == serials
    assert (messages(host), host.plan().steps) == ([], ())
    generations = Archive(host.state).complete_generations("admin.conf.damaged")
    assert [files[0].content for _, files in generations] == [damaged]


def test_a_cluster_is_repaired_without_the_key_of_the_ca(tmp_path: Path) -> None:
    """The repair needs no signature."""
    host = node(tmp_path, archived=False)
    host.at(CA["key"]).unlink()
    wanted = read(host)
    document = copy.deepcopy(wanted)
    cut(document["clusters"][0]["cluster"])
    write(host, document)
    assert kinds(host.start_once()) == [("restore", "done")]
    assert read(host) == wanted


def test_a_repaired_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    """The file contains the private key, so that certmond removes the read permission of other users."""
    host = node(tmp_path, archived=False)
    document = read(host)
    cut(document["clusters"][0]["cluster"])
    write(host, document, 0o644)
    assert kinds(host.start_once()) == [("restore", "done")]
    assert host.at(PATH).stat().st_mode & 0o777 == 0o600


@pytest.mark.long
@pytest.mark.parametrize("known", [True, False])
def test_a_repair_of_the_cluster_does_not_change_the_record_of_renewals(tmp_path: Path, *, known: bool) -> None:
    """The record keeps the last certificate of certmond, and the repair delays no renewal. A repeated repair waits."""
    host = node(tmp_path, archived=False)
    ledger, identity = Ledger(host.state), ("admin.conf", PATH)
    before = Attempt(host.now - DAY, failures=2, sha256="aa", subject="CN=last", message="no signer")
    if known:
        ledger.store(identity, before)
    else:
        ledger.remove(identity)
    for done in ([("restore", "done")], []):
        document = read(host)
        cut(document["clusters"][0]["cluster"])
        write(host, document)
        assert kinds(host.start_once()) == done
    assert "certmond repaired the file once" in host.plan().held[0].because
    after = ledger.attempts()[identity]
    assert (after.repairs, after.repaired_at, after.failures) == (1, host.now, 0)
    expected = (before.sha256, before.subject, before.at) if known else (None, None, host.now)
    assert (after.sha256, after.subject, after.at) == expected
    assert known or after.restored


@pytest.mark.parametrize("field", ["insecure-skip-tls-verify", "certificate-authority"])
def test_a_cluster_that_needs_no_embedded_ca_gets_none(tmp_path: Path, field: str) -> None:
    """The cluster refers to a file, or skips verification. client-go refuses an embedded CA beside that setting."""
    host = node(tmp_path, archived=False)
    document = read(host)
    del document["clusters"][0]["cluster"][TRUST]
    document["clusters"][0]["cluster"][field] = True if field.startswith("insecure") else CA["path"]
    before = write(host, document)
    assert (host.start_once(), host.plan().held) == ((), ())
    assert host.at(PATH).read_bytes() == before
    del document["clusters"][0]["cluster"]["server"]
    write(host, document)
    assert kinds(host.start_once()) == [("restore", "done")]
    assert read(host)["clusters"][0]["cluster"].keys() == {field, "server"}


def shared(document: dict[str, Any]) -> bytes:
    """Return the kubeconfig with two clusters that share one truncated CA through a YAML anchor."""
    cut(document["clusters"][0]["cluster"])
    document["clusters"].append({"name": "other", "cluster": document["clusters"][0]["cluster"]})
    return yaml.safe_dump(document).encode()


@pytest.mark.long
@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("archived", [True, False])
def test_a_kubeconfig_without_its_cluster_is_restored_from_the_archive(
    tmp_path: Path, *, archived: bool, others: bool
) -> None:
    """certmond adds no cluster to a file. If the file has other users, or the archive has no good generation, the file
    does not change. The finding then names the missing value and a command, and `certmond renew` fails.
    """
    host = node(tmp_path, archived=archived)
    wanted = read(host)
    document = {**wanted, "clusters": []}
    if others:
        document["users"] = [*document["users"], {"name": "other", "user": {"token": "mine"}}]
    before = write(host, document)
    fact = "its current context has no cluster"
    if archived and not others:
        assert kinds(host.start_once()) == [("restore", "done")]
        assert read(host)["clusters"] == wanted["clusters"]
        return
    assert host.start_once() == ()
    assert host.at(PATH).read_bytes() == before
    remedy = f"certmond adds no cluster to {host.at(PATH)}; move the file away, then run: certmond renew admin.conf"
    (held,) = host.plan().held
    assert re.sub(r"\s", " ", held.because).endswith(remedy.replace(str(host.root), ""))
    assert any(f"admin.conf: {fact}; certmond adds no cluster to " in each for each in messages(host)), messages(host)
    refused = certmond(host, "renew", "admin.conf")
    assert refused.returncode == 3, refused.stdout
    assert f"move the file away, then run: certmond --root {host.root} renew admin.conf" in refused.stderr
    assert certmond(host, "renew", "--all").returncode == 1
    host.at(PATH).rename(host.at(f"{PATH}.away"))
    assert certmond(host, "renew", "admin.conf").returncode == 0
    host.now = datetime.now(UTC)
    assert archived or messages(host) == []


def test_a_value_of_a_yaml_anchor_is_not_replaced(tmp_path: Path) -> None:
    """Two clusters share the broken value through a YAML anchor. certmond does not change the file, and the plan has
    the reason.
    """
    host = node(tmp_path, archived=False)
    before = shared(read(host))
    host.put(PATH, before, 0o600)
    assert host.start_once() == ()
    assert "without another change to the file" in host.plan().held[0].because
    assert host.at(PATH).read_bytes() == before


@pytest.mark.long
def test_an_unknown_server_is_requested_from_the_operator(tmp_path: Path) -> None:
    """Neither the archive nor another file of the node has the server. The plan names the file to complete."""
    host = node(tmp_path, archived=False)
    document = read(host)
    del document["clusters"][0]["cluster"]["server"]
    before = write(host, document)
    shutil.rmtree(host.state / "archive")
    host.at("/etc/kubernetes/kubelet.conf").unlink()
    assert host.start_once() == ()
    assert host.at(PATH).read_bytes() == before
    fact = "no file on this node contains the address of the API server for cluster 'kubernetes'"
    assert host.plan().held[0].because.endswith(f"; {fact}; write the URL of this API server into {PATH} as `server`")
    assert certmond(host, "renew", "admin.conf").returncode == 3


def test_a_generation_with_a_broken_cluster_is_not_restored(tmp_path: Path) -> None:
    """The newest generation has no cluster. certmond restores an older one, which has the cluster."""
    host = node(tmp_path, archived=True)
    wanted = read(host)
    write(host, {**wanted, "clusters": []})
    Archive(host.state).store("admin.conf", {PATH: host.at(PATH)}, host.now, {})
    assert kinds(host.start_once()) == [("restore", "done")]
    assert read(host)["clusters"] == wanted["clusters"]


def test_a_file_that_another_process_repaired_first_is_not_changed(tmp_path: Path) -> None:
    """A repair that certmond has planned for the broken file fails after another process has repaired this file."""
    host = node(tmp_path, archived=False)
    good = host.at(PATH).read_bytes()
    document = read(host)
    cut(document["clusters"][0]["cluster"])
    write(host, document)
    enforcer = host.enforcer()
    made = enforcer.plan(host.look())
    host.put(PATH, good, 0o600)
    (outcome,) = enforcer.executor.execute(made)
    assert (outcome.result, "another process has repaired " in outcome.message) == ("failed", True)
    assert host.at(PATH).read_bytes() == good


def unfit_ca(host: Host, why: str) -> None:
    """Change ca.crt such that a kubeconfig must not trust it."""
    dates: Any = {"not_before": host.now - YEAR, "not_after": host.now + YEAR}
    present = host.at(CA["path"]).read_bytes()
    contents = {
        "another CA": make_ca(**dates).pem,
        "expired": make_ca(key=host.ca.key, not_before=host.now - 2 * YEAR, not_after=host.now - DAY).pem,
        "a leaf": present + make_leaf(host.ca, **dates).pem,
        "malformed": present + present[:300],
        "other writers": present,
        "nothing": b"",
    }
    host.put(CA["path"], contents[why], 0o666 if why == "other writers" else 0o644)


@pytest.mark.long
@pytest.mark.parametrize(
    ("why", "because"),
    [
        ("another CA", "the CA has not signed the client certificate in this kubeconfig; restore the CA that"),
        ("expired", "the CA is not valid now; rotate the CA"),
        ("a leaf", "the CA file contains a certificate that is not a CA; restore the CA first"),
        ("malformed", "a part of the CA file is malformed; restore the CA first"),
        ("other writers", "; let only root write there"),
        ("nothing", "the CA file of the entry ca contains no certificate; restore the CA"),
    ],
)
def test_an_unfit_ca_is_not_written_into_a_kubeconfig(tmp_path: Path, why: str, because: str) -> None:
    """Neither the daemon nor a command changes the kubeconfig. The plan and the command name the reason and the remedy,
    also if certmond has recorded no trust anchor of the node.
    """
    host = node(tmp_path, archived=False)
    unfit_ca(host, why)
    document = read(host)
    cut(document["clusters"][0]["cluster"])
    before = write(host, document)
    assert host.start_once() == ()
    assert [each.because for each in host.plan().held if each.target == "admin.conf" and because in each.because]
    refused = certmond(host, "renew", "admin.conf")
    assert (refused.returncode, because.partition(";")[0] in refused.stderr) == (3, True), refused.stderr
    assert host.at(PATH).read_bytes() == before


@pytest.mark.long
def test_the_server_of_another_cluster_is_not_written(tmp_path: Path) -> None:
    """A kubeconfig with several clusters gets a server only for a cluster of the same name."""
    host = node(tmp_path, archived=True)
    document = read(host)
    wanted = copy.deepcopy(document)
    second = copy.deepcopy(document["clusters"][0])
    second["name"] = "other"
    del second["cluster"]["server"]
    document["clusters"].append(second)
    document["contexts"][0]["context"]["cluster"] = "other"
    before = write(host, document)
    assert host.start_once() == ()
    assert (
        "no file on this node contains the address of the API server for cluster 'other'" in host.plan().held[0].because
    )
    assert host.at(PATH).read_bytes() == before
    document["contexts"][0]["context"]["cluster"] = wanted["clusters"][0]["name"]
    del document["clusters"][0]["cluster"]["server"]
    write(host, document)
    assert kinds(host.start_once()) == [("restore", "done")]
    assert read(host)["clusters"][0] == wanted["clusters"][0]


def test_a_server_is_not_written_beside_the_ca_of_another_cluster(tmp_path: Path) -> None:
    """The CA of the cluster shares no certificate with the CA of the node. The plan requests the server."""
    host = node(tmp_path, archived=False)
    document = read(host)
    document["clusters"][0]["cluster"] = {TRUST: base64.b64encode(make_ca().pem).decode()}
    before = write(host, document)
    assert host.start_once() == ()
    (because,) = (each.because for each in host.plan().held if each.target == "admin.conf")
    assert "cluster 'kubernetes' of " in because
    assert "has no server, and trusts a CA other than the CA of this node" in because
    assert host.at(PATH).read_bytes() == before


@pytest.mark.parametrize("server", ["https://lb.example", "http://127.0.0.1:8080"])
def test_a_kubeconfig_may_have_no_ca_for_an_unknown_server(tmp_path: Path, server: str) -> None:
    """client-go then verifies the server with the CAs of the system, and a URL with http:// needs no CA."""
    host = node(tmp_path, archived=False)
    document = read(host)
    document["clusters"][0]["cluster"] = {"server": server}
    before = write(host, document)
    assert host.start_once() == ()
    assert host.at(PATH).read_bytes() == before
    reasons = [each.because for each in host.plan().held]
    if server.startswith("http://"):
        assert reasons == []
    else:
        assert f"has no CA data, and no other file of this node contains its server {server}; " in reasons[0]


def test_a_ca_that_client_go_reads_is_kept(tmp_path: Path) -> None:
    """client-go skips the blocks that it cannot read. A repair of the server keeps the other CAs of the cluster."""
    host = node(tmp_path, archived=False)
    document = read(host)
    cluster = document["clusters"][0]["cluster"]
    trusted = base64.b64decode(cluster[TRUST])
    cluster[TRUST] = base64.b64encode(trusted + make_ca().pem + trusted[:300]).decode()
    before = write(host, document)
    assert (host.start_once(), host.plan().held) == ((), ())
    assert host.at(PATH).read_bytes() == before
    server = cluster.pop("server")
    write(host, document)
    assert kinds(host.start_once()) == [("restore", "done")]
    assert read(host)["clusters"][0]["cluster"] == cluster | {"server": server}


@pytest.mark.long
def test_a_restore_omits_a_generation_whose_ca_cannot_be_replaced(tmp_path: Path) -> None:
    """`certmond archive restore` restores an older generation, and names the omitted one with the reason."""
    host = node(tmp_path, archived=True)
    wanted = read(host)
    host.put(PATH, shared(copy.deepcopy(wanted)), 0o600)
    Archive(host.state).store("admin.conf", {PATH: host.at(PATH)}, host.now, {})
    host.put(PATH, b"", 0o600)
    done = certmond(host, "archive", "restore", "admin.conf")
    assert (done.returncode, "without another change to the file" in done.stdout) == (0, True), done.stderr
    assert read(host)["clusters"] == wanted["clusters"]
