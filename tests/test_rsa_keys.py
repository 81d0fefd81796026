"""The RSA keys that the processes of the test runs share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import rsa_keys

PROCESS = """
import sys
from pathlib import Path
from tests import rsa_keys
rsa_keys.DIRECTORY, rsa_keys.COUNT = Path(sys.argv[1]), {1024: 2}
print(*(key.public_key().public_numbers().n for key in rsa_keys.rsa_keys(1024)))
"""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the tests of this module share two keys of 1024 bits. Return the file of these keys."""
    monkeypatch.setattr(rsa_keys, "DIRECTORY", tmp_path / "build")
    monkeypatch.setattr(rsa_keys, "COUNT", {1024: 2})
    return tmp_path / "build/rsa-1024.pem"


def moduli() -> list[int]:
    """Return the modulus of each key that a new process gets."""
    return [key.public_key().public_numbers().n for key in rsa_keys.rsa_keys.__wrapped__(1024)]


def test_processes_that_start_together_have_the_same_keys(shared: Path) -> None:
    """One process makes the keys, and the others wait."""
    command = [sys.executable, "-c", PROCESS, str(shared.parent)]
    processes = [
        subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    printed = {process.communicate()[0] for process in processes}
    assert printed == {" ".join(map(str, moduli())) + "\n"}
    assert len(set(moduli())) == 2


def test_only_the_owner_can_read_the_keys(shared: Path) -> None:
    """The file has the mode 0600."""
    moduli()
    assert shared.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("length", [0, 100, 1000])
def test_the_keys_of_a_killed_process_are_made_again(shared: Path, length: int) -> None:
    """The file is complete afterwards."""
    first = moduli()
    with shared.open("ab") as file:
        file.truncate(length)
    second = moduli()
    assert len(set(second)) == 2
    assert set(second).isdisjoint(first)
    assert moduli() == second


def test_without_a_file_each_process_makes_its_own_keys(shared: Path) -> None:
    """Whatever prevents the file."""
    shared.mkdir(parents=True)
    assert len({*moduli(), *moduli()}) == 4
