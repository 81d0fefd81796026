"""Settings of the configuration for issuance: signers, derived files, holds, restarts, rotation, and `certmond init`.

Owns these models and the rules within them, as `entries` does for certificates and services. Never reads a node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address, ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from certmond.pki.catalog.field_types import AbsolutePath, Batch, Count, Duration, Many, Mode, Model, Name, Owner, words
from certmond.pki.findings import Severity

LOCAL, NO_SIGNER = "local", "none"
"""Values of `signer` without an entry: the key of the certificate's CA on this node, and no signer."""
OWN_KEY = frozenset({"kubeadm"})
"""Kinds of signers that create the key of the certificate (cmd/kubeadm/app/phases/certs/renewal/filerenewal.go)."""

_DNS_NAME = re.compile(r"(\*\.)?(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def _address(text: str) -> str:
    try:
        return _canonical(text)
    except ValueError:
        raise ValueError("must be an IP address") from None


def _canonical(text: str) -> str:
    """Return an address as a certificate can have it: without a zone, which is valid on one host only."""
    if "%" in text:
        raise ValueError("must have no zone")
    return str(ip_address(text))


def _dns_name(text: str) -> str:
    if not _DNS_NAME.fullmatch(text):
        raise ValueError("must be a DNS name of lower-case letters, digits, '-' and '.'")
    return text


def _host(text: str) -> str:
    try:
        return _canonical(text)
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(text):
        raise ValueError("must be an IP address, or a DNS name of lower-case letters, digits, '-' and '.'")
    return text


def _endpoint(text: str) -> str:
    host, port = split_endpoint(text)
    if port is not None and not 0 < port < 65536:
        raise ValueError("must have a port from 1 to 65535 behind the colon")
    _host(host)
    return text


def split_endpoint(text: str) -> tuple[str, int | None]:
    """Return host and optional port of HOST, HOST:PORT, [IPv6] or [IPv6]:PORT. Raises ValueError."""
    match = re.fullmatch(r"\[([^]]+)\](?::([0-9]{1,5}))?|([^:]+)(?::([0-9]{1,5}))?", text)
    if not match:
        raise ValueError("must be HOST or HOST:PORT, an IPv6 address in brackets")
    port = match[2] or match[4]
    return match[1] or match[3], int(port) if port else None


def _networks(text: str) -> str:
    try:
        networks = [ip_network(part, strict=False) for part in text.split(",")]
    except ValueError:
        raise ValueError("must be a network such as 10.96.0.0/12") from None
    if any(network.num_addresses < 2 for network in networks):
        raise ValueError("must have room for at least one Service")
    return text


def _version(text: str) -> str:
    if not re.match(r"v?1\.[0-9]{1,3}(\.|$)", text):
        raise ValueError("must be a version such as v1.34.0")
    return text


class SignerSpec(Model):
    """Something that signs certificates. Which fields it has depends on its kind."""

    name: Name = Field(
        description="what `signer` of a certificate calls it; not `local` or `none` unless it is to stand in "
        "their place"
    )
    kind: Literal["local", "kubeadm", "csr", "command"] = Field(
        description="`local`: the CA's key on this node; `kubeadm`: `kubeadm certs renew`; `csr`: the "
        "Kubernetes API; `command`: a certmonger helper"
    )
    command: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(
        default=(),
        description="for kind `command`: the helper and its arguments, no shell between; for `kubeadm`: where "
        "the program is",
    )
    time_limit: Duration = Field(default=timedelta(seconds=20), description="for one call of a program or of the API")
    ca_profile: str | None = Field(
        default=None, description="for kind `command`: what the helper is told as `CERTMONGER_CA_PROFILE`"
    )
    passphrase: Name | None = Field(
        default=None,
        description="for kind `local`: the systemd credential (`LoadCredential=`) with the passphrase of the CA's key",
    )
    kubeconfig: AbsolutePath | None = Field(
        default=None,
        description="for kind `csr`: with whose rights the API is asked; by default `/etc/kubernetes/kubelet.conf`",
    )
    approve: bool = Field(
        default=False,
        description="for kind `csr`: approve requests of our own, if subject and names are this node's and "
        "nothing else",
    )

    @field_validator("command")
    @classmethod
    def _belongs_to_kind(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not value and info.data.get("kind") == "command":
            raise ValueError("must be given for kind command")
        return value


class HookSpec(Model):
    """A program that is told when a finding is raised, and when it is cleared."""

    name: Name = Field(description="its name in the journal and in metrics")
    command: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(
        description="a list of the program, by its whole path, and its arguments, no shell between; only root, or who "
        "runs certmond, may be able to write it"
    )
    environment: Mapping[str, str] = Field(default={}, description="variables that it is given")
    time_limit: Duration = Field(
        default=timedelta(seconds=30), description="for one run; then it is ended, and run again later"
    )
    at_least: Severity = Field(
        default=Severity.WARNING, strict=False, description="the least severe finding that it is told of"
    )
    repeat: Duration | None = Field(
        default=None,
        description="what stands is told again so often, to a receiver that may have forgotten it; by default once",
    )

    @field_validator("command")
    @classmethod
    def _is_absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not value[0].startswith("/") or "\0" in "".join(value):
            raise ValueError("must be a list that begins with the whole path of a program, such as /etc/certmond/hook")
        return value


class DerivedSpec(Model):
    """A file that is made from a certificate of the catalogue, and made again whenever that changes."""

    name: Name = Field(description="its name in plans and reports")
    kind: Literal["pem-bundle", "kubeconfig"] = Field(
        description="`pem-bundle`: certificate, then key, in one file, as HAProxy reads it; `kubeconfig`: a "
        "copy, replaced only where it has the same CA and user"
    )
    source: Name = Field(description="the entry of `certificates` that it is made from")
    path: AbsolutePath = Field(description="the file")
    mode: Mode = Field(default=0o600, description="the most that its mode permits, and the mode that it is made with")
    owner: Owner | None = Field(default=None, description="`user` or `user:group` that it is made to belong to")


class ArchiveSpec(Model):
    """How much of what was replaced is kept in the state directory. A number alone is `keep`."""

    keep: Annotated[Count, Field(ge=1, le=100)] = Field(
        default=3, description="so many former generations of each certificate, 1 to 100"
    )
    keep_for: Duration = Field(
        default=timedelta(days=400),
        description="older generations go, keys included, but for the newest good one of each certificate",
    )

    @model_validator(mode="before")
    @classmethod
    def _number(cls, given: object) -> object:
        return given if isinstance(given, Mapping | ArchiveSpec) else {"keep": given}


class HoldSpec(Model):
    """When nothing is renewed although it is due: until a certificate gets critical."""

    file: AbsolutePath | None = Field(
        default=None, description="while this file is there: touch it before an upgrade, remove it afterwards"
    )
    command: Annotated[tuple[str, ...], BeforeValidator(words)] = Field(
        default=(),
        description="while this program exits with 0; its time limit is 10 s, and another exit status or none "
        "means no hold",
    )
    unsynchronised_clock: bool = Field(
        default=True, description="while the kernel says that this host's clock is not synchronised (adjtimex(2))"
    )


class RestartSpec(Model):
    """How a service is restarted that does not take up a new certificate by itself, and what counts as proof."""

    reload_within: Duration = Field(
        default=timedelta(seconds=90),
        description="a service that reads its files again by itself may serve the former certificate for so long",
    )
    ready_within: Duration = Field(
        default=timedelta(minutes=4), description="a service that was restarted has to be well by then"
    )
    stable: Duration = Field(default=timedelta(seconds=30), description="so long it has to stay well")
    spacing: Duration = Field(
        default=timedelta(minutes=10),
        description="between two restarts of the same service: each further one costs more of the kubelet's back-off",
    )


class RootCaSpec(Model):
    """What follows where a trust anchor of the node is to change, or was changed."""

    on_change: Literal["rotate", "replace", "alarm"] = Field(
        default="rotate",
        description="a CA that somebody put in the place of another, with its key beside it, in enforce mode "
        "and where this is the only control-plane node: `rotate` makes a rotation of it, in which "
        "both are trusted; `replace` exchanges everything at once, for a CA that is lost or compromised; "
        "`alarm` touches nothing before `certmond root-ca rotate` is given. It is told in any case.",
    )
    overlap: Duration = Field(
        default=timedelta(minutes=10),
        description="both CAs are trusted at least so long before the new one signs, and before the former one "
        "goes. Let it be longer than anybody that nobody reports of takes to read the CA again. Below 130 s a pod may "
        "lose the API server, of which `certmond config validate` warns.",
    )
    token_overlap: Duration = Field(
        default=timedelta(hours=24),
        description="in a rotation of the service-account keys, tokens of the former key are accepted at least "
        "so long from when every control plane signs with the new one; never less than `overlap`. "
        "As long as a token lives, or is used without being read again.",
    )


class ClusterSpec(Model):
    """The turn that control-plane nodes take: a Lease of the Kubernetes API, held around a restart and its proof."""

    kubeconfig: AbsolutePath | None = Field(
        default=None,
        description="with whose rights the API is asked, such as `/etc/kubernetes/certmond.conf`; without it no "
        "other node is waited for, and a rotation is this node's alone",
    )
    without_api: Literal["hold", "go_on"] = Field(
        default="hold",
        description="where the API cannot be asked whose turn it is: `hold` waits until it can, `go_on` "
        "restarts all the same. A rotation always waits.",
    )
    spread: Duration = Field(
        default=timedelta(minutes=2),
        description="nodes whose `kubeconfig` is the kubelet's, and which run no API server, are workers and "
        "take no turn: the daemon of each restarts its kubelet at a moment of its own within this "
        "time; who asks by hand, or is called in a rotation (`batch`), waits for none",
    )
    batch: Batch = Field(
        default="10%",
        description="in a rotation of the Root CA so many workers at once change their files and restart kubelets: "
        "a number, or a percentage of all. One alone is first; then so many, when all before them have said "
        "that they have come so far. Nobody waits for a moment within `spread` then.",
    )
    workloads: Literal["wait", "restart", "ignore"] = Field(
        default="wait",
        description="pods that were started before a new CA was published: `wait` until somebody has restarted "
        "them, `restart` them in batches, or `ignore` them",
    )
    token_secrets: bool = Field(
        default=False,
        description="a rotation also looks at the CA in Secrets with tokens of service accounts, which takes "
        "the right to list all Secrets",
    )
    lease_duration: Duration = Field(
        default=timedelta(minutes=4),
        description="another node may take over from one that has given no sign of life for so long",
    )


class InitSpec(Model):
    """The cluster that `certmond init` makes a node's PKI for: what kubeadm has in its configuration."""

    advertise_address: Annotated[str, AfterValidator(_address)] | None = Field(
        default=None, description="of this node's API server; by default that of the interface with the default route"
    )
    bind_port: Annotated[Count, Field(ge=1, le=65535)] = Field(default=6443, description="of this node's API server")
    control_plane_endpoint: Annotated[str, AfterValidator(_endpoint)] | None = Field(
        default=None,
        description="`HOST` or `HOST:PORT` under which clients reach the API servers; by default this node's",
    )
    service_subnet: Annotated[str, AfterValidator(_networks)] = Field(
        default="10.96.0.0/12", description="the range of the Services, or two of them with a comma"
    )
    dns_domain: Annotated[str, AfterValidator(_dns_name)] = Field(
        default="cluster.local", description="of the Services"
    )
    cluster_name: str = Field(default="kubernetes", description="in kubeconfigs")
    kubernetes_version: Annotated[str, AfterValidator(_version)] | None = Field(
        default=None,
        description="such as `v1.34.0`; by default a current one. Before v1.29, admins were in the group "
        "`system:masters`.",
    )
    cert_sans: Many[Annotated[str, AfterValidator(_host)]] = Field(
        default=(), description="further names and addresses of the API server"
    )
    etcd_server_cert_sans: Many[Annotated[str, AfterValidator(_host)]] = Field(
        default=(), description="further names and addresses of etcd for clients"
    )
    etcd_peer_cert_sans: Many[Annotated[str, AfterValidator(_host)]] = Field(
        default=(), description="further names and addresses of etcd for its peers"
    )
    external_etcd: bool = Field(default=False, description="etcd is elsewhere, and so are its certificates")
    certificates_dir: AbsolutePath = Field(
        default="/etc/kubernetes/pki", description="where the files are that the catalogue has there"
    )
    ca_validity: Duration | None = Field(
        default=None, description="of a new CA; by default that of its entry, 10 years"
    )


def subject_alternative_name(host: str) -> str:
    """Return a name or an address as "DNS:…" or "IP:…"."""
    try:
        return f"IP:{ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
