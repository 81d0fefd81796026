"""The lists of the offline bundle."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "packaging/bundle.py"

LOCK = """\
one==1.0 ; sys_platform != 'emscripten' \\
    --hash=sha256:{wheel} \\
    --hash=sha256:{other}
    # via certmond
some-source==2 \\
    --hash=sha256:{source}
"""


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A bundle: certmond, a published wheel, an sdist, and the wheel that a build has compiled from the sdist."""
    place = tmp_path / "bundle"
    place.mkdir()
    for name, content in {
        "certmond-0.1.0-py3-none-any.whl": "certmond",
        "one-1.0-py3-none-any.whl": "wheel",
        "some-source-2.tar.gz": "source",
        "some_source-2-cp313-cp313-linux_x86_64.whl": "compiled",
        "setuptools-80-py3-none-any.whl": "setuptools",
    }.items():
        (place / name).write_text(content)
    (place / "requirements-build.txt").write_text(f"setuptools==80 \\\n    --hash=sha256:{digest('setuptools')}\n")
    lock = LOCK.format(wheel=digest("wheel"), other=digest("for another system"), source=digest("source"))
    (tmp_path / "lock.txt").write_text(lock)
    return place


def run(place: Path) -> subprocess.CompletedProcess[str]:
    arguments = map(str, (SCRIPT, place, place.parent / "lock.txt", "0.1.0", place.parent / "bill.json"))
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_the_requirements_have_the_hash_of_each_file(place: Path) -> None:
    """pip accepts exactly the files of the bundle: certmond, the published files and the compiled wheel. The build tool
    is in its own list.
    """
    assert run(place).returncode == 0
    text = (place / "requirements.txt").read_text()
    entries = [entry.split("==") for entry in re.split(r"(?m)^(?=[a-z])", text)[1:]]
    assert {name: (rest.split()[0], set(re.findall("sha256:([0-9a-f]{64})", rest))) for name, rest in entries} == {
        "certmond": ("0.1.0", {digest("certmond")}),
        "one": ("1.0", {digest("wheel")}),
        "some-source": ("2", {digest("source"), digest("compiled")}),
    }


def test_the_bill_of_materials_has_each_file(place: Path) -> None:
    """The SBOM has one component for each file of another project, with the hash of the file."""
    assert run(place).returncode == 0
    components: list[dict[str, Any]] = json.loads((place.parent / "bill.json").read_text())["components"]
    assert [each["purl"] for each in components] == [
        "pkg:pypi/one@1.0?file_name=one-1.0-py3-none-any.whl",
        "pkg:pypi/setuptools@80?file_name=setuptools-80-py3-none-any.whl",
        "pkg:pypi/some-source@2?file_name=some-source-2.tar.gz",
        "pkg:pypi/some-source@2?file_name=some_source-2-cp313-cp313-linux_x86_64.whl",
    ]
    assert components[0]["hashes"] == [{"alg": "SHA-256", "content": digest("wheel")}]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("one-1.0-py3-none-any.whl", "another content"),
        ("one-1.1-py3-none-any.whl", "another version"),
        ("two-1.0-py3-none-any.whl", "an unknown package"),
        ("some-source-2.tar.gz", "another source"),
    ],
)
def test_a_file_that_no_lock_file_permits_is_refused(place: Path, name: str, why: str) -> None:
    """A file whose version or hash is in no lock file ends the build."""
    (place / name).write_text(why)
    done = run(place)
    assert (done.returncode, done.stderr) == (1, f"bundle.py: {name} is not in a lock file\n")
