"""A CA that was replaced on disk: the daemon follows it at once, or reports until when it waits and wakes at that
time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.daemon.loop import Daemon
from certmond.daemon.pass_schedule import Cause
from certmond.notify.event_log import Journal
from certmond.pki.rotation.phases import Phase
from tests.builders import DAY, HOUR, SECOND, Issued, make_ca, make_leaf, make_server
from tests.rotation_node import RotatingNode, kubeconfig, root_ca

RESTS = 12
"""After so many passes in a row a daemon is at rest; else it is in a loop."""


class Clock:
    """A clock that does not run, at a whole second like the dates of certificates."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now


@contextmanager
def daemon(node: RotatingNode, clock: Clock) -> Iterator[Daemon]:
    """The real one in this process, by that clock. It has made its first pass."""
    runtime = node.place / "run"
    runtime.mkdir(exist_ok=True)
    made = Daemon(
        lambda: node.config, root="/", runtime_dir=runtime, state_dir=node.state, journal=Journal("none"), clock=clock
    )
    try:
        made._reconciler.recover()
        rest(made, Cause("start", None))
        yield made
    finally:
        made._watcher.close()
        made._hooks.close()
        made._enforcer.surroundings_observer.close()


def rest(made: Daemon, cause: Cause, until: Callable[[], bool] = lambda: False) -> None:
    """A pass, and those that follow from it without that anything is waited for."""
    for _ in range(RESTS):
        made._pass(cause)
        made._execute()
        if until() or not made._scan_again:
            return
        cause = Cause("step", None)
    raise AssertionError("it does not become idle")


def reported(made: Daemon) -> list[str]:
    """Return the critical findings of the CA in the published assessment."""
    assert made._assessment
    (status,) = (each for each in made._assessment.statuses if each.seen.name == "ca")
    return [each.message for each in status.findings if each.reason.value == "root_ca_changed"]


def put(node: RotatingNode, ca: Issued) -> None:
    node.put("ca.key", ca.key_pem)
    node.put("ca.crt", ca.pem)


def is_whole(node: RotatingNode, new: Issued) -> bool:
    """Both CAs are trusted wherever this node trusts one."""
    both = {new.facts, node.old.facts}
    return node.trust()[0] == new.facts and {*node.trust()} == both and {*node.embedded()} == both


@pytest.mark.parametrize("kind", ["ec", "rsa"])
@pytest.mark.parametrize("hold", ["none", "file", "clock"])
def test_a_ca_of_this_second_is_trusted_with_the_next_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, hold: str
) -> None:
    """A CA that was made this second, valid for one day, is trusted beside the old one within the passes that its files
    cause: certmond waits for no instant, whatever holds renewals. Then the critical finding ends.
    """
    node, clock = RotatingNode(tmp_path / "place"), Clock()
    if hold == "file":
        (tmp_path / "upgrade").touch()
        node.configure(hold={"file": str(tmp_path / "upgrade"), "unsynchronised_clock": False})
    elif hold == "clock":
        monkeypatch.setattr("certmond.controllers.host_holds.clock_is_synchronised", lambda: False)
        node.configure(hold={"unsynchronised_clock": True})
    new = make_ca(key=kind, not_before=clock.now, not_after=clock.now + DAY)
    with daemon(node, clock) as made:
        put(node, new)
        rest(made, Cause("change", None), lambda: is_whole(node, new))
        assert is_whole(node, new)
        made._pass(Cause("step", None))
        assert reported(made) == []
        assert node.phase is Phase.TRUST


@pytest.mark.long
@pytest.mark.parametrize("between", [False, True])
def test_a_rotation_by_hand_that_went_too_fast_is_followed(tmp_path: Path, between: bool) -> None:
    """An operator puts both CAs into ca.crt, first the old one in front, then the new one with its key. No file changes
    and there is no finding, because everything is accepted. When the old CA is removed while leaves and kubeconfigs are
    still from it, certmond trusts it again, and a rotation leads to the new one.
    """
    node, clock = RotatingNode(tmp_path / "place"), Clock()
    new = root_ca()
    with daemon(node, clock) as made:
        node.put("ca.crt", node.old.pem + new.pem)
        rest(made, Cause("change", None))
        if between:
            node.put("ca.key", new.key_pem)
            node.put("ca.crt", new.pem + node.old.pem)
            rest(made, Cause("change", None))
        assert reported(made) == []
        assert (node.embedded(), node.record) == ((node.old.facts,), None)
        put(node, new)
        made._pass(Cause("change", None))
        (said,) = reported(made)
        assert "contains a CA other than the CA of this node's certificates" in said
        assert said.endswith("; certmond rotates to the new CA now")
        rest(made, Cause("step", None), lambda: is_whole(node, new))
        assert is_whole(node, new)
    node.walk()
    assert node.unwell(new) == []


def found_in_place(node: RotatingNode, ca: Issued, phase: Phase) -> None:
    """Let the node, which has recorded its CA, follow another one up to that phase."""
    node.step()
    put(node, ca)
    node.step()
    node.walk(lambda: node.phase is phase)
    assert node.phase is phase


@pytest.mark.long
@pytest.mark.parametrize("signed", [False, True])
def test_a_third_ca_replaces_the_second_one_of_a_rotation(tmp_path: Path, signed: bool) -> None:
    """While a rotation leads to a CA that was found in place, a third pair replaces it. The finding reports a changed
    CA, the rotation then leads to the third one, the old CA stays trusted, and the second one only if it has signed.
    """
    node, clock = RotatingNode(tmp_path / "place", root_ca={"overlap": "1h"}), Clock()
    second, third = root_ca(subject="second"), root_ca(subject="third")
    with daemon(node, clock) as made:
        put(node, second)
        rest(made, Cause("change", None), lambda: is_whole(node, second))
        if signed:
            node.walk(lambda: node.verifies(node.read("web.crt"), second))
        trusted = {node.old.facts, third.facts} | ({second.facts} if signed else set())
        put(node, third)
        made._pass(Cause("change", None))
        assert "rotation_frozen" not in node.findings()
        (said,) = reported(made)
        assert re.search("was replaced again, by CN=third.*; certmond rotates to that CA now", said)
        rest(made, Cause("step", None), lambda: {*node.trust()} == trusted == {*node.embedded()})
        assert {*node.trust()} == trusted == {*node.embedded()}
        assert node.record is not None
        assert (node.record.new, node.phase) == (third.facts, Phase.TRUST)
    node.walk()
    assert node.unwell(third) == []


@pytest.mark.long
@pytest.mark.parametrize("whose", ["former", "second"])
@pytest.mark.parametrize("phase", [Phase.TRUST, Phase.ISSUE])
def test_the_finding_of_an_unfit_third_ca_has_the_way_out(tmp_path: Path, phase: Phase, whose: str) -> None:
    """The finding names the files to restore: with either of the two pairs the rotation continues."""
    node = RotatingNode(tmp_path / "place")
    second = root_ca(subject="second")
    found_in_place(node, second, phase)
    put(node, root_ca(key="rsa-1024"))
    before = node.tree()
    said = node.findings()["rotation_frozen"]
    assert said.endswith("; restore both the certificate and the key of the old or of the new CA")
    node.step()
    assert node.tree() == before
    back = node.old if whose == "former" else second
    put(node, back)
    node.step()
    node.walk()
    assert node.unwell(back) == []


@pytest.mark.parametrize("settings", [{"mode": "observe"}, {"root_ca": {"on_change": "alarm"}}])
def test_a_third_ca_is_not_followed_if_no_rotation_may_begin(tmp_path: Path, settings: dict[str, Any]) -> None:
    """In observe mode and with `on_change: alarm`, the running rotation is blocked, and no file changes."""
    node = RotatingNode(tmp_path / "place")
    found_in_place(node, root_ca(subject="second"), Phase.TRUST)
    node.configure(**settings)
    put(node, root_ca(subject="third"))
    before, record = node.tree(), node.record
    node.step()
    assert "rotation_frozen" in node.findings()
    assert (node.tree(), node.record) == (before, record)


@pytest.mark.long
@pytest.mark.parametrize(
    ("new", "following", "why"),
    [
        (root_ca(key="rsa-1024"), False, "; certmond changes no file: .*; or restore the old CA and its key"),
        (root_ca(permitted=["DNS:example.org"], constraints_critical=True), False, "; certmond changes no file: "),
        (
            root_ca(),
            True,
            "has not reached the phase issue yet; to see what the rotation waits for, run: certmond status",
        ),
        (root_ca(key="rsa-1024"), True, "is frozen: .*; see: certmond explain rotation_frozen"),
    ],
)
def test_no_certificate_is_signed_by_a_ca_that_is_not_followed_yet(
    tmp_path: Path, new: Issued, following: bool, why: str
) -> None:
    """`renew NAME` reports the reason and the remedy, exits 3 and writes nothing. `--all` omits the certificate and
    reports the same.
    """
    node = RotatingNode(tmp_path / "place", hurried=False, root_ca={"overlap": "1h"})
    fit = new.facts.key.algorithm != "RSA"
    if following:
        found_in_place(node, new if fit else root_ca(), Phase.TRUST)
    else:
        node.step()
    if not (following and fit):
        put(node, new)
    before = node.tree()
    said = node.certmond("renew", "web")
    assert said.returncode == 3
    assert re.search(f"cannot renew web: .*{why}", said.stderr)
    said = node.certmond("renew", "--all", "--no-restart")
    assert len(re.findall(f"not renewed: (?:web|user.conf): .*{why}", said.stdout)) == 2
    assert node.tree() == before


def test_no_message_names_an_abort_that_is_refused(tmp_path: Path) -> None:
    """A rotation that was found in place cannot be aborted: the command that begins another one reports how this one
    continues.
    """
    node = RotatingNode(tmp_path / "place")
    found_in_place(node, root_ca(subject="second"), Phase.TRUST)
    for words in (["root-ca", "rotate", "--at-once"], ["root-ca", "stage", "--generate"]):
        said = node.hurry(*words)
        assert said.code == 2
        assert "abort" not in said.err
        assert "certmond root-ca rotate --family ca" in said.err


def test_a_ca_that_is_not_valid_yet_is_followed_at_its_first_instant(tmp_path: Path) -> None:
    """For a CA whose notBefore is 20 s ahead, one critical finding has the end of the wait and the remedy. No file
    changes before, and the daemon wakes at that very instant, not at the next resync.
    """
    node, clock = RotatingNode(tmp_path / "place", resync="1h"), Clock()
    at = clock.now + 20 * SECOND
    new = make_ca(not_before=at, not_after=at + DAY)
    with daemon(node, clock) as made:
        put(node, new)
        before = node.tree()
        rest(made, Cause("change", None))
        (said,) = reported(made)
        assert f"; certmond rotates to the new CA at {at:%Y-%m-%d %H:%M:%S} UTC; " in said
        assert said.endswith("; to keep the old CA, restore it and its key")
        clock.now = at - SECOND
        rest(made, Cause("look", frozenset()))
        assert (node.tree(), node.record, len(reported(made))) == (before, None, 1)
        assert 0 < made._seconds_to_wait() <= 1
        made._wake.wait(0)
        made._watcher.take_changes()  # the writes above
        clock.now = at
        while (cause := made._next_cause()) is None or cause.name != "deadline":
            assert cause is None or cause.name == "look"
        rest(made, cause, lambda: is_whole(node, new))
        assert is_whole(node, new)


def test_an_alarm_names_the_command_that_repairs_the_node(tmp_path: Path) -> None:
    """With `on_change: alarm` the daemon changes no file, and the finding reports that and names the command that
    repairs the node. For a CA that is not valid yet it has the time from which the command works.
    """
    node, clock = RotatingNode(tmp_path / "place", root_ca={"on_change": "alarm", "overlap": "1s"}), Clock()
    at = clock.now + 20 * SECOND
    with daemon(node, clock) as made:
        for new in (root_ca(), make_ca(not_before=at, not_after=at + DAY)):
            put(node, new)
            before = node.tree()
            rest(made, Cause("change", None))
            (said,) = reported(made)
            assert "run: certmond root-ca rotate" in said
            assert ("certmond does not act, because" in said) is (new.facts.not_before < at)
            assert (f"certmond does not act before {at:%Y-%m-%d %H:%M:%S} UTC" in said) is (new.facts.not_before == at)
            assert (node.tree(), node.record) == (before, None)


def test_a_ca_is_followed_before_anything_else_is_written(tmp_path: Path) -> None:
    """The rotation to an installed CA begins before certificates that are due are written, although one of them cannot
    be.
    """
    node, clock = RotatingNode(tmp_path / "place"), Clock()
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
        made._execute()
        assert node.phase is Phase.TRUST
        assert "step_begun" not in {entry["event"] for entry in node.audit()}


def with_more(node: RotatingNode, name: str, **fields: Any) -> None:
    """The configuration with another entry."""
    path = node.place / "config.yaml"
    document = yaml.safe_load(path.read_text())
    entry = {"name": name, "path": str(node.files / f"{name}.crt"), "key": str(node.files / f"{name}.key"), **fields}
    document["certificates"].append(entry)
    document["signers"] = [{"name": "broken", "kind": "command", "command": ["/bin/false"]}]
    path.write_text(yaml.safe_dump(document))


def with_family(node: RotatingNode, now: datetime) -> Issued:
    """Give the node a second trust anchor, `other`, with one leaf, and return that CA."""
    other = root_ca(subject="other")
    leaf = make_server(other, "leaf", not_before=now - HOUR, not_after=now + 90 * DAY)
    for name, content in (("other.crt", other.pem), ("other.key", other.key_pem), ("leaf.crt", leaf.pem)):
        node.put(name, content)
    node.put("leaf.key", leaf.key_pem)
    with_more(node, "other", authority=True)
    with_more(node, "leaf", ca="other")
    return other


@pytest.mark.long
def test_an_expired_old_ca_is_replaced_at_once(tmp_path: Path) -> None:
    """If the old CA is no longer accepted, an overlap with it would be an outage. Trust and leaves are exchanged at
    once, whatever hold exists, and the finding reports it until then.
    """
    node, clock = RotatingNode(tmp_path / "place", root_ca={"overlap": "1h"}), Clock()
    (tmp_path / "upgrade").touch()
    node.configure(hold={"file": str(tmp_path / "upgrade"), "unsynchronised_clock": False})
    expired(node, clock)
    new = root_ca()
    with daemon(node, clock) as made:
        put(node, new)
        made._pass(Cause("change", None))
        (said,) = reported(made)
        assert "certmond rotates to the new CA now, without an overlap, because the old CA has expired" in said
        made._execute()
        made._pass(Cause("step", None))
        (said,) = reported(made)
        assert re.search("was replaced by another CA, .* has been in the phase issue since", said)
        for _ in range(RESTS):
            made._execute()
            made._pass(Cause("step", None))
        assert node.unwell(new) == []
        assert reported(made) == []


def expired(node: RotatingNode, clock: Clock) -> None:
    """The CA of the node ended an hour ago, and its leaves are of it."""
    node.old = root_ca(not_after=clock.now - HOUR)
    put(node, node.old)
    dates: dict[str, Any] = {"not_before": clock.now - 9 * DAY, "not_after": clock.now + 90 * DAY}
    web = make_server(node.old, "web", names=["DNS:web"], **dates)
    node.put("web.crt", web.pem)
    node.put("web.key", web.key_pem)
    node.put("user.conf", kubeconfig(node.old, make_leaf(node.old, "user", **dates)))


def test_a_ca_that_can_be_followed_does_not_wait_for_one_that_cannot(tmp_path: Path) -> None:
    """If two CAs were replaced and the first one is unfit, the other one is followed at once."""
    node, clock = RotatingNode(tmp_path / "place"), Clock()
    other = root_ca(subject="other")
    dates: dict[str, Any] = {"not_before": clock.now - HOUR, "not_after": clock.now + 90 * DAY}
    leaf = make_server(other, "leaf", **dates)
    for name, content in (("other.crt", other.pem), ("other.key", other.key_pem), ("leaf.crt", leaf.pem)):
        node.put(name, content)
    node.put("leaf.key", leaf.key_pem)
    with_more(node, "other", authority=True)
    with_more(node, "leaf", ca="other")
    with daemon(node, clock) as made:
        put(node, root_ca(key="rsa-1024"))
        new = root_ca(subject="other")
        node.put("other.key", new.key_pem)
        node.put("other.crt", new.pem)
        made._pass(Cause("change", None))
        made._execute()
        assert node.record is not None
        assert node.record.family == "other"


@pytest.mark.long
@pytest.mark.parametrize("on_change", ["rotate", "alarm"])
def test_a_second_family_is_reported_while_the_first_one_is_followed(tmp_path: Path, on_change: str) -> None:
    """If two CAs were replaced together, the second one has a finding with the time of its rotation or the command to
    run. Nothing is signed with it before, and it is followed after the first one.
    """
    node, clock = RotatingNode(tmp_path / "place"), Clock()
    with_family(node, clock.now)
    node.step()
    new, later = root_ca(), root_ca(subject="other")
    put(node, new)
    node.step()
    assert node.phase is Phase.TRUST
    node.put("other.key", later.key_pem)
    node.put("other.crt", later.pem)
    record = node.record
    assert record is not None
    settings = (node.place / "config.yaml").read_text()
    (node.place / "config.yaml").write_text(
        yaml.safe_dump(yaml.safe_load(settings) | {"root_ca": {"overlap": "1s", "on_change": on_change}})
    )
    said = node.findings()["root_ca_changed"]
    assert f"{node.files}/other.crt contains a CA other than the CA of this node's certificates" in said
    if on_change == "alarm":
        assert said.endswith(f"or, after {record.name}, run: certmond root-ca rotate --family other")
    else:
        assert said.endswith(f"; certmond rotates to the new CA after {record.name}")
    asked = node.certmond("renew", "leaf")
    assert asked.returncode == 3
    assert said in asked.stderr
    (node.place / "config.yaml").write_text(settings)
    node.walk(lambda: node.phase is Phase.ISSUE)
    assert "other.crt contains a CA other than" in node.findings()["root_ca_changed"]
    node.walk()
    assert node.trust() == (new.facts,)
    node.step()
    assert node.record is not None
    assert node.record.family == "other"
    node.walk()
    assert node.trust("other.crt") == (later.facts,)
    assert node.verifies(node.read("leaf.crt"), later)
    assert node.unwell(new) == []


def test_the_wait_of_a_second_process_ends_with_the_clock(tmp_path: Path) -> None:
    """A command that reads while the daemon waits for a CA's first instant reports the same, and changes no file."""
    node, clock = RotatingNode(tmp_path / "place"), Clock()
    node.step()
    put(node, make_ca(not_before=clock.now + timedelta(hours=40), not_after=clock.now + 9 * DAY))
    before = node.tree()
    checked = node.hurry("check")
    assert checked.code == 2
    assert re.search("certmond rotates to the new CA at .* UTC; ", checked.out.replace("\n", " "))
    assert node.tree() == before
