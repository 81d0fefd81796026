"""Write access to a file, or to its replacement, by every directory and symlink on its path."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from certmond.files.untrusted_writers import WriterLookup, Writers

ALICE, BOB = 64_101, 64_102
"""Users without an account, and their groups."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree in which only root can write."""
    place = tmp_path / "root"
    (place / "srv/app").mkdir(parents=True)
    (place / "srv/app/x.crt").write_text("x")
    return place


def writers(root: Path, path: str = "/srv/app/x.crt", owner: str | None = None) -> Writers:
    return WriterLookup(str(root)).writers([path], owner)


def test_what_only_root_can_write(root: Path) -> None:
    """Neither file nor path has another writer; so it is of a file that does not exist."""
    assert writers(root) == Writers()
    assert writers(root, "/srv/app/none.crt") == Writers()
    assert writers(root, "/none/none.crt") == Writers()
    assert writers(root, "/srv/\0") == Writers()


@pytest.mark.parametrize("directory", ["", "srv", "srv/app"])
def test_any_directory_on_the_way_can_be_used_to_replace_the_file(root: Path, directory: str) -> None:
    """The cases are its owner, every user and a group: each user who can rename a name in it."""
    place = root / directory
    shown = f"/{directory}"
    place.chmod(0o777)
    assert writers(root).path == f"{shown} can be written by every user (mode 0777)"
    place.chmod(0o775)
    os.chown(place, 0, BOB)
    assert writers(root).path == f"{shown} can be written by group {BOB} (mode 0775)"
    place.chmod(0o755)
    assert writers(root) == Writers()
    os.chown(place, ALICE, 0)
    assert writers(root).path == f"{shown} belongs to user {ALICE}"


def test_a_file_that_others_can_change(root: Path) -> None:
    """By its owner or its mode; the path is not affected."""
    file = root / "srv/app/x.crt"
    os.chown(file, ALICE, ALICE)
    assert writers(root) == Writers(file=f"/srv/app/x.crt belongs to user {ALICE}")
    os.chown(file, 0, BOB)
    file.chmod(0o664)
    assert writers(root) == Writers(file=f"/srv/app/x.crt can be written by group {BOB} (mode 0664)")
    file.chmod(0o646)
    assert writers(root) == Writers(file="/srv/app/x.crt can be written by every user (mode 0646)")


def test_the_declared_owner_is_allowed(root: Path) -> None:
    """The entry declares user and group by name or number. That they can write is reported separately."""
    os.chown(root / "srv/app", ALICE, BOB)
    (root / "srv/app").chmod(0o775)
    os.chown(root / "srv/app/x.crt", ALICE, BOB)
    assert writers(root, owner=f"{ALICE}:{BOB}") == Writers(owner=True)
    assert writers(root, owner=str(ALICE)).path == f"/srv/app can be written by group {BOB} (mode 0775)"
    assert writers(root, owner="root").path == f"/srv/app belongs to user {ALICE}"
    os.chown(root / "srv/app", 0, BOB)
    os.chown(root / "srv/app/x.crt", 0, 0)
    assert writers(root, owner=f"root:{BOB}") == Writers(owner=True)
    (root / "srv/app").chmod(0o755)
    assert writers(root, owner=str(ALICE)) == Writers()
    assert writers(root, owner="no-such-user:no-such-group") == Writers()


def test_a_group_counts_as_others_unless_the_entry_declares_it(root: Path) -> None:
    """Root's group, and the group of the owner alone, which may have others in it."""
    file = root / "srv/app/x.crt"
    os.chown(file, 0, 0)
    file.chmod(0o664)
    assert writers(root).file == "/srv/app/x.crt can be written by group 0 (mode 0664)"
    os.chown(file, ALICE, ALICE)
    assert writers(root, owner=str(ALICE)).file == f"/srv/app/x.crt can be written by group {ALICE} (mode 0664)"
    assert writers(root, owner=f"{ALICE}:{ALICE}") == Writers(owner=True)


@pytest.mark.parametrize("name", ["srv/app", "srv/app/x.crt"])
def test_an_access_control_list_counts_as_others(root: Path, name: str) -> None:
    """The group bits of the mode are its mask (acl(5)): also where the entry declares the group."""
    place = root / name
    os.chown(place, 0, BOB)
    place.chmod(place.stat().st_mode | 0o020)
    assert writers(root, owner=f"root:{BOB}") == Writers(owner=True)
    entries = ((0x01, 7, -1), (0x02, 7, ALICE), (0x04, 7, -1), (0x10, 7, -1), (0x20, 5, -1))
    value = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *each) for each in entries)
    os.setxattr(place, "system.posix_acl_access", value)
    found = writers(root, owner=f"root:{BOB}")
    said = f"/{name} can be written by the users in its access control list (getfacl)"
    assert said in {found.path, found.file}


def test_in_a_sticky_directory_only_the_owner_of_a_name_replaces_it(root: Path) -> None:
    """As in /tmp: a name of root is safe there, one of another user is not (unlink(2))."""
    (root / "srv").chmod(0o1777)
    assert writers(root) == Writers()
    os.chown(root / "srv/app", ALICE, ALICE)
    assert writers(root).path == f"/srv contains a file of user {ALICE}"
    assert writers(root, "/srv/none").path == "/srv can be written by every user (mode 1777)"
    os.chown(root / "srv", ALICE, 0)
    assert writers(root).path == f"/srv belongs to user {ALICE}"


def test_every_directory_that_a_symlink_leads_through_counts(root: Path) -> None:
    """The one that the link is in, and those on the way to its target, relative or absolute, below the root."""
    (root / "data/real").mkdir(parents=True)
    (root / "data/real/x.crt").write_text("x")
    (root / "etc").mkdir()
    for target in ("/data/real/x.crt", "../data/real/x.crt"):
        link = root / "etc/x.crt"
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert writers(root, "/etc/x.crt") == Writers()
        (root / "data").chmod(0o777)
        assert writers(root, "/etc/x.crt").path == "/data can be written by every user (mode 0777)"
        (root / "data").chmod(0o755)
        os.chown(root / "data/real/x.crt", ALICE, 0)
        assert writers(root, "/etc/x.crt").file == f"/etc/x.crt belongs to user {ALICE}"
        os.chown(root / "data/real/x.crt", 0, 0)
    (root / "etc/loop").symlink_to("loop")
    assert writers(root, "/etc/loop/x") == Writers()
