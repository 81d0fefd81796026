"""The files to which the flags of components and the configuration files on a node refer.

This module finds the flags of `pki.catalog.component_certificate_flags`, and the path of each file on the host.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from certmond.errors import MalformedError
from certmond.files.cache import Files
from certmond.files.cache_entry import Entry, Parser
from certmond.files.catalog_file_reader import DocumentReader
from certmond.files.references.component_sources import ComponentSources
from certmond.files.references.flag_source import Source
from certmond.formats.component_config import named_files
from certmond.formats.rancher_config import ENDPOINT, ENDPOINT_VARIABLES
from certmond.formats.unit_file import UNKNOWN_SPECIFIER
from certmond.immutable_class import immutable
from certmond.pki.catalog.component_certificate_flags import FLAGS, KUBELET, PROGRAMS, FileKind, Flag, NamedFile, Role
from certmond.pki.findings import Severity, printable
from certmond.pki.x509.certificate_file_parser import Document, decode

_UNUSABLE = re.compile(r"[\x00*?[]|\$[({]|.{4096}", re.DOTALL)  # a pattern, an unknown variable, or a long text
_MAX_FILES, _MAX_OF_USER = 1000, 100
"""The maximum numbers of files of one flag: in a source, and in a process whose flags another user can change."""
_PEM_FILE, _NO_NAME = re.compile(r"\.(crt|cert|cer|pem)$"), re.compile(r"[^A-Za-z0-9._-]+")
_ROWS = {component: tuple(row for row in FLAGS if row.component == component) for component in PROGRAMS.values()}
SYSTEM_TRUST = frozenset({
    "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem",
    "/etc/pki/tls/cert.pem", "/var/lib/ca-certificates/ca-bundle.pem",
})  # fmt: skip
"""The CA bundles that packages of the operating system replace (Go, crypto/x509, root_linux.go).

The last one is the target of the symlink /etc/ssl/ca-bundle.pem on SUSE.
"""


@immutable
class Reference:
    """A file that a flag or field on the node names, or the certificates that the field embeds."""

    name: str  # of the entry, before a number makes the name unique
    role: Role
    named_by: str
    source: str  # the file with the flag or field
    path: str = ""  # on the host, as `key`
    key: str | None = None
    obstacle: str = ""  # the reason for which certmond does not watch the file
    trust: str = ""  # the file of the CAs with which the other end verifies the certificate
    embedded: Document | None = None  # the certificates in the field itself
    process: str = ""  # a phrase for the process whose flags certmond does not trust
    at_most: Severity | None = None  # the maximum severity of the findings
    shared: bool = False  # True if a group can write the file by design
    elsewhere: bool = False  # True if no volume of the host contains the path

    @property
    def is_watched(self) -> bool:
        """Whether certmond can watch the file."""
        return not (self.obstacle or self.elsewhere)


class _Configuration(NamedTuple):
    """The named files and the embedded certificates of a configuration file, or a fault."""

    files: tuple[tuple[NamedFile, Document | None], ...]
    fault: str = ""  # a clause without a subject


class ComponentReferences:
    """Finder of the references of a node."""

    def __init__(self, reader: DocumentReader, files: Files, sources: ComponentSources) -> None:
        self._reader, self._files, self._sources = reader, files, sources
        self._used: tuple[Entry, ...] = ()
        self._names: tuple[tuple[str, ...], ...] = ()
        self._revision: tuple[object, object] = (None, None)
        self._found: tuple[Reference, ...] = ()

    def find(self) -> tuple[Reference, ...]:
        """Return all references. Until a file, a directory or a process changes, return the same object."""
        names, revision = self._sources.names(), self._sources.revision()
        is_same = all(one is other for one, other in zip(revision, self._revision, strict=True))
        if names != self._names or not is_same or not self._is_current():
            self._revision, self._reader.used = revision, {}
            self._found = tuple(self._references())
            for each in self._found:  # a symlink may get another target
                self._reader.entry(each.path or each.source)
            self._used = tuple(self._reader.used.values())
            self._names = self._sources.names()  # with the directories that a kubelet names
        return self._found

    def _is_current(self) -> bool:
        dropped = self._files.dropped
        if dropped is not None:
            return dropped.isdisjoint(self._used)
        return bool(self._used) and all(self._files.entry(each.path, each.referrer) is each for each in self._used)

    def _references(self) -> Iterator[Reference]:
        sources = tuple(self._sources.sources())
        trust = dict(self._trust(sorted(sources, key=lambda each: not each.additional)))
        for source in sources:
            for row in _ROWS.get(source.component, ()):
                if row.role is not Role.KEY:
                    yield from self._of_flag(source, row, trust)
        for source in sources:
            if not source.only_listed:
                yield from self._unlisted(source)
        for name, named_by, file, fact, process in self._sources.unread_files():
            yield Reference(name, Role.CONFIGURATION, named_by, file, obstacle=fact, process=process)

    def _trust(self, sources: Iterable[Source]) -> Iterator[tuple[tuple[str, str], str]]:
        """Yield the component and the name of each followed flag for a CA file, with the path on the host."""
        for source in sources:
            for row in _ROWS.get(source.component, ()):
                if row.role is Role.TRUST and not self._obstacle(source, source.place(row.name).file):
                    for value in source.container.values(row.name)[-1:]:
                        yield (row.component, row.name), self._on_host(source, value)

    def _unlisted(self, source: Source) -> Iterator[Reference]:
        """Yield a reference for each variable or unlisted flag that seems to name a certificate or a kubeconfig.

        Skip the URL of a datastore, which can contain a password.
        """
        listed = {name for row in _ROWS.get(source.component, ()) for name in (row.name, row.key_flag)} | {ENDPOINT}
        prefix = source.component or _NO_NAME.sub("-", source.container.name).strip("-._") or "container"
        values = [
            (flag, source.named_by(flag), source.place(flag).file, value)
            for flag, each in source.container.flags
            if flag not in listed and (flag, each) not in source.known
            for value in each.split(",")
        ]
        for variable in source.container.variables:
            file = variable.file or source.file
            if variable.value.startswith("/") and variable.name not in ENDPOINT_VARIABLES:
                phrase = f"the variable {variable.name} in {file}"
                values += ((variable.name, phrase, file, value) for value in re.split("[,:]", variable.value))
        found_values = [
            each
            for each in dict.fromkeys(values)
            if each[3].startswith("/") and ("kubeconfig" in each[0].lower() or _PEM_FILE.search(each[3]))
        ]
        untrusted = source.process if source.obstacle else ""
        maximum = _maximum(source)
        if left_out := found_values[maximum:]:
            name, named_by, file, _ = left_out[0]
            yield Reference(
                prefix, Role.CONFIGURATION, named_by, file, obstacle=_left_out(source, len(left_out)), process=untrusted
            )
        for name, named_by, file, value in found_values[:maximum]:
            # The reader is unknown, so certmond judges only the dates of the certificates.
            role = Role.KUBECONFIG if "kubeconfig" in name.lower() else Role.TRUST
            about = Reference(f"{prefix}.{_NO_NAME.sub('-', name)}"[:60], role, named_by, file, process=untrusted)
            for found in self._of_file(source, NamedFile(name, role, value), about):
                yield found if found.obstacle else replace(found, obstacle=self._unknown_content(found))

    def _unknown_content(self, found: Reference) -> str:
        """Return the reason for which certmond cannot watch the file of an unlisted flag or variable.

        Return "" if certmond can watch the file.
        """
        entry = self._reader.entry(found.path)
        if entry.fault:
            return entry.fault.detail
        if found.role is Role.TRUST and not self._reader.document(found.path, None).certificates:
            return f"{found.path} contains no certificate"
        return ""

    def _obstacle(self, source: Source, file: str) -> str:
        """Return the reason not to follow the flags of a source in a file, or "" if certmond follows these flags."""
        return source.obstacle or self._reader.changeable(file, source.group)

    def _of_flag(self, source: Source, row: Flag, trust: dict[tuple[str, str], str]) -> Iterator[Reference]:
        keys = source.container.values(row.key_flag)[-1:] if row.key_flag else []
        if row.pair and any(source.container.values(name) for name in ("tls-cert-file", "tls-private-key-file")):
            return
        values = source.container.values(row.name)[0 if row.repeated else -1 :]
        if row.role is Role.SOCKET:
            yield from self._of_socket(source, row, values)
            return
        untrusted, maximum = source.process if source.obstacle else "", _maximum(source)
        if left_out := values[maximum:]:
            yield Reference(
                row.entry, Role.CONFIGURATION, source.named_by(row.name), source.place(row.name).file,
                obstacle=_left_out(source, len(left_out)), process=untrusted,
            )  # fmt: skip
        for value in values[:maximum]:
            if (row.name, value) in source.known:
                continue
            path, _, pair = value.partition(",") if row.repeated else (value, "", "")
            key = pair.partition(":")[0] if row.repeated else next(iter(keys), "")
            if row.pair:
                path, key = (posixpath.join(value, f"{row.pair}.{suffix}") for suffix in ("crt", "key"))
            file = NamedFile(row.name, row.role, path, key, kind=row.kind)
            place = source.place(row.name)
            about = Reference(row.entry, row.role, source.named_by(row.name), place.file, process=untrusted)
            if (row.component, row.pair) == (KUBELET, KUBELET):  # as the entry kubelet-server-self of the catalogue
                about = replace(about, at_most=Severity.WARNING)
            verified = trust.get(row.verified_by, "") if row.verified_by else ""
            for found in self._of_file(source, file, about):
                if not (row.optional and self._reader.entry(found.path or "/").missing):
                    yield replace(found, trust=verified) if found.name == row.entry else found

    @staticmethod
    def _of_socket(source: Source, row: Flag, values: list[str]) -> Iterator[Reference]:
        """Yield the reference to the socket of an external signer, which has the keys of the service-account tokens."""
        for value in values:
            if (row.name, value) not in source.known:
                fact = f"the external signer at {printable(value)} signs service-account tokens, and has their keys"
                named_by, file = source.named_by(row.name), source.place(row.name).file
                yield Reference(row.entry, Role.CONFIGURATION, named_by, file, obstacle=fact)

    def _of_file(
        self, source: Source, file: NamedFile, about: Reference, embedded: Document | None = None
    ) -> Iterator[Reference]:
        """Yield the reference to `file`.

        If `file` is a readable configuration file of a known kind, yield instead a reference to each file that the
        configuration names.
        """
        if embedded is not None:
            yield replace(about, embedded=embedded)
            return
        obstacle = self._obstacle(source, about.source)
        host = self._followed(source, file.path)
        if not host:
            # A value in the URL of a datastore can contain a private key or a part of the password.
            shown = f"the value of {file.field}" if file.field.startswith(ENDPOINT) else file.path[:200]
            yield replace(about, obstacle=obstacle or f"{shown} is not the path of a file on this host")
            return
        key = self._followed(source, file.key) if file.key else ""
        outside = source.in_pod and source.container.mount_of(file.path) is None
        # The group that can write the argument files of MicroK8s can also write the directories beside these files.
        home, _, name = posixpath.dirname(source.file).rpartition("/")
        shared = source.group is not None and name == "args" and host.startswith(f"{home}/")
        found = replace(about, path=host, key=key or None, obstacle=obstacle, shared=shared, elsewhere=outside)
        if not SYSTEM_TRUST.isdisjoint((host, self._reader.entry(host).own_file)):
            fact = (
                f"{host} contains the CAs of the operating system, and a package of the operating system replaces "
                "this file"
            )
            yield replace(found, obstacle=obstacle or fact)
        elif file.role is Role.KUBECONFIG and not (obstacle or outside):
            fact = self._foreign_path(source, host)
            yield replace(found, obstacle=fact)
            if fact and not source.in_pod:
                yield from self._of_users(source, host, found.name)
        elif file.role is Role.CONFIGURATION and file.kind and not (obstacle or outside):
            yield from self._of_configuration(source, file, found)
        else:
            yield found

    def _of_users(self, source: Source, kubeconfig: str, name: str) -> Iterator[Reference]:
        """Yield the certificate file of each user of a kubeconfig with paths in the mount namespace of a service."""
        for user in self._reader.credentials(kubeconfig).config.users:
            if user.certificate and user.certificate.data is None and user.certificate.path:
                key = (user.key.path if user.key and user.key.data is None else None) or ""
                file = NamedFile("client-certificate", Role.CLIENT, user.certificate.path, key)
                phrase = f"client-certificate in {kubeconfig}"
                about = Reference(f"{name}.client-certificate", Role.CLIENT, phrase, kubeconfig)
                yield from self._of_file(source, file, about)

    def _of_configuration(self, source: Source, file: NamedFile, found: Reference) -> Iterator[Reference]:
        if file.kind is None:
            return
        entry, configuration = self._reader.entry(found.path), self._files.value(found.path, _parser(file.kind))
        if configuration is None or configuration.fault:
            fact = entry.fault.detail if entry.fault else f"{found.path} {configuration.fault if configuration else ''}"
            yield replace(found, obstacle=fact)
            return
        for named, embedded in configuration.files:
            inner = named  # the file of an admission plugin begins at the directory of the file that names it
            if named.kind is not None:
                inner = replace(named, path=posixpath.join(posixpath.dirname(file.path), named.path))
            name = found.name if named.kind else f"{found.name}.{named.field}"
            about = Reference(name, named.role, f"{named.field} in {found.path}", found.path)
            yield from self._of_file(source, inner, about, embedded)

    def _foreign_path(self, source: Source, kubeconfig: str) -> str:
        """Return a fact if a kubeconfig refers to a file by a path that differs on the host, otherwise ""."""
        config = self._reader.credentials(kubeconfig).config
        materials = [each for user in config.users for each in (user.certificate, user.key)]
        materials += [cluster.ca for cluster in config.clusters]
        directory = posixpath.dirname(kubeconfig)
        for material in materials:
            path = material.path if material and material.data is None else None
            if path and not path.startswith(f"{directory}/") and source.container.on_host(path) != path:
                namespace = "in the container" if source.in_pod else "in the mount namespace of the service"
                return f"{kubeconfig} refers to {path}, which is a path {namespace}"
        return ""

    def _followed(self, source: Source, path: str) -> str:
        """Return the path on the host, or "" if this path is unknown.

        If a mount of a service contains a symlink with an absolute target, return the host path of the target. The
        kubelet creates such a symlink to its last certificate. Do not follow a symlink that another user can change.
        """
        host = self._on_host(source, path)
        if source.in_pod or not host or source.container.mount_of(path) is None:
            return host
        target = self._reader.entry(host).target
        is_followed = target.startswith("/") and not self._reader.changeable(host, source.group)
        return self._on_host(source, target) if is_followed else host

    def _on_host(self, source: Source, path: str) -> str:
        host = source.container.on_host(path) or ""
        if not source.in_pod and UNKNOWN_SPECIFIER.search(path):
            return ""
        return "" if _UNUSABLE.search(path) or _UNUSABLE.search(host) or not f"{path}{host}".isprintable() else host


def _maximum(source: Source) -> int:
    return _MAX_OF_USER if source.process and source.obstacle else _MAX_FILES


def _left_out(source: Source, number: int) -> str:
    return f"certmond watches at most {_maximum(source)} of these files, and ignores {number} others"


@cache
def _parser(kind: FileKind) -> Parser[_Configuration]:
    """Return a parser for configuration files of a kind. The parser drops the bytes of embedded certificates."""

    def parse(data: bytes, path: str) -> _Configuration:
        try:
            found = named_files(data, kind)
        except MalformedError as error:
            return _Configuration((), str(error))
        documents = [None if each.pem is None else decode(each.pem, f"{path}, {each.field}") for each in found]
        return _Configuration(tuple((replace(each, pem=None), one) for each, one in zip(found, documents, strict=True)))

    return parse
