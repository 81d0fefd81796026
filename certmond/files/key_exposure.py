"""Check that prevents the write of a private key to a file that another user can replace.

`files.write_access` finds the users who can replace or change a file.
"""

from __future__ import annotations

from collections.abc import Iterable

from certmond.files.write_access import WriterLookup
from certmond.pki.findings import printable


def exposed(root: str, paths: Iterable[str], owner: str | None) -> str | None:
    """Return the reason for which certmond must not write a private key to `paths`, with the remedy, or None.

    A write is safe if only root, the user of certmond and the user `owner` can replace the files.
    """
    lookup = WriterLookup(root)
    for path in paths:
        if other_users := lookup.writers([path], owner).path:
            whose = f" and {owner}" if owner else ""
            remedy = f"let only root{whose} write there (chown, chmod go-w), or name that user as `owner`"
            return printable(f"certmond writes no private key to {path}: {other_users}, who could read it; {remedy}")
    return None
