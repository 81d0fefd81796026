"""Parser of the configuration. The result is a Config, or a ConfigError with every problem.

Each problem has a file, a line, a path and a remedy. The module `source_merger` merges the profile and the files. The
module `rules` checks entries against each other. The module `source_files` reads the files.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, ValidationError

from certmond.config.rules import PARTS, SECTIONS, between_entries, dependency_cycles, references
from certmond.config.source_merger import (
    DEFAULT_PROFILE,
    NO_PROFILE,
    Source,
    merge,
    profile_documents,
    profiles,
    with_profile,
)
from certmond.config.validation_messages import problem_of
from certmond.config.yaml_source import Node, Problem, read
from certmond.errors import ConfigError
from certmond.pki.catalog.ca_replacement_spec import CAReplacementSpec
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.catalog.field_types import AbsolutePath, Duration, Many, Model, within
from certmond.pki.catalog.init_cluster_spec import InitSpec
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.settings import (
    ArchiveSpec,
    ClusterSpec,
    HoldSpec,
    HookSpec,
    RestartSpec,
    RootCaSpec,
    SignerSpec,
)

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_ID = "urn:certmond:schema:configuration"
"""Identifier of the schema. The identifier is not a URL, so that no editor tries to download the schema."""


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


class Config(Model):
    """The configuration of certmond on this node, merged from the profile, the configuration file and conf.d/."""

    mode: Literal["observe", "enforce"] = Field(
        default="observe",
        description="`observe`: certmond only reports problems. `enforce`: certmond also renews certificates that are "
        "due, and restarts the services that use these certificates.",
    )
    profile: Annotated[str, AfterValidator(_profile)] = Field(
        default=DEFAULT_PROFILE, description="the shipped profile of the catalogue, or `none` for an empty catalogue"
    )
    node_name: Annotated[str, AfterValidator(_node_name)] | None = Field(
        default=None,
        description="the name of the node in Kubernetes. By default, certmond reads the name from kubelet.conf, the "
        "flags of the kubelet, the manifest of etcd or `/etc/hostname`, in this order.",
    )
    certificates: tuple[CertificateSpec, ...] = Field(
        default=(),
        description="certificates to watch. If the profile has an entry with the same name, certmond merges the two "
        "entries. Otherwise, certmond adds the entry to the profile.",
    )
    services: tuple[ServiceSpec, ...] = Field(
        default=(),
        description="services that use certificates. If the profile has an entry with the same name, certmond merges "
        "the two entries. Otherwise, certmond adds the entry to the profile.",
    )
    signers: tuple[SignerSpec, ...] = Field(default=(), description="signers other than the CA key on this node")
    derived: tuple[DerivedSpec, ...] = Field(default=(), description="files that certmond derives from certificates")
    compatibility: Many[Literal["x509-certificate-exporter"]] = Field(
        default=(), description="exporters whose metric names certmond uses for additional metrics"
    )
    hooks: tuple[HookSpec, ...] = Field(default=(), description="programs that receive the findings")
    renew_before: Duration = Field(
        default=timedelta(days=30),
        description="time before the expiration of a certificate at which the certificate is due. If one third of its "
        "lifetime is shorter than this time, the certificate is due when one third of its lifetime remains.",
    )
    validity: Duration = Field(
        default=timedelta(days=365), description="lifetime of a new certificate, limited by the expiration of its CA"
    )
    key_algorithm: KeyAlgorithm = Field(
        default=KeyAlgorithm.RSA_2048, strict=False, description="algorithm of a new key that replaces no existing key"
    )
    spread: Duration = Field(
        default=timedelta(days=3),
        description="maximum time by which a node advances a renewal, limited to one twentieth of the lifetime of the "
        "certificate. A hash of the node name determines the time.",
    )
    hold: HoldSpec = Field(
        default=HoldSpec(), description="conditions under which certmond holds a renewal that is due"
    )
    restart: RestartSpec = Field(
        default=RestartSpec(), description="time limits of restarts, and of the checks after a restart"
    )
    root_ca: RootCaSpec = Field(default=RootCaSpec(), description="rotation of a Root CA, and its replacement on disk")
    ca_replacement: CAReplacementSpec = Field(
        default=CAReplacementSpec(), description="command of a distribution that replaces the CAs in its datastore"
    )
    cluster: ClusterSpec = Field(
        default=ClusterSpec(),
        description="coordination with other nodes: restart lock, and rotations of the cluster",
    )
    init: InitSpec = Field(default=InitSpec(), description="the cluster for which `certmond init` creates a PKI")
    archive: ArchiveSpec = Field(
        default=ArchiveSpec(), description="retention of replaced files. A single number sets `keep`."
    )
    resync: Annotated[Duration, within("10s", "24h")] = Field(
        default=timedelta(minutes=5),
        description="interval of full passes that start without an event. The interval is between `10s` and `24h`.",
    )
    poll: Annotated[Duration, within("1s", "1h")] = Field(
        default=timedelta(seconds=10),
        description="polling interval for file systems that report no events, such as network file systems. The "
        "interval is between `1s` and `1h`.",
    )
    listen: Annotated[str, AfterValidator(_listen_address)] = Field(
        default="127.0.0.1:9964",
        description="address of `certmond serve`. The format is `ADDRESS:PORT`, with IPv6 addresses in brackets. The "
        "option `--listen` takes precedence. The shipped unit accepts only connections from this host to port 9964.",
    )
    web_config: AbsolutePath | None = Field(
        default=None,
        description="file with the settings of `certmond serve` for TLS, client certificates and passwords. The file "
        "has the format of the exporter-toolkit of Prometheus. `certmond serve --web-config` takes precedence.",
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


EVERY_KEY = frozenset(Config.model_fields)


def parse(
    sources: Sequence[Source],
    *,
    profile: str | None = None,
    unread: Sequence[Problem] = (),
    keys: Container[str] = EVERY_KEY,
) -> Config:
    """Return the configuration from the profile and `sources`. A later source takes precedence.

    `profile` overrides the profile in the sources. The function ignores known keys that are not in `keys`. Raises
    ConfigError with every problem, including `unread`, the problems of sources that certmond cannot read.
    """
    problems = list(unread)
    documents = []
    for source in sources:
        document, found = read(*source)
        documents += [_only(keys, document)] if document else []
        problems += found
    whole = not unread and len(documents) == len(sources)  # otherwise an unread source can contain the missing value
    documents = with_profile(documents, profile)
    tree = merge((*profile_documents(documents), *documents), problems, Config.model_fields)
    config = Config()
    try:
        config = Config.model_validate(tree.plain())
    except ValidationError as error:
        details = error.errors(include_url=False)
        problems += [problem_of(each, tree, Config, PARTS) for each in details if whole or each["type"] != "missing"]
    else:
        problems += between_entries(config.certificates, config.derived, config.signers, tree) if whole else ()
    order = {source.name: number for number, source in enumerate(sources)}
    if whole:
        problems += [*references(tree), *dependency_cycles(tree, order)]
    if problems:
        problems.sort(key=lambda problem: (order.get(problem.place.file, -1), problem.place.line))
        raise ConfigError(tuple(dict.fromkeys(map(str, problems))))
    return config


def schema() -> dict[str, Any]:
    """Return the JSON schema of a configuration file, for editors."""
    whole = Config.model_json_schema()
    models: list[tuple[dict[str, Any], type[Model]]] = [(whole, Config)]
    models += [(whole["$defs"][model.__name__], model) for model in PARTS.values()]
    for part, model in models:
        written = model.model_construct().model_dump(mode="json")
        for name, key in part["properties"].items():
            if "default" in key:
                key["default"] = written[name]  # in the format of the configuration: 30d, 0600
            # If a field has a validator, pydantic gives the bounds names that editors do not support.
            key |= {bound: key.pop(name) for name, bound in (("ge", "minimum"), ("le", "maximum")) if name in key}
    for model in SECTIONS.values():
        whole["$defs"][model.__name__]["required"] = [
            "name"
        ]  # the entry of the same name in the profile can contain the other required keys
    short = whole["$defs"]["ArchiveSpec"]["properties"]["keep"]
    archive = whole["properties"]["archive"]
    archive["anyOf"] = [{"$ref": archive.pop("$ref")}, {key: short[key] for key in ("type", "minimum", "maximum")}]
    whole["properties"]["profile"]["enum"] = [*profiles(), NO_PROFILE]
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **whole, "title": "certmond configuration"}


def dump(config: Config) -> str:
    """Return the effective configuration as YAML that `parse` accepts.

    An entry contains only the fields that the profile or a configuration file sets.
    """
    whole = config.model_dump(mode="json")
    for section in SECTIONS:
        whole[section] = [entry.model_dump(mode="json", exclude_unset=True) for entry in getattr(config, section)]
    return yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """YAML dumper with short lists of texts on one line, without aliases, and with escaped unprintable characters."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # the name is PyYAML's
        return True

    def represent_sequence(self, tag: str, items: Iterable[Any], flow_style: bool | None = None) -> yaml.SequenceNode:
        flow_style = all(isinstance(item, str) for item in items) and len(", ".join(items)) < 80
        return super().represent_sequence(tag, items, flow_style)

    def represent_scalar(self, tag: str, value: str, style: str | None = None) -> yaml.ScalarNode:
        return super().represent_scalar(tag, value, style if value.isprintable() else '"')


def _only(keys: Container[str], document: Node) -> Node:
    """Return the document without the known keys that are not in `keys`.

    The document keeps unknown keys, because an unknown key might be a misspelled key of `keys`.
    """
    ignored = [key for key in Config.model_fields if key not in keys]
    return replace(document, value={key: node for key, node in document.fields.items() if key not in ignored})
