"""The rotation of an external CA in a cluster: no node ever has the key of a CA, and a signer issues all leaves."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from certmond.cluster.api_access import Access
from certmond.cluster.record_rules import rotation_of
from certmond.daemon.enforcer import Enforcer
from certmond.pki.rotation.phases import Phase
from certmond.pki.signing.rotation_certificate import PERMISSIONS
from certmond.rotation.staged_ca import Part, Staging
from tests.builders import DAY, HOUR, SECOND, Issued, make_leaf, make_server
from tests.cluster.api_server import ApiServer
from tests.cluster.coordinator_world import POLL, World
from tests.cluster.test_rotation_coordinator import fit
from tests.conftest import real_part
from tests.controllers.test_external_ca import ExternalNode
from tests.key_search import files_with_key
from tests.rotation_node import Said, kubeconfig, root_ca
from tests.tracing import changes, kill_at

pytestmark = [pytest.mark.real("openssl"), pytest.mark.timeout(600)]

HELPER = """#!/bin/sh
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
printf '%s\\n' "$CERTMONGER_CSR" > "$work/request.pem"
[ ! -e {place}/refuse ] || ! {openssl} req -in "$work/request.pem" -noout -text | grep -q URI: || exec {place}/refuse
{openssl} x509 -req -in "$work/request.pem" -CA {place}/ca.pem -CAkey {place}/ca.pem -CAserial "$work/serial" \\
  -CAcreateserial -copy_extensions copy -days "$(cat {place}/days)" -sha256 -out "$work/made.pem" 2> "$work/said"
cat "$work/made.pem"
"""


class Signer:
    """The program of a site, with the key of the CA in `place`, which is outside of every node."""

    def __init__(self, place: Path) -> None:
        self.place, self.program = place, place / "sign"
        place.mkdir()
        openssl, quoted = shlex.quote(real_part("openssl")), shlex.quote(str(place))
        self.program.write_text(HELPER.format(place=quoted, openssl=openssl))
        self.program.chmod(0o755)
        self.days(90)

    def sign_with(self, ca: Issued) -> None:
        (self.place / "ca.pem").write_bytes(ca.pem + ca.key_pem)

    def days(self, count: int) -> None:
        (self.place / "days").write_text(f"{count}\n")

    def refuse(self) -> None:
        """Refuse each request with a URI from now on."""
        (self.place / "refuse").write_text("#!/bin/sh\necho URI names are not allowed\nexit 2\n")
        (self.place / "refuse").chmod(0o755)


class ClusterNode(ExternalNode):
    """A node of the cluster, whose clock is that of the cluster."""

    def __init__(self, cluster: Cluster, name: str, *, worker: bool = False) -> None:
        self.cluster, api = cluster, cluster.world.api
        self.own = api.user(f"system:node:{name}", "system:nodes")
        rights = self.own if worker else api.user("certmond", "certmond")
        root = {"overlap": "1s"} | ({} if worker else {"record_signer": "site"})
        settings: Any = {"cluster": {"kubeconfig": rights, "workloads": "ignore"}, "root_ca": root, "node_name": name}
        super().__init__(cluster.place / name, {"site": [str(cluster.signer.program)]}, hurried=False, **settings)
        self.name, self.old, self.waits = name, cluster.old, ""
        dates: Any = {"not_before": self.clock() - HOUR, "not_after": self.clock() + 90 * DAY}
        web = make_server(self.old, "web", names=["DNS:web"], **dates)
        for file, content in {
            "ca.crt": self.old.pem, "web.crt": web.pem, "web.key": web.key_pem,
            "user.conf": kubeconfig(self.old, make_leaf(self.old, "user", **dates)),
        }.items():  # fmt: skip
            self.put(file, content)
        labels = {} if worker else {"node-role.kubernetes.io/control-plane": ""}
        api.store.add("nodes", name, metadata={"labels": labels})

    def clock(self) -> Any:
        return super().clock() + self.cluster.waited

    def enforcer(self) -> Enforcer:
        self.cluster.become(self.own)
        return super().enforcer()

    def one_pass(self) -> str:
        enforcer = self.enforcer()
        enforcer.rotating.ask()
        assessment, around = enforcer.see()
        made = enforcer.plan(assessment, around=around)
        if made.writes:
            return "; ".join(f"{each.result}: {each.message}" for each in enforcer.executor.execute(made))
        said = enforcer.rotate(assessment, around, made)
        self.waits = "; ".join((*enforcer.rotating.waits, enforcer.rotation_state.broken or ""))
        return said or ""

    def stage(self, new: Issued) -> None:
        Staging(self.state).put(Part.NEW, "ca", new.facts, None)

    def is_at_end(self, ca: Issued) -> bool:
        trusted = self.trust() == self.embedded() == (ca.facts,)
        leaves = self.verifies(self.read("web.crt"), ca, usage="sslserver") and self.verifies(self.user(), ca)
        kept = {path.name for path in (self.state / "rotation").iterdir()}
        return trusted and leaves and kept == {"last.json", "closed.json"} and self.findings() == {}


class Cluster:
    """Two control planes and a worker, and a signer outside of all of them."""

    def __init__(self, place: Path, world: World, become: Callable[[str], None]) -> None:
        self.place, self.world, self.become, self.waited = place, world, become, timedelta(0)
        self.old, self.new = world.old, world.new = root_ca(), root_ca()
        self.signer = Signer(place / "signer")
        self.signer.sign_with(self.old)
        self.first, self.second = (ClusterNode(self, name) for name in ("control-1", "control-2"))
        self.worker = ClusterNode(self, "worker-1", worker=True)
        self.nodes = (self.first, self.second, self.worker)
        self._searched = set[str]()

    def stage(self) -> None:
        for node in (self.first, self.second):
            node.stage(self.new)

    def begin(self) -> Said:
        return self.first.hurry("root-ca", "rotate", "--no-wait")

    def one_pass(self, node: ClusterNode) -> str:
        """Make a pass of a new process on this node, in a cluster that passes all checks. Then search for keys."""
        if self.world.recorded:
            fit(self.world, rotation_of(self.world.recorded))
        said = node.one_pass()
        self.search()
        return said

    def passes(self, until: Phase | None = None, *, killed: bool = False) -> Iterator[str]:
        """Pass after pass of all nodes, until the cluster is in this phase, or until all nodes have ended.

        With `killed`, the first pass of the leader in each phase is killed, in each phase at a later write.
        """
        phases = set[Phase | None]()
        for _ in range(120):
            if self.world.phase is until or (until is None and all(each.record is None for each in self.nodes)):
                return
            if killed and self.first.phase not in phases:
                kill_at(self.first.one_pass, 3 * len(phases), counted=changes, ends=True)
                phases.add(self.first.phase)
                self.search()
            said = [self.one_pass(node) for node in self.nodes]
            if not any(said):
                self.waited += 10 * SECOND  # a renewal that failed is repeated after a minute
                self.world.passes(POLL)
            yield from filter(None, said)
        raise AssertionError("\n".join(f"{each.name} {each.phase}: {each.waits}" for each in self.nodes))

    def search(self) -> None:
        """Assert that no file of a node contains the key of a CA. Files with known contents are skipped."""
        found = [path for node in self.nodes for path in node.place.rglob("*") if path.is_file()]
        digests = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}
        files = [path for path in found if digests[path] not in self._searched]
        for each in (self.old, self.new):
            assert files_with_key(files, each.key.public_key()) == []  # type: ignore[arg-type]
        self._searched |= {*digests.values()}


@pytest.fixture
def made(cluster: ApiServer, access_of: Callable[..., Access], quick: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    become = partial(monkeypatch.setattr, "certmond.controllers.coordinator_factory.KUBELET_CONF")
    return Cluster(quick, World(cluster, access_of), become)


@pytest.mark.long
def test_no_node_ever_has_a_key(made: Cluster) -> None:
    """Two control planes and a worker follow the rotation. The record contains a certificate that the signer
    issued. The phase `issue` waits until the signer signs with the new CA. At the end only the new CA is trusted.
    """
    made.stage()
    begun = made.begin()
    assert begun.code == 0, begun.err
    assert [*made.passes(Phase.ISSUE)] != []
    assert {frozenset(each.trust()) for each in made.nodes} == {frozenset({made.old.facts, made.new.facts})}
    passes = made.passes()
    said = next(each for each in passes if "failed" in each)
    assert "is from a CA that must not sign in this phase of the rotation; wait until the signer site" in said
    made.signer.sign_with(made.new)
    made.waited += HOUR  # the pause after the failed attempt
    assert [*passes] != []
    assert [each.name for each in made.nodes if not each.is_at_end(made.new)] == []
    assert [*dict.fromkeys(made.first.phases())] == [*Phase]


@pytest.mark.long
def test_an_abort_and_kills_end_with_the_old_ca(made: Cluster) -> None:
    """A rotation whose leader is killed in each phase, and which is then aborted in `issue`, ends on all nodes with
    only the old CA.
    """
    made.stage()
    assert made.begin().code == 0
    assert [*made.passes(Phase.ISSUE, killed=True)] != []
    made.signer.sign_with(made.new)
    assert next(each for each in made.passes() if "renewed" in each)
    made.signer.sign_with(made.old)
    aborted = made.first.hurry("root-ca", "abort", "--no-wait")
    assert aborted.code == 0, aborted.err
    assert [*made.passes(killed=True)] != []
    assert [each.name for each in made.nodes if not each.is_at_end(made.old)] == []


def test_a_signer_must_permit_the_certificate(made: Cluster) -> None:
    """If the signer refuses the request, signs with another CA, or issues a certificate that ends too early, the
    rotation does not begin. The message names what the signer must permit.
    """
    made.stage()
    made.signer.days(0)
    early = made.begin()
    assert "before the end of the rotation; the signer must permit a validity until" in early.err
    made.signer.days(90)
    made.signer.sign_with(made.new)
    other = made.begin()
    assert "no certificate of the old CA authorizes the rotation: the CA" in other.err
    made.signer.sign_with(made.old)
    made.signer.refuse()
    refused = made.begin()
    assert "URI names are not allowed" in refused.err
    for said in (early, other, refused):
        assert said.code == 3
        assert f"the signer must sign with the old CA, and must permit {PERMISSIONS}" in said.err
    assert (made.world.recorded, made.first.record) == (None, None)
    made.search()


@pytest.mark.long
def test_a_control_plane_with_a_key_or_without_the_new_ca_does_not_follow(made: Cluster) -> None:
    """The rotation stays in `prepare` until each control plane has the new CA and no key. The messages name the node
    and the next step. A worker follows. Without a key of the CA, certmond does not check whether the cluster signs.
    """
    made.first.stage(made.new)
    assert made.begin().code == 0
    made.second.put("ca.key", made.old.key_pem)
    for _ in range(3):
        for node in made.nodes:
            node.one_pass()
        made.world.passes(POLL)
        made.waited += 10 * SECOND
    assert "ca.key is on this node, but the rotation is that of an external CA" in made.second.waits
    assert "control-2 has not reported" in made.first.waits
    assert (made.worker.phase, made.world.phase) == (Phase.PREPARE, Phase.PREPARE)
    (made.second.files / "ca.key").unlink()
    for _ in range(3):
        for node in made.nodes:
            made.one_pass(node)
        made.world.passes(POLL)
        made.waited += 10 * SECOND
    fact = "control-2 is a control-plane node without the new CA, or without `root_ca.record_signer`"
    assert f"{fact}; on control-2, set this field, and run `certmond root-ca stage CERT`" in made.first.waits
    made.second.stage(made.new)
    assert [*made.passes(Phase.TRUST)] != []
    assert "POST /" not in made.world.calls("POST")  # a CertificateSigningRequest
