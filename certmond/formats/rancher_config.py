"""Parser of the configuration file of k3s and RKE2, whose keys are names of command-line flags.

This module merges several files (k3s-io/k3s, pkg/configfilearg/parser.go) and parses the flags for components
(pkg/daemons/config/types.go, GetArgs) as k3s does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from certmond.errors import MalformedError
from certmond.formats.kubeconfig import as_text, load_mapping
from certmond.pki.catalog.references import ETCD, FLAGS, K3S, RKE2

_OF_FILES = frozenset(
    {"config-file", "data-dir", *(name for row in FLAGS if row.component == K3S for name in (row.name, row.key_flag))}
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
    """Return the settings whose values are texts. Other values cannot name a file."""
    if not data.strip():
        return RancherConfig(())
    try:
        document = load_mapping(data)
    except MalformedError as error:
        return RancherConfig((), str(error))
    return RancherConfig(tuple(Setting(as_text(name), _texts(value)) for name, value in document.items()))


def merged_options(files: Iterable[tuple[str, Sequence[Setting]]]) -> list[Option]:
    """Return the options of several files. A later file replaces the values of a key, or extends them."""
    found = dict[str, list[Option]]()
    for file, settings in files:
        for key, values in settings:
            name = key.removesuffix("+")
            options = [Option(name, value, file) for value in values]
            found[name] = [*found.get(name, []), *options] if key != name else options
    return [option for options in found.values() for option in options]


def component_flag(argument: str) -> tuple[str, str]:
    """Return the name and the value of an argument for a component, such as `oidc-ca-file=/ca.crt`.

    A name that ends in "+" or "-" extends the default of k3s.
    """
    name, is_given, value = argument.removeprefix("--").partition("=")
    return name.rstrip("-+").replace("_", "-"), value if is_given else "true"


def flag_variables(program: str, names: Iterable[str]) -> dict[str, str]:
    """Return the environment variable for each flag of a program that also reads flags from the environment.

    For k3s and RKE2, omit variables that name no file, such as K3S_TOKEN.
    """
    if program not in {ETCD, K3S, RKE2}:
        return {}
    prefix = f"{program.upper()}_"
    found = {name.removeprefix(prefix).lower().replace("_", "-"): name for name in names if name.startswith(prefix)}
    return {flag: name for flag, name in found.items() if program == ETCD or flag in _OF_FILES}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(filter(None, map(as_text, value if isinstance(value, list) else [value])))
