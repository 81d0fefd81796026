"""certmond for an ordinary user, who has no access to the files of root."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node import Node
from tests.ordinary_user import as_user, give, only_root

pytestmark = only_root
QUICK_START = Path(__file__).parents[1] / "docs/quickstart.md"


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of the user: pytest's own directories are closed to others."""
    with tempfile.TemporaryDirectory(prefix="certmond-test-", dir="/tmp") as name:
        give(Path(name))
        yield Path(name)


@pytest.fixture
def node_of_root(home: Path) -> Node:
    """A node whose files belong to root, and whose private keys only root can read."""
    (home / "node").mkdir(mode=0o755)
    node = Node(home / "node")
    for directory, _, names in os.walk(node.root):
        for name in names:
            os.chown(os.path.join(directory, name), 0, 0, follow_symlinks=False)
    return node


@pytest.mark.long
def test_the_quick_start_holds_for_an_ordinary_user(home: Path) -> None:
    """The commands of the first part of the quick start have the documented exit codes without root, and with a umask
    that permits the group to write.
    """
    part = QUICK_START.read_text().partition("## A node in a directory")[2].partition("\n## ")[0]
    commands = [line for block in re.findall(r"```sh\n(.*?)```", part, re.DOTALL) for line in block.splitlines()]
    done = as_user("; ".join(f"{command}; echo CODE $?" for command in commands), home)
    codes = dict(zip(commands, map(int, re.findall(r"^CODE (\d+)$", done.stdout, re.MULTILINE)), strict=True))
    assert codes.pop("certmond check --root node --at 2040-01-01T00:00:00Z") == 2
    assert done.stdout.count("[too_open]") == 2  # the check after chmod, and the check as of 2040
    assert "chmod 0600 node/etc/kubernetes/pki/apiserver.key" in done.stdout
    assert set(codes.values()) == {0}, done.stdout + done.stderr
    assert "wrong_owner" not in done.stdout


@pytest.mark.long
def test_the_owner_of_the_root_directory_counts_as_root(home: Path) -> None:
    """Below `--root DIR`, files of the owner of DIR have the right owner, and files of another user do not."""
    made = (
        "mkdir node; echo 'init: {advertise_address: 192.0.2.10}' > c.yaml; certmond init --root node --config c.yaml"
    )
    assert as_user(made, home).returncode == 0
    assert as_user("certmond check --root node", home).returncode == 0
    key = home / "node/etc/kubernetes/pki/apiserver.crt"
    os.chown(key, 4321, 4321)
    done = as_user("certmond check --root node", home)
    assert done.returncode == 1
    assert f"node/etc/kubernetes/pki/{key.name} belongs to 4321:4321, but the entry requires root" in done.stdout


@pytest.mark.long
def test_a_ca_in_an_unreadable_directory_is_not_missing(home: Path, node_of_root: Node) -> None:
    """If the user cannot read the directory of the CA, the remedy is root, not `certmond init`."""
    node_of_root.path("etc/kubernetes/pki").chmod(0o700)
    os.chown(node_of_root.path("etc/kubernetes/pki"), 0, 0)
    done = as_user("certmond root-ca show --root node", home)
    assert done.returncode == 3
    assert re.search(
        r"user 33 is not permitted to read \d+ files of the node.*; run this command as root$", done.stderr
    )


@pytest.mark.long
@pytest.mark.parametrize("command", ["check", "plan", "forecast", "renew --all --dry-run"])
def test_files_that_the_user_cannot_read_have_no_verdict(home: Path, node_of_root: Node, command: str) -> None:
    """If the user is not permitted to read files, each command exits with 3, and names root as the remedy."""
    assert node_of_root.root.exists()
    done = as_user(f"certmond {command} --root node", home)
    assert done.returncode == 3
    assert re.search(
        r"user 33 is not permitted to read \d+ files of the node.*; run this command as root$", done.stderr
    )
    assert "critical" not in done.stdout


@pytest.mark.long
def test_an_unread_file_is_named(home: Path, node_of_root: Node) -> None:
    """A key that the user cannot read is an info finding of its certificate, whose key is unknown."""
    assert node_of_root.root.exists()
    document = json.loads(as_user("certmond check --root node -o json", home).stdout)
    found = next(each for each in document["certificates"] if each["name"] == "apiserver")
    assert (found["chain_valid"], found["key_matches"]) == (True, None)
    (finding,) = [each for each in found["findings"] if each["reason"] == "not_permitted"]
    assert finding["severity"] == "info"
    assert finding["message"].startswith("certmond cannot check node/etc/kubernetes/pki/apiserver.key, because user 33")


def test_a_state_in_the_table_says_that_nothing_was_checked(home: Path, node_of_root: Node) -> None:
    """A certificate that the user cannot read has the state `not_permitted`, not `ok`, and no verdict on its path."""
    assert node_of_root.root.exists()
    table = as_user("certmond check --root node", home).stdout
    row = next(line for line in table.splitlines() if line.startswith("admin.conf"))
    assert row.split() == ["admin.conf", "-", "-", "-", "not_permitted"]
