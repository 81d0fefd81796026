"""The broken cluster of a kubeconfig whose credentials are whole: its CA and its server are put right, nothing else."""

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

from certmond.host.archive import Archive
from certmond.host.ledger import Ledger
from certmond.pki.attempt import Attempt
from tests.builders import DAY
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
    "CA that is cut": cut,
    "CA that is no base64": with_(TRUST, "@@@@"),
    "CA that is no PEM": with_(TRUST, base64.b64encode(b"managed by a tool").decode()),
    "CA that is empty": with_(TRUST, ""),
    "CA that is null": with_(TRUST, None),
    "no CA": without(TRUST),
    "no server": without("server"),
    "server that is empty": with_("server", ""),
    "neither": both,
}


def read(host: Host) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(host.at(PATH).read_bytes())
    return document


def write(host: Host, document: dict[str, Any], mode: int = 0o600) -> bytes:
    content = b"# ours\n" + yaml.safe_dump(document).encode()
    host.put(PATH, content, mode)
    return content


def node(place: Path, *, archived: bool) -> Host:
    """Its clock is the one of the command."""
    now = datetime.now(UTC).replace(microsecond=0)
    return whole(place, "admin.conf", archived=archived, now=now if archived else now - 40 * DAY)


def said(host: Host) -> list[str]:
    return [each.message for status in host.look().statuses for each in status.findings if each.severity != "info"]


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_cluster_is_put_right_in_place(tmp_path: Path, how: str, *, by_hand: bool) -> None:
    """The present CA of `embedded_ca`, or the server that is known, is written where it was. Everything else stays: the
    certificate and its key, other users and clusters, comments. What was damaged is kept apart.
    """
    host = node(tmp_path, archived=False)
    wanted = read(host)
    wanted["users"].append({"name": "other", "user": {"token": "mine"}})
    wanted["clusters"].append({"name": "other", "cluster": {"server": "https://other.example"}})
    document = copy.deepcopy(wanted)
    BROKEN[how](document["clusters"][0]["cluster"])
    damaged, serials = write(host, document), host.serials()
    if by_hand:
        assert any("put it right: certmond renew admin.conf" in each for each in said(host)), said(host)
        done = certmond(host, "renew", "admin.conf")
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
    else:
        assert kinds(host.start_once()) == [("restore", "done")]
    assert read(host) == wanted
    assert host.at(PATH).read_bytes().startswith(b"# ours\n")
    assert host.serials() == serials
    assert (said(host), host.plan().steps) == ([], ())
    kept = [files[0].content for _, files in Archive(host.state).whole("admin.conf.damaged")]
    assert kept == [damaged]


def test_a_cluster_is_put_right_where_no_key_of_the_ca_is(tmp_path: Path) -> None:
    """Nothing is signed for it."""
    host = node(tmp_path, archived=False)
    host.at(CA["key"]).unlink()
    wanted = read(host)
    document = copy.deepcopy(wanted)
    cut(document["clusters"][0]["cluster"])
    write(host, document)
    assert kinds(host.start_once()) == [("restore", "done")]
    assert read(host) == wanted


def test_a_file_that_was_too_open_is_not_so_after_it(tmp_path: Path) -> None:
    """It has the private key still."""
    host = node(tmp_path, archived=False)
    document = read(host)
    cut(document["clusters"][0]["cluster"])
    write(host, document, 0o644)
    assert kinds(host.start_once()) == [("restore", "done")]
    assert host.at(PATH).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("known", [True, False])
def test_what_certmond_put_in_place_last_is_remembered(tmp_path: Path, *, known: bool) -> None:
    """A repair of the cluster says nothing of the certificate, and keeps no renewal waiting; repairs in a row wait."""
    host = node(tmp_path, archived=False)
    ledger, identity = Ledger(host.state), ("admin.conf", PATH)
    before = Attempt(host.now - DAY, failures=2, sha256="aa", subject="CN=last", message="no signer")
    if known:
        ledger.remember(identity, before)
    else:
        ledger.forget(identity)
    for done in ([("restore", "done")], []):
        document = read(host)
        cut(document["clusters"][0]["cluster"])
        write(host, document)
        assert kinds(host.start_once()) == done
    assert "it was put right once" in host.plan().held[0].because
    after = ledger.attempts()[identity]
    assert (after.repairs, after.repaired_at, after.failures) == (1, host.now, 0)
    expected = (before.sha256, before.subject, before.at) if known else (None, None, host.now)
    assert (after.sha256, after.subject, after.at) == expected
    assert known or after.restored


@pytest.mark.parametrize("field", ["insecure-skip-tls-verify", "certificate-authority"])
def test_a_cluster_that_needs_no_embedded_ca_is_left_as_it_is(tmp_path: Path, field: str) -> None:
    """It refers to a file, or skips verification, beside which client-go refuses a CA: somebody decided that."""
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
    """Two clusters with one value, by an anchor."""
    cut(document["clusters"][0]["cluster"])
    document["clusters"].append({"name": "other", "cluster": document["clusters"][0]["cluster"]})
    return yaml.safe_dump(document).encode()


@pytest.mark.parametrize("others", [True, False])
@pytest.mark.parametrize("archived", [True, False])
def test_a_kubeconfig_without_its_cluster_comes_from_the_archive(
    tmp_path: Path, *, archived: bool, others: bool
) -> None:
    """certmond adds none to it. With other users or without a good generation it stays, and the finding names what is
    missing and a command that works; `certmond renew` fails until then.
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
    remedy = f"certmond adds no cluster to {host.at(PATH)}; move the file away, then: certmond renew admin.conf"
    (held,) = host.plan().held
    assert re.sub(r"\s", " ", held.because).endswith(remedy.replace(str(host.root), ""))
    assert any(f"admin.conf: {fact}; certmond adds no cluster to " in each for each in said(host)), said(host)
    refused = certmond(host, "renew", "admin.conf")
    assert refused.returncode == 3, refused.stdout
    assert "move the file away, then: certmond renew admin.conf" in refused.stderr
    assert certmond(host, "renew", "--all").returncode == 1
    host.at(PATH).rename(host.at(f"{PATH}.away"))
    assert certmond(host, "renew", "admin.conf").returncode == 0
    host.now = datetime.now(UTC)
    assert archived or said(host) == []


def test_what_cannot_be_exchanged_alone_stays(tmp_path: Path) -> None:
    """Two clusters share the broken value by an anchor of YAML. The file stays, and the finding says why."""
    host = node(tmp_path, archived=False)
    before = shared(read(host))
    host.put(PATH, before, 0o600)
    assert host.start_once() == ()
    assert "cannot be exchanged without changing more than that" in host.plan().held[0].because
    assert host.at(PATH).read_bytes() == before


def test_a_server_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    """The archive is gone, and no other file of the node has it: the finding says where to write it."""
    host = node(tmp_path, archived=False)
    document = read(host)
    del document["clusters"][0]["cluster"]["server"]
    before = write(host, document)
    shutil.rmtree(host.state / "archive")
    host.at("/etc/kubernetes/kubelet.conf").unlink()
    assert host.start_once() == ()
    assert host.at(PATH).read_bytes() == before
    remedy = (
        f"where the API server of cluster 'kubernetes' is, nothing here says; write its URL into {PATH} as `server`"
    )
    assert host.plan().held[0].because.endswith(remedy)
    assert certmond(host, "renew", "admin.conf").returncode == 3


def test_a_generation_with_a_broken_cluster_is_none_that_puts_it_right(tmp_path: Path) -> None:
    """It would break the file again: one that lacks its cluster was kept after one that has it."""
    host = node(tmp_path, archived=True)
    wanted = read(host)
    write(host, {**wanted, "clusters": []})
    Archive(host.state).store("admin.conf", {PATH: host.at(PATH)}, host.now, {})
    assert kinds(host.start_once()) == [("restore", "done")]
    assert read(host)["clusters"] == wanted["clusters"]


def test_somebody_who_puts_it_right_first_is_not_overwritten(tmp_path: Path) -> None:
    """What was planned for the broken file is not done to the whole one."""
    host = node(tmp_path, archived=False)
    good = host.at(PATH).read_bytes()
    document = read(host)
    cut(document["clusters"][0]["cluster"])
    write(host, document)
    enforcer = host.enforcer()
    made = enforcer.plan(host.look())
    host.put(PATH, good, 0o600)
    (outcome,) = enforcer.executor.execute(made)
    assert (outcome.result, "put right by someone else" in outcome.message) == ("failed", True)
    assert host.at(PATH).read_bytes() == good
