"""Export of the node's CA certificates as PEM.

This module exports all certificates of a file or none, and never a private key.
"""

from __future__ import annotations

from certmond.errors import MalformedError
from certmond.pki.x509.certificate import to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.transaction.node_file_reader import NodeFiles


def trust_bundle(root: str, path: str) -> bytes:
    """Return the certificates in the file `path`, without duplicates, in the order of the file.

    Raises MalformedError if the file is missing, or if a part of the file is malformed, because a trust bundle must be
    complete. Raises WriteError if certmond cannot read the file.
    """
    document = decode(NodeFiles(root).read(path) or b"", path)
    if document.faults:
        raise MalformedError(
            "\n".join(f"{fault.detail}; repair the file, then run the command again" for fault in document.faults)
        )
    return b"".join(map(to_pem, dict.fromkeys(document.certificates)))
