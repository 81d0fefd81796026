"""Other programs on the node that renew the certificates of kubeadm, such as the timer of kubespray."""

from __future__ import annotations

import re
from dataclasses import dataclass

from certmond.pki.catalog.entries import CertificateSpec

KUBEADM_FILES = (
    "admin.conf", "apiserver-etcd-client.crt", "apiserver-kubelet-client.crt", "apiserver.crt",
    "controller-manager.conf", "etcd/healthcheck-client.crt", "etcd/peer.crt", "etcd/server.crt",
    "front-proxy-client.crt", "scheduler.conf", "super-admin.conf",
)  # fmt: skip
"""The ends of the paths of the files that `kubeadm certs renew all` writes.

The source is kubernetes/kubernetes, cmd/kubeadm/app/phases/certs/renewal/manager.go.
"""
_RENEWAL = re.compile(r"""\bcerts\b[\s"',]+renew\b""")
_SILENT = re.compile(r"(?<![^\s;&|(])(?:#[^\n]*|(?:echo|log|logger|print|printf)\b[^;&|\n]*)")
"""A comment, or a command that only prints a text."""


class RenewerSpec(CertificateSpec):
    """An entry for another program that renews certificates. `path` is the unit or cron file that starts the program.

    certmond reports the program, and does not assess a certificate.
    """


@dataclass(frozen=True, slots=True)
class Renewer:
    """Another program that renews the certificates of kubeadm.

    `path` is the unit or cron file that starts the program. `line` is a line number in this file, or 0 for the whole
    file. `script` is the script that contains the command, or "" if the file contains the command. `stop` is the remedy
    of the finding: how to stop the program.
    """

    name: str
    path: str
    line: int
    script: str
    stop: str


def runs_renewal(text: str) -> bool:
    """Return whether a script or command runs `kubeadm certs renew`, or `kubeadm alpha certs renew`.

    The script can contain the program and the arguments in separate strings or variables. Ignore comments, and
    commands that only print a text.
    """
    return "kubeadm" in text.lower() and _RENEWAL.search(_SILENT.sub("", text)) is not None
