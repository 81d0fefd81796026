"""Check that the Kubernetes API and this node authenticate each other, for a command that only reads.

In the daemon, the coordinator makes the same check. The import of this module does not need lightkube. If lightkube is
missing, the check has no result.
"""

from __future__ import annotations

from certmond.cluster.access import Access
from certmond.errors import CertmondError, UnknownServerError, UnknownUserError

_ATTEMPTS = 2
"""Number of attempts. One failure proves nothing, because a process may have been changing the credentials."""


def estranged(access: Access) -> str | None:
    """Return the reason for which the API server or this node rejects the other in each of `_ATTEMPTS` attempts.

    Return None if one attempt succeeds, or if its result is unknown. Never raises CertmondError.
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
