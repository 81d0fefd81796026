"""The server and the tokens with which a node of k3s or RKE2 joins its cluster.

The sources are the flags and the environment of the service, and the configuration file (k3s-io/k3s,
pkg/cli/cmds/agent.go and server.go). No result contains the secret of a token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from certmond.errors import WriteError
from certmond.files.cache import Files
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.component_sources import ComponentSources
from certmond.files.references.flag_source import Source
from certmond.files.references.node_kubelet_reader import KubeletConfiguration
from certmond.files.references.unit_files import UnitFiles
from certmond.pki.rotation.distribution_ca.join_token import ca_hash_in
from certmond.transaction.node_file_reader import NodeFiles

_MANIFESTS = "/etc/kubernetes/manifests"
_SERVER, _TOKEN, _TOKEN_FILE = ("server", "s"), ("token", "t"), "token-file"
_HTTPS = 443


class JoinToken(NamedTuple):
    """A token with the hash of a CA. `named_by` is a phrase for its place."""

    named_by: str
    ca_hash: str


class JoinSettings(NamedTuple):
    """The server that the node joins, as HOST:PORT or None, and the tokens that contain the hash of a CA."""

    server: str | None
    tokens: tuple[JoinToken, ...]


def join_settings(root: str, program: str) -> JoinSettings:
    """Return the settings of `program`, which is "k3s" or "rke2", on the node below `root`."""
    files = Files(root)
    reader = DocumentReader(files, own_root=False)
    units = UnitFiles(reader, files)
    kubelet = KubeletConfiguration(reader, files, units)
    sources = ComponentSources(reader, files, kubelet, units, manifests=_MANIFESTS, proc="").sources()
    servers, tokens = list[str](), list[JoinToken]()
    for source in sources:
        if source.component == program:
            servers += _values(source, program, _SERVER, "URL")
            tokens += _tokens(source, program, root)
    addresses = filter(None, map(_address, servers))
    return JoinSettings(next(addresses, None), tuple(dict.fromkeys(tokens)))


def known_servers(root: str, path: str | None) -> tuple[str, ...]:
    """Return the addresses of the servers in the file of an agent's load balancer, or () without such a file.

    The source of the format is k3s-io/k3s, pkg/agent/loadbalancer.
    """
    try:
        document = json.loads(NodeFiles(root).read(path) or b"") if path else None
        addresses = document["ServerAddresses"] if document else ()
        return tuple(each for each in addresses if isinstance(each, str) and each.isprintable())
    except (WriteError, ValueError, LookupError, TypeError, RecursionError):
        return ()


def _values(source: Source, program: str, flags: tuple[str, ...], variable: str) -> list[str]:
    found = [value for name, value in source.container.flags if name in flags and value]
    name = f"{program.upper()}_{variable}"
    return found or [each.value for each in source.container.variables if each.name == name]


def _tokens(source: Source, program: str, root: str) -> Iterator[JoinToken]:
    given = [(source.named_by(name), name, value) for name, value in source.container.flags]
    prefix = f"{program.upper()}_"
    given += [
        (f"{each.name} in {each.file}", each.name.removeprefix(prefix).lower().replace("_", "-"), each.value)
        for each in source.container.variables
        if each.name.startswith(prefix)
    ]
    for place, name, value in given:
        if name == _TOKEN_FILE:
            try:
                content = (NodeFiles(root).read(value) or b"").decode("utf-8", "replace")
            except WriteError:
                continue
            place = value  # noqa: PLW2901 - the token is in this file
        else:
            content = value if name in _TOKEN else ""
        if found := ca_hash_in(content):
            yield JoinToken(place, found)


def _address(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _HTTPS
    except ValueError:
        return None
    if parts.scheme != "https" or not host or not host.isprintable():
        return None
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
