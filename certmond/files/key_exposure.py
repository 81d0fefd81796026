"""Check that prevents the write of a private key to a file that another user can replace.

This module owns the message of the refusal and its remedy. `files.write_access` finds the users who can write. The
module writes no file.
"""

from __future__ import annotations

from collections.abc import Iterable

from certmond.files.write_access import WriterLookup
from certmond.pki.findings import printable


def exposed(root: str, paths: Iterable[str], owner: str | None) -> str | None:
    """Return why certmond must not write a private key to `paths`, with the remedy, or None if the write is safe.

    The reason is a user who can replace one of the files and who is neither root, nor the user of certmond, nor
    `owner`.
    """
    lookup = WriterLookup(root)
    for path in paths:
        if other_users := lookup.writers([path], owner).path:
            whose = f" and {owner}" if owner else ""
            remedy = f"let only root{whose} write there (chown, chmod go-w), or name that user as `owner`"
            return printable(f"certmond writes no private key to {path}: {other_users}, who could read it; {remedy}")
    return None
