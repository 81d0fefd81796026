"""Mounts in the mount namespace of a service.

This module defines the settings of systemd.exec(5) that mount files at other paths: bind mounts, temporary file
systems, images and credentials.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from certmond.formats.unit_file import (
    UNKNOWN_SPECIFIER,
    Word,
    credentials_directory,
    split_fields,
    with_specifiers,
)


class UnitMount(NamedTuple):
    """A path in the namespace of a service, and the path on the host of the mounted file.

    The path on the host is None if no file of the host is mounted, or if either path has an unknown specifier. If
    `point` would have an unknown specifier, `point` is the directory above this specifier.
    """

    point: str  # without a slash at the end, as in `Container.mounts`
    source: str | None
    optional: bool = False  # True if systemd omits the mount of a missing source


def unit_mounts(found: Mapping[str, Sequence[Word]], unit: str) -> Iterator[UnitMount]:
    """Yield the mounts of a service. Of several mounts at the same path, the last one counts.

    `found` contains the values of each setting. Like systemd, skip relative paths.
    """
    for name, number in (("TemporaryFileSystem", 0), ("MountImages", 1)):
        for fields in _definitions(found.get(name, ()), unit):
            yield from _mount(fields[number : number + 1], None)
    for name in ("BindPaths", "BindReadOnlyPaths"):
        for source, *rest in _definitions(found.get(name, ()), unit):
            path = source.removeprefix("-")
            if path.startswith("/"):
                yield from _mount(rest[:1] or [path], path, optional=source.startswith("-"))
    yield from _credentials(found, unit)


def _credentials(found: Mapping[str, Sequence[Word]], unit: str) -> Iterator[UnitMount]:
    """Yield the directory of credentials, and each credential that systemd reads from a file without encryption.

    systemd uses the value in SetCredential= if the file in LoadCredential= does not exist.
    """
    directory = credentials_directory(unit)
    yield UnitMount(directory, None)
    values = [word for name in ("SetCredential", "SetCredentialEncrypted") for word in found.get(name, ())]
    defaults = {with_specifiers(word.text, unit) for word in values}
    for word in found.get("LoadCredential", ()):
        name, _, path = with_specifiers(word.text, unit).partition(":")
        if path.startswith("/") and "/" not in name:
            yield from _mount([f"{directory}/{name}"], path, optional=name in defaults)


def _definitions(words: Sequence[Word], unit: str) -> Iterator[list[str]]:
    """Yield the fields of each definition in the values. Colons without a backslash separate the fields."""
    for word in words:
        for fields in split_fields(word.text):
            yield [with_specifiers(field, unit) for field in fields]


def _mount(points: Sequence[str], source: str | None, *, optional: bool = False) -> Iterator[UnitMount]:
    for point in points:
        if not point.startswith("/"):
            continue
        unknown = UNKNOWN_SPECIFIER.search(point)
        if unknown or (source and UNKNOWN_SPECIFIER.search(source)):
            source = None
        place = posixpath.dirname(point[: unknown.start()]) if unknown else point
        yield UnitMount(_normal(place), None if source is None else _normal(source), optional)


def _normal(path: str) -> str:
    """Return an absolute path without repeated slashes and without a slash at the end. The root directory is ""."""
    return f"/{posixpath.normpath(path).lstrip('/')}".rstrip("/")
