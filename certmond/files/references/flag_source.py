"""Components with their flags, and the files or processes that contain these flags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from certmond.files.references.unit_files import Place
from certmond.formats.manifest import Container
from certmond.formats.unit_file import UNKNOWN_SPECIFIER

_MAX_PATH = 4095
_OF_SYSTEMD = re.compile(rf"{UNKNOWN_SPECIFIER.pattern}|\$\{{")
"""A specifier, or a variable to which systemd gives a value."""


class Source(NamedTuple):
    """A component with its flags, and the file that contains these flags."""

    component: str
    container: Container
    file: str
    obstacle: str = ""  # the reason not to follow the flags, other than users who can change the file
    in_pod: bool = True
    only_listed: bool = False  # True if only flags of the table name files
    places: Mapping[str, Place] = MappingProxyType({})  # of flags in other files
    process: str = ""  # a phrase for the process whose command line contains the flags
    known: frozenset[tuple[str, str]] = frozenset()  # the flags with values that a file of the node also contains
    group: int | None = None  # the members of this group may write the file
    has_certificate: bool = False  # True if the program that starts a kubelet passes a serving certificate to it
    additional: bool = False  # True if other sources of the component take precedence

    def place(self, flag: str) -> Place:
        """Return the file that contains a flag, and the name of the flag in this file.

        A flag such as `datastore-endpoint.sslcert` is a parameter in the value of another flag.
        """
        is_field = flag in {"tlsCertFile", "clientCAFile"}
        return (
            self.places.get(flag)
            or self.places.get(flag.partition(".")[0])
            or Place(self.file, flag if is_field else f"--{flag.partition('.')[0]}")
        )

    def named_by(self, flag: str) -> str:
        """Return a phrase for a flag and the file or process that contains the flag."""
        place = self.place(flag)
        return f"{place.text} of the {self.process}" if self.process else f"{place.text} in {place.file}"


class UnreadFile(NamedTuple):
    """A file whose flags certmond cannot read or does not follow. `fact` is a clause with the reason."""

    name: str  # of the entry
    named_by: str
    file: str
    fact: str
    process: str = ""  # a phrase for the process whose flags certmond does not trust


def is_path(path: str) -> bool:
    """Return whether `path` is absolute, printable, and not too long for Linux."""
    return path.startswith("/") and path.isprintable() and len(path) <= _MAX_PATH


def is_known(value: str) -> bool:
    """Return whether the value of a flag contains only specifiers that certmond can replace, and no variable."""
    return not _OF_SYSTEMD.search(value)
