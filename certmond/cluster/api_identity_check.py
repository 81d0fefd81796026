"""Whether the Kubernetes API and this node know each other: asked once, by who only looks at the node.

Owns nothing but that question. Who asks all the time is the `conductor`. It can be imported without lightkube: then
nobody can tell.
"""

from __future__ import annotations

from certmond.cluster.connection import Access
from certmond.errors import CertmondError, UnknownServerError, UnknownUserError

_TIMES = 2
"""Once is not so yet: somebody may be at work there."""


def estranged(access: Access) -> str | None:
    """How the two do not know each other, a sentence; None where they do, or where nobody can tell. Never raises
    CertmondError.
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
