"""The files that worked: those that are archived, and those that are restored after a failure."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.config.loader import load
from certmond.config.model import Config
from certmond.errors import WriteError
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import CertificateStatus, assess
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.settings import ArchiveSpec
from certmond.pki.catalog.validator import validated
from certmond.pki.services.restart_episode import Past, Result, Target
from certmond.pki.services.service_observation import Content, Live, ServiceSeen
from certmond.pki.services.staleness import Surroundings, files_of
from certmond.restart.rollback import PreviousFiles, Rollback
from certmond.state.archive import Archive
from certmond.state.renewals import Ledger
from certmond.transaction.commit import Transactions
from certmond.transaction.dirfd import digest
from certmond.transaction.node_file_reader import NodeFiles
from tests.builders import make_ca
from tests.conftest import unavailable
from tests.node import NOW, PKI, Node, key_pem
from tests.test_node_defects import other_key

PAIR, CONF = "front-proxy-client", "scheduler.conf"
FILES = {PAIR: (f"{PKI}/{PAIR}.key", f"{PKI}/{PAIR}.crt"), CONF: (f"etc/kubernetes/{CONF}",)}
FRONT_CA = f"{PKI}/front-proxy-ca"
DAY = timedelta(days=1)


class Keeper:
    """A node's files, and the archive. `now` is its clock."""

    def __init__(self, node: Node, state: Path, **config: Any) -> None:
        self.node, self.state, self.now = node, state, NOW
        self.config: Config = replace(load(None), **config)
        self.archive = Archive(state)
        self.former = self.again()

    def again(self) -> PreviousFiles:
        """Another process."""
        self.former = PreviousFiles(self.config, str(self.node.root), self.state, lambda: self.now)
        return self.former

    def statuses(self, **around: Any) -> dict[str, CertificateStatus]:
        store = Store(self.config.certificates, str(self.node.root))
        inventory = store.observe()
        paths = {path for each in inventory.observations for path in files_of(each)}
        contents = {path: Content(sha256, NOW - DAY) for path, sha256, _ in store.states(paths)}
        known = Surroundings(self.config.services, **{"live": Live(NOW), "contents": contents, **around})
        return {each.seen.name: each for each in assess(inventory, self.now, around=known).statuses}

    def unkept(self, **around: Any) -> set[str]:
        return {status.seen.name for status in self.former.unarchived(self.statuses(**around).values())}

    def keep(self) -> None:
        statuses = list(self.statuses().values())
        with Transactions(str(self.node.root), self.state).lock():
            self.former.archive(self.former.unarchived(statuses), {})

    def generations(self, name: str) -> list[dict[str, bytes]]:
        return [{file.path.lstrip("/"): file.content for file in self.archive.load(name, each)}
                for each in self.archive.ids(name)]  # fmt: skip

    def read(self, name: str) -> dict[str, bytes]:
        return {path: self.node.read(path) for path in FILES[name]}

    def renew(self, name: str) -> None:
        """What is there after is good, and another."""
        if name == PAIR:
            self.node.reissue(f"{PKI}/{PAIR}", FRONT_CA)
        else:
            document = self.node.kubeconfig(f"etc/kubernetes/{name}")
            document["preferences"] = {"colors": True}
            self.node.write(f"etc/kubernetes/{name}", yaml.safe_dump(document))

    def target(self, name: str) -> Target:
        """As it was when the restart was decided."""
        contents = {f"/{path}": digest(content) for path, content in self.read(name).items()}
        return Target(name, f"/{FILES[name][-1]}", contents)

    def put_back(self, *targets: Target) -> str:
        return self.rollback(*targets).message

    def rollback(self, *targets: Target) -> Rollback:
        with Transactions(str(self.node.root), self.state).lock() as writer:
            return self.former.restore(writer, targets, self.statuses().values())


@pytest.fixture
def keeper(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Keeper:
    if os.geteuid():
        unavailable("root, whose files a node's are")
    return Keeper(node, tmp_path_factory.mktemp("state"))


# --- archived files ---------------------------------------------------------------------------------------------------


def test_used_and_valid_files_are_archived(keeper: Keeper) -> None:
    """Certificate and key are archived together, byte for byte. No CA, no token keys and no unused files are."""
    keeper.keep()
    kept = set(keeper.archive.names())
    assert {PAIR, CONF, "apiserver", "etcd-server", "controller-manager.conf"} <= kept
    assert not kept & {"ca", "etcd-ca", "front-proxy-ca", "sa", "admin.conf"}
    for name in (PAIR, CONF):
        assert keeper.generations(name) == [keeper.read(name)]


@pytest.mark.parametrize("damage", ["key", "chain", "gone", "expired"])
def test_a_broken_file_is_not_archived(keeper: Keeper, damage: str) -> None:
    """It could not be restored."""
    path = f"{PKI}/{PAIR}"
    match damage:
        case "key":
            keeper.node.write(f"{path}.key", key_pem(other_key()))
        case "chain":
            keeper.node.reissue(path, f"{PKI}/ca")
        case "gone":
            keeper.node.path(f"{path}.crt").unlink()
        case _:
            keeper.node.reissue(path, FRONT_CA, end=NOW - DAY)
    assert PAIR not in keeper.unkept()
    keeper.keep()
    assert keeper.generations(PAIR) == []
    assert keeper.generations(CONF)


def test_a_ca_key_of_another_entry_is_not_archived(node: Node, tmp_path_factory: pytest.TempPathFactory) -> None:
    """An entry that is no trust anchor can have a CA, such as the files of --cluster-signing-cert-file. No copy of its
    key may outlive a rotation.
    """
    for suffix in ("crt", "key"):
        node.write(f"{PKI}/signing-ca.{suffix}", node.read(f"{PKI}/ca.{suffix}"))
    own = {"path": f"/{PKI}/signing-ca.crt", "key": f"/{PKI}/signing-ca.key", "consumers": "kube-controller-manager"}
    entries = (*load(None).certificates, validated(CertificateSpec, {"name": "signing"} | own))
    keeper = Keeper(node, tmp_path_factory.mktemp("state"), certificates=entries)
    assert keeper.statuses()["signing"].key_matches
    assert PAIR in keeper.unkept()
    assert "signing" not in keeper.unkept()


def test_a_file_that_no_service_uses_yet_is_not_archived(keeper: Keeper) -> None:
    """Whether it works is unknown, and it would displace one that did."""
    path = f"/{FILES[CONF][0]}"
    older = Live(NOW, {"kube-scheduler": ServiceSeen(True, "1", NOW - DAY)})
    contents = {path: Content("x", NOW - DAY / 2)}
    assert CONF not in keeper.unkept(live=older, contents=contents)
    newer = Live(NOW, {"kube-scheduler": ServiceSeen(True, "1", NOW)})
    assert CONF in keeper.unkept(live=newer, contents=contents)


def test_a_file_without_a_probe_since_its_change_is_not_archived(keeper: Keeper) -> None:
    """Without a probe, the absence of an older instance proves nothing."""
    for unseen in (None, Live(NOW - 2 * DAY)):
        assert keeper.unkept(live=unseen) == set()
    assert {PAIR, CONF} <= keeper.unkept(live=Live(NOW - DAY / 2))


def test_a_file_of_a_failed_restart_is_not_archived(keeper: Keeper) -> None:
    """It would be restored for the next failure. Another certificate is archived."""
    (path,) = FILES[CONF]
    sha256 = digest(keeper.node.read(path))
    for result in (Result.FAILED, Result.UNPROVEN, Result.TAKEN_BACK):
        for content, kept in ((sha256, False), ("another", True)):
            past = Past("kube-scheduler", None, NOW, result, "it did not come up", (CONF,), "2", {f"/{path}": content})
            found = keeper.unkept(past={"kube-scheduler": past})
            assert (CONF in found, PAIR in found) == (kept, True)


def test_what_a_service_uses_that_is_being_restarted_is_not_kept(keeper: Keeper) -> None:
    """Whether it works is what the restart is to show. What others use is kept meanwhile."""
    statuses = list(keeper.statuses().values())
    found = {status.seen.name for status in keeper.former.unarchived(statuses, {"kube-scheduler"})}
    assert CONF not in found
    assert PAIR in found


def test_removed_files_use_no_memory(keeper: Keeper) -> None:
    """Certificates appear and disappear below a pattern for years: a returning one is checked again."""
    statuses = list(keeper.statuses().values())
    with Transactions(str(keeper.node.root), keeper.state).lock():
        keeper.former.archive(keeper.former.unarchived(statuses), {})
    gone, present = statuses[::2], statuses[1::2]
    assert keeper.former.unarchived(present) == []
    found = {status.seen.name for status in keeper.former.unarchived(statuses)}
    assert found
    assert found <= {status.seen.name for status in gone}


def test_the_watchdog_is_notified_for_each_certificate(keeper: Keeper) -> None:
    """At the first start in enforce mode, the archiving of many certificates can take longer than WatchdogSec=."""
    stored = list[int]()

    def alive() -> None:
        stored.append(len(list(keeper.archive.names())))

    former = PreviousFiles(keeper.config, str(keeper.node.root), keeper.state, lambda: NOW, alive=alive)
    certificates = former.unarchived(list(keeper.statuses().values()))
    with Transactions(str(keeper.node.root), keeper.state).lock():
        former.archive(certificates, {})
    assert len(stored) == len(certificates) > 2
    assert (min(stored), max(stored)) == (0, len(certificates) - 1)


def test_the_same_file_is_archived_once(keeper: Keeper) -> None:
    """This holds within a process and for the next one. A file that was checked once is not read again."""
    statuses = list(keeper.statuses().values())
    for _ in range(2):
        with Transactions(str(keeper.node.root), keeper.state).lock():
            keeper.former.archive(statuses, {})
        assert keeper.former.unarchived(statuses) == []
    keeper.again()
    assert PAIR in keeper.unkept()
    keeper.keep()
    assert keeper.generations(PAIR) == [keeper.read(PAIR)]
    keeper.renew(PAIR)
    keeper.keep()
    assert len(keeper.generations(PAIR)) == 2


def test_a_damaged_archive_is_no_obstacle(keeper: Keeper) -> None:
    """What is good is kept again."""
    keeper.keep()
    (generation,) = keeper.archive.ids(CONF)
    (keeper.state / "archive" / CONF / generation / "description.json").write_text("junk")
    keeper.again()
    keeper.keep()
    assert len(os.listdir(keeper.state / "archive" / CONF)) == 2


def test_an_older_certificate_with_more_rights_is_not_archived(keeper: Keeper) -> None:
    """As a good generation it would be restored when a file breaks, and have a successor. It is checked once. It is
    archived if certmond itself installed it last.
    """
    free: dict[str, Any] = {"subject": (), "owner": "64998"}
    specs = [replace(each, **free) if each.name == PAIR else each for each in keeper.config.certificates]
    keeper.config = replace(keeper.config, certificates=tuple(specs))
    keeper.again()
    keeper.keep()
    narrow, path = keeper.generations(PAIR), f"{PKI}/{PAIR}"
    _remember(keeper)
    os.chown(keeper.node.path(f"{path}.crt"), 64_998, -1)
    before = keeper.node.certificate(f"{path}.crt")
    start, end = before.not_valid_before_utc - DAY, before.not_valid_after_utc + DAY
    keeper.node.reissue(path, FRONT_CA, subject=f"O=admins,CN={PAIR}", start=start, end=end)
    for kept in (narrow, []):
        statuses = list(keeper.statuses().values())
        with Transactions(str(keeper.node.root), keeper.state).lock():
            keeper.former.archive(keeper.former.unarchived(statuses), {})
        assert PAIR not in {status.seen.name for status in keeper.former.unarchived(statuses)}
        assert keeper.generations(PAIR) == kept
        shutil.rmtree(keeper.state / "archive")  # then what followed it is lost
        keeper.again()
    _remember(keeper)
    keeper.keep()
    assert keeper.generations(PAIR) == [keeper.read(PAIR)]


def _remember(keeper: Keeper) -> None:
    """As if certmond had put there what is there."""
    there = keeper.statuses()[PAIR].certificate
    assert there
    attempt = Attempt(NOW, sha256=there.sha256, ends_at=there.not_after, common_name=PAIR)
    Ledger(keeper.state).store((PAIR, f"/{PKI}/{PAIR}.crt"), attempt)


# --- restored files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PAIR, CONF])
def test_the_newest_old_files_are_restored(keeper: Keeper, name: str) -> None:
    """Mode and owner are restored, too. The failed files are stored beside them for inspection."""
    versions = []
    for _ in range(2):
        keeper.keep()
        versions.append(keeper.read(name))
        keeper.renew(name)
        keeper.node.write(FILES[name][-1], keeper.node.read(FILES[name][-1]) + b"\n" * len(versions))
    bad, modes = keeper.read(name), [keeper.node.path(path).stat().st_mode for path in FILES[name]]
    said = keeper.put_back(keeper.target(name))
    assert said == f"certmond restored /{FILES[name][-1]} to its state before 2026-12-01 00:00 UTC"
    assert keeper.read(name) == versions[-1]
    assert [keeper.node.path(path).stat().st_mode for path in FILES[name]] == modes
    assert keeper.generations(name) == [*versions, bad]


@pytest.mark.parametrize("replaceable", [True, False])
def test_a_restored_kubeconfig_trusts_the_present_ca(keeper: Keeper, *, replaceable: bool) -> None:
    """A generation that certmond stored during a rotation also trusts a CA that is no longer trusted. certmond omits a
    generation in which it cannot replace the CA.
    """
    before = keeper.node.kubeconfig(FILES[CONF][0])
    present = base64.b64decode(before["clusters"][0]["cluster"]["certificate-authority-data"])
    keeper.node.edit_kubeconfig(FILES[CONF][0], certificate_authority_data=present + make_ca().pem)
    if not replaceable:
        document = keeper.node.kubeconfig(FILES[CONF][0])
        document["clusters"].append({"name": "other", "cluster": document["clusters"][0]["cluster"]})
        keeper.node.write(FILES[CONF][0], yaml.safe_dump(document))
    keeper.keep()
    keeper.node.write(FILES[CONF][0], yaml.safe_dump({**before, "preferences": {"colors": True}}))
    if replaceable:
        assert keeper.put_back(keeper.target(CONF)).startswith(
            f"certmond restored /{FILES[CONF][0]} to its state before "
        )
        assert keeper.node.kubeconfig(FILES[CONF][0]) == before
    else:
        fact = f"the archive has no previous generation of {CONF} that is still valid"
        assert fact in refused(keeper, keeper.target(CONF))


def test_older_credentials_are_not_restored_if_only_the_ca_changed(keeper: Keeper) -> None:
    """The services failed with the newest credentials and a new CA. A restore would change only the certificate."""
    keeper.keep()
    keeper.renew(CONF)
    keeper.keep()
    before = keeper.node.kubeconfig(FILES[CONF][0])
    present = base64.b64decode(before["clusters"][0]["cluster"]["certificate-authority-data"])
    keeper.node.edit_kubeconfig(FILES[CONF][0], certificate_authority_data=present + make_ca().pem)
    keeper.keep()
    keeper.node.write(FILES[CONF][0], yaml.safe_dump(before))
    fact = f"the archive has no previous generation of {CONF} that is still valid"
    assert fact in refused(keeper, keeper.target(CONF))


@pytest.mark.long
def test_failed_files_do_not_displace_the_last_working_generation(keeper: Keeper) -> None:
    """certmond restores the last working files after any number of new files that fail in succession."""
    keeper.keep()
    before = keeper.read(PAIR)
    for _ in range(keeper.archive._keep + 3):
        keeper.renew(PAIR)
        keeper.put_back(keeper.target(PAIR))
        assert keeper.read(PAIR) == before
    assert before in keeper.generations(PAIR)


def test_several_come_back_together_or_not_at_all(keeper: Keeper) -> None:
    """One that cannot leaves the others as they are."""
    keeper.keep()
    before = keeper.read(PAIR), keeper.read(CONF)
    for name in (PAIR, CONF):
        keeper.renew(name)
    pair, conf, bad = keeper.target(PAIR), keeper.target(CONF), (keeper.read(PAIR), keeper.read(CONF))
    with pytest.raises(WriteError):
        keeper.put_back(pair, Target("admin.conf", "/etc/kubernetes/admin.conf", {"/etc/kubernetes/admin.conf": "x"}))
    assert (keeper.read(PAIR), keeper.read(CONF)) == bad
    assert keeper.put_back(pair, conf).count("certmond restored ") == 2
    assert (keeper.read(PAIR), keeper.read(CONF)) == before


def test_where_one_file_of_a_pair_was_kept_only_the_other_comes_back(keeper: Keeper) -> None:
    """A certificate that was renewed with its key."""
    keeper.keep()
    before = keeper.read(PAIR)
    keeper.node.reissue(f"{PKI}/{PAIR}", FRONT_CA, key=keeper.node.key(f"{PKI}/{PAIR}.key"))
    keeper.node.write(f"{PKI}/{PAIR}.key", before[f"{PKI}/{PAIR}.key"])
    inode = keeper.node.path(f"{PKI}/{PAIR}.key").stat().st_ino
    keeper.put_back(keeper.target(PAIR))
    assert keeper.read(PAIR) == before
    assert keeper.node.path(f"{PKI}/{PAIR}.key").stat().st_ino == inode


def refused(keeper: Keeper, *targets: Target) -> str:
    """Return the error, after asserting that nothing changed."""
    before = keeper.read(PAIR)
    with pytest.raises(WriteError) as caught:
        keeper.put_back(*targets)
    assert keeper.read(PAIR) == before
    return str(caught.value)


NONE = f"the archive has no previous generation of {PAIR} that is still valid"


def test_where_another_user_could_take_the_key_nothing_comes_back(keeper: Keeper) -> None:
    """The directory of the key belongs to a user who is not the `owner` of the entry."""
    keeper.keep()
    keeper.renew(PAIR)
    os.chown(keeper.node.path(PKI), 64_998, 64_998)
    assert refused(keeper, keeper.target(PAIR)).startswith(
        f"certmond writes no private key to /{PKI}/{PAIR}.key: /{PKI} belongs to user 64998, who could read the key"
    )


def test_without_a_generation_nothing_is_restored(keeper: Keeper) -> None:
    """The same holds if the only generation is the failed one."""
    assert refused(keeper, keeper.target(PAIR)) == NONE
    keeper.keep()
    assert refused(keeper, keeper.target(PAIR)) == NONE
    gone = Target("gone", "/gone", {"/gone": "x"})
    assert refused(keeper, gone) == "the configuration has no entry gone"


def test_an_expired_one_is_not_restored(keeper: Keeper) -> None:
    """Every component would refuse it. The same holds for one that is not valid yet."""
    keeper.keep()
    keeper.node.reissue(f"{PKI}/{PAIR}", FRONT_CA, end=NOW + 900 * DAY)
    end = NOW + 600 * DAY
    for keeper.now, expected in ((end, NONE), (datetime(2000, 1, 1, tzinfo=NOW.tzinfo), NONE)):
        assert refused(keeper, keeper.target(PAIR)) == expected


@pytest.mark.parametrize("beside", [False, True])
def test_one_of_another_ca_is_not_restored(keeper: Keeper, beside: bool) -> None:
    """Every component would refuse it, however long it is valid. It is restored if the old CA is still trusted
    beside.
    """
    keeper.keep()
    before, former_ca = keeper.read(PAIR), keeper.node.read(f"{FRONT_CA}.crt")
    other = make_ca("front-proxy-ca", not_before=NOW - DAY, not_after=NOW + 900 * DAY)
    keeper.node.write(f"{FRONT_CA}.crt", other.pem)
    keeper.node.write(f"{FRONT_CA}.key", other.key_pem)
    keeper.node.reissue(f"{PKI}/{PAIR}", FRONT_CA)
    keeper.node.write(f"{FRONT_CA}.crt", other.pem + former_ca * beside)
    if not beside:
        assert refused(keeper, keeper.target(PAIR)) == NONE
    else:
        keeper.put_back(keeper.target(PAIR))
        assert keeper.read(PAIR) == before


@pytest.mark.parametrize("damage", ["description", "content", "half"])
def test_an_incomplete_one_is_skipped(keeper: Keeper, damage: str) -> None:
    """The one before it is restored. If there is no other, nothing is."""
    keeper.keep()
    first = keeper.read(PAIR)
    keeper.renew(PAIR)
    if damage == "half":
        name, real = f"{PKI}/{PAIR}.crt", keeper.node.path(f"{PKI}/{PAIR}.crt")
        keeper.archive.store(PAIR, {f"/{name}": real}, NOW, {})
    else:
        keeper.keep()
        newest = keeper.state / "archive" / PAIR / keeper.archive.ids(PAIR)[-1]
        if damage == "content":
            (newest / f"1-{PAIR}.crt").write_bytes(b"junk")
        else:
            (newest / "description.json").write_text('{"when": 1}')
    keeper.renew(PAIR)
    keeper.put_back(keeper.target(PAIR))
    assert keeper.read(PAIR) == first


def test_a_file_that_changed_meanwhile_stays(keeper: Keeper) -> None:
    """The failure was of another content."""
    keeper.keep()
    keeper.renew(PAIR)
    target = keeper.target(PAIR)
    keeper.renew(PAIR)
    assert refused(keeper, target) == f"another process has changed /{PKI}/{PAIR}.key in the meantime"


def test_a_file_that_has_gone_comes_back(keeper: Keeper) -> None:
    """Nothing is lost by that."""
    keeper.keep()
    before = keeper.read(PAIR)
    keeper.renew(PAIR)
    target = keeper.target(PAIR)
    keeper.node.path(f"{PKI}/{PAIR}.crt").unlink()
    keeper.put_back(target)
    assert keeper.read(PAIR) == before


@pytest.mark.parametrize("kept", [1, 3])
def test_a_repeated_rollback_changes_nothing(keeper: Keeper, kept: int) -> None:
    """The old files are there already, and the message is the same, however few generations the archive keeps."""
    keeper = Keeper(keeper.node, keeper.state, archive=ArchiveSpec(keep=kept))
    keeper.keep()
    before = keeper.read(PAIR)
    keeper.renew(PAIR)
    target = keeper.target(PAIR)
    said = keeper.put_back(target)
    inodes = [keeper.node.path(path).stat().st_ino for path in FILES[PAIR]]
    keeper.again()
    assert keeper.put_back(target) == said
    assert [keeper.node.path(path).stat().st_ino for path in FILES[PAIR]] == inodes
    assert keeper.read(PAIR) == before


def test_a_rollback_names_the_time_of_the_restored_files(keeper: Keeper) -> None:
    """Certmond uses the latest change of a restored file, also if a killed process restored this file earlier."""
    keeper.keep()
    keeper.renew(PAIR)
    target = keeper.target(PAIR)
    first = keeper.rollback(target)
    changes = [keeper.node.path(path).stat().st_ctime for path in FILES[PAIR]]
    assert first.restored_at == datetime.fromtimestamp(max(changes), UTC)
    keeper.again()
    assert keeper.rollback(target) == first


def test_the_latest_change_of_all_targets_is_the_time_of_a_rollback(
    keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that started between two of the restored files might have read a failed one."""
    keeper.keep()
    for name in (CONF, PAIR):
        keeper.renew(name)
    targets = keeper.target(CONF), keeper.target(PAIR)
    paths = [f"/{path}" for name in (CONF, PAIR) for path in FILES[name]]
    for latest in paths:
        times = {path: NOW + DAY * (path == latest) for path in paths}
        monkeypatch.setattr(NodeFiles, "changed_at", lambda _, path, times=times: times[path])
        assert keeper.rollback(*targets).restored_at == NOW + DAY


KILLED = """
import os, sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from certmond.config.loader import load
from certmond.restart.rollback import PreviousFiles
from certmond.files.catalog_observer import Store
from certmond.transaction.commit import Transactions
from certmond.pki.assessment.assess import assess
from certmond.pki.services.restart_episode import Past, Result, Target
from certmond.pki.catalog.settings import ArchiveSpec
root, state, name, path, number, now = sys.argv[1:7]
contents = dict(zip(sys.argv[7::2], sys.argv[8::2]))
config = replace(load(None), archive=ArchiveSpec(keep=1))
former = PreviousFiles(config, root, Path(state), lambda: datetime.fromisoformat(now))
with Transactions(root, Path(state)).lock() as writer:
    writer.recover()
    calls, rename = 0, os.rename
    def killing(*arguments, **keywords):
        global calls
        calls += 1
        if calls == int(number):
            os._exit(9)
        return rename(*arguments, **keywords)
    os.rename = os.replace = killing
    seen = assess(Store(config.certificates, root).observe(), datetime.fromisoformat(now))
    former.restore(writer, (Target(name, path, contents),), seen.statuses)
"""


@pytest.mark.long
def test_after_a_kill_at_any_call_the_old_files_are_restored(keeper: Keeper) -> None:
    """The rule also holds with one generation: the failed files do not displace their replacement."""
    keeper = Keeper(keeper.node, keeper.state, archive=ArchiveSpec(keep=1))
    keeper.keep()
    before = keeper.read(PAIR)
    keeper.renew(PAIR)
    target, bad = keeper.target(PAIR), keeper.read(PAIR)

    def run(number: int, contents: Mapping[str, str]) -> int:
        words = [str(keeper.node.root), str(keeper.state), PAIR, target.path, str(number), NOW.isoformat()]
        words += [word for pair in contents.items() for word in pair]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run([sys.executable, "-c", KILLED, *words], env=environment, check=False).returncode

    killed = 0
    for number in range(1, 20):
        for path, content in bad.items():
            keeper.node.replace(path, content)
        if run(number, target.contents) == 0:
            break
        killed += 1
        assert run(0, target.contents) == 0
        assert keeper.read(PAIR) == before
    assert killed > 3
    assert keeper.read(PAIR) == before


def test_what_did_not_work_once_is_not_put_back_for_what_does_not_either(keeper: Keeper) -> None:
    """Two bad ones after each other: it is the one before both that comes back."""
    keeper.keep()
    good = keeper.read(PAIR)
    for _ in range(2):
        keeper.renew(PAIR)
        keeper.put_back(keeper.target(PAIR))
        assert keeper.read(PAIR) == good


def test_files_that_would_tear_another_pair_are_not_restored(keeper: Keeper) -> None:
    """An entry with the same key and a separate certificate would be left without its key."""
    keeper.keep()
    keeper.renew(PAIR)
    other = f"{PKI}/beside.crt"
    keeper.node.path(other).write_bytes(keeper.node.read(f"{PKI}/{PAIR}.crt"))
    fields = {"name": "beside", "path": f"/{other}", "key": f"/{PKI}/{PAIR}.key", "keep_key": True}
    beside = validated(CertificateSpec, fields)
    keeper.config = replace(keeper.config, certificates=(*keeper.config.certificates, beside))
    keeper.again()
    before = keeper.read(PAIR)
    said = refused(keeper, keeper.target(PAIR))
    assert said == (
        f"the certificate and the key of beside would not match: /{other} does not match the key in /{PKI}/{PAIR}.key"
    )  # fmt: skip
    assert keeper.read(PAIR) == before


def test_a_pair_of_two_patterns_is_archived_and_restored(keeper: Keeper) -> None:
    """If path and key of an entry are patterns, the archive has the certificate with its own key, and both return."""
    path, key = (f"/{PKI}/front-*-client.{suffix}" for suffix in ("crt", "key"))
    specs = [
        replace(spec, path=path, key=key, renewed_by="an operator") if spec.name == PAIR else spec
        for spec in keeper.config.certificates
    ]
    keeper.config = replace(keeper.config, certificates=tuple(specs))
    keeper.again()
    keeper.keep()
    (name,) = (name for name in keeper.archive.names() if name.startswith(PAIR))
    good = keeper.read(PAIR)
    assert keeper.generations(name) == [good]
    keeper.renew(PAIR)
    assert keeper.read(PAIR) != good
    keeper.put_back(keeper.target(PAIR))
    assert keeper.read(PAIR) == good
