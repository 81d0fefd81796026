"""Reader of the files of the node for the observation of certificates.

This module chooses the parser for an entry of the catalogue, and decides whether a file should exist on the node.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from certmond.files.cache import Files
from certmond.files.cache_entry import Entry, EntryKey, Parser, PasswordParser, latest_change
from certmond.files.consistent_read import FileState
from certmond.files.owner_names import owner_name
from certmond.files.path_resolution import Referrer, named_users
from certmond.formats.isolated_pkcs12_decryption import decode_isolated
from certmond.formats.kubeconfig_certificates import Credentials, parse_credentials
from certmond.formats.kubeconfig_copy import content_names
from certmond.formats.manifest import Manifest, parse_manifest
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Observation, Permissions
from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import Document


class DocumentReader:
    """Reader that parses files through the cache `files`. The reader records the used cache entries in `used`."""

    def __init__(self, files: Files, *, own_root: bool) -> None:
        # If `own_root` is true, the files belong to this host, and the reader reports the names of owners.
        self._files, self._own_root = files, own_root
        self.used: dict[EntryKey, Entry] = {}

    def referrer(self, path: str) -> Referrer:
        return Referrer(path, self.entry(path).writers)

    def document(self, path: str, spec: CertificateSpec | None, referrer: Referrer | None = None) -> Document:
        entry = self.entry(path, referrer)
        document = self._files.value(path, self.parser(spec) if spec else decode_isolated, referrer)
        return document if document is not None else Document(faults=(entry.fault,) if entry.fault else ())

    def parser(self, spec: CertificateSpec) -> Parser[Any]:
        """Return the parser for the files of a catalogue entry.

        Except for a kubeconfig, the parser uses the password of the entry.
        """
        if spec.kind is Kind.KUBECONFIG:
            return parse_credentials
        password = self._password(spec.password_file) if spec.password_file else None
        return decode_isolated if password is None else PasswordParser(decode_isolated, password)

    def _password(self, path: str) -> bytes | None:
        self.entry(path)
        return self._files.value(path, first_line)

    def password_faults(self, spec: CertificateSpec) -> tuple[Fault, ...]:
        fault = self.entry(spec.password_file).fault if spec.password_file else None
        return (fault,) if fault else ()

    def credentials(self, path: str) -> Credentials:
        entry = self.entry(path)
        credentials = self._files.value(path, parse_credentials)
        return credentials or Credentials(faults=(entry.fault,) if entry.fault else ())

    def content_names(self, path: str) -> frozenset[str]:
        """Return the names of the fields, users, clusters and contexts in a kubeconfig.

        Return an empty set if certmond cannot read or parse the file.
        """
        return self._files.value(path, content_names) or frozenset()

    def manifest(self, path: str) -> Manifest | None:
        self.entry(path)
        return self._files.value(path, parse_manifest)

    def entry(self, path: str, referrer: Referrer | None = None) -> Entry:
        entry = self._files.entry(path, referrer)
        self.used[entry.entry_key] = entry
        return entry

    def changeable(self, path: str, group: int | None = None) -> str:
        """Return the reason not to follow a file that other users can change, or "" if certmond can follow the file.

        The members of `group` are permitted to change the file.
        """
        writers = self.entry(path).writers
        is_other = writers and not (group is not None and self._only_group_writes(path, group))
        return f"{path} can be changed by {named_users(writers)}" if is_other else ""

    def _only_group_writes(self, path: str, group: int) -> bool:
        """Return whether only root, the user of certmond and the members of `group` can change a file or its path."""
        file = self.entry(path)
        places = {str(each) for place in (path, file.real or path) for each in PurePosixPath(place).parents}
        return all(
            (status := entry.status) is not None
            and entry.restriction is None
            and status.uid in {0, os.geteuid()}
            and not status.mode & stat.S_IWOTH
            and (status.gid == group or not status.mode & stat.S_IWGRP)
            for entry in (file, *map(self.entry, sorted(places)))
        )

    def is_expected(self, spec: CertificateSpec) -> bool:
        """Return whether the file of the entry must exist on this node."""
        if spec.optional or not spec.conditional:
            return not spec.optional
        # A conditional entry is required if another file of the node requires it, or if such a file is unreadable.
        mentioned = (self.manifest(path) for path in spec.mentioned_in)
        unread = any(self.entry(path).fault and not self.entry(path).missing for path in spec.mentioned_in)
        return (
            unread
            or any(text and spec.path in text.text for text in mentioned)
            or any(not self.entry(path).missing for path in spec.belongs_with)
        )

    def is_wanted(self, spec: CertificateSpec) -> bool:
        """Return the value of `Observation.wanted`.

        The value is False for a conditional entry whose file this node does not require.
        """
        return spec.optional or spec.is_glob or self.is_expected(spec)

    def missing_fault(self, spec: CertificateSpec, path: str, entry: Entry) -> Fault:
        user = next((each for each in spec.mentioned_in if (text := self.manifest(each)) and path in text.text), None)
        because = f", although {user} refers to this file" if user else ""
        dangling = " (it is a symlink to a missing file)" if entry.is_link else ""
        return Fault(Reason.MISSING, f"{path} does not exist{dangling}{because}")

    def changed_at(self, *entries: Entry) -> datetime | None:
        """Return the time of the latest change to these files, or None if this time is unknown."""
        # For a missing file, this is the time of the last change to its directory.
        removals = (self._files.changed_in(posixpath.dirname(each.path)) for each in entries if each.missing)
        return max(filter(None, (latest_change(*entries), *removals)), default=None)

    def permissions(self, secret: Mapping[str, bool], referrer: Referrer | None = None) -> Iterator[Permissions]:
        """Yield the permissions of each readable file in `secret`.

        `secret` maps the path of a file to True if the file contains a private key.
        """
        for path, is_secret in secret.items():
            entry = self.entry(path, referrer)
            if entry.fault is None and (status := entry.status):
                uid, gid = self._owner(status)
                owner = owner_name(uid, gid, self._own_root)
                yield Permissions(path, *_shared(stat.S_IMODE(status.mode), owner, (uid, gid)), is_secret)

    def _owner(self, status: FileState) -> tuple[int, int]:
        """Return the UID and the GID of a file.

        In a directory that represents the root of a node, the owner and the group of this directory count as root.
        """
        top = None if self._own_root else self._files.entry("/").status
        if top is None:
            return status.uid, status.gid
        return 0 if status.uid == top.uid else status.uid, 0 if status.gid == top.gid else status.gid


def bundle_observations(whole: Observation, certificates: Sequence[Certificate]) -> Iterator[Observation]:
    """Yield an observation for each distinct certificate of a bundle.

    The first observation also contains the key and the faults of the file. A bundle without certificates gives only
    this observation.
    """
    distinct = tuple(dict.fromkeys(certificates))
    yield replace(whole, certificates=distinct[:1], bundle=distinct)
    for number, certificate in enumerate(distinct[1:], start=2):
        name = f"{whole.name}#{number}"
        yield Observation(
            name, whole.spec, whole.path, certificates=(certificate,), bundle=distinct, holder=whole.holder,
            named_file=whole.named_file,
        )  # fmt: skip


def first_line(data: bytes, _path: str) -> bytes:
    return data.split(b"\n", 1)[0].rstrip(b"\r")


@lru_cache(maxsize=256)
def _shared(mode: int, owner: str, ids: tuple[int, int]) -> tuple[int, str, tuple[int, int]]:
    """Return the values as the same objects for all files that have them."""
    return mode, owner, ids
