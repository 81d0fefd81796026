"""The check that a private key is written only to files from which no other user can take it.

Owns the message and its remedy; `files/write_access` finds who can write. Only reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from certmond.files.write_access import WriterLookup
from certmond.pki.findings import printable


def exposed(root: str, paths: Iterable[str], owner: str | None) -> str | None:
    """Return the reason not to write a private key to these files, with the remedy, or None.

    The reason is a user other than root, the user who runs certmond and `owner` that can replace one of the files.
    """
    lookup = WriterLookup(root)
    for path in paths:
        if strangers := lookup.writers([path], owner).path:
            whose = f" and {owner}" if owner else ""
            remedy = f"let only root{whose} write there (chown, chmod go-w), or name that user as `owner`"
            return printable(f"no private key is written to {path}: {strangers}, who could take it; {remedy}")
    return None
