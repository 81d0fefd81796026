"""Parser of the configuration file of k3s and RKE2, whose keys are names of command-line flags.

This module merges several files (k3s-io/k3s, pkg/configfilearg/parser.go) and parses the flags for components
(pkg/daemons/config/types.go, GetArgs) as k3s does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import as_text, load_mapping
from certmond.pki.catalog.component_certificate_flags import ETCD, FLAGS, K3S, RKE2

ENDPOINT = "datastore-endpoint"
"""The flag with the URL of the datastore, which can contain a password."""
ENDPOINT_VARIABLES = frozenset(f"{program}_DATASTORE_ENDPOINT" for program in ("K3S", "RKE2"))
_PARAMETERS = ("sslcert", "sslkey", "sslrootcert")
"""The parameters of a PostgreSQL URL that name files. k3s uses its flags for files only without these parameters
(k3s-io/kine, pkg/drivers/pgsql/pgsql.go, prepareDSN).
"""
_OF_FILES = frozenset(
    {
        "config-file",
        "data-dir",
        ENDPOINT,
        *(name for row in FLAGS if row.component == K3S for name in (row.name, row.key_flag)),
    }
)
"""The flags of k3s and RKE2 that name files."""


class Setting(NamedTuple):
    """A key of one file with its values. The key ends in "+" if the values extend the values of earlier files."""

    name: str
    values: tuple[str, ...]


class RancherConfig(NamedTuple):
    """The settings of one file, or the reason why certmond cannot read the settings."""

    settings: tuple[Setting, ...]
    fault: str = ""  # a clause without a subject


class Option(NamedTuple):
    """A flag of k3s or RKE2 with one value, and the file that contains the flag."""

    name: str
    value: str
    file: str


def parse_rancher_config(data: bytes, _path: str) -> RancherConfig:
    """Return the settings of the file with their string values, or the reason why certmond cannot read the file.

    Omit other values, because only a string can name a file.
    """
    if not data.strip():
        return RancherConfig(())
    try:
        document = load_mapping(data)
    except MalformedError as error:
        return RancherConfig((), str(error))
    return RancherConfig(tuple(Setting(as_text(name), _texts(value)) for name, value in document.items()))


def merged_options(files: Iterable[tuple[str, Sequence[Setting]]]) -> list[Option]:
    """Return the options of several files. A later file replaces the values of a key.

    If the key in the later file ends with "+", this file adds values to the key instead.
    """
    found = dict[str, list[Option]]()
    for file, settings in files:
        for key, values in settings:
            name = key.removesuffix("+")
            options = [Option(name, value, file) for value in values]
            found[name] = [*found.get(name, []), *options] if key != name else options
    return [option for options in found.values() for option in options]


def component_flag(argument: str) -> tuple[str, str]:
    """Return the name and the value of an argument for a component, such as `oidc-ca-file=/ca.crt`.

    Remove "+" and "-" from the end of the name. With these characters, the value extends the default of k3s.
    """
    name, is_given, value = argument.removeprefix("--").partition("=")
    return name.rstrip("-+").replace("_", "-"), value if is_given else "true"


def endpoint_flags(flags: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each parameter that names a file in the PostgreSQL URL of a datastore.

    Like Go's net/url, skip a parameter with a semicolon (ParseQuery).
    """
    for name, value in flags:
        if name == ENDPOINT and value.startswith(("postgres://", "postgresql://")):
            try:
                query = urlsplit(value).query
                parameters = parse_qsl("&".join(each for each in query.split("&") if ";" not in each))
            except ValueError:
                continue
            yield from ((f"{ENDPOINT}.{each}", path) for each, path in parameters if each in _PARAMETERS)


def flag_variables(program: str, names: Iterable[str]) -> dict[str, str]:
    """Return the environment variable of each flag, or {} if `program` reads no flags from the environment.

    `names` are the names of the variables. For k3s and RKE2, omit variables that name no file, such as K3S_TOKEN.
    """
    if program not in {ETCD, K3S, RKE2}:
        return {}
    prefix = f"{program.upper()}_"
    found = {name.removeprefix(prefix).lower().replace("_", "-"): name for name in names if name.startswith(prefix)}
    return {flag: name for flag, name in found.items() if program == ETCD or flag in _OF_FILES}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(filter(None, map(as_text, value if isinstance(value, list) else [value])))
