"""The trust of a node handed out: its CA certificates as PEM, into a file that is replaced as a whole.

Owns that nothing but certificates leaves, and that a reader of the file sees the old content or the new one. The file
is one of this host that the caller names; nothing of the node is written.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from certmond.errors import MalformedError
from certmond.host.node_files import NodeFiles
from certmond.host.place import Place, blaming, opened
from certmond.host.staging import new_file, remove
from certmond.pki.certificate import to_pem
from certmond.pki.encoding import decode

_PUBLIC = 0o644


def trust_bundle(root: str, path: str) -> bytes:
    """The certificates in the node's file `path`, each once, in their order.

    Raises MalformedError where not all of it can be read: a part of a trust is none. Raises WriteError, too.
    """
    document = decode(NodeFiles(root).read(path) or b"", path)
    if document.faults:
        raise MalformedError("\n".join(f"{fault.detail}; put that right first" for fault in document.faults))
    return b"".join(map(to_pem, dict.fromkeys(document.certificates)))


def replace_file(target: Path, content: bytes) -> None:
    """Put `content` in the place of `target`, whose mode stays; everybody may read a new one. Raises WriteError."""
    with blaming(str(target)):
        real = Path(os.path.realpath(target))
        with opened(real.parent) as directory:
            place, draft = Place(directory, real.name), Place(directory, f".{real.name}.certmond")
            status = place.status()
            if status is not None and not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            remove(draft)
            try:
                with new_file(draft, content) as descriptor:
                    os.fchmod(descriptor, stat.S_IMODE(status.st_mode) if status else _PUBLIC)
                os.rename(draft.name, place.name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                with suppress(OSError):
                    remove(draft)
                raise
            os.fsync(directory)
