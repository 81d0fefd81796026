"""Check that prevents the write of a private key to a file that another user can replace.

`files.untrusted_writers` finds the users who can replace or change a file.
"""

from __future__ import annotations

from collections.abc import Iterable

from certmond.files.untrusted_writers import WriterLookup
from certmond.pki.findings import printable


def exposed(root: str, paths: Iterable[str], owner: str | None) -> str | None:
    """Return the reason for which certmond must not write a private key to `paths`, with the remedy.

    Return None if the write is safe, that is, if only root, the user of certmond and the user `owner` can replace the
    files.
    """
    lookup = WriterLookup(root)
    for path in paths:
        if other_users := lookup.writers([path], owner).path:
            whose = f" and {owner}" if owner else ""
            remedy = f"permit only root{whose} to write there (chown, chmod go-w), or set `owner` to that user"
            return printable(
                f"certmond writes no private key to {path}: {other_users}, who could read the key; {remedy}"
            )
    return None
