"""Check, on behalf of a command, whether the API server and this node authenticate each other.

In the daemon, `rotation_coordinator` makes this check.
"""

from __future__ import annotations

from certmond.cluster.api_access import Access
from certmond.errors import CertmondError, UnknownServerError, UnknownUserError

_ATTEMPTS = 2
"""Number of attempts. One failure is no proof, because a process might be changing the credentials."""


def estranged(access: Access) -> str | None:
    """Return why the API server rejects this node, or this node rejects the API server, in every attempt.

    Return None if an attempt succeeds or fails for another reason, or if lightkube is missing.
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
