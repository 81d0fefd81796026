"""Reader of the status document. `certmond status` loads this module without the module that writes the document."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from certmond.errors import NotRunningError, RuntimeDirError

SCHEMA = 1
STATUS = "status.json"
"""Name of the file with the status document in the runtime directory."""


def read_status(directory: Path) -> dict[str, Any]:
    """Return the last status document of the daemon.

    Raises NotRunningError if no document exists. Raises RuntimeDirError if certmond cannot read the document, or if
    the document has a different schema.
    """
    path = directory / STATUS
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = document["schema"] == SCHEMA and datetime.fromisoformat(document["taken_at"])
    except FileNotFoundError:
        fact = f"the daemon is not running, because {path} does not exist"
        raise NotRunningError(f"{fact}; start it: systemctl start certmond") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        cause = error.strerror if isinstance(error, OSError) else f"it is not a status document: {error}"
        raise RuntimeDirError(f"certmond cannot read {path} ({cause}); see: systemctl status certmond") from error
    if not known:
        raise RuntimeDirError(
            f"{path} has a schema other than {SCHEMA}; install the same version of certmond for the daemon and this "
            "command"
        )
    return document
