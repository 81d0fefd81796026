"""Audit of the locked dependencies for known vulnerabilities.

`audit.py [LOCK…]` runs pip-audit for every version in the lock files. pip-audit must be in the directory of the Python
interpreter. The exit status is:

- 0 if pip-audit queried every dependency and found no known vulnerability.
- 1 if at least one dependency has a known vulnerability.
- 3 if pip-audit could not query at least one dependency, and found no known vulnerability in the others. In this case,
  pip-audit itself would report "no known vulnerabilities".
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = ("requirements-build.txt", "requirements-kubernetes.txt")  # the second includes requirements.txt
_SECONDS = 300


def judge(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Return the exit status and the output lines for the JSON document of pip-audit."""
    asked = [each for each in report["dependencies"] if "vulns" in each]
    skipped = [each["name"] for each in report["dependencies"] if "vulns" not in each]
    lines = []
    for each in asked:
        for known in each["vulns"]:
            fixed = f"fixed in {', '.join(known['fix_versions'])}" if known["fix_versions"] else "no version fixes it"
            lines.append(f"{each['name']} {each['version']}: {known['id']} ({', '.join(known['aliases'])}); {fixed}")
    if lines:
        return 1, [
            *lines,
            "Require a newer version in pyproject.toml and run `make lock`; or document why it has no effect.",
        ]
    if skipped or not asked:
        what = f"{len(skipped)} of {len(report['dependencies'])}: {', '.join(skipped)}" if skipped else "any dependency"
        return 3, [f"The audit is incomplete: pip-audit could not query {what}."]
    return 0, [f"{len(asked)} locked dependencies have no known vulnerability."]


def main(locks: list[str]) -> int:
    command = [str(Path(sys.executable).with_name("pip-audit")), "--disable-pip", "--require-hashes", "--format=json",
               "--progress-spinner=off", *(word for lock in locks for word in ("-r", lock))]  # fmt: skip
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        report = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"The audit failed: pip-audit returned no result ({error}); check the network connection")
        return 3
    status, lines = judge(report)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(LOCKS)))
