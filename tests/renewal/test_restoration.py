"""`certmond archive restore` restores a matching pair, the newest good one unless the command names another, and
reports the skipped ones.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat

from certmond.errors import RefusedError, WriteError
from certmond.pki.catalog.entries import CertificateSpec
from certmond.renewal.archived_pair_check import Worth
from certmond.state.archive import Archive, archive_name
from tests.builders import DAY, YEAR, make_ca, make_intermediate, make_leaf
from tests.test_pairs import FORMS, OTHER, PAIR, One, own_key
from tests.test_renewal import CA, certmond

UNRELATED = make_leaf(make_ca(), "unrelated")


class Kept(One):
    """A node whose leaf is put aside again and again."""

    def put_aside(self) -> str:
        """What is there becomes the newest generation; its id."""
        paths = list(dict.fromkeys((PAIR["key"], PAIR["path"])))
        files = {path: self.real(path) for path in paths if self.at(path).exists()}
        return Archive(self.state, 9).store("leaf", files, self.now, {"detail": "kept by the test"}).id

    def write(self, certificate: bytes, key: bytes) -> None:
        self.put(PAIR["path"], certificate)
        self.put(PAIR["key"], key, 0o600)

    def issue(self, start: float = -1, end: float = 90, **fields: object) -> tuple[bytes, bytes]:
        """Certificate and key, valid so many days from and to now."""
        made = make_leaf(self.ca, "leaf", not_before=self.now + start * DAY, not_after=self.now + end * DAY, **fields)  # type: ignore[arg-type]
        return made.pem, made.key_pem

    def there(self) -> tuple[bytes, bytes]:
        return self.at(PAIR["path"]).read_bytes(), self.at(PAIR["key"]).read_bytes()

    def restore(self, generation: str | None = None, *, dry_run: bool = False) -> list[str]:
        return self.restoration().restore("leaf", generation, dry_run=dry_run)

    def worth(self, generation: str) -> tuple[Worth, str]:
        found = self.restoration().verdict("leaf", generation)
        assert found
        return found.worth, found.why


@pytest.fixture
def host(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "host", "pair", keep=False)


@pytest.mark.long
@pytest.mark.parametrize("form", [form for form in FORMS if "shared" not in form])
def test_a_torn_pair_that_was_repaired_is_not_restored(tmp_path: Path, form: str) -> None:
    """The newest generation has the files that a renewal replaced: if its certificate has another key, the good one
    before it is restored, in any form. The message has the skipped one and the reason.
    """
    host = One(tmp_path / "host", form, keep=False)
    good = host.contents()
    host.answer = lambda request: own_key(host, request)
    (first,) = host.renew()
    if form in {"kubeconfig", "two users"}:
        path = host.at("/etc/app/leaf.conf")
        path.write_bytes(re.sub(rb"client-key-data: .*", b"client-key-data: AAAA", path.read_bytes()))
    else:
        path = host.real(str(FORMS[form]["key"]).replace("*", "leaf"))
        certificate = path.read_bytes() if path.suffix == ".pem" else b""
        kept = b"".join(re.findall(rb"-----BEGIN CERTIFICATE.*?END CERTIFICATE-----\n", certificate, re.DOTALL))
        path.write_bytes(UNRELATED.key_pem + kept)
    torn = host.real(str(FORMS[form]["path"]).replace("*", "leaf")).read_bytes()
    host.now += DAY / 12
    made = host.enforcer().plan(host.look(), frozenset({"leaf"}))
    assert [outcome.result for outcome in host.executor().execute(made)] == ["done"], first
    name = next((host.state / "archive").iterdir()).name
    _, newest = Archive(host.state).ids(name)
    said = host.restoration().restore(name, None, dry_run=True)
    assert said == host.restoration().restore(name, None, dry_run=False)
    assert said[0].startswith(f"{newest} is skipped: the generation is broken: ")
    assert all("is restored to its state before" in each for each in said[1:])
    assert host.belongs_together()
    now_there, before = host.contents(), set(good.values())
    if "kubelet" not in form:  # the kubelet's dated files stay where they are
        assert set(now_there.values()) == before
    with pytest.raises(
        RefusedError, match=f"^certmond does not restore {newest} of {name}: the generation is broken: "
    ):
        host.restoration().restore(name, newest, dry_run=False)
    assert host.contents() == now_there
    assert torn not in now_there.values()


def test_the_newest_of_several_good_ones_is_restored(host: Kept) -> None:
    """The present one does not count. If there is no other, the message reports it, and nothing changes."""
    first = host.there()
    host.put_aside()
    host.write(*host.issue())
    second = host.there()
    host.put_aside()
    host.write(*host.issue())
    host.restore()
    assert host.there() == second
    (said,) = {each.partition(" is restored")[0] for each in host.restore()[-1:]}
    assert said == PAIR["path"]
    assert host.there() != second
    assert first != second


def test_a_pair_of_two_patterns_is_restored(host: Kept) -> None:
    """If path and key of an entry are patterns, certmond judges and restores the certificate with its own key."""
    host.entries["leaf"] |= {"path": "/etc/app/l*.crt", "key": "/etc/app/l*.key", "renewed_by": "an operator"}
    good, name = host.there(), archive_name(CertificateSpec(name="leaf", path="/etc/app/l*.crt"), PAIR["path"])
    files = {path: host.real(path) for path in (PAIR["key"], PAIR["path"])}
    kept = Archive(host.state, 9).store(name, files, host.now, {"detail": "kept by the test"}).id
    found = host.restoration().verdict(name, kept)
    assert (found and found.worth) is Worth.GOOD
    host.write(*host.issue())
    host.restoration().restore(name, None, dry_run=False)
    assert host.there() == good


def test_nothing_is_restored_if_the_present_pair_is_the_only_good_one(host: Kept) -> None:
    """The message has the present generation, and the defects of the others."""
    good = host.put_aside()
    assert host.restore() == [f"leaf is already identical to {good}"]
    kept = host.there()
    host.write(kept[0], UNRELATED.key_pem)
    torn = host.put_aside()
    host.write(*kept)
    reason = (
        f"{torn} is skipped: the generation is broken: /etc/app/leaf.crt does not match the key in /etc/app/leaf.key"
    )
    assert host.restore() == [reason, f"leaf is already identical to {good}"]
    assert host.there() == kept
    assert host.restore(good) == [f"leaf is already identical to {good}"]


def test_where_none_is_good_nothing_comes_back(host: Kept) -> None:
    """Every generation is named with what is wrong with it."""
    certificate, _ = host.there()
    host.write(certificate, UNRELATED.key_pem)
    torn = host.put_aside()
    host.write(b"junk", UNRELATED.key_pem)
    junk = host.put_aside()
    (host.state / "archive/leaf" / junk / "1-leaf.crt").write_bytes(b"other")
    host.at(PAIR["path"]).unlink()
    half = host.put_aside()
    with pytest.raises(RefusedError) as raised:
        host.restore()
    lines = str(raised.value).splitlines()
    assert lines[0] == "the archive has no good generation of leaf that differs from the present files"
    assert [line.split()[0] for line in lines[1:]] == [junk, torn]
    assert "is damaged" in lines[1]
    assert half not in str(raised.value)  # it is what is there
    assert not host.at(PAIR["path"]).exists()


@pytest.mark.parametrize(
    ("start", "end", "why"),
    [(-90, -1, "its certificate expired on "), (1, 90, "its certificate is not valid before ")],
)
def test_a_valid_one_precedes_a_newer_expired_one(host: Kept, start: float, end: float, why: str) -> None:
    """An expired one is restored only in place of a broken pair, with a message."""
    good = host.there()
    host.put_aside()
    host.write(*host.issue(start, end))
    late, outdated = host.there(), host.put_aside()
    host.write(*host.issue())
    present = host.there()
    assert host.worth(outdated)[0] is Worth.OUTDATED
    said = host.restore(dry_run=True)
    assert said[0].startswith(f"{outdated} is skipped: the generation is outdated: {why}")
    with pytest.raises(
        RefusedError, match=f"certmond does not restore {outdated} of leaf: the generation is outdated: {why}"
    ):
        host.restore(outdated)
    assert host.there() == present
    host.restore()
    assert host.there() == good
    host.write(good[0], UNRELATED.key_pem)
    said = host.restore(outdated)
    assert said[-1].startswith(f"{outdated} is outdated: {why}")
    assert host.there() == late


def test_an_outdated_pair_is_better_than_none(host: Kept) -> None:
    """Where nothing good is kept and what is there is no pair, the newest outdated one comes back; in the place of a
    pair, none does.
    """
    host.write(*host.issue(-90, -2))
    host.put_aside()
    host.write(*host.issue(-90, -1))
    late, newest = host.there(), host.put_aside()
    host.write(*host.issue())
    with pytest.raises(RefusedError, match="no good generation of leaf") as raised:
        host.restore()
    assert str(raised.value).count("is skipped: the generation is outdated") == 2
    host.write(b"", UNRELATED.key_pem)
    said = host.restore()
    assert host.there() == late
    assert said[-1].startswith(f"{newest} is outdated: its certificate expired on ")


def test_one_of_an_old_ca_is_outdated(host: Kept) -> None:
    """Every component that trusts the present CA would refuse it. If that CA is unreadable, only the dates count."""
    former = host.put_aside()
    host.write(*host.issue())
    ca = make_ca(not_before=host.now - YEAR, not_after=host.now + YEAR)
    host.put(CA["path"], ca.pem)
    why = "its certificate has no certification path to the present CA"
    assert host.worth(former) == (Worth.OUTDATED, why)
    host.at(CA["path"]).unlink()
    assert host.worth(former) == (Worth.GOOD, "")


def test_a_certificate_alone_counts_with_the_key_that_is_there(host: Kept) -> None:
    """A generation without a key, as of an entry that keeps its own, is good where the key in place is its key."""
    kept = host.there()
    Archive(host.state).store("leaf", {PAIR["path"]: host.real(PAIR["path"])}, host.now, {})
    (alone,) = Archive(host.state).ids("leaf")
    assert host.worth(alone) == (Worth.GOOD, "")
    host.write(*host.issue())
    assert host.worth(alone)[0] is Worth.BROKEN
    with pytest.raises(RefusedError, match=r"/etc/app/leaf.crt does not match the key in /etc/app/leaf.key"):
        host.restore(alone)
    assert host.there() != kept


def test_a_key_with_a_passphrase_is_not_judged(host: Kept) -> None:
    """It is skipped by default, and restored by its name."""
    made = make_leaf(host.ca, "leaf", not_after=host.now + 90 * DAY)
    host.write(made.pem, made.key_as(PrivateFormat.PKCS8, b"secret"))
    locked, generation = host.there(), host.put_aside()
    host.write(*host.issue())
    assert host.worth(generation) == (Worth.UNJUDGED, "the private key in /etc/app/leaf.key is encrypted")
    with pytest.raises(RefusedError, match=f"{generation} is skipped: the generation is unjudged: the private key in"):
        host.restore()
    assert host.restore(generation)[-1].startswith(f"{generation} is unjudged: ")
    assert host.there() == locked


def test_a_generation_of_an_entry_that_has_gone_is_judged_by_its_files(host: Kept) -> None:
    """Without an entry, no CA is known to which it would have to lead."""
    kept, good = host.there(), host.put_aside()
    host.write(kept[0], UNRELATED.key_pem)
    torn = host.put_aside()
    host.write(*host.issue())
    host.entries["elsewhere"] = host.entries.pop("leaf") | {"path": "/etc/else.crt", "key": "/etc/else.key"}
    assert [host.worth(each)[0] for each in (good, torn)] == [Worth.GOOD, Worth.BROKEN]
    host.restore()
    assert host.there() == kept


def test_no_pair_of_another_entry_is_torn(tmp_path: Path) -> None:
    """An entry with the same key and a separate certificate would be left without its key: nothing changes, and the
    audit log has the reason.
    """
    host = Kept(tmp_path / "host", "shared key", keep=True)
    kept = host.there()
    former = host.issue()
    host.write(*former)
    generation = host.put_aside()
    host.write(*kept)
    with pytest.raises(
        RefusedError,
        match=f"^certmond does not restore {generation} of leaf: the certificate and the key of other would not",
    ):
        host.restore(generation)
    assert host.there() == kept
    assert host.audit()[-1]["event"] == "step_failed"
    assert host.belongs_together()
    assert OTHER["key"] == PAIR["key"]


def test_a_ca_is_not_judged(host: Kept) -> None:
    """It is never restored, under any name."""
    Archive(host.state).store("old-name", {CA["path"]: host.real(CA["path"])}, host.now, {})
    (generation,) = Archive(host.state).ids("old-name")
    assert host.restoration().verdict("old-name", generation) is None
    for asked in (None, generation):
        with pytest.raises(WriteError, match="never restores old-name from the archive"):
            host.restoration().restore("old-name", asked, dry_run=False)


@pytest.mark.long
def test_the_command_shows_the_good_generations(host: Kept) -> None:
    """`archive list` has the verdict of each generation with its reason. `archive restore` exits 2 if it refuses, and 0
    if it restores a good one.
    """
    kept, good = host.there(), host.put_aside()
    host.write(kept[0], UNRELATED.key_pem)
    torn = host.put_aside()
    host.write(*host.issue(end=80))
    listed = certmond(host, "archive", "list", "leaf")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert [line.split()[1:3] for line in listed.stdout.splitlines()] == [[good, "good"], [torn, "broken"]]
    pair = [host.at(PAIR[field]) for field in ("path", "key")]
    assert listed.stdout.splitlines()[1].endswith(f"kept by the test; {pair[0]} does not match the key in {pair[1]}")
    refused = certmond(host, "archive", "restore", "leaf", torn)
    assert (refused.returncode, refused.stdout) == (2, "")
    fact = f"the generation is broken: {host.root}/etc/app/leaf.crt does not match"
    assert f"certmond does not restore {torn} of leaf: {fact}" in refused.stderr
    done = certmond(host, "archive", "restore", "leaf")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{torn} is skipped: the generation is broken: ")
    assert host.there() == kept
    host.settings["nonsense"] = True
    listed = certmond(host, "archive", "list", "leaf")
    assert (listed.returncode, "nonsense" in listed.stderr) == (0, True)
    assert [line.split()[2] for line in listed.stdout.splitlines()] == ["-", "-", "-"]


@pytest.mark.long
def test_an_older_generation_does_not_bring_back_what_a_later_one_had_not(host: Kept) -> None:
    """A subject, usage or name that a later certificate of the CA no longer had makes a generation `wider`: it is
    passed over, and refused by name, unless its entry fixes it. A forged later one takes nothing away.
    """
    host.entries["leaf"].pop("subject", None)
    host.entries["leaf"].pop("names", None)
    for fields in ({"subject": "other"}, {"names": ["DNS:admin"]}, {"usages": None}):
        plain = {"usages": ["digital signature"], "names": None, "extended_usages": host.entries["leaf"]["usages"]}
        host.write(*host.issue(end=10, **{**plain, **fields}))
        wide, old = host.there(), host.put_aside()
        host.write(*host.issue(end=20, **plain))
        narrow, good = host.there(), host.put_aside()
        host.write(*host.issue(end=30, **plain))
        worth, why = host.worth(old)
        assert worth is Worth.WIDER
        assert re.search(r"; a later certificate \(serial [0-9a-f]+\) lacks this content$", why)
        with pytest.raises(RefusedError, match=f"^certmond does not restore {old} of leaf: the generation is wider: "):
            host.restore(old)
        assert host.worth(good) == (Worth.GOOD, "")
        host.restore()
        assert host.there() == narrow != wide
        for directory in (host.state / "archive/leaf").iterdir():
            shutil.rmtree(directory)
    host.write(*host.issue(end=10, subject="other", extended_usages=host.entries["leaf"]["usages"]))
    old = host.put_aside()
    host.write(*host.issue(end=20, subject="leaf", extended_usages=host.entries["leaf"]["usages"]))
    host.entries["leaf"]["subject"] = ["CN=other"]
    assert host.worth(old)[0] is Worth.GOOD
    host.entries["leaf"]["subject"] = ["CN=leaf", "CN=other"]  # it fixes neither of them against the other
    assert host.worth(old)[0] is Worth.WIDER
    host.entries["leaf"]["subject"] = ["CN=leaf"]
    host.write(*host.issue(end=5, subject="leaf", extended_usages=host.entries["leaf"]["usages"]))
    assert host.worth(old)[0] is Worth.WIDER  # what is in place is the later one, whatever its end
    del host.entries["leaf"]["subject"]
    forged = make_leaf(make_ca(), "leaf", not_before=host.now - DAY, not_after=host.now + YEAR)
    host.write(forged.pem, forged.key_pem)
    assert host.worth(old)[0] is Worth.GOOD


def test_false_cas_hide_no_later_certificate_in_the_archive(host: Kept) -> None:
    """The owner of the file can add a hundred certificates with the name of the CA that issued the later one."""
    host.entries["leaf"].pop("subject", None)
    usages = host.entries["leaf"]["usages"]
    host.write(*host.issue(end=10, subject="other", extended_usages=usages))
    old = host.put_aside()
    issuing = make_intermediate(host.ca, "sub")
    false = [make_intermediate(make_ca(), "sub", subject_key_id=issuing.subject_key_id) for _ in range(101)]
    later = make_leaf(issuing, "leaf", not_after=host.now + YEAR, extended_usages=usages)
    host.write(b"".join(each.pem for each in (later, *false, issuing)), later.key_pem)
    assert host.worth(old)[0] is Worth.WIDER


@pytest.mark.parametrize("later", ["issued later", "the same dates", "ends later", "kept before", "kept after"])
def test_which_certificate_is_the_later_one(host: Kept, later: str) -> None:
    """A certificate is the later one if it was issued or ends later, or has the same dates. It also is if it was first
    stored after the first time of the other, whatever the dates. A second storage of a restored older one does not
    count.
    """
    host.entries["leaf"].pop("subject", None)
    usages = host.entries["leaf"]["usages"]
    start, end = {"issued later": (-2, 90), "ends later": (-3, 91), "the same dates": (-3, 90)}.get(later, (-4, 80))
    wide = host.issue(-3, 90, subject="other", extended_usages=usages)
    narrow = host.issue(start, end, subject="leaf", extended_usages=usages)
    number = ""
    for each in [wide, narrow, wide] if later == "kept after" else [narrow, wide]:
        host.write(*each)
        number = host.put_aside()
        host.now += DAY / 24
    for path in (PAIR["path"], PAIR["key"]):
        host.at(path).unlink()
    assert host.worth(number)[0] is (Worth.GOOD if later == "kept before" else Worth.WIDER)


def test_a_restore_without_a_generation_names_the_next_command(host: Kept) -> None:
    """If the archive has no generation of a certificate, the message contains the command that issues it again. A
    generation that does not exist, and an unknown name, have a list as the remedy.
    """
    remedy = "to issue the certificate again, run: certmond renew leaf"
    with pytest.raises(WriteError, match=f"no generation of leaf; {remedy}$"):
        host.restore()
    with pytest.raises(WriteError, match=r"no generation of laef; .* run: certmond archive list$"):
        host.restoration().restore("laef", None, dry_run=True)
    kept = host.put_aside()
    with pytest.raises(WriteError, match=f"no generation 7 of leaf; the generations of leaf are: {kept}$"):
        host.restore("7")
