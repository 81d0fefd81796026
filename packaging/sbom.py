"""Writer of the software bill of materials (SBOM) of a package, as CycloneDX 1.6 JSON.

`sbom.py REPORT VERSION FILE` writes FILE. REPORT is the output of `pip install --report` for the lock file. The SBOM
contains each package that pip installed, with the name and the hash of the downloaded file. The lock file contains the
same hash. The SBOM contains no time and no random number, so it is equal for equal packages.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote


def component(installed: dict[str, Any]) -> dict[str, Any]:
    """Return the component of the SBOM for one package in the report of pip (version 1 of the report format)."""
    metadata, archive = installed["metadata"], installed["download_info"]
    purl = f"pkg:pypi/{metadata['name'].lower().replace('_', '-')}@{quote(metadata['version'])}"
    name = archive["url"].rpartition("/")[2].partition("#")[0]
    found: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": metadata["name"],
        "version": metadata["version"],
        "description": metadata.get("summary", ""),
        "purl": f"{purl}?file_name={quote(name)}",
        "hashes": [{"alg": "SHA-256", "content": sha256(archive["archive_info"])}],
    }
    if expression := metadata.get("license_expression"):
        found["licenses"] = [{"expression": expression}]
    elif text := metadata.get("license", "").partition("\n")[0]:
        found["licenses"] = [{"license": {"name": text}}]
    return found


def sha256(archive_info: dict[str, Any]) -> str:
    """Return the hash in an archive_info of pip. pip before 23.1, as on Debian 12, has only the older key `hash`."""
    hashes = archive_info.get("hashes") or dict([archive_info["hash"].split("=", 1)])
    return str(hashes["sha256"])


def bill(report: dict[str, Any], version: str) -> dict[str, Any]:
    """Return the SBOM of certmond with the packages in the report of pip."""
    return document(map(component, report["install"]), version)


def document(components: Iterable[dict[str, Any]], version: str) -> dict[str, Any]:
    """Return the SBOM of certmond with these components."""
    components = sorted(components, key=lambda each: each["bom-ref"])
    certmond = f"pkg:generic/certmond@{version}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": certmond,
                "name": "certmond",
                "version": version,
                "purl": certmond,
                "licenses": [{"license": {"id": "Apache-2.0"}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": certmond, "dependsOn": [each["bom-ref"] for each in components]}],
    }


if __name__ == "__main__":
    given, of, file = sys.argv[1:]
    Path(file).write_text(json.dumps(bill(json.loads(Path(given).read_text()), of), indent=1) + "\n")
