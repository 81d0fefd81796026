"""Settings of `certmond init`: the cluster for which certmond creates the PKI of a node."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import Annotated

from certmond.pki.catalog.annotations import After, Bounds
from certmond.pki.catalog.field_types import AbsolutePath, Count, Duration, Flag, Many
from certmond.pki.catalog.model_class import model, setting

_DNS_NAME = re.compile(r"(\*\.)?(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def _address(text: str) -> str:
    try:
        return _canonical(text)
    except ValueError:
        raise ValueError("must be an IP address") from None


def _canonical(text: str) -> str:
    """Return the canonical form of an IP address. Raises ValueError for other texts, and for an address with a zone."""
    if "%" in text:
        raise ValueError("must have no zone")
    return str(ip_address(text))


def _dns_name(text: str) -> str:
    if not _DNS_NAME.fullmatch(text):
        raise ValueError("must be a DNS name of lowercase letters, digits, '-' and '.'")
    return text


def _host(text: str) -> str:
    try:
        return _canonical(text)
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(text):
        raise ValueError("must be an IP address, or a DNS name of lowercase letters, digits, '-' and '.'")
    return text


def _endpoint(text: str) -> str:
    host, port = split_endpoint(text)
    if port is not None and not 0 < port < 65536:
        raise ValueError("must have a port from 1 to 65535 after the colon")
    _host(host)
    return text


def split_endpoint(text: str) -> tuple[str, int | None]:
    """Return the host and the port of HOST:PORT or [IPv6]:PORT. The port is None for HOST or [IPv6].

    Raises ValueError for any other text.
    """
    match = re.fullmatch(r"\[([^]]+)\](?::([0-9]{1,5}))?|([^:]+)(?::([0-9]{1,5}))?", text)
    if not match:
        raise ValueError("must be HOST or HOST:PORT, and an IPv6 address must be in brackets")
    port = match[2] or match[4]
    return match[1] or match[3], int(port) if port else None


def _networks(text: str) -> str:
    try:
        networks = [ip_network(part, strict=False) for part in text.split(",")]
    except ValueError:
        raise ValueError("must be a network such as 10.96.0.0/12") from None
    if any(network.num_addresses < 2 for network in networks):
        raise ValueError("must have at least two addresses")
    return text


def _version(text: str) -> str:
    if not re.match(r"v?1\.[0-9]{1,3}(\.|$)", text):
        raise ValueError("must be a version such as v1.34.0")
    return text


@model
class InitSpec:
    """The cluster for which `certmond init` creates the PKI of a node, with the fields of kubeadm's configuration."""

    advertise_address: Annotated[str, After(_address)] | None = setting(
        "the IP address of this node's API server; by default the address of the interface with the default route",
        default=None,
    )
    bind_port: Annotated[Count, Bounds(1, 65535)] = setting(
        "the port of the API server",
        default=6443,
    )
    control_plane_endpoint: Annotated[str, After(_endpoint)] | None = setting(
        "`HOST` or `HOST:PORT` at which clients reach the API servers; by default this node's API server",
        default=None,
    )
    service_subnet: Annotated[str, After(_networks)] = setting(
        "the IP address range of the Services, or two ranges separated by a comma",
        default="10.96.0.0/12",
    )
    dns_domain: Annotated[str, After(_dns_name)] = setting(
        "the DNS domain of the Services",
        default="cluster.local",
    )
    cluster_name: str = setting(
        "the name of the cluster in kubeconfigs",
        default="kubernetes",
    )
    kubernetes_version: Annotated[str, After(_version)] | None = setting(
        "the version of Kubernetes, such as `v1.34.0`; by default a current version. For a version before "
        "v1.29, `certmond init` adds administrators to the group `system:masters`, as kubeadm does.",
        default=None,
    )
    cert_sans: Many[Annotated[str, After(_host)]] = setting(
        "additional DNS names and IP addresses of the API server",
        default=(),
    )
    etcd_server_cert_sans: Many[Annotated[str, After(_host)]] = setting(
        "additional DNS names and IP addresses at which clients reach etcd",
        default=(),
    )
    etcd_peer_cert_sans: Many[Annotated[str, After(_host)]] = setting(
        "additional DNS names and IP addresses at which other etcd members reach etcd",
        default=(),
    )
    external_etcd: Flag = setting(
        "etcd and its certificates are on other hosts",
        default=False,
    )
    certificates_dir: AbsolutePath = setting(
        "the directory that replaces `/etc/kubernetes/pki` in the paths of the catalogue",
        default="/etc/kubernetes/pki",
    )
    ca_validity: Duration | None = setting(
        "the validity period of a new CA; by default `validity` in the entry of the CA, 10 years",
        default=None,
    )


def subject_alternative_name(host: str) -> str:
    """Return the subject alternative name of `host`: "IP:…" for an IP address, or "DNS:…" for a DNS name."""
    try:
        return f"IP:{ip_address(host)}"
    except ValueError:
        return f"DNS:{host}"
