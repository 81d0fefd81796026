"""Names of file owners in the form `user:group`, as in the configuration."""

from __future__ import annotations

import grp
import pwd
from functools import lru_cache


@lru_cache(maxsize=256)
def owner_name(uid: int, gid: int, by_name: bool) -> str:
    """Return the owner of a file as `user:group`.

    If `by_name` is true, the result contains names, or the number of a user or group without a name. Otherwise, the
    result contains numbers, with `root` instead of 0.
    """
    if not by_name:
        return f"{'root' if uid == 0 else uid}:{'root' if gid == 0 else gid}"
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    try:
        group = grp.getgrgid(gid).gr_name
    except KeyError:
        group = str(gid)
    return f"{user}:{group}"
