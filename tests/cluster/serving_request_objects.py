"""CertificateSigningRequests of a kubelet for the API server of these tests."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from tests.cluster.api_server import ApiServer


def add_request(
    cluster: ApiServer, name: str, created: datetime, *, node: str = "node-1",
    signer: str = "kubernetes.io/kubelet-serving", **conditions: str,
) -> dict[str, Any]:  # fmt: skip
    """Add a request of the node's kubelet with conditions, each with its message. Return the object itself."""
    decided = [
        {"type": kind, "status": "True", "reason": "Decided", "message": message}
        for kind, message in conditions.items()
    ]
    cluster.objects[name] = {
        "metadata": {"name": name, "uid": name, "creationTimestamp": f"{created:%Y-%m-%dT%H:%M:%SZ}"},
        "spec": {
            "request": base64.b64encode(b"a request").decode(), "signerName": signer, "usages": ["server auth"],
            "username": f"system:node:{node}", "groups": ["system:nodes"],
        },
        "status": {"conditions": decided},
    }  # fmt: skip
    return cluster.objects[name]
