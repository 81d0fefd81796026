"""Other programs on the node that renew the certificates of kubeadm, such as the timer of kubespray."""

from __future__ import annotations

from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import CertificateSpec

KUBEADM_FILES = (
    "admin.conf", "apiserver-etcd-client.crt", "apiserver-kubelet-client.crt", "apiserver.crt",
    "controller-manager.conf", "etcd/healthcheck-client.crt", "etcd/peer.crt", "etcd/server.crt",
    "front-proxy-client.crt", "scheduler.conf", "super-admin.conf",
)  # fmt: skip
"""The ends of the paths of the files that `kubeadm certs renew all` writes.

The source is kubernetes/kubernetes, cmd/kubeadm/app/phases/certs/renewal/manager.go.
"""


class RenewerSpec(CertificateSpec):
    """An entry for another program that renews certificates. `path` is the unit or cron file that starts the program.

    certmond reports the program, and does not assess a certificate.
    """


@immutable
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
