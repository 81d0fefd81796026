"""Files to which no private key is written, because another user could take it there.

Owns the sentence and its remedy; who can write where is `files/write_access`'. Only reads.
"""

from __future__ import annotations

from collections.abc import Iterable

from certmond.files.write_access import WriterLookup
from certmond.pki.findings import printable


def exposed(root: str, paths: Iterable[str], owner: str | None) -> str | None:
    """Return why no private key is written to these files, with the remedy: another user than root, the user who runs
    certmond and `owner` can put a file in the place of one. None where no other user can.
    """
    lookup = WriterLookup(root)
    for path in paths:
        if strangers := lookup.writers([path], owner).path:
            whose = f" and {owner}" if owner else ""
            remedy = f"let only root{whose} write there (chown, chmod go-w), or name that user as `owner`"
            return printable(f"no private key is written to {path}: {strangers}, who could take it; {remedy}")
    return None
