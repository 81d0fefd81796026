"""A rotation that all nodes of a cluster carry on together: one record, one coordinator, and what every node says.

Owns when the cluster is asked, who coordinates, and when the record moves on to the next phase: when every node has
said that it has come so far, and what is checked of the cluster itself is as it should be. A node that is not answered
by the API holds where it is. Changes no file of the node; keys are never part of what is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from certmond.cluster.access import Access
from certmond.cluster.record import ClusterRecord
from certmond.config import Config
from certmond.errors import CertmondError, OvertakenError, RotationError
from certmond.pki.certificate import PublicKey, certificates_of, to_pem
from certmond.pki.rotation import Mode, Phase, Rotation, desired, sequence
from certmond.pki.rotation_gates import Gate, Member, Report, closed, lasting, unknown_exclusions

if TYPE_CHECKING:
    from certmond.cluster.canary import Canary
    from certmond.cluster.nodes import ClusterNode
    from certmond.cluster.record_api import Recorded
    from certmond.host.manifest import Components

IDLE = 6
"""So many times as long as the configuration's `poll` are the pauses between two questions, while nothing goes on."""
_A_WHILE = timedelta(seconds=20)
"""What is asked of the cluster takes so long at most: it is asked again, and the node has more to do meanwhile."""


class Lead(Protocol):
    """Whose turn it is to coordinate."""

    def take(self) -> str | None: ...

    def give_back(self) -> None: ...


class ClusterConductor:
    """For the node `node`. `clock` gives aware UTC instants."""

    def __init__(self, access: Access, lead: Lead, config: Config, *, node: str, clock: Callable[[], datetime]) -> None:
        self._access, self._lead, self._node, self._clock = access, lead, node, clock
        self._root_ca, self._spec, self._pause = config.root_ca, config.cluster, config.poll
        self._found: Recorded | None = None
        self._silent: str | None = None
        self._ask_again = 0.0
        self._said: Report | None = None

    def follow(self, own: Rotation | None, last: str | None) -> Rotation | None:
        """The cluster's, where it is known and this node has not ended it; never an earlier phase of its own."""
        shared = rotation_of(self._found.record) if self._found else None
        if shared is None or shared == own:
            return own
        if own is None:
            return None if shared.id == last or (shared.over and last is None) else shared
        if shared.id == own.id:
            phases = sequence(shared)
            behind = own.phase in phases and phases.index(shared.phase) < phases.index(own.phase)
            return own if behind else shared
        if shared.id == f"{own.id}-back" or own.over:
            return shared
        if own.id == f"{shared.id}-back":
            return own
        raise RotationError(
            f"this node is in {own.name}, and the cluster in {shared.name}; see which one is right, and take the "
            "record of the other away"
        )

    def objection(self, components: Components) -> str | None:  # noqa: ARG002 - it makes no difference here
        return "a CA of several nodes is rotated by `certmond root-ca stage` on each of them and `rotate` on one"

    def ask(self) -> timedelta:
        """Read the record again, where it is time for that; and in how long it is time again."""
        now = time.monotonic()
        if now >= self._ask_again:
            self._read()
            under_way = self._found is not None and self._found.record.phase != Phase.DONE
            self._ask_again = (
                time.monotonic() + (self._pause if under_way or self._silent else self._pause * IDLE).total_seconds()
            )
        return timedelta(seconds=max(0.0, self._ask_again - time.monotonic()))

    def publish(self, rotation: Rotation) -> None:
        """Raises RotationError where the cluster is in another one, CertmondError where the API does not do it."""
        from certmond.cluster.record_api import create_record, read_record, replace_record  # noqa: PLC0415 - the extra

        found = read_record(self._access)
        record = record_of(rotation, self._node)
        if found is None:
            self._found = create_record(self._access, record)
            return
        there = rotation_of(found.record)
        ours = rotation.id in {there.id, f"{there.id}-back"}
        if not ours and not there.over:
            raise RotationError(f"the cluster is in {there.name}, in the phase {there.phase}; one at a time")
        self._found = replace_record(self._access, found, record)

    def gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        try:
            return self._gate(rotation, report, now)
        except OvertakenError:
            self._ask_again = 0.0
            return Gate(("another node was faster; the record is read again",), now)
        except CertmondError as error:
            return Gate((f"{error}; this node holds its phase until then",), now + self._pause)

    def _gate(self, rotation: Rotation, report: Report, now: datetime) -> Gate:
        from certmond.cluster.nodes import list_nodes  # noqa: PLC0415 - needs the extra

        self._say(report)
        if not report.signs:
            return Gate(("the coordinator leads it on when all nodes have come so far",), now + self._pause)
        members = {node.name: _member(node) for node in list_nodes(self._access)}
        unknown = unknown_exclusions(rotation, members)
        strangers = (f"the cluster has no Node {name}, which is excluded; correct it" for name in unknown)
        if waits := (*strangers, *closed(rotation, members.values())):
            return Gate(waits, now + self._pause)
        if why := self._lead.take():
            return Gate((why,), now + self._pause)
        held = lasting(rotation, self._root_ca, now)
        if held.noted and (waits := _amiss(self._canaries(rotation, now))):
            return Gate(waits, now + self._pause)  # what is not so yet counts from no instant
        if held.waits:
            return replace(held, until=min(held.until or now, now + self._pause))
        if waits := _amiss(self._canaries(rotation, now)):
            return Gate(waits, now + self._pause)
        return self._workloads(rotation, now) if rotation.phase is Phase.TRUST else Gate()

    def end(self) -> None:
        self._lead.give_back()

    def _say(self, report: Report) -> None:
        """Tell the cluster what this node has come to, once for each report."""
        from certmond.cluster.nodes import Acknowledgement, acknowledge  # noqa: PLC0415 - needs the extra

        if report != self._said:
            holds = report.signs and report.ready
            said = Acknowledgement(report.rotation, report.phase.value, report.trust, report.issuer, holds)
            acknowledge(self._access, self._node, said)
            self._said = report

    def _canaries(self, rotation: Rotation, now: datetime) -> Iterator[Canary]:
        """What is to be seen of the cluster itself before the phase is left. Needs the extra."""
        from certmond.cluster.ca_bundles import ca_bundles  # noqa: PLC0415
        from certmond.cluster.cluster_info import cluster_info  # noqa: PLC0415
        from certmond.cluster.published import published_trust, token_secrets  # noqa: PLC0415
        from certmond.cluster.signing import signing  # noqa: PLC0415
        from certmond.cluster.tokens import tokens  # noqa: PLC0415

        wanted, access = desired(rotation), self._access
        if isinstance(rotation.new, PublicKey):
            yield tokens(access, signed_by=wanted.signing.key if wanted else None, limit=_A_WHILE)
        if rotation.family != "ca":
            return
        signer = wanted.detached or wanted.signing if wanted else rotation.old[0]
        for each in certificates_of((signer,)):
            yield signing(access, each, now, _A_WHILE)
        yield tokens(access, limit=_A_WHILE)
        if wanted and rotation.phase in {Phase.TRUST, Phase.ISSUE, Phase.DISTRUST}:
            ours, trust = certificates_of((*rotation.old, rotation.new)), certificates_of(wanted.trust)
            yield published_trust(access, trust, _A_WHILE)
            yield cluster_info(access, trust, update=True, limit=_A_WHILE)
            yield ca_bundles(access, rotation.family, ours, trust, update=True, limit=_A_WHILE)
            if self._spec.token_secrets:
                yield token_secrets(access, trust, limit=_A_WHILE)

    def _workloads(self, rotation: Rotation, now: datetime) -> Gate:
        """Whoever was started before both CAs were published trusts the former one only."""
        from certmond.cluster.rollout import restart_workloads  # noqa: PLC0415 - needs the extra
        from certmond.cluster.workloads import stale_workloads, workloads  # noqa: PLC0415

        since = rotation.published
        if self._spec.workloads == "ignore" or rotation.family != "ca" or rotation.mode is not Mode.OVERLAP:
            return Gate()
        if since is None:
            noted = replace(rotation, published=now)
            return Gate(("both CAs are published now; workloads are looked at next",), now, noted)
        if self._spec.workloads == "restart":
            stale = stale_workloads(self._access, since).restartable
            restart_workloads(self._access, stale, since, now, limit=_A_WHILE)
        waits = _amiss([workloads(self._access, since, _A_WHILE)])
        return Gate(waits, now + self._pause) if waits else Gate()

    def _read(self) -> None:
        from certmond.cluster.record_api import read_record  # noqa: PLC0415 - needs the extra

        try:
            self._found, self._silent = read_record(self._access), None
        except CertmondError as error:
            self._silent = str(error)


def rotation_of(record: ClusterRecord) -> Rotation:
    """The rotation in a record. Raises RotationError where it is none that this certmond knows."""
    try:
        (new,), old = record.new_anchors, record.old_anchors
        mode, phase = Mode(record.mode), Phase(record.phase)
    except ValueError:
        raise RotationError(
            f"the cluster's record of the rotation {record.id} is none that this certmond knows; install the one that "
            f"wrote it, on {record.coordinator}, on this node, too"
        ) from None
    return Rotation(
        record.id, record.family, mode, old, new, phase, record.since, record.aborted, excluded=record.excluded,
        published=record.published,
    )  # fmt: skip


def record_of(rotation: Rotation, coordinator: str) -> ClusterRecord:
    """The public record of a rotation."""
    return ClusterRecord(
        id=rotation.id, family=rotation.family, mode=rotation.mode.value, phase=rotation.phase.value,
        since=rotation.since, old=tuple(to_pem(each).decode("ascii") for each in rotation.old),
        new=to_pem(rotation.new).decode("ascii"), excluded=rotation.excluded, aborted=rotation.aborted,
        coordinator=coordinator, published=rotation.published,
    )  # fmt: skip


def _amiss(canaries: Iterable[Canary]) -> tuple[str, ...]:
    return tuple(f"{each.fact}; {each.remedy}" for each in canaries if not each.ok)


def _member(node: ClusterNode) -> Member:
    said, report = node.said, None
    if said and said.phase in tuple(Phase):
        phase = Phase(said.phase)
        report = Report(said.id, phase, said.trust, said.issuer, node.control_plane, said.holds_key)
    return Member(node.name, node.control_plane, report)
