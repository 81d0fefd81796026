"""Whose a file with a private key would be, where others than root may have put it there.

Owns the one question, asked before a key is made or certified: a replaced file stays whose it was, and so whoever can
put a file of his own into its place would be given the key. Only reads.
"""

from __future__ import annotations

import posixpath
import pwd

from certmond.host.node_files import NodeFiles


def usurped(files: NodeFiles, path: str, owner: str | None) -> str | None:
    """Why no key is to come to `path`: it would be somebody's whom its entry's `owner` does not name, in a directory
    in which others may write. None where nothing speaks against it.

    Where root alone may write, root has given that file to its owner: a component that runs as a user of its own.
    """
    if owner is None:
        return None
    real = files.leads_to(path)
    directory = posixpath.dirname(real)
    owned = files.owner(real) or files.owner(directory)
    if owned is None or owned[0] == _number(owner.partition(":")[0]) or not files.is_shared(directory):
        return None
    fact = f"{path} would get its key as a file of user {owned[0]}, whom its entry does not name ({owner})"
    return f"{fact}, in a directory in which others may write; chown {owner} {real}, and chmod go-w {directory}"


def _number(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return int(user) if user.isdecimal() else None
