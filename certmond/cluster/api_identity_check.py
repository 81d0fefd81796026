"""Check that the Kubernetes API and this node authenticate each other, for a command that only reads.

The coordinator repeats this check in a process that acts. If lightkube is missing, this module still imports, and the
check has no result.
"""

from __future__ import annotations

from certmond.cluster.access import Access
from certmond.errors import CertmondError, UnknownServerError, UnknownUserError

_ATTEMPTS = 2
"""Number of attempts. A single failure proves nothing, because a change of the credentials may be in progress."""


def estranged(access: Access) -> str | None:
    """Return why the API and this node do not authenticate each other, or None if they do or the result is unknown.

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
