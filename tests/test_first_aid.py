"""A CA that was replaced where certmond may begin no rotation: the node trusts the former CA beside it, and no more."""

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

from certmond.daemon import Cause
from certmond.host.rotation_record import RotationRecord
from certmond.pki.catalog import ServiceSpec
from certmond.pki.encoding import decode
from certmond.pki.rotation import Phase
from certmond.pki.service import Live, ServiceSeen
from tests.builders import DAY, HOUR, Issued, make_ca, make_leaf, make_server
from tests.rotating_node import RotatingNode, kubeconfig, root_ca, with_manager
from tests.test_replaced_ca import Clock, daemon, expired, put, rest, told, with_family, with_more
from tests.tracing import distinct, kill_at, record

pytestmark = pytest.mark.real("openssl")

STOPS = 20
"""At so many of the moments at which anything has changed it is killed."""
RESTS = 30


class Cluster(RotatingNode):
    """A control-plane node with a controller-manager, one of several, whose API server refuses it."""

    def __init__(self, place: Path, **more: Any) -> None:
        settings: dict[str, Any] = {"cluster": {"kubeconfig": str(place / "node/user.conf")}}
        super().__init__(place, **settings | more)
        self.manifest = with_manager(self)

    @property
    def signs_with(self) -> str:
        """The certificate that the controller-manager is told to sign with: the name of its file."""
        (container,) = yaml.safe_load(self.manifest.read_text())["spec"]["containers"]
        return next(Path(word).name for word in container["command"] if "cert-file=" in word)

    @property
    def aids(self) -> dict[str, Phase]:
        return {family: each.phase for family, each in RotationRecord(self.state).aids().items()}

    def is_aided(self, new: Issued) -> bool:
        """The new CA comes first, the former one behind it, and the controller-manager signs with the pair in place."""
        aided = self.trust() == (new.facts, self.old.facts) and self.signs_with == "signing-ca.crt"
        return aided and self.trust("signing-ca.crt") == (new.facts,) and self.key("signing-ca.key") == new.facts.key

    def key(self, name: str = "ca.key") -> object:
        return decode(self.read(name), name).key

    def settle(self) -> None:
        """Step after step, until nothing changes any more."""
        before: Any = None
        for _ in range(RESTS):
            now = self.tree(), self.aids, self.manifest.read_text()
            if now == before:
                return
            before = now
            self.step()
            self.step()
        raise AssertionError("it does not come to rest")

    def everything(self) -> dict[str, str]:
        return self.tree() | {"manifest": self.manifest.read_text()}


@pytest.fixture(autouse=True)
def _manifests(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quick: Path) -> None:
    """Where the node's manifests are."""
    monkeypatch.setattr("certmond.host.store._KUBERNETES", str(quick / "place"))


@pytest.fixture
def node(quick: Path) -> Cluster:
    """One that knows its CA."""
    made = Cluster(quick / "place")
    made.step()
    return made


@pytest.mark.parametrize("hold", ["none", "file", "clock"])
def test_both_generations_of_clients_are_accepted_again(
    quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hold: str
) -> None:
    """With the passes that the replaced files cause, whatever holds renewals back and though no API answers, `ca.crt`
    holds the new CA and then the former one, and the controller-manager, which refuses a file with two, has the new
    pair for itself. Nothing is issued, no other file is changed, no rotation begins, and the critical finding says what
    happened, what certmond did, and which commands follow. With further passes nothing changes.
    """
    node, clock = Cluster(quick / "place"), Clock()
    if hold == "file":
        (tmp_path / "upgrade").touch()
        node.configure(hold={"file": str(tmp_path / "upgrade"), "unsynchronised_clock": False})
    elif hold == "clock":
        monkeypatch.setattr("certmond.host.circumstances.clock_is_synchronised", lambda: False)
        node.configure(hold={"unsynchronised_clock": True})
    new = make_ca(not_before=clock.now, not_after=clock.now + DAY)
    with daemon(node, clock) as made:
        put(node, new)
        before = node.tree()
        rest(made, Cause("change", None), lambda: node.is_aided(new))
        assert node.is_aided(new)
        after = node.tree()
        assert {name for name in after if before.get(name) != after[name]} == {
            "ca.crt", "signing-ca.crt", "signing-ca.key",
        }  # fmt: skip
        rest(made, Cause("step", None))
        assert (node.tree(), node.record, node.phases()) == (after, None, [])
        (said,) = told(made)
        assert "; certmond has put the former CA behind it, so that clients of both are accepted, and begins" in said
        assert "put the former CA and its key back, and certmond removes the other one" in said
        assert (
            "`certmond root-ca stage CERT KEY` on every control-plane node, then `certmond root-ca rotate` on one"
            in said
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


def test_nobody_is_asked_before(node: Cluster) -> None:
    """An API server that does not answer delays nothing: no process connects to it before the former CA is trusted."""
    with listener() as (port, connections):
        node.put("user.conf", node.read("user.conf").replace(b"127.0.0.1:6443", f"127.0.0.1:{port}".encode()))
        node.step()
        assert connections  # it is asked as ever
        connections.clear()
        new = root_ca()
        put(node, new)
        while not node.is_aided(new):
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
        assert [type(step).__name__ for step in made._acting.plan.writes] == ["Issue"]
        for _ in range(2):
            made._act()
            made._pass(Cause("step", None))
        assert node.is_aided(new)
        begun = [entry["step"] for entry in node.audit() if entry["event"] == "step_begun"]
        assert begun == ["rotate"]


def test_a_command_that_only_looks_tells_the_same(node: Cluster) -> None:
    """`check` and `plan` say of the other nodes, and of the aid, what the daemon says, before and after it."""
    put(node, root_ca())
    assert "puts the former CA behind it now" in " ".join(node.hurry("check").out.split())
    node.step()  # it is noted
    assert "first aid for ca: " in " ".join(node.hurry("plan").out.split())
    node.settle()
    assert "has put the former CA behind it" in " ".join(node.hurry("check").out.split())


def of_three(node: Cluster) -> None:
    """The manifest of an etcd with three members."""
    members = ",".join(f"control-{n}=https://192.0.2.{n}:2380" for n in (1, 2, 3))
    container = {"name": "etcd", "image": "etcd", "command": ["etcd", f"--initial-cluster={members}"]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "etcd"}, "spec": {"containers": [container]}}
    (node.manifest.parent / "etcd.yaml").write_text(yaml.safe_dump(pod))


def test_one_of_several_without_a_cluster(quick: Path) -> None:
    """Where etcd has several members and `cluster:` is not configured, it is the same."""
    node, new = Cluster(quick / "place", cluster={}), root_ca()
    of_three(node)
    node.step()
    put(node, new)
    node.settle()
    assert node.is_aided(new)
    assert (node.record, node.phases()) == (None, [])
    assert "etcd has 3 members, so that this is not the only control-plane node" in node.findings()["root_ca_changed"]


def test_another_ca_than_the_clusters(node: Cluster) -> None:
    """Of each family: the former CA is trusted behind the one in place, and alone again when its pair is back. The
    controller-manager, which does not sign with it, is left alone.
    """
    other, new = with_family(node, node.clock()), root_ca(subject="other")
    node.settle()
    for pair, trust in ((new, (new.facts, other.facts)), (other, (other.facts,))):
        node.put("other.key", pair.key_pem)
        node.put("other.crt", pair.pem)
        node.settle()
        assert node.trust("other.crt") == trust
    assert (node.signs_with, node.aids, node.unwell(node.old)) == ("ca.crt", {}, [])


# What gets no aid


def is_left_alone(node: Cluster, said: str) -> None:
    """Step after step nothing is touched, and that is told so."""
    before = node.everything()
    node.settle()
    assert (node.everything(), node.aids, node.record) == (before, {}, None)
    assert said in node.findings()["root_ca_changed"]


NOTHING = ", and nothing is touched: "
MODES: dict[str, tuple[dict[str, Any], str]] = {
    "alarm": ({"root_ca": {"on_change": "alarm"}}, "certmond does not act, because `root_ca.on_change` is alarm"),
    "replace": ({"root_ca": {"on_change": "replace"}}, NOTHING),
    "observe": ({"mode": "observe"}, "put the former one back and rotate with `certmond root-ca`, or let certmond enf"),
}  # fmt: skip


@pytest.mark.parametrize("how", MODES)
def test_what_the_configuration_forbids_is_not_done(node: Cluster, how: str) -> None:
    """Not with `on_change: alarm`, not in observe mode, and not with `on_change: replace`, by which the former CA is
    not to be trusted any more.
    """
    more, said = MODES[how]
    node.configure(**more)
    put(node, root_ca())
    is_left_alone(node, said)


def test_a_former_ca_that_has_expired_is_not_trusted_again(quick: Path) -> None:
    """Nobody accepts what it has signed: `ca.crt` stays as it is."""
    node = Cluster(quick / "place")
    expired(node, Clock())
    node.step()
    put(node, root_ca())
    is_left_alone(node, NOTHING)


def _forgotten(node: Cluster) -> None:
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


def _beside_a_stranger(node: Cluster) -> None:
    node.put("ca.crt", node.read("ca.crt") + root_ca().pem)


def _foreign_signer(node: Cluster) -> None:
    node.put("signing-ca.key", root_ca().key_pem)


UNFIT = {
    "not remembered": _forgotten, "another key": _another_key, "no key": _no_key, "weak": _weak, "not yet": _not_yet,
    "a file of others": _of_others, "a stranger": _beside_a_stranger, "a foreign signer": _foreign_signer,
}  # fmt: skip


@pytest.mark.parametrize("how", UNFIT)
def test_what_is_unfit_gets_no_aid(node: Cluster, how: str) -> None:
    """A former CA that the node does not remember; a found one that could not be followed; a `ca.crt` that another user
    can write: nothing is touched, and it stays an alarm.
    """
    put(node, root_ca())
    UNFIT[how](node)
    is_left_alone(node, NOTHING)


def test_what_cannot_be_written_is_told_and_tried_again(node: Cluster) -> None:
    """Where the files cannot be kept in the archive, none is touched, and the plan says why; with the next pass after
    that it is done.
    """
    new, archive = root_ca(), node.state / "archive"
    archive.touch()
    put(node, new)
    before = node.everything()
    node.settle()
    assert node.everything() == before
    assert "puts the former CA behind it now (where that fails, `certmond plan` says why)" in told_of(node)
    planned = node.hurry("plan").out
    assert "archive" in planned
    archive.unlink()
    node.settle()
    assert node.is_aided(new)
    assert "has put the former CA behind it" in told_of(node)


def told_of(node: Cluster) -> str:
    return node.findings()["root_ca_changed"]


# Its end


@pytest.mark.parametrize("first", ["ca.crt", "ca.key"])
def test_the_former_pair_is_put_back(node: Cluster, first: str) -> None:
    """In either order, and though it is looked at in between: the former CA is trusted alone, the controller-manager
    signs with its files again, whose own are gone, and nothing is told any more.
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
    assert (node.everything().keys(), node.aids) == (before.keys(), {})
    assert not list((node.state / "rotation").iterdir())
    assert yaml.safe_load(node.manifest.read_text()) == yaml.safe_load(before["manifest"])


@pytest.mark.parametrize("signs_with", ["", "signing-ca.crt", "ca.crt"])
def test_a_signers_files_stay_as_long_as_it_uses_them(node: Cluster, signs_with: str) -> None:
    """The controller-manager may be started again by the former manifest until the kubelet has read the new one: before
    it is seen to run with `ca.crt`, its own files do not go. "": nothing is known of what runs.
    """
    put(node, root_ca())
    node.settle()
    put(node, node.old)
    for _ in range(2):  # it is noted, and the manifest is written
        node.step()
    assert (node.signs_with, node.aids) == ("ca.crt", {"ca": Phase.ATTACH})
    enforcer = node.enforcer()
    assessment, around = enforcer.see()
    flag = f"--cluster-signing-cert-file={node.files}/{signs_with}"
    seen = ServiceSeen(running=True, instance="1", started_at=assessment.taken_at, command=("kcm", flag))
    live = Live(assessment.taken_at, {"kcm": seen}) if signs_with else None
    manager = ServiceSpec(name="kcm", kind="static-pod", pod="kube-controller-manager")
    later = enforcer.standing.first_aid.carried_on(
        replace(around, services=(manager,), live=live), assessment.taken_at
    )  # fmt: skip
    assert later["ca"].over is (signs_with == "ca.crt")


def test_no_rotation_begins_by_hand_before(node: Cluster) -> None:
    """`root-ca rotate` is refused with what comes first, and changes nothing."""
    put(node, root_ca())
    node.settle()
    before = node.everything()
    refused = node.hurry("root-ca", "rotate")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.endswith("; put the former CA and its key back, and stage the other one then\n")
    assert (node.everything(), node.record) == (before, None)


def test_the_former_key_alone_takes_trust_away(node: Cluster) -> None:
    """Where the former key is back, the other CA goes from `ca.crt` by itself: it is nowhere trusted by accident."""
    new = root_ca()
    put(node, new)
    node.settle()
    node.put("ca.key", node.old.key_pem)
    said = node.findings()["root_ca_changed"]
    assert said.endswith(
        "ca.key is the former CA's key again; certmond lets " + f"{node.files}/ca.crt hold that CA alone now"
    )
    node.settle()
    assert node.unwell(node.old) == []


def test_put_back_and_replaced_once_more(node: Cluster) -> None:
    """Between the former pair and the other one, as often as somebody likes."""
    new = root_ca()
    for _ in range(2):
        put(node, new)
        node.step()
        node.settle()
        assert node.is_aided(new)
        put(node, node.old)
        node.step()  # its end has begun
    put(node, new)
    node.settle()
    assert node.is_aided(new)


def test_what_is_trusted_again_is_taken_out_by_hand(node: Cluster) -> None:
    """Where somebody has had all of this node follow by hand, the finding says how the former CA goes, and it goes as
    it says; taken out before, it is put in again, as the node still needs it.
    """
    new = root_ca()
    put(node, new)
    node.settle()
    node.put("ca.crt", new.pem)
    node.settle()
    assert node.is_aided(new)
    dates: Any = {"not_before": node.clock() - HOUR, "not_after": node.clock() + 90 * DAY}
    web = make_server(new, "web", names=["DNS:web"], **dates)
    node.put("web.crt", web.pem)
    node.put("web.key", web.key_pem)
    node.put("user.conf", kubeconfig(new, make_leaf(new, "user", **dates)))
    node.settle()
    assert node.is_aided(new)
    said = node.findings()["root_ca_changed"]
    assert said.endswith(f"when nothing on any other node is, take it out of {node.files}/ca.crt")
    assert RotationRecord(node.state).anchors()["ca"] == (node.old.facts,)
    node.put("ca.crt", new.pem)
    node.settle()
    assert node.unwell(new) == []
    assert (node.findings(), node.aids, node.signs_with) == ({}, {}, "ca.crt")
    assert RotationRecord(node.state).anchors()["ca"] == (new.facts,)


def test_a_node_that_is_alone_later_rotates(node: Cluster) -> None:
    """Where the configuration says afterwards that there are no other nodes, the rotation to the CA that was found
    begins from there by itself, and in the end nothing is left of the aid.
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
    assert (node.findings(), node.aids, node.signs_with) == ({}, {}, "ca.crt")


def test_an_alarm_stops_it(node: Cluster) -> None:
    """With `on_change: alarm` set afterwards, what somebody takes out of `ca.crt` stays out."""
    new = root_ca()
    put(node, new)
    node.settle()
    node.configure(root_ca={"on_change": "alarm"})
    node.put("ca.crt", new.pem)
    node.settle()
    assert node.trust() == (new.facts,)


def test_a_third_ca(node: Cluster) -> None:
    """Its files are not touched while the controller-manager has the second one's pair, which would be lost; the former
    pair put back, all is as it was.
    """
    second = root_ca()
    put(node, second)
    node.settle()
    put(node, root_ca())
    before = node.everything()
    node.settle()
    assert node.everything() == before
    said = node.findings()["root_ca_changed"]
    assert (
        f", and nothing is touched: another one replaced the former CA before, SHA-256 {second.facts.sha256[:16]}…;"
        in said
    )
    put(node, node.old)
    node.settle()
    assert node.unwell(node.old) == []
    assert node.aids == {}


def test_a_note_that_cannot_be_read_is_made_again(node: Cluster) -> None:
    """What the node noted of its aid is a memory only."""
    new = root_ca()
    put(node, new)
    node.settle()
    (node.state / "rotation/first_aid.json").write_bytes(b"rubbish")
    node.settle()
    assert (node.is_aided(new), node.aids) == (True, {"ca": Phase.TRUST})
    put(node, node.old)
    node.settle()
    assert node.unwell(node.old) == []


@pytest.mark.parametrize("how", ["note", "observe"])
def test_a_signer_that_no_client_trusts_is_reported(node: Cluster, how: str) -> None:
    """The former pair is back, and certmond does not move the controller-manager back to it: its note of the aid is
    damaged, or it observes. A critical finding names the signer's file, the manifest and what to write there; when the
    operator has done that, the node has no finding.
    """
    put(node, root_ca())
    node.settle()
    if how == "note":
        (node.state / "rotation/first_aid.json").write_bytes(b"rubbish")
    else:
        node.configure(mode="observe")
    put(node, node.old)
    node.settle()
    assert node.signs_with == "signing-ca.crt"
    said = node.findings()["root_ca_changed"]
    assert said.startswith(f"kube-controller-manager signs with {node.files}/signing-ca.crt, CN=kubernetes")
    assert said.endswith(
        f"let {node.manifest} name {node.files}/ca.crt and {node.files}/ca.key, and remove {node.files}/signing-ca.crt "
        f"and {node.files}/signing-ca.key"
    )
    node.manifest.write_text(node.manifest.read_text().replace("signing-ca.", "ca."))
    for name in ("signing-ca.crt", "signing-ca.key"):
        (node.files / name).unlink()
    node.settle()
    assert node.findings() == {}


def test_the_former_ca_in_front_of_the_other_ones_key(node: Cluster) -> None:
    """Where an operator writes the former CA first and leaves the other one's key, the finding does not tell them to
    take the former CA out; as it says, the former pair put back ends the aid.
    """
    new = root_ca()
    put(node, new)
    node.settle()
    node.put("ca.crt", node.old.pem + new.pem)
    said = node.findings()["root_ca_changed"]
    assert said == (
        f"{node.files}/ca.crt trusts the former CA first, and a CA that was put in its place, whose key is "
        f"{node.files}/ca.key; put the former CA and its key back, and certmond removes the other one"
    )
    put(node, node.old)
    node.settle()
    assert (node.unwell(node.old), node.aids, node.findings()) == ([], {}, {})


def test_an_aid_stays_when_the_configuration_wants_another_way(node: Cluster) -> None:
    """With `on_change: replace` set afterwards, `ca.crt` holds both CAs still, and the finding says so and what ends
    that.
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
    assert (node.unwell(node.old), node.aids) == ([], {})


def test_an_alarm_in_a_cluster_names_no_command_that_is_refused(quick: Path) -> None:
    """With `on_change: alarm` and `cluster:`, no command rotates to a CA that is in place: the finding says why, and
    with the former pair back the commands that it names begin the rotation.
    """
    node, new = Cluster(quick / "place", root_ca={"on_change": "alarm"}), root_ca()
    node.step()
    put(node, new)
    said = node.findings()["root_ca_changed"]
    assert "or run: certmond root-ca rotate" not in said
    assert "and no command rotates to a CA in place here (a CA of several nodes is rotated by" in said
    assert said.endswith(
        "put the former CA and its key back; to rotate, run `certmond root-ca stage CERT KEY` on every control-plane "
        "node, then `certmond root-ca rotate` on one"
    )
    put(node, node.old)
    brought = quick / "ca.crt", quick / "ca.key"
    brought[0].write_bytes(new.pem)
    brought[1].write_bytes(new.key_pem)
    assert node.hurry("root-ca", "stage", *map(str, brought)).code == 0
    assert node.hurry("root-ca", "rotate", "--plan").code == 0


def test_an_alarm_beside_other_members_of_etcd_names_what_comes_first(quick: Path) -> None:
    """Of several control-plane nodes without `cluster:` the finding says that the configuration has to name it."""
    node = Cluster(quick / "place", root_ca={"on_change": "alarm"}, cluster={})
    of_three(node)
    node.step()
    put(node, root_ca())
    assert "; to rotate, name `cluster:` on every node, and run" in node.findings()["root_ca_changed"]


@pytest.mark.parametrize("aided", [True, False])
def test_init_signs_nothing_with_a_ca_that_is_not_followed(quick: Path, aided: bool) -> None:
    """Neither while the node gives first aid nor while an operator decides: `init` is refused, names the CA that the
    node used last and the file to remove where the node was set up anew, and with the former pair back it issues what
    is missing.
    """
    node = Cluster(quick / "place", **({} if aided else {"cluster": {}, "root_ca": {"on_change": "alarm"}}))
    written = yaml.safe_load((node.place / "config.yaml").read_text())
    for entry in written["certificates"]:
        if entry["name"] == "web":
            entry |= {"subject": "CN=web", "names": ["DNS:web"]}
    (node.place / "config.yaml").write_text(yaml.safe_dump(written))
    node.step()
    put(node, root_ca())
    node.settle()
    (node.files / "web.crt").unlink()
    (node.files / "web.key").unlink()
    before = node.everything()
    for words in (["init"], ["init", "--dry-run"]):
        refused = node.hurry(*words)
        assert (refused.code, refused.out) == (3, "")
        assert f"{node.files}/ca.crt holds another CA than this node used last (CN=kubernetes" in refused.err
        assert f"if this node was set up anew, remove {node.state}/anchors.json" in refused.err
    assert node.everything() == before
    put(node, node.old)
    assert node.hurry("init").code == 0
    assert node.verifies(node.read("web.crt"), node.old)


def test_the_ca_of_another_family_is_not_staged(node: Cluster) -> None:
    """The finding of a family names that family in its commands, and `stage` refuses to keep the CA of one for another
    with which it has nothing in common.
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
        "`certmond root-ca rotate --family other` on one"
    )
    brought = node.place / "ca.crt", node.place / "ca.key"
    brought[0].write_bytes(new.pem)
    brought[1].write_bytes(new.key_pem)
    refused = node.hurry("root-ca", "stage", *map(str, brought))
    assert refused.code == 2
    assert "it is the CA of other on this node; give another one, or stage it with --family other" in refused.err


# Killed


def whole(node: Cluster) -> Iterator[str]:
    """What is wrong at a moment: what is neither as before nor as after, with nothing that says how to go on."""
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


@pytest.mark.slow
@pytest.mark.parametrize("way", ["there", "back"])
def test_killed_anywhere(node: Cluster, quick: Path, way: str) -> None:
    """Killed at any system call that changes something, on the way there or back, the node is whole: its CA's file
    holds what its key signs for, and the controller-manager can start. The next process brings it to the end.
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
    chosen = distinct(stops)
    for n in chosen[:: max(len(chosen) // STOPS, 1)]:
        where = f"{n}, {kill_at(partial(Cluster.settle, again()), n)}"
        assert list(whole(node)) == [], where
        node.enforcer().executor.recover()  # as a process that begins
        node.settle()
        assert node.is_aided(new) if way == "there" else node.unwell(node.old) == [], where
        left = [*(node.state / "transactions").glob("*"), *(p for p in node.files.iterdir() if p.name[0] == ".")]
        assert left == [], where
