"""Files, directories and symlinks of several users below a directory of a test. Only root can make them."""

import os
from pathlib import Path

THEIRS, OTHERS = 65534, 65533  # two users that are not root


class OwnedTree:
    """The tree below `root`; every path is absolute within it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def at(self, path: str) -> Path:
        """Return where `path` is on this machine."""
        return self.root / path.lstrip("/")

    def put(self, path: str, content: bytes, mode: int = 0o600, owner: int = 0) -> None:
        """Write a file, and its directory if that is missing."""
        self.at(path).parent.mkdir(exist_ok=True)
        self.at(path).write_bytes(content)
        self.at(path).chmod(mode)
        os.chown(self.at(path), owner, owner)

    def link(self, path: str, target: str, owner: int = THEIRS) -> None:
        """Make a symlink that belongs to `owner`."""
        self.at(path).symlink_to(target)
        os.lchown(self.at(path), owner, owner)
