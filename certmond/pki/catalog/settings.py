"""Settings in the configuration, such as signers, hooks, restarts and the rotation.

`entries` defines the model of a certificate, `service_spec` the model of a service, and `init_cluster_spec` the
settings of `certmond init`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from certmond.pki.catalog.annotations import After, Beside, Bounds
from certmond.pki.catalog.field_types import (
    AbsolutePath,
    Batch,
    Count,
    Duration,
    Flag,
    Many,
    Name,
    Namespace,
    Words,
    within,
)
from certmond.pki.catalog.model_class import model, setting
from certmond.pki.findings import Severity

LOCAL, NO_SIGNER = "local", "none"
"""Values of `signer` for the key of the CA on this node, and for no signer."""
OWN_KEY = frozenset({"kubeadm"})
"""Kinds of signers that create the key of the certificate (cmd/kubeadm/app/phases/certs/renewal/filerenewal.go)."""
_EXTERNAL = frozenset({"command", "csr"})
"""Kinds of signers that sign with a key outside of certmond. Such a signer itself selects the CA that signs."""


def is_external(signer: str | None, kinds: Mapping[str, str]) -> bool:
    """Return whether the signer of an entry signs with a key outside of certmond.

    `signer` is None for the key of the CA on this node. `kinds` maps the name of each configured signer to its kind.
    """
    return kinds.get(signer or LOCAL, LOCAL) in _EXTERNAL


def _belongs_to_kind(command: tuple[str, ...], others: Mapping[str, Any]) -> None:
    if not command and others.get("kind") == "command":
        raise ValueError("must be given for kind command")


def _is_absolute(command: tuple[str, ...]) -> tuple[str, ...]:
    if not command or not command[0].startswith("/") or "\0" in "".join(command):
        raise ValueError("must be a list that begins with an absolute path, such as /etc/certmond/hook")
    return command


def _has_kubeconfig(reader: bool, others: Mapping[str, Any]) -> None:
    if reader and "kubeconfig" in others and not others["kubeconfig"]:
        raise ValueError("needs `kubeconfig`, with which the reader calls the API server")


@model
class SignerSpec:
    """A signer of certificates. The `kind` decides which other fields are required."""

    name: Name = setting(
        "the name of the signer, for `signer` in the entry of a certificate. A signer with the name "
        "`local` or `none` replaces the built-in signer of this name.",
    )
    kind: Literal["local", "kubeadm", "csr", "command"] = setting(
        "`local`: the CA's key on this node. `kubeadm`: the command `kubeadm certs renew`. `csr`: the "
        "Kubernetes API. `command`: a certmonger helper.",
    )
    command: Annotated[Words, Beside(_belongs_to_kind)] = setting(
        "for kind `command`: the helper and its arguments, executed without a shell. For kind `kubeadm`: "
        "the path of the program.",
        default=(),
    )
    time_limit: Duration = setting(
        "time limit of one run or API request",
        default=timedelta(seconds=20),
    )
    ca_profile: str | None = setting(
        "for kind `command`: the value of `CERTMONGER_CA_PROFILE` for the helper",
        default=None,
    )
    passphrase: Name | None = setting(
        "for kind `local`: the systemd credential (`LoadCredential=`) with the passphrase of the CA's key",
        default=None,
    )
    kubeconfig: AbsolutePath | None = setting(
        "for kind `csr`: the kubeconfig for requests to the API server; by default `/etc/kubernetes/kubelet.conf`",
        default=None,
    )
    approve: Flag = setting(
        "for kind `csr`: certmond approves its own requests if the requests contain only the subject and "
        "the names of this node",
        default=False,
    )


@model
class HookSpec:
    """A program that certmond runs when a finding is raised, and when the finding is cleared."""

    name: Name = setting(
        "the name of the hook in the journal and in metrics",
    )
    command: Annotated[Words, After(_is_absolute)] = setting(
        "a list of the absolute path of the program and its arguments, executed without a shell. Only "
        "root, or the user that runs certmond, may have write access to the program.",
    )
    environment: Mapping[str, str] = setting(
        "environment variables for the program",
        default_factory=dict,
    )
    time_limit: Duration = setting(
        "time limit of one run. After this time, certmond ends the program, and runs the program again later.",
        default=timedelta(seconds=30),
    )
    at_least: Severity = setting(
        "the lowest severity of a finding for this hook",
        default=Severity.WARNING,
    )
    repeat: Duration | None = setting(
        "the interval at which certmond reports open findings again, for a receiver that might have lost "
        "these findings. By default, certmond reports a finding once.",
        default=None,
    )


@model
class ArchiveSpec:
    """Retention of replaced files in the state directory. A number instead of a mapping sets `keep`."""

    keep: Annotated[Count, Bounds(1, 100)] = setting(
        "number of previous generations for each certificate. The number is from 1 to 100.",
        default=3,
    )
    keep_for: Duration = setting(
        "the maximum age of a generation. certmond removes older generations with their keys, except the "
        "newest good generation of each certificate.",
        default=timedelta(days=400),
    )


def archive_settings(given: object) -> object:
    """Return the mapping of `ArchiveSpec` for a single number. Return another value unchanged."""
    return given if isinstance(given, Mapping | ArchiveSpec) else {"keep": given}


@model
class HoldSpec:
    """Conditions under which certmond holds a due renewal until the certificate is critical."""

    file: AbsolutePath | None = setting(
        "the hold is active while this file exists. Create the file before an upgrade, and remove the file "
        "after the upgrade.",
        default=None,
    )
    command: Words = setting(
        "the hold is active while this program exits with status 0. The hold is not active if the "
        "program exits with another status, or does not exit within 10 s. If another user can change the program, "
        "the hold is active.",
        default=(),
    )
    unsynchronised_clock: Flag = setting(
        "the hold is active while the kernel reports that the clock of this host is not synchronized (adjtimex(2))",
        default=True,
    )


@model
class RestartSpec:
    """Restarts of services that do not reload a new certificate, and the checks after a restart."""

    reload_within: Duration = setting(
        "a service that reloads its files can serve the previous certificate for this time without a finding",
        default=timedelta(seconds=90),
    )
    ready_within: Duration = setting(
        "a restarted service must be healthy within this time",
        default=timedelta(minutes=4),
    )
    stable: Duration = setting(
        "a restarted service must stay healthy for this time",
        default=timedelta(seconds=30),
    )
    spacing: Duration = setting(
        "minimum time between two restarts of a service, because the kubelet increases its back-off with each restart",
        default=timedelta(minutes=10),
    )
    for_renewal: Flag = setting(
        "in enforce mode, certmond restarts a service, such as k3s or RKE2, when certificates are due that "
        "the service issues again at its start. The entries of these certificates contain `renewed_at_start`.",
        default=False,
    )


@model
class RootCaSpec:
    """Rotation of a trust anchor, and the reaction to a trust anchor that an operator has replaced on disk."""

    on_change: Literal["rotate", "replace", "alarm"] = setting(
        "reaction if a new CA and its key replace the old CA on disk. The field applies in enforce mode "
        "if the cluster has one control-plane node. `rotate` begins a rotation in which all components trust both CAs. "
        "`replace` exchanges all files at the same time, for a CA that is lost or compromised. `alarm` changes no file "
        "until the operator runs `certmond root-ca rotate`. certmond always reports the change.",
        default="rotate",
    )
    overlap: Duration = setting(
        "minimum time for which components trust both CAs before the new CA signs, and before certmond "
        "removes the old CA. Some components do not report that they have read the CA again: choose a longer time than "
        "these components need. If the time is less than 130 s, a Pod might refuse the API server's certificate. "
        "`certmond config validate` prints a warning about such a time.",
        default=timedelta(minutes=10),
    )
    token_overlap: Duration = setting(
        "in a rotation of the service-account keys, minimum time for which API servers accept tokens that "
        "the old key signed. The time begins when every control-plane node signs with the new key. If `overlap` is "
        "longer, `overlap` applies. Choose the lifetime of a token, or the interval at which clients read their tokens "
        "again.",
        default=timedelta(hours=24),
    )
    record_signer: Name | None = setting(
        "the signer, of kind `command`, that issues the certificate which authorizes a rotation. Set this "
        "key on each control-plane node of a cluster in which no node has the key of the CA. The signer must permit "
        "the subject `CN=certmond:rotation`, the SAN URI `urn:certmond:rotation:SHA256` and the extended key usage "
        "codeSigning.",
        default=None,
    )


@model
class ClusterSpec:
    """Coordination of nodes by the restart lock of control-plane nodes (a Lease), and by batches of workers."""

    kubeconfig: AbsolutePath | None = setting(
        "the kubeconfig for requests to the API server, such as `/etc/kubernetes/certmond.conf`. Without a "
        "kubeconfig, certmond waits for no other node, and rotates on this node only.",
        default=None,
    )
    without_api: Literal["hold", "go_on"] = setting(
        "the reaction if the API server does not answer the request for the restart lock. With `hold`, "
        "certmond waits for an answer. With `go_on`, certmond restarts without the lock. A rotation always waits.",
        default="hold",
    )
    spread: Duration = setting(
        "the time over which workers spread the restarts of their kubelets, by a delay that depends on the "
        "name of the node. A worker is a node that runs no API server, and whose `kubeconfig` is the kubeconfig of the "
        "kubelet. Workers do not use the restart lock. A restart that the operator requests, or that a rotation "
        "releases (`batch`), has no delay.",
        default=timedelta(minutes=2),
    )
    batch: Batch = setting(
        "in a rotation of the Root CA, the number of workers that change their files and restart their "
        "kubelets at the same time. The value is a number, or a percentage of all workers. The first batch is one "
        "worker. The next batch begins after all workers of the previous batches have reported the phase. "
        "`spread` does not apply to these restarts.",
        default="10%",
    )
    workloads: Literal["wait", "restart", "ignore"] = setting(
        "the treatment of Pods that started before certmond published a new CA. With `wait`, certmond "
        "waits until an operator restarts these Pods. With `restart`, certmond restarts the Pods in batches. With "
        "`ignore`, certmond does not check Pods.",
        default="wait",
    )
    token_secrets: Flag = setting(
        "a rotation also checks the CA in Secrets that contain service-account tokens. For this check, "
        "certmond needs the permission to list all Secrets.",
        default=False,
    )
    node_condition: Flag = setting(
        "certmond writes its findings to the condition `CertificatesHealthy` of this node's Node, and "
        "creates an event about each change. For both, certmond uses the credentials of the kubelet, or `kubeconfig` "
        "if kubelet.conf does not exist.",
        default=False,
    )
    lease_duration: Duration = setting(
        "another node can take the restart lock if the holder has not renewed the lock for this time. The "
        "same applies to the Lease of `reader`.",
        default=timedelta(minutes=4),
    )
    reader: Annotated[Flag, Beside(_has_kubeconfig)] = setting(
        "the daemon of one node reads the certificates in TLS Secrets and CA bundles of the cluster, and "
        "the CertificateSigningRequests. The nodes with `reader: true` choose this node by a Lease. The reader needs "
        "`kubeconfig`. To read Secrets, the reader also needs the role `certmond-reader-secrets`.",
        default=False,
    )
    reader_namespaces: Many[Namespace] = setting(
        "the namespaces whose Secrets `reader` reads. By default, `reader` reads the Secrets of all namespaces.",
        default=(),
    )
    reader_interval: Annotated[Duration, within("1m", "24h")] = setting(
        "interval at which `reader` reads the objects. The interval is between `1m` and `24h`.",
        default=timedelta(minutes=5),
    )
