"""The configuration of certmond: its model, with every key, type, default and meaning.

The module `parser` creates a configuration from the texts of the files.
"""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Literal

from certmond.config.shipped_profiles import DEFAULT_PROFILE, NO_PROFILE, profiles
from certmond.pki.catalog.annotations import After, Before
from certmond.pki.catalog.ca_replacement_spec import CAReplacementSpec, complete
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.catalog.field_types import AbsolutePath, Duration, Many, within
from certmond.pki.catalog.init_cluster_spec import InitSpec
from certmond.pki.catalog.model_class import model, setting
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.settings import (
    ArchiveSpec,
    ClusterSpec,
    HoldSpec,
    HookSpec,
    RestartSpec,
    RootCaSpec,
    SignerSpec,
    archive_settings,
)


def _profile(name: str) -> str:
    if name not in (known := (*profiles(), NO_PROFILE)):
        raise ValueError(f"must be one of {', '.join(known)}")
    return name


def _node_name(name: str) -> str:
    if not re.fullmatch(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name):
        raise ValueError("must be the name of the node in Kubernetes: lowercase letters, digits, '-' and '.'")
    return name


def _listen_address(listen: str) -> str:
    host, _, port = listen.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        fits = host == "localhost" or ip_address(host[1:-1] if bracketed else host).version == (6 if bracketed else 4)
    except ValueError:
        fits = False
    if not fits or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ValueError("must be ADDRESS:PORT such as 127.0.0.1:9964 or [::1]:9964")
    return listen


@model
class Config:
    """The configuration of certmond on this node, merged from the profile, the configuration file and conf.d/."""

    mode: Literal["observe", "enforce"] = setting(
        "`observe`: certmond only reports problems. `enforce`: certmond also renews certificates that are "
        "due, and restarts the services that use these certificates.",
        default="observe",
    )
    profile: Annotated[str, After(_profile)] = setting(
        "the shipped profile of the catalogue, or `none` for an empty catalogue",
        default=DEFAULT_PROFILE,
    )
    node_name: Annotated[str, After(_node_name)] | None = setting(
        "the name of the node in Kubernetes. By default, certmond reads the name from kubelet.conf, the "
        "flags of the kubelet, the manifest of etcd or `/etc/hostname`, in this order.",
        default=None,
    )
    certificates: tuple[CertificateSpec, ...] = setting(
        "certificates to watch. If the profile has an entry with the same name, certmond merges the two "
        "entries. Otherwise, certmond adds the entry to the profile.",
        default=(),
    )
    services: tuple[ServiceSpec, ...] = setting(
        "services that use certificates. If the profile has an entry with the same name, certmond merges "
        "the two entries. Otherwise, certmond adds the entry to the profile.",
        default=(),
    )
    signers: tuple[SignerSpec, ...] = setting(
        "signers other than the CA key on this node",
        default=(),
    )
    derived: tuple[DerivedSpec, ...] = setting(
        "files that certmond derives from certificates",
        default=(),
    )
    compatibility: Many[Literal["x509-certificate-exporter"]] = setting(
        "exporters whose metric names certmond uses for additional metrics",
        default=(),
    )
    hooks: tuple[HookSpec, ...] = setting(
        "programs that receive the findings",
        default=(),
    )
    renew_before: Duration = setting(
        "time before the expiration of a certificate at which the certificate is due. If one third of its "
        "lifetime is shorter than this time, the certificate is due when one third of its lifetime remains.",
        default=timedelta(days=30),
    )
    validity: Duration = setting(
        "lifetime of a new certificate, limited by the expiration of its CA",
        default=timedelta(days=365),
    )
    key_algorithm: KeyAlgorithm = setting(
        "algorithm of a new key that replaces no existing key",
        default=KeyAlgorithm.RSA_2048,
    )
    spread: Duration = setting(
        "maximum time by which a node advances a renewal, limited to one twentieth of the lifetime of the "
        "certificate. A hash of the node name determines the time.",
        default=timedelta(days=3),
    )
    hold: HoldSpec = setting(
        "conditions under which certmond holds a renewal that is due",
        default=HoldSpec(),
    )
    restart: RestartSpec = setting(
        "time limits of restarts, and of the checks after a restart",
        default=RestartSpec(),
    )
    root_ca: RootCaSpec = setting(
        "rotation of a Root CA, and its replacement on disk",
        default=RootCaSpec(),
    )
    ca_replacement: Annotated[CAReplacementSpec, After(complete)] = setting(
        "command of a distribution that replaces the CAs in its datastore",
        default=CAReplacementSpec(),
    )
    cluster: ClusterSpec = setting(
        "coordination with other nodes: restart lock, and rotations of the cluster",
        default=ClusterSpec(),
    )
    init: InitSpec = setting(
        "the cluster for which `certmond init` creates a PKI",
        default=InitSpec(),
    )
    archive: Annotated[ArchiveSpec, Before(archive_settings)] = setting(
        "retention of replaced files. A single number sets `keep`.",
        default=ArchiveSpec(),
    )
    resync: Annotated[Duration, within("10s", "24h")] = setting(
        "interval of full passes that start without an event. The interval is between `10s` and `24h`.",
        default=timedelta(minutes=5),
    )
    poll: Annotated[Duration, within("1s", "1h")] = setting(
        "polling interval for file systems that report no events, such as network file systems. The "
        "interval is between `1s` and `1h`.",
        default=timedelta(seconds=10),
    )
    listen: Annotated[str, After(_listen_address)] = setting(
        "address of `certmond serve`. The format is `ADDRESS:PORT`, with IPv6 addresses in brackets. The "
        "option `--listen` takes precedence. The shipped unit accepts only connections from this host to port 9964.",
        default="127.0.0.1:9964",
    )
    web_config: AbsolutePath | None = setting(
        "file with the settings of `certmond serve` for TLS, client certificates and passwords. The file "
        "has the format of the exporter-toolkit of Prometheus. `certmond serve --web-config` takes precedence.",
        default=None,
    )

    @property
    def given_facts(self) -> dict[str, str]:
        """The facts that the configuration sets."""
        return {"node_name": self.node_name} if self.node_name else {}

    @property
    def follows_references(self) -> bool:
        """Whether certmond watches certificate files that have a reference but no entry in the catalogue."""
        return self.profile != NO_PROFILE

    @property
    def commands(self) -> dict[str, tuple[str, ...]]:
        """The command of each program that the configuration names, by the purpose of the program."""
        found = {"hold": self.hold.command, **{f"signer {each.name}": each.command for each in self.signers}}
        found |= {f"service {each.name}": each.command for each in self.services}
        found |= {f"hook {each.name}": each.command for each in self.hooks}
        return {purpose: command for purpose, command in found.items() if command}

    @property
    def acts(self) -> bool:
        """Whether certmond, with this configuration, changes the node or runs a program.

        If so, a user who can write the configuration has the permissions of certmond.
        """
        return self.mode == "enforce" or bool(self.commands)


EVERY_KEY = frozenset(each.name for each in fields(Config))
