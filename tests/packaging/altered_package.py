"""Packages of other versions, from the package of the present commit."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.system.machine import PREFIX

STATE_FORMAT = "certmond/transaction/state_directory.py"


def altered(package: Path, work: Path, version: str, *, state_format: int = 1) -> Path:
    """Return the Debian package as another version of certmond, which writes this format of the state.

    The package contains one file more, `bin/gone`, so that a test can see its removal.
    """
    tree = work / "altered"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    control = tree / "DEBIAN/control"
    text = re.sub(r"(?m)^Version: .*$", f"Version: {version}", control.read_text())
    (architecture,) = re.findall(r"(?m)^Architecture: (.*)$", text)
    control.write_text(text)
    (tree / PREFIX.lstrip("/") / "bin/gone").touch()
    if state_format != 1:
        (source,) = tree.glob(f"{PREFIX.lstrip('/')}/lib/python3*/site-packages/{STATE_FORMAT}")
        code = source.read_text()
        assert "\nVERSION = 1\n" in code
        source.write_text(code.replace("\nVERSION = 1\n", f"\nVERSION = {state_format}\n"))
        shutil.rmtree(source.parent / "__pycache__")  # Python would use the bytecode without a check of the source
    built = work / f"certmond_{version}_{architecture}.deb"
    subprocess.run(
        ["dpkg-deb", "-Zzstd", "-z1", "--root-owner-group", "--build", tree, built], check=True, capture_output=True
    )
    shutil.rmtree(tree)
    return built
