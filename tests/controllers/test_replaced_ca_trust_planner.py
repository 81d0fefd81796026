"""A CA that was replaced where certmond may begin no rotation: the node trusts the old CA beside it, and changes
nothing else.
"""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.daemon.pass_schedule import Cause
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.rotation.phases import Phase
from certmond.pki.services.service_observation import Live, ServiceSeen
from certmond.pki.x509.certificate_file_parser import decode
from certmond.state.rotation_record import RotationRecord
from tests.builders import DAY, HOUR, Issued, make_ca, make_leaf, make_server
from tests.controllers.test_replaced_ca_rotation import (
    Clock,
    daemon,
    expired,
    put,
    reported,
    rest,
    with_family,
    with_more,
)
from tests.rotation_node import RotatingNode, kubeconfig, root_ca, with_manager
from tests.sampling import sample
from tests.tracing import distinct, kill_at, record

pytestmark = pytest.mark.real("openssl")

STOPS = 6
"""The number of changes at which it is killed."""
RESTS = 30


class Cluster(RotatingNode):
    """A control-plane node with a controller-manager, one of several, whose API server refuses it."""

    def __init__(self, place: Path, **more: Any) -> None:
        settings: dict[str, Any] = {"cluster": {"kubeconfig": str(place / "node/user.conf")}}
        super().__init__(place, **settings | more)
        self.manifest = with_manager(self)

    @property
    def signs_with(self) -> str:
        """Return the file name of the certificate with which the controller-manager signs."""
        (container,) = yaml.safe_load(self.manifest.read_text())["spec"]["containers"]
        return next(Path(word).name for word in container["command"] if "cert-file=" in word)

    @property
    def interims(self) -> dict[str, Phase]:
        return {family: each.phase for family, each in RotationRecord(self.state).interims().items()}

    def has_interim_trust(self, new: Issued) -> bool:
        """Return whether the new CA precedes the old one in `ca.crt`, and the controller-manager signs with the new
        pair.
        """
        trusts_both = self.trust() == (new.facts, self.old.facts) and self.signs_with == "signing-ca.crt"
        return (
            trusts_both and self.trust("signing-ca.crt") == (new.facts,) and self.key("signing-ca.key") == new.facts.key
        )

    def key(self, name: str = "ca.key") -> object:
        return decode(self.read(name), name).key

    def settle(self) -> None:
        """Make passes until nothing changes."""
        before: Any = None
        for _ in range(RESTS):
            now = self.tree(), self.interims, self.manifest.read_text()
            if now == before:
                return
            before = now
            self.step()
            self.step()
        raise AssertionError("it does not become idle")

    def everything(self) -> dict[str, str]:
        return self.tree() | {"manifest": self.manifest.read_text()}


@pytest.fixture(autouse=True)
def _manifests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: Path) -> None:
    """Return the directory of the node's manifests."""
    monkeypatch.setattr("certmond.files.catalog_observer._KUBERNETES", str(quick / "place"))


@pytest.fixture
def node(quick: Path) -> Cluster:
    """Return a node that has recorded its CA."""
    made = Cluster(quick / "place")
    made.step()
    return made


@pytest.mark.parametrize("hold", ["none", "file", "clock"])
def test_both_generations_of_clients_are_accepted_again(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: str
) -> None:
    """In the passes that the replaced files cause, whatever holds renewals and although no API answers, `ca.crt` gets
    the new CA followed by the old one. The controller-manager, which refuses a file with two, gets the new pair in
    separate files. Nothing is issued, no other file changes, and no rotation begins. The critical finding has the
    event, the action of certmond and the next commands. Further passes change nothing.
    """
    node, clock = Cluster(quick / "place"), Clock()
    if hold == "file":
        (tmp_path / "upgrade").touch()
        node.configure(hold={"file": str(tmp_path / "upgrade"), "unsynchronised_clock": False})
    elif hold == "clock":
        monkeypatch.setattr("certmond.controllers.host_holds.clock_is_synchronised", lambda: False)
        node.configure(hold={"unsynchronised_clock": True})
    new = make_ca(not_before=clock.now, not_after=clock.now + DAY)
    with daemon(node, clock) as made:
        put(node, new)
        before = node.tree()
        rest(made, Cause("change", None), lambda: node.has_interim_trust(new))
        assert node.has_interim_trust(new)
        after = node.tree()
        assert {name for name in after if before.get(name) != after[name]} == {
            "ca.crt", "signing-ca.crt", "signing-ca.key",
        }  # fmt: skip
        rest(made, Cause("step", None))
        assert (node.tree(), node.record, node.phases()) == (after, None, [])
        (said,) = reported(made)
        assert (
            "certmond has appended the old CA to this file, so that components accept clients of both CAs; certmond"
            in said
        )
        assert "restore the old CA and its key, and certmond removes the other CA" in said
        assert (
            "`certmond root-ca stage CERT KEY` on every control-plane node, then `certmond root-ca rotate` on one of "
            "these nodes" in said
        )
    assert node.verifies(node.user(), new, node.old)
    assert [entry["step"] for entry in node.audit() if entry["event"] == "step_done"] == ["rotate"]
    assert [each.name for each in (node.state / "archive").iterdir()] == ["ca"]


@contextmanager
def listener() -> Iterator[tuple[int, list[object]]]:
    """A server that ends each connection at once: its port, and the connections so far."""
    found = list[object]()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                found.append(connection.getpeername())
                connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], found
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.long
def test_no_process_is_contacted_before_the_old_ca_is_trusted(node: Cluster) -> None:
    """An API server that does not answer delays nothing: certmond connects to it only after the old CA is trusted."""
    with listener() as (port, connections):
        node.put("user.conf", node.read("user.conf").replace(b"127.0.0.1:6443", f"127.0.0.1:{port}".encode()))
        node.step()
        assert connections  # it is contacted in a normal pass
        connections.clear()
        new = root_ca()
        put(node, new)
        while not node.has_interim_trust(new):
            assert not connections
            node.step()
        assert not connections
        node.step()
        assert connections


def test_it_comes_before_anything_else_is_written(quick: Path) -> None:
    """Certificates of other CAs that are due, although one of them cannot be written, wait until it is done."""
    node, clock = Cluster(quick / "place"), Clock()
    other = root_ca(subject="other")
    late = make_server(other, "late", not_before=clock.now - 80 * DAY, not_after=clock.now + 2 * DAY)
    with_more(node, "other", authority=True)
    with_more(node, "late", ca="other", signer="broken")
    new = root_ca()
    with daemon(node, clock) as made:
        for name, content in (("other.crt", other.pem), ("other.key", other.key_pem), ("late.crt", late.pem)):
            node.put(name, content)
        node.put("late.key", late.key_pem)
        put(node, new)
        made._pass(Cause("change", None))
        assert [type(step).__name__ for step in made._reconciler.plan.writes] == ["Issue"]
        for _ in range(2):
            made._execute()
            made._pass(Cause("step", None))
        assert node.has_interim_trust(new)
        begun = [entry["step"] for entry in node.audit() if entry["event"] == "step_begun"]
        assert begun == ["rotate"]


@pytest.mark.long
def test_a_command_that_reads_reports_the_same(node: Cluster) -> None:
    """`check` and `plan` report the other nodes and the interim like the daemon, before and after it."""
    put(node, root_ca())
    assert "appends the old CA to this file now" in " ".join(node.hurry("check").out.split())
    node.step()  # the change is recorded
    assert "interim trust for ca: " in " ".join(node.hurry("plan").out.split())
    node.settle()
    assert "has appended the old CA to this file" in " ".join(node.hurry("check").out.split())


def of_three(node: Cluster) -> None:
    """The manifest of an etcd with three members."""
    members = ",".join(f"control-{n}=https://192.0.2.{n}:2380" for n in (1, 2, 3))
    container = {"name": "etcd", "image": "etcd", "command": ["etcd", f"--initial-cluster={members}"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "etcd"}, "spec": {"containers": [container]}}
    (node.manifest.parent / "etcd.yaml").write_text(yaml.safe_dump(pod))


@pytest.mark.long
def test_one_of_several_without_a_cluster(quick: Path) -> None:
    """If etcd has several members and `cluster:` is not configured, the result is the same."""
    node, new = Cluster(quick / "place", cluster={}), root_ca()
    of_three(node)
    node.step()
    put(node, new)
    node.settle()
    assert node.has_interim_trust(new)
    assert (node.record, node.phases()) == (None, [])
    assert "etcd has 3 members, so this is not the only control-plane node" in node.findings()["root_ca_changed"]


@pytest.mark.long
def test_a_ca_of_another_family(node: Cluster) -> None:
    """For each family the old CA is trusted behind the installed one, and alone again when its pair is back. The
    controller-manager, which does not sign with it, is unchanged.
    """
    other, new = with_family(node, node.clock()), root_ca(subject="other")
    node.settle()
    for pair, trust in ((new, (new.facts, other.facts)), (other, (other.facts,))):
        node.put("other.key", pair.key_pem)
        node.put("other.crt", pair.pem)
        node.settle()
        assert node.trust("other.crt") == trust
    assert (node.signs_with, node.interims, node.unwell(node.old)) == ("ca.crt", {}, [])


# Cases without interim


def is_left_alone(node: Cluster, said: str) -> None:
    """Assert that no pass changes a file, and that the finding reports it."""
    before = node.everything()
    node.settle()
    assert (node.everything(), node.interims, node.record) == (before, {}, None)
    assert said in node.findings()["root_ca_changed"]


NOTHING = "; certmond changes no file: "
MODES: dict[str, tuple[dict[str, Any], str]] = {
    "alarm": ({"root_ca": {"on_change": "alarm"}}, "certmond does not act, because `root_ca.on_change` is alarm"),
    "replace": ({"root_ca": {"on_change": "replace"}}, NOTHING),
    "observe": ({"mode": "observe"}, "restore the old CA and its key, or set `mode: enforce`"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("how", MODES)
def test_what_the_configuration_forbids_is_not_done(node: Cluster, how: str) -> None:
    """Neither with `on_change: alarm` nor in observe mode is a file changed, nor with `on_change: replace`, which
    removes the trust in the old CA.
    """
    more, said = MODES[how]
    node.configure(**more)
    put(node, root_ca())
    is_left_alone(node, said)


@pytest.mark.long
def test_an_expired_old_ca_is_not_trusted_again(quick: Path) -> None:
    """No component accepts its certificates: `ca.crt` stays."""
    node = Cluster(quick / "place")
    expired(node, Clock())
    node.step()
    put(node, root_ca())
    is_left_alone(node, NOTHING)


def _not_stored(node: Cluster) -> None:
    (node.state / "anchors.json").unlink()


def _another_key(node: Cluster) -> None:
    node.put("ca.key", root_ca().key_pem)


def _no_key(node: Cluster) -> None:
    (node.files / "ca.key").unlink()


def _weak(node: Cluster) -> None:
    put(node, root_ca(key="rsa-1024"))


def _not_yet(node: Cluster) -> None:
    now = node.clock().replace(microsecond=0)
    put(node, make_ca(not_before=now + 40 * DAY, not_after=now + 90 * DAY))


def _of_others(node: Cluster) -> None:
    (node.files / "ca.crt").chmod(0o666)


def _beside_an_unrelated_ca(node: Cluster) -> None:
    node.put("ca.crt", node.read("ca.crt") + root_ca().pem)


def _foreign_signer(node: Cluster) -> None:
    node.put("signing-ca.key", root_ca().key_pem)


UNFIT = {
    "not stored": _not_stored, "another key": _another_key, "no key": _no_key, "weak": _weak, "not yet": _not_yet,
    "a file of others": _of_others, "an unrelated CA": _beside_an_unrelated_ca, "a foreign signer": _foreign_signer,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("how", UNFIT)
def test_an_unfit_pair_gets_no_aid(node: Cluster, how: str) -> None:
    """If the old CA is not recorded, the new one cannot be followed, or another user can write `ca.crt`, no file
    changes and the finding stays.
    """
    put(node, root_ca())
    UNFIT[how](node)
    is_left_alone(node, NOTHING)


@pytest.mark.long
def test_a_failed_write_is_reported_and_tried_again(node: Cluster) -> None:
    """If the files cannot be archived, none is changed, and the plan has the reason. The next pass without the obstacle
    changes them.
    """
    new, archive = root_ca(), node.state / "archive"
    archive.touch()
    put(node, new)
    before = node.everything()
    node.settle()
    assert node.everything() == before
    assert "appends the old CA to this file now (if that fails, see: certmond plan)" in message_of(node)
    planned = node.hurry("plan").out
    assert "archive" in planned
    archive.unlink()
    node.settle()
    assert node.has_interim_trust(new)
    assert "has appended the old CA to this file" in message_of(node)


def message_of(node: Cluster) -> str:
    return node.findings()["root_ca_changed"]


# The end of the interim


@pytest.mark.long
@pytest.mark.parametrize("first", ["ca.crt", "ca.key"])
def test_restoring_the_old_pair_reverts_the_aid(node: Cluster, first: str) -> None:
    """In either order, and also with a pass in between: only the old CA is trusted, the controller-manager signs with
    its files again, its separate files are removed, and no finding remains.
    """
    before = node.everything()
    put(node, root_ca())
    node.settle()
    files = {"ca.crt": node.old.pem, "ca.key": node.old.key_pem}
    node.put(first, files.pop(first))
    node.settle()
    for name, content in files.items():
        node.put(name, content)
    node.settle()
    assert node.unwell(node.old) == []
    assert node.findings() == {}
    assert (node.everything().keys(), node.interims) == (before.keys(), {})
    assert not list((node.state / "rotation").iterdir())
    assert yaml.safe_load(node.manifest.read_text()) == yaml.safe_load(before["manifest"])


@pytest.mark.long
@pytest.mark.parametrize("signs_with", ["", "signing-ca.crt", "ca.crt"])
def test_the_files_of_a_signer_stay_while_it_uses_them(node: Cluster, signs_with: str) -> None:
    """The kubelet may restart the controller-manager with the old manifest until it has read the new one. The separate
    files stay until the running process uses `ca.crt`. "": the processes are unknown.
    """
    put(node, root_ca())
    node.settle()
    put(node, node.old)
    for _ in range(2):  # the change is recorded, and the manifest is written
        node.step()
    assert (node.signs_with, node.interims) == ("ca.crt", {"ca": Phase.ATTACH})
    enforcer = node.enforcer()
    assessment, around = enforcer.see()
    flag = f"--cluster-signing-cert-file={node.files}/{signs_with}"
    seen = ServiceSeen(running=True, instance="1", started_at=assessment.taken_at, command=("kcm", flag))
    live = Live(assessment.taken_at, {"kcm": seen}) if signs_with else None
    manager = ServiceSpec(name="kcm", kind="static-pod", pod="kube-controller-manager")
    later = enforcer.rotation_state.interim_trust.next_records(
        replace(around, services=(manager,), live=live), assessment.taken_at
    )  # fmt: skip
    assert later["ca"].over is (signs_with == "ca.crt")


@pytest.mark.long
def test_no_command_begins_a_rotation_before(node: Cluster) -> None:
    """`root-ca rotate` is refused with the required step, and changes nothing."""
    put(node, root_ca())
    node.settle()
    before = node.everything()
    refused = node.hurry("root-ca", "rotate")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.endswith(
        "; restore the old CA and its key, then stage the other CA: certmond root-ca stage CERT KEY --family ca\n"
    )
    assert (node.everything(), node.record) == (before, None)


@pytest.mark.long
def test_restoring_the_old_key_alone_removes_the_other_ca(node: Cluster) -> None:
    """When the old key is restored, certmond removes the other CA from `ca.crt`, which no node should trust."""
    new = root_ca()
    put(node, new)
    node.settle()
    node.put("ca.key", node.old.key_pem)
    said = node.findings()["root_ca_changed"]
    assert said.endswith(
        "ca.key is the key of the old CA again; certmond removes the other CA from " + f"{node.files}/ca.crt"
    )
    node.settle()
    assert node.unwell(node.old) == []


@pytest.mark.long
def test_restored_and_replaced_again(node: Cluster) -> None:
    """The two pairs may alternate any number of times."""
    new = root_ca()
    for _ in range(2):
        put(node, new)
        node.step()
        node.settle()
        assert node.has_interim_trust(new)
        put(node, node.old)
        node.step()  # the end of the interim has begun
    put(node, new)
    node.settle()
    assert node.has_interim_trust(new)


@pytest.mark.long
def test_a_ca_that_is_trusted_again_is_removed_by_hand(node: Cluster) -> None:
    """After an operator has moved the whole node to the new CA by hand, the finding has the commands that remove the
    old CA, and they work. If it is removed earlier, certmond adds it again, because the node still needs it.
    """
    new = root_ca()
    put(node, new)
    node.settle()
    node.put("ca.crt", new.pem)
    node.settle()
    assert node.has_interim_trust(new)
    dates: Any = {"not_before": node.clock() - HOUR, "not_after": node.clock() + 90 * DAY}
    web = make_server(new, "web", names=["DNS:web"], **dates)
    node.put("web.crt", web.pem)
    node.put("web.key", web.key_pem)
    node.put("user.conf", kubeconfig(new, make_leaf(new, "user", **dates)))
    node.settle()
    assert node.has_interim_trust(new)
    said = node.findings()["root_ca_changed"]
    assert said.endswith(
        f"when no other node has a certificate of the old CA, remove the old CA from {node.files}/ca.crt"
    )
    assert RotationRecord(node.state).anchors()["ca"] == (node.old.facts,)
    node.put("ca.crt", new.pem)
    node.settle()
    assert node.unwell(new) == []
    assert (node.findings(), node.interims, node.signs_with) == ({}, {}, "ca.crt")
    assert RotationRecord(node.state).anchors()["ca"] == (new.facts,)


@pytest.mark.long
def test_a_node_that_is_alone_later_rotates(node: Cluster) -> None:
    """If the configuration later declares no other nodes, the rotation to the found CA begins from there, and at the
    end no part of the interim remains.
    """
    new = root_ca()
    put(node, new)
    node.settle()
    node.configure(cluster={})
    node.step()
    node.step()
    assert node.phase is Phase.TRUST
    node.walk()
    assert node.unwell(new) == []
    assert (node.findings(), node.interims, node.signs_with) == ({}, {}, "ca.crt")


@pytest.mark.long
def test_an_alarm_stops_it(node: Cluster) -> None:
    """With `on_change: alarm` set afterwards, a CA that an operator removes from `ca.crt` stays out."""
    new = root_ca()
    put(node, new)
    node.settle()
    node.configure(root_ca={"on_change": "alarm"})
    node.put("ca.crt", new.pem)
    node.settle()
    assert node.trust() == (new.facts,)


@pytest.mark.long
def test_a_third_ca(node: Cluster) -> None:
    """Its files are not changed while the controller-manager has the second pair, which would be lost. After the old
    pair is restored, everything is as before.
    """
    second = root_ca()
    put(node, second)
    node.settle()
    put(node, root_ca())
    before = node.everything()
    node.settle()
    assert node.everything() == before
    said = node.findings()["root_ca_changed"]
    earlier = f"an earlier CA (SHA-256 {second.facts.sha256[:16]}…) has replaced the old CA;"
    assert f"; certmond changes no file: {earlier}" in said
    put(node, node.old)
    node.settle()
    assert node.unwell(node.old) == []
    assert node.interims == {}


@pytest.mark.long
def test_an_unreadable_record_is_written_again(node: Cluster) -> None:
    """The node's record of its interim is only a cache."""
    new = root_ca()
    put(node, new)
    node.settle()
    (node.state / "rotation/interim_trust.json").write_bytes(b"rubbish")
    node.settle()
    assert (node.has_interim_trust(new), node.interims) == (True, {"ca": Phase.TRUST})
    put(node, node.old)
    node.settle()
    assert node.unwell(node.old) == []


@pytest.mark.long
@pytest.mark.parametrize("how", ["record", "observe"])
def test_a_signer_that_no_client_trusts_is_reported(node: Cluster, how: str) -> None:
    """An operator has restored the old pair. If the record of the interim trust is damaged, or in observe mode,
    certmond does not change the manifest of the controller-manager. A critical finding names the signer's file, the
    manifest and the required change. After the operator has made this change, the node has no finding.
    """
    put(node, root_ca())
    node.settle()
    if how == "record":
        (node.state / "rotation/interim_trust.json").write_bytes(b"rubbish")
    else:
        node.configure(mode="observe")
    put(node, node.old)
    node.settle()
    assert node.signs_with == "signing-ca.crt"
    said = node.findings()["root_ca_changed"]
    assert said.startswith(
        f"kube-controller-manager signs with {node.files}/signing-ca.crt, but {node.files}/ca.crt lacks this"
    )
    assert said.endswith(
        f"in {node.manifest}, set --cluster-signing-cert-file to {node.files}/ca.crt and --cluster-signing-key-file to "
        f"{node.files}/ca.key, and remove {node.files}/signing-ca.crt and {node.files}/signing-ca.key"
    )
    node.manifest.write_text(node.manifest.read_text().replace("signing-ca.", "ca."))
    for name in ("signing-ca.crt", "signing-ca.key"):
        (node.files / name).unlink()
    node.settle()
    assert node.findings() == {}


@pytest.mark.long
def test_the_old_ca_first_beside_the_new_key_is_not_to_be_removed(node: Cluster) -> None:
    """If an operator writes the old CA first into `ca.crt`, and does not replace the key of the new CA, the finding
    does not request the removal of the old CA. It requests the old pair, which ends the interim.
    """
    new = root_ca()
    put(node, new)
    node.settle()
    node.put("ca.crt", node.old.pem + new.pem)
    said = node.findings()["root_ca_changed"]
    assert said == (
        f"{node.files}/ca.crt contains the old CA and the CA that replaced the old CA; "
        "restore the old CA and its key, and certmond removes the other CA"
    )
    put(node, node.old)
    node.settle()
    assert (node.unwell(node.old), node.interims, node.findings()) == ([], {}, {})


@pytest.mark.long
def test_a_later_replace_setting_does_not_end_the_aid(node: Cluster) -> None:
    """With `on_change: replace` set afterwards, both CAs stay in `ca.crt`. The finding reports them and the commands
    that end the interim.
    """
    new = root_ca()
    put(node, new)
    node.settle()
    before = node.findings()["root_ca_changed"]
    node.configure(root_ca={"on_change": "replace"})
    node.settle()
    assert (node.trust(), node.findings()["root_ca_changed"]) == ((new.facts, node.old.facts), before)
    put(node, node.old)
    node.settle()
    assert (node.unwell(node.old), node.interims) == ([], {})


@pytest.mark.long
def test_an_alarm_in_a_cluster_names_no_command_that_is_refused(quick: Path) -> None:
    """With `on_change: alarm` and `cluster:`, no command rotates to an installed CA, and the finding has the reason.
    After the old pair is restored, the commands in the finding begin the rotation.
    """
    node, new = Cluster(quick / "place", root_ca={"on_change": "alarm"}), root_ca()
    node.step()
    put(node, new)
    said = node.findings()["root_ca_changed"]
    assert "or run: certmond root-ca rotate" not in said
    assert "and no command rotates to a CA that is already installed here (to rotate a CA that several nodes" in said
    assert said.endswith(
        "restore the old CA and its key; to rotate, run `certmond root-ca stage CERT KEY` on every control-plane "
        "node, then `certmond root-ca rotate` on one of these nodes"
    )
    put(node, node.old)
    pair = quick / "ca.crt", quick / "ca.key"
    pair[0].write_bytes(new.pem)
    pair[1].write_bytes(new.key_pem)
    assert node.hurry("root-ca", "stage", *map(str, pair)).code == 0
    assert node.hurry("root-ca", "rotate", "--plan").code == 0


def test_an_alarm_with_several_members_of_etcd_requests_a_cluster(quick: Path) -> None:
    """If etcd has several members and `cluster:` is not configured, the finding requests `cluster:` on every node."""
    node = Cluster(quick / "place", root_ca={"on_change": "alarm"}, cluster={})
    of_three(node)
    node.step()
    put(node, root_ca())
    assert "; to rotate, configure `cluster:` on every node, and run" in node.findings()["root_ca_changed"]


@pytest.mark.long
@pytest.mark.parametrize("trusts_both", [True, False])
def test_init_signs_nothing_with_a_replaced_ca(quick: Path, trusts_both: bool) -> None:
    """During interim trust, and with `on_change: alarm`, `init` exits 3. It names the last CA of this node, and the
    file to remove on a node that was installed again. After the old pair is restored, `init` issues the missing
    certificates.
    """
    node = Cluster(quick / "place", **({} if trusts_both else {"cluster": {}, "root_ca": {"on_change": "alarm"}}))
    document = yaml.safe_load((node.place / "config.yaml").read_text())
    for entry in document["certificates"]:
        if entry["name"] == "web":
            entry |= {"subject": "CN=web", "names": ["DNS:web"]}
    (node.place / "config.yaml").write_text(yaml.safe_dump(document))
    node.step()
    put(node, root_ca())
    node.settle()
    (node.files / "web.crt").unlink()
    (node.files / "web.key").unlink()
    before = node.everything()
    for words in (["init"], ["init", "--dry-run"]):
        refused = node.hurry(*words)
        assert (refused.code, refused.out) == (3, "")
        assert f"{node.files}/ca.crt does not contain the CA that this node used last (CN=kubernetes" in refused.err
        assert f"if this node was installed again, remove {node.state}/anchors.json" in refused.err
    assert node.everything() == before
    put(node, node.old)
    assert node.hurry("init").code == 0
    assert node.verifies(node.read("web.crt"), node.old)


@pytest.mark.long
def test_the_ca_of_another_family_is_not_staged(node: Cluster) -> None:
    """The commands in the finding of a family name this family. `stage` refuses the CA of another family that shares
    no certificate with the requested one.
    """
    with_family(node, node.clock())
    new = root_ca(subject="other")
    node.settle()
    node.put("other.key", new.key_pem)
    node.put("other.crt", new.pem)
    node.settle()
    said = node.findings()["root_ca_changed"]
    assert said.endswith(
        "run `certmond root-ca stage --family other CERT KEY` on every control-plane node, then "
        "`certmond root-ca rotate --family other` on one of these nodes"
    )
    pair = node.place / "ca.crt", node.place / "ca.key"
    pair[0].write_bytes(new.pem)
    pair[1].write_bytes(new.key_pem)
    refused = node.hurry("root-ca", "stage", *map(str, pair))
    assert refused.code == 2
    assert "this is the CA of other on this node; stage another CA, or stage this CA with --family other" in refused.err


# Killed


def whole(node: Cluster) -> Iterator[str]:
    """Yield the defects at an instant: each state that is neither the old nor the new one and has no transaction that
    completes it.
    """
    begun = list((node.state / "transactions").glob("*.commit.json"))
    trust = node.trust()
    if not trust or (trust[0].key != node.key() and not begun and node.old.facts not in trust):
        yield f"ca.crt holds {trust}"
    if node.signs_with == "signing-ca.crt" and not begun:
        own = node.trust("signing-ca.crt")
        if [each.key for each in own] != [node.key("signing-ca.key")]:
            yield "the controller-manager would sign with no pair"
    if node.signs_with == "ca.crt" and len(trust) > 1 and not begun:
        yield "the controller-manager would refuse ca.crt"
    yield from node.readable()


@pytest.mark.long
@pytest.mark.parametrize("way", ["there", "back"])
def test_killed_anywhere(node: Cluster, quick: Path, way: str) -> None:
    """After a kill at any changing system call, in either direction, the node is consistent: its CA's file has the CA
    of its key, and the controller-manager can start. The next process completes the change.
    """
    new = root_ca()
    put(node, new)
    if way == "back":
        node.settle()
        put(node, node.old)
    kept = quick / "kept"
    shutil.copytree(node.place, kept, symlinks=True)

    def again() -> Cluster:
        shutil.rmtree(node.place)
        shutil.copytree(kept, node.place, symlinks=True)
        return node

    stops = record(partial(Cluster.settle, again()))
    for n in sample(distinct(stops), STOPS, f"interim trust, {way}"):
        where = f"{n}, {kill_at(partial(Cluster.settle, again()), n)}"
        assert list(whole(node)) == [], where
        node.enforcer().executor.recover()  # like a new process
        node.settle()
        assert node.has_interim_trust(new) if way == "there" else node.unwell(node.old) == [], where
        left = [*(node.state / "transactions").glob("*"), *(p for p in node.files.iterdir() if p.name[0] == ".")]
        assert left == [], where
