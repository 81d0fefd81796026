"""Version of the installed package certmond."""

from __future__ import annotations

import re
from importlib.metadata import distribution


def installed_version() -> str:
    """Return the version of certmond. Raises PackageNotFoundError if the package is not installed.

    `importlib.metadata.version` would import the parser of e-mail messages, which takes 0.6 MB in the daemon.
    """
    found = re.search(r"^Version: *(\S+)$", distribution("certmond").read_text("METADATA") or "", re.MULTILINE)
    return found[1] if found else "unknown"
