"""The bill of materials of a package, CycloneDX 1.6 JSON: what pip installed, from which file, with which hash.

`sbom.py REPORT VERSION FILE`: REPORT is what `pip install --report` wrote of the lock file. Every component is a file
that was downloaded, so its hash is the one that the lock file has for it. No time and no random number: the same
packages, the same text.
"""

import json
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote


def component(installed: dict[str, Any]) -> dict[str, Any]:
    """One package of pip's report (its version 1) as a component."""
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
        "hashes": [{"alg": "SHA-256", "content": archive["archive_info"]["hashes"]["sha256"]}],
    }
    if expression := metadata.get("license_expression"):
        found["licenses"] = [{"expression": expression}]
    elif text := metadata.get("license", "").partition("\n")[0]:
        found["licenses"] = [{"license": {"name": text}}]
    return found


def bill(report: dict[str, Any], version: str) -> dict[str, Any]:
    """certmond, and what it is shipped with."""
    components = sorted(map(component, report["install"]), key=lambda each: each["bom-ref"])
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
