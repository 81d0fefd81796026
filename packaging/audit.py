"""What is known of the locked dependencies' vulnerabilities, and what could not be asked.

`audit.py [LOCK…]`: asks with pip-audit, which has to be beside the interpreter, about every version in the lock files.
Exit status 0: all were asked about, and nothing is known; 1: a vulnerability is known; 3: not all could be asked about.
pip-audit itself says "no known vulnerabilities" where it could ask about none.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCKS = ("requirements-build.txt", "requirements-kubernetes.txt")  # the latter has all of requirements.txt
_SECONDS = 300


def judge(report: dict[str, Any]) -> tuple[int, list[str]]:
    """Exit status and lines, from pip-audit's JSON."""
    asked = [each for each in report["dependencies"] if "vulns" in each]
    skipped = [each["name"] for each in report["dependencies"] if "vulns" not in each]
    lines = []
    for each in asked:
        for known in each["vulns"]:
            fixed = f"fixed in {', '.join(known['fix_versions'])}" if known["fix_versions"] else "no fix is out"
            lines.append(f"{each['name']} {each['version']}: {known['id']} ({', '.join(known['aliases'])}); {fixed}")
    if lines:
        return 1, [
            *lines,
            "`make lock`, with a newer version in pyproject.toml; or say why it does no harm.",
        ]
    if skipped or not asked:
        what = f"{len(skipped)} of {len(report['dependencies'])}: {', '.join(skipped)}" if skipped else "anything"
        return 3, [f"Nothing is proven: the index could not be asked about {what}."]
    return 0, [f"No vulnerability is known of {len(asked)} locked dependencies."]


def main(locks: list[str]) -> int:
    command = [str(Path(sys.executable).with_name("pip-audit")), "--disable-pip", "--require-hashes", "--format=json",
               "--progress-spinner=off", *(word for lock in locks for word in ("-r", lock))]  # fmt: skip
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        report = json.loads(asked.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"Nothing is proven: pip-audit could not ask ({error}); is there a network?")
        return 3
    status, lines = judge(report)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(LOCKS)))
