"""Writer of the lists of the offline bundle: the hashes for pip, and the software bill of materials (SBOM).

`bundle.py DIR LOCK VERSION FILE` writes DIR/requirements.txt and the SBOM FILE for the wheels and sdists in DIR. Each
file has a hash in the lock files LOCK and DIR/requirements-build.txt. The exceptions are certmond itself, and a wheel
that this release has compiled from an sdist in DIR.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sbom import document


@dataclass(frozen=True)
class Distribution:
    """A wheel or an sdist."""

    name: str
    version: str
    file: str
    digest: str

    @property
    def is_wheel(self) -> bool:
        return self.file.endswith(".whl")


class BundleError(Exception):
    """A file is not one that the lock files permit."""


def normal(name: str) -> str:
    """Return the normalized name of a package (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Return the version and the SHA-256 hashes of each package in a lock file."""
    found = {}
    for entry in re.split(r"(?m)^(?=[A-Za-z])", lock):
        if match := re.match(r"([\w.-]+)==([^\s;]+)", entry):
            found[normal(match[1])] = (match[2], frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry)))
    return found


def distribution(file: Path) -> Distribution:
    """Return the name and version in the name of a wheel or an sdist, with the hash of its content."""
    stem = file.name.removesuffix(".whl").removesuffix(".tar.gz")
    name, version = stem.split("-")[:2] if file.suffix == ".whl" else stem.rsplit("-", 1)
    return Distribution(normal(name), version, file.name, hashlib.sha256(file.read_bytes()).hexdigest())


def refuse_unknown(files: Iterable[Distribution], locked: dict[str, tuple[str, frozenset[str]]]) -> None:
    """Raise BundleError for the first file that no lock file permits."""
    sources = {(each.name, each.version) for each in files if not each.is_wheel}
    for each in files:
        version, digests = locked.get(each.name, ("", frozenset()))
        compiled = each.is_wheel and (each.name, each.version) in sources
        if each.name != "certmond" and (each.version != version or not (each.digest in digests or compiled)):
            raise BundleError(f"{each.file} is not in a lock file")


def requirements(files: Iterable[Distribution], only: Iterable[str]) -> str:
    """Return the requirements file of pip for certmond and the packages `only`, with the hashes of `files`."""
    wanted = {"certmond", *only}
    hashes: dict[str, list[str]] = {}
    for each in sorted(files, key=lambda file: (file.name, file.digest)):
        if each.name in wanted:
            hashes.setdefault(f"{each.name}=={each.version}", []).append(f"    --hash=sha256:{each.digest}")
    return "".join(" \\\n".join([pin, *lines]) + "\n" for pin, lines in hashes.items())


def component(each: Distribution) -> dict[str, Any]:
    """Return the component of the SBOM for one file of the bundle."""
    purl = f"pkg:pypi/{each.name}@{quote(each.version)}?file_name={quote(each.file)}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": each.name,
        "version": each.version,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": each.digest}],
    }


def main(directory: Path, lock: Path, version: str, bill: Path) -> None:
    build = pins((directory / "requirements-build.txt").read_text())
    run = pins(lock.read_text())
    files = [distribution(each) for each in sorted(directory.iterdir()) if each.name.endswith((".whl", ".tar.gz"))]
    refuse_unknown(files, build | run)
    (directory / "requirements.txt").write_text(requirements(files, run))
    components = [component(each) for each in files if each.name != "certmond"]
    bill.write_text(json.dumps(document(components, version), indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    except BundleError as error:
        sys.exit(f"bundle.py: {error}")
