"""The files that worked: which are kept, and which come back when what came after them did not work."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from certmond.config import Config, load
from certmond.errors import WriteError
from certmond.host.archive import Archive
from certmond.host.former import FormerFiles
from certmond.host.ledger import Ledger
from certmond.host.place import digest
from certmond.host.store import Store
from certmond.host.transaction import Transactions
from certmond.pki.assess import CertificateStatus, assess
from certmond.pki.attempt import Attempt
from certmond.pki.catalog import CertificateSpec
from certmond.pki.holding import Surroundings, files_of
from certmond.pki.restart import Past, Result, Target
from certmond.pki.service import Content, Live, ServiceSeen
from certmond.pki.settings import ArchiveSpec
from tests.builders import make_ca
from tests.conftest import unavailable
from tests.node import NOW, PKI, Node, key_pem
from tests.test_mutations import other_key

PAIR, CONF = "front-proxy-client", "scheduler.conf"
FILES = {PAIR: (f"{PKI}/{PAIR}.key", f"{PKI}/{PAIR}.crt"), CONF: (f"etc/kubernetes/{CONF}",)}
FRONT_CA = f"{PKI}/front-proxy-ca"
DAY = timedelta(days=1)


class Keeper:
    """A node's files, and what is kept of them. `now` is its clock."""

    def __init__(self, node: Node, state: Path, **config: Any) -> None:
        self.node, self.state, self.now = node, state, NOW
        self.config: Config = load(None).model_copy(update=config)
        self.archive = Archive(state)
        self.former = self.again()

    def again(self) -> FormerFiles:
        """Another process."""
        self.former = FormerFiles(self.config, str(self.node.root), self.state, lambda: self.now)
        return self.former

    def statuses(self, **around: Any) -> dict[str, CertificateStatus]:
        store = Store(self.config.certificates, str(self.node.root))
        inventory = store.observe()
        paths = {path for each in inventory.observations for path in files_of(each)}
        contents = {path: Content(sha256, NOW - DAY) for path, sha256, _ in store.states(paths)}
        known = Surroundings(self.config.services, **{"live": Live(NOW), "contents": contents, **around})
        return {each.seen.name: each for each in assess(inventory, self.now, around=known).statuses}

    def unkept(self, **around: Any) -> set[str]:
        return {status.seen.name for status in self.former.unkept(self.statuses(**around).values())}

    def keep(self) -> None:
        statuses = list(self.statuses().values())
        with Transactions(str(self.node.root), self.state).lock():
            self.former.keep(self.former.unkept(statuses), {})

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
        with Transactions(str(self.node.root), self.state).lock() as writer:
            return self.former.put_back(writer, targets, self.statuses().values())


@pytest.fixture
def keeper(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Keeper:
    if os.geteuid():
        unavailable("root, whose files a node's are")
    return Keeper(node, tmp_path_factory.mktemp("state"))


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_services_use_and_is_good_is_kept(keeper: Keeper) -> None:
    """Certificate and key together, byte for byte; no CA, no keys of tokens, nothing that nobody uses."""
    keeper.keep()
    kept = set(keeper.archive.names())
    assert {PAIR, CONF, "apiserver", "etcd-server", "controller-manager.conf"} <= kept
    assert not kept & {"ca", "etcd-ca", "front-proxy-ca", "sa", "admin.conf"}
    for name in (PAIR, CONF):
        assert keeper.generations(name) == [keeper.read(name)]


@pytest.mark.parametrize("damage", ["key", "chain", "gone", "expired"])
def test_what_is_not_good_is_not_kept(keeper: Keeper, damage: str) -> None:
    """Nor would it be of any use."""
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


def test_what_nobody_has_taken_up_yet_is_not_kept(keeper: Keeper) -> None:
    """Whether it works is not known; and it would push out what did."""
    path = f"/{FILES[CONF][0]}"
    older = Live(NOW, {"kube-scheduler": ServiceSeen(True, "1", NOW - DAY)})
    contents = {path: Content("x", NOW - DAY / 2)}
    assert CONF not in keeper.unkept(live=older, contents=contents)
    newer = Live(NOW, {"kube-scheduler": ServiceSeen(True, "1", NOW)})
    assert CONF in keeper.unkept(live=newer, contents=contents)


def test_what_was_not_looked_at_since_it_changed_is_not_kept(keeper: Keeper) -> None:
    """That nobody is seen to hold something older says nothing before a look."""
    for unseen in (None, Live(NOW - 2 * DAY)):
        assert keeper.unkept(live=unseen) == set()
    assert {PAIR, CONF} <= keeper.unkept(live=Live(NOW - DAY / 2))


def test_what_a_restart_has_failed_with_is_not_kept(keeper: Keeper) -> None:
    """It would be put back for the next that does not work. Another certificate is another matter."""
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
    found = {status.seen.name for status in keeper.former.unkept(statuses, {"kube-scheduler"})}
    assert CONF not in found
    assert PAIR in found


def test_of_what_is_gone_nothing_is_remembered(keeper: Keeper) -> None:
    """Certificates come and go below a pattern for years: one that comes back is looked at anew."""
    statuses = list(keeper.statuses().values())
    with Transactions(str(keeper.node.root), keeper.state).lock():
        keeper.former.keep(keeper.former.unkept(statuses), {})
    gone, present = statuses[::2], statuses[1::2]
    assert keeper.former.unkept(present) == []
    found = {status.seen.name for status in keeper.former.unkept(statuses)}
    assert found
    assert found <= {status.seen.name for status in gone}


def test_the_same_is_kept_once(keeper: Keeper) -> None:
    """Neither in one process nor by the next; what is looked at once is not read again."""
    statuses = list(keeper.statuses().values())
    for _ in range(2):
        with Transactions(str(keeper.node.root), keeper.state).lock():
            keeper.former.keep(statuses, {})
        assert keeper.former.unkept(statuses) == []
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


def test_a_former_certificate_with_more_that_somebody_put_back_is_not_kept(keeper: Keeper) -> None:
    """Kept as good, it would come back where a file breaks, and have a successor of its own. It is looked at once. It
    is kept where it was certmond that put it there last.
    """
    free = {"subject": (), "owner": "64998"}
    specs = [each.model_copy(update=free) if each.name == PAIR else each for each in keeper.config.certificates]
    keeper.config = keeper.config.model_copy(update={"certificates": tuple(specs)})
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
            keeper.former.keep(keeper.former.unkept(statuses), {})
        assert PAIR not in {status.seen.name for status in keeper.former.unkept(statuses)}
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
    Ledger(keeper.state).remember((PAIR, f"/{PKI}/{PAIR}.crt"), attempt)


# --- what comes back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [PAIR, CONF])
def test_the_newest_former_files_come_back(keeper: Keeper, name: str) -> None:
    """As they were, mode and owner too. What did not work is kept beside them, to be looked at."""
    versions = []
    for _ in range(2):
        keeper.keep()
        versions.append(keeper.read(name))
        keeper.renew(name)
        keeper.node.write(FILES[name][-1], keeper.node.read(FILES[name][-1]) + b"\n" * len(versions))
    bad, modes = keeper.read(name), [keeper.node.path(path).stat().st_mode for path in FILES[name]]
    said = keeper.put_back(keeper.target(name))
    assert said == f"/{FILES[name][-1]} is put back as it was on 2026-12-01 00:00 UTC"
    assert keeper.read(name) == versions[-1]
    assert [keeper.node.path(path).stat().st_mode for path in FILES[name]] == modes
    assert keeper.generations(name) == [*versions, bad]


@pytest.mark.parametrize("exchangeable", [True, False])
def test_a_former_kubeconfig_trusts_the_ca_of_now(keeper: Keeper, *, exchangeable: bool) -> None:
    """It was kept while a rotation was under way, and trusted a CA that was distrusted since. One in which the CA
    cannot be exchanged is passed over.
    """
    before = keeper.node.kubeconfig(FILES[CONF][0])
    present = base64.b64decode(before["clusters"][0]["cluster"]["certificate-authority-data"])
    keeper.node.edit_kubeconfig(FILES[CONF][0], certificate_authority_data=present + make_ca().pem)
    if not exchangeable:
        document = keeper.node.kubeconfig(FILES[CONF][0])
        document["clusters"].append({"name": "other", "cluster": document["clusters"][0]["cluster"]})
        keeper.node.write(FILES[CONF][0], yaml.safe_dump(document))
    keeper.keep()
    keeper.node.write(FILES[CONF][0], yaml.safe_dump({**before, "preferences": {"colors": True}}))
    if exchangeable:
        assert " is put back as it was on " in keeper.put_back(keeper.target(CONF))
        assert keeper.node.kubeconfig(FILES[CONF][0]) == before
    else:
        assert f"the archive has no former {CONF} that is still valid" in refused(keeper, keeper.target(CONF))


def test_files_that_do_not_work_push_out_none_that_do(keeper: Keeper) -> None:
    """However many new files of an operator fail one after the other, the last ones that worked come back."""
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
    assert keeper.put_back(pair, conf).count(" is put back as it was on ") == 2
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
    """What is said; and nothing was changed."""
    before = keeper.read(PAIR)
    with pytest.raises(WriteError) as caught:
        keeper.put_back(*targets)
    assert keeper.read(PAIR) == before
    return str(caught.value)


NONE = f"the archive has no former {PAIR} that is still valid"


def test_where_another_user_could_take_the_key_nothing_comes_back(keeper: Keeper) -> None:
    """The directory of the key belongs to a user who is not the `owner` of the entry."""
    keeper.keep()
    keeper.renew(PAIR)
    os.chown(keeper.node.path(PKI), 64_998, 64_998)
    assert refused(keeper, keeper.target(PAIR)).startswith(
        f"no private key is written to /{PKI}/{PAIR}.key: /{PKI} belongs to user 64998, who could take it"
    )


def test_where_nothing_was_kept_nothing_comes_back(keeper: Keeper) -> None:
    """Nor where what was kept is what does not work."""
    assert refused(keeper, keeper.target(PAIR)) == NONE
    keeper.keep()
    assert refused(keeper, keeper.target(PAIR)) == NONE
    gone = Target("gone", "/gone", {"/gone": "x"})
    assert refused(keeper, gone) == "gone is not in the configuration any more"


def test_one_that_has_expired_does_not_come_back(keeper: Keeper) -> None:
    """It would be refused by everybody; neither does one that is not valid yet."""
    keeper.keep()
    keeper.node.reissue(f"{PKI}/{PAIR}", FRONT_CA, end=NOW + 900 * DAY)
    end = NOW + 600 * DAY
    for keeper.now, expected in ((end, NONE), (datetime(2000, 1, 1, tzinfo=NOW.tzinfo), NONE)):
        assert refused(keeper, keeper.target(PAIR)) == expected


@pytest.mark.parametrize("beside", [False, True])
def test_one_that_does_not_lead_to_the_cas_of_now_does_not_come_back(keeper: Keeper, beside: bool) -> None:
    """Everybody would refuse it, however long it is valid. It does where the former CA is still trusted beside."""
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
def test_one_that_is_not_whole_is_passed_over(keeper: Keeper, damage: str) -> None:
    """The one before it comes back then; where there is none, nothing does."""
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


def test_what_somebody_changed_meanwhile_is_left_as_it_is(keeper: Keeper) -> None:
    """It is not what did not work."""
    keeper.keep()
    keeper.renew(PAIR)
    target = keeper.target(PAIR)
    keeper.renew(PAIR)
    assert refused(keeper, target) == f"/{PKI}/{PAIR}.key was changed by someone else meanwhile"


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
def test_who_was_killed_after_it_may_do_it_again(keeper: Keeper, kept: int) -> None:
    """They are back already: nothing is changed, and the same is said. However few generations are kept."""
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


KILLED = """
import os, sys
from datetime import datetime
from pathlib import Path
from certmond.config import load
from certmond.host.former import FormerFiles
from certmond.host.store import Store
from certmond.host.transaction import Transactions
from certmond.pki.assess import assess
from certmond.pki.restart import Past, Result, Target
from certmond.pki.settings import ArchiveSpec
root, state, name, path, number, now = sys.argv[1:7]
contents = dict(zip(sys.argv[7::2], sys.argv[8::2]))
config = load(None).model_copy(update={"archive": ArchiveSpec(keep=1)})
former = FormerFiles(config, root, Path(state), lambda: datetime.fromisoformat(now))
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
    former.put_back(writer, (Target(name, path, contents),), seen.statuses)
"""


def test_wherever_it_is_killed_the_former_files_come_back_in_the_end(keeper: Keeper) -> None:
    """Also where one generation is kept: what did not work does not push out what it is replaced by."""
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


def test_files_that_would_tear_another_pair_do_not_come_back(keeper: Keeper) -> None:
    """Another entry that has the same key, and a certificate of its own, would be left without its key."""
    keeper.keep()
    keeper.renew(PAIR)
    other = f"{PKI}/beside.crt"
    keeper.node.path(other).write_bytes(keeper.node.read(f"{PKI}/{PAIR}.crt"))
    fields = {"name": "beside", "path": f"/{other}", "key": f"/{PKI}/{PAIR}.key", "keep_key": True}
    beside = CertificateSpec.model_validate(fields)
    keeper.config = keeper.config.model_copy(update={"certificates": (*keeper.config.certificates, beside)})
    keeper.again()
    before = keeper.read(PAIR)
    said = refused(keeper, keeper.target(PAIR))
    assert said == (
        f"the files of beside would not belong together: /{other} is not of the key in /{PKI}/{PAIR}.key"
    )  # fmt: skip
    assert keeper.read(PAIR) == before
