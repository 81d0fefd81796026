"""Check that the Kubernetes API and this node authenticate each other, for a command that only reads.

The coordinator repeats this check in a process that acts. Without lightkube, this module imports, and the check has no
result.
"""

from __future__ import annotations

from certmond.cluster.access import Access
from certmond.errors import CertmondError, UnknownServerError, UnknownUserError

_ATTEMPTS = 2
"""A single failure proves nothing: a change may be in progress."""


def estranged(access: Access) -> str | None:
    """Return the sentence of the failure, or None if both authenticate each other or the result is unknown.

    Never raises CertmondError.
    """
    try:
        from certmond.cluster.record_api import read_record  # noqa: PLC0415 - needs the extra
    except ImportError:
        return None
    failure = None
    for _ in range(_ATTEMPTS):
        try:
            read_record(access)
        except (UnknownServerError, UnknownUserError) as error:
            failure = str(error)
        except CertmondError:
            return None
        else:
            return None
    return failure
