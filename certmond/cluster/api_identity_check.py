"""Check whether the Kubernetes API and this node accept each other, for a command that only reads.

The coordinator makes this check continuously for a process that acts. This module imports without lightkube, and then
has no result.
"""

from __future__ import annotations

from certmond.cluster.connection import Access
from certmond.errors import CertmondError, UnknownServerError, UnknownUserError

_TIMES = 2
"""A single failure is not conclusive: a change may be in progress."""


def estranged(access: Access) -> str | None:
    """Return a sentence on how the two do not accept each other; None where they do, or where that is unknown.

    Never raises CertmondError.
    """
    try:
        from certmond.cluster.record_api import read_record  # noqa: PLC0415 - needs the extra
    except ImportError:
        return None
    said = None
    for _ in range(_TIMES):
        try:
            read_record(access)
        except (UnknownServerError, UnknownUserError) as error:
            said = str(error)
        except CertmondError:
            return None
        else:
            return None
    return said
