"""A rotation by a command alone, on a node where a file cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Timer

import pytest

from tests.conftest import unavailable
from tests.deadline import DEADLINE
from tests.rotation_node import RotatingNode, root_ca

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount"),
]


@contextmanager
def mounted(path: Path) -> Iterator[None]:
    """Make the file a mount point, so that no other file can replace it."""
    if subprocess.run(["mount", "--bind", path, path], capture_output=True, check=False).returncode:
        unavailable("no file can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def test_an_unwritable_file_delays_no_other_restart(tmp_path: Path) -> None:
    """While a kubeconfig cannot get both CAs, a service with other files is restarted. The command reports once what it
    waits for, with the command that ends the wait, and exits 0 after the file can be written.
    """
    node, new = RotatingNode(tmp_path / "place", served=True, hurried=False), root_ca()
    node.stage(new)
    lines = list[str]()
    rotate, mount = node.command("root-ca", "rotate"), ExitStack()
    mount.enter_context(mounted(node.files / "user.conf"))
    with (
        mount,
        subprocess.Popen(rotate, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as command,
    ):
        late = Timer(DEADLINE, command.kill)
        late.start()
        assert command.stdout
        for line in command.stdout:
            lines.append(line)
            if "web uses the new" in line:
                break
        mount.close()
        said, _ = command.communicate(timeout=DEADLINE)
        late.cancel()
    lines += said.splitlines(keepends=True)
    text = "".join(lines)
    assert command.returncode == 0, text
    waits = [line for line in lines if line.startswith("waiting: [trust] ") and "could not be written" in line]
    assert waits, text
    assert all(line.endswith("; to end the wait: certmond root-ca abort)\n") for line in waits)
    assert lines.count(f"  user.conf: {node.files}/user.conf will trust the old CA and the new CA\n") <= 2, text
    assert node.unwell(new) == []
