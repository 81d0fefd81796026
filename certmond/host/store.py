"""The node's certificates as they are now: catalogue + files -> Inventory.

Owns the joining of what a row of the catalogue names (files, keys, kubeconfigs, globs) with what the files hold. The
same `Observation` object is handed out until one of the files behind it changes, so that later stages can skip it.
Judges nothing: whatever is wrong with a file is a Fault in its observation.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from itertools import chain
from typing import Any

from certmond.host.credentials import Credentials, broken_cluster, lacks, own_user, parse_credentials
from certmond.host.entry import Asked, Entry, latest_change
from certmond.host.files import Files, Parser
from certmond.host.keystore import decode_apart
from certmond.host.kubeconfig import Material, User, as_text
from certmond.host.manifest import Components, Manifest, node_facts, parse_manifest
from certmond.host.owners import owner_name
from certmond.host.pattern import Expansion, expand
from certmond.host.way import Referrer
from certmond.pki.catalog import CertificateSpec, Kind
from certmond.pki.certificate import Certificate
from certmond.pki.contents import (
    encrypted_key_in,
    has_key,
    is_broken,
    leaf_of,
    may_hide_key,
    not_pem,
    public_key_in,
    without_missing,
)
from certmond.pki.encoding import Document
from certmond.pki.inventory import Embedded, Inventory, Observation, Permissions
from certmond.pki.reason import Fault, Reason

_KUBERNETES = "/etc/kubernetes"
_KUBELET_CONFIG, _KUBELET_FLAGS = "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env"


_NOTHING = Document()
_Built = tuple[tuple[Entry, ...], tuple[Observation, ...]]
"""What was seen, and the entries of the files that it was seen in."""
_UNSEEN: _Built = (), ()


class Store:
    """What `specs` name on the node below `root`. `facts` override what the node says of itself; `also` are paths of
    which changes are of interest, too.
    """

    def __init__(
        self,
        specs: Sequence[CertificateSpec],
        root: str = "/",
        facts: Mapping[str, str] | None = None,
        also: Sequence[str] = (),
    ) -> None:
        self._specs = specs
        self._files = Files(root)
        self._own_root = root == "/"
        self._given = dict(facts or {})
        self._also = also
        self._built: list[dict[str, _Built]] = [{} for _ in specs]
        self._expansions: dict[int, Expansion] = {}
        self._used: dict[Asked, Entry] = {}

    def observe(self, touched: frozenset[str] | None = None) -> Inventory:
        """Look at everything again (None), or at what lies behind the `touched` lookups, and say what is there."""
        self._files.refresh(touched)
        observations: list[Observation] = []
        for number, spec in enumerate(self._specs):
            before = self._built[number]
            paths, cut = self._paths(number, spec)
            built = self._built[number] = self._built_of(spec, paths, before)
            if cut:
                rest = Observation(spec.name, spec, spec.path, faults=(_too_many(spec, cut),))
                built[spec.path] = _kept((), (rest,), before.get(spec.path))
            found = [seen for _, some in built.values() for seen in some]
            if spec.is_glob and not found and self._expected(spec):
                nothing = Observation(spec.name, spec, spec.path, faults=(_no_match(spec),))
                built[spec.path] = _kept((), (nothing,), before.get(spec.path))
                found = [*built[spec.path][1]]
            observations += found
        for path in self._also:
            self._files.entry(path)
        return Inventory(tuple(observations), self._facts())

    def components(self) -> Components:
        """What the node says of its static pods and its kubelet. To be asked after `observe`."""
        config = self._manifest(_KUBELET_CONFIG)
        directory = as_text(config.fields.get("staticPodPath")) if config else ""
        directory = directory.rstrip("/") or f"{_KUBERNETES}/manifests"
        names = [name for name in self._files.listing(directory) if not name.startswith(".")]  # as the kubelet has it
        pods = [self._manifest(f"{directory}/{name}") for name in names if not self._entry(f"{directory}/{name}").fault]
        return Components(tuple(pod for pod in pods if pod), config, self._manifest(_KUBELET_FLAGS))

    def has(self, path: str) -> bool:
        """Something is there. To be asked after `observe`."""
        return not self._files.entry(path).missing

    def states(self, paths: Iterable[str]) -> Iterator[tuple[str, str, int]]:
        """SHA-256 and time of the last change (ctime, nanoseconds) of each of `paths` that was read."""
        for path in paths:
            entry = self._files.entry(path)
            if entry.fault is None and entry.digest and entry.key:
                yield path, entry.digest.hex(), entry.key[4]

    @property
    def unfinished(self) -> frozenset[str]:
        """What the last look has to be followed by another look for: files that are being written, too many to wait."""
        return frozenset(self._files.unfinished)

    @property
    def interest(self) -> Mapping[str, frozenset[str] | None]:
        """The directories to watch, with the names that matter in each (None: all)."""
        return self._files.interest

    def _paths(self, number: int, spec: CertificateSpec) -> tuple[tuple[str, ...], str]:
        """What an entry stands for, and of what there is more."""
        if not spec.is_glob:
            return (spec.path,), ""
        known = self._expansions.get(number)
        if known is None or not known.holds(self._files):
            known = self._expansions[number] = expand(self._files, spec.path, spec.exclude)
        return known.paths, known.cut

    def _built_of(self, spec: CertificateSpec, paths: Iterable[str], before: Mapping[str, _Built]) -> dict[str, _Built]:
        """What is seen at each of the paths: what was before, where no file behind it has changed."""
        forgotten = self._files.forgotten
        holds = self._current if forgotten is None else forgotten.isdisjoint
        built = {
            path: known if (known := before.get(path, _UNSEEN))[0] and holds(known[0]) else _UNSEEN for path in paths
        }
        fresh = [path for path, known in built.items() if known is _UNSEEN]
        for path in chain.from_iterable(self._files.parsed(fresh, self._parser(spec))):
            self._used = {}
            seen = tuple(self._observe(spec, path))
            built[path] = _kept(tuple(self._used.values()), seen, before.get(path))
        return built

    def _current(self, used: tuple[Entry, ...]) -> bool:
        return all(self._files.entry(entry.path, entry.referrer) is entry for entry in used)

    def _observe(self, spec: CertificateSpec, path: str) -> Iterator[Observation]:
        entry = self._entry(path)
        if entry.missing:
            if not entry.is_link and (spec.is_glob or not self._expected(spec)):
                return
            whole = Observation(
                spec.name, spec, path, faults=(self._missing(spec, path, entry),), key_path=spec.key,
                wanted=self._wanted(spec), changed_at=self._changed_at(entry),
            )  # fmt: skip
            yield replace(whole, wanted=self._is_read(whole)) if spec.kind is Kind.KUBELET else whole
        elif spec.kind is Kind.KUBECONFIG:
            yield from self._from_kubeconfig(spec, path)
        else:
            document = self._document(path, spec)
            if spec.is_glob and (entry.is_directory or document.only_keys or document == _NOTHING):
                return
            yield from self._from_document(spec, path, document, entry)

    def _from_document(
        self, spec: CertificateSpec, path: str, document: Document, entry: Entry
    ) -> Iterator[Observation]:
        is_pair = spec.kind is Kind.KEY_PAIR
        kubelet_conf = spec.kubeconfig if spec.kind is Kind.KUBELET else None
        # The key of one of many files is in that file: a pattern is no path.
        own_key = path if spec.is_glob and spec.key else spec.key
        key_path = own_key or (path if has_key(document) else None)
        key_document = self._document(key_path, spec) if key_path and key_path != path else document
        public_key = public_key_in(document, key_document.key)
        is_secret = has_key(document) and bool(is_pair or document.certificates)  # else what it holds is misplaced
        faults = [*self._password_faults(spec), *document.faults]
        if spec.authority or (own_key and own_key != path):
            faults += not_pem(document, path)
        if not (is_broken(document) or (public_key if is_pair else document.certificates)):
            faults.append(Fault(Reason.MALFORMED, f"{path} holds no {'public key' if is_pair else 'certificate'}"))
        if key_document is not document:
            faults += without_missing(key_document.faults)
        if key_path and not spec.key_optional:
            faults += encrypted_key_in(key_document, key_path)
        separate = spec.authority or spec.kind is Kind.BUNDLE
        whole = Observation(
            name=spec.name,
            spec=spec,
            path=path,
            **({} if is_pair or separate else leaf_of(document)),
            key=key_document.key,
            key_unknown=may_hide_key(key_document),
            key_path=key_path,
            public_key=public_key if is_pair else None,
            public_keys=document.public_keys if is_pair else (),
            symlink=entry.is_link if kubelet_conf else None,
            permissions=tuple(self._permissions({path: is_secret} | ({key_path: True} if key_path else {}))),
            faults=tuple(faults),
            renewable=document.pem and key_document.pem,
            certificate_file=entry.own_file,
            key_file=self._entry(key_path).own_file if key_path else None,
            wanted=self._wanted(spec),
            changed_at=self._changed_at(entry, self._entry(key_path or path)),
        )
        if is_pair:
            yield whole
        elif separate:
            yield from _one_each(whole, document.certificates)
        else:
            yield self._with_kubelet_conf(whole, kubelet_conf) if kubelet_conf else whole

    def _is_read(self, seen: Observation) -> bool:
        """The kubelet's PEM is wanted, unless kubelet.conf names another one, or embeds what it names no file for."""
        named = self._refers_to(seen, seen.spec.kubeconfig) if seen.spec.kubeconfig else None
        return seen.wanted and named in {None, seen.path}

    def _refers_to(self, seen: Observation, kubeconfig: str) -> str | None:
        config = self._credentials(kubeconfig).config
        user = next((user for user in config.users if user.name == config.current_user), None)
        refers_to = None
        for material in (user.certificate, user.key) if user else ():
            if material and refers_to in {None, seen.path}:  # the first that is not the rotating PEM is what is told
                refers_to = material.path if material.data is None else ""
        return refers_to

    def _with_kubelet_conf(self, seen: Observation, kubeconfig: str) -> Observation:
        credentials, refers_to = self._credentials(kubeconfig), self._refers_to(seen, kubeconfig)
        embedded, faults = self._trust(kubeconfig, credentials)
        return replace(
            seen, refers_to=refers_to, wanted=self._is_read(seen), embedded=embedded,
            faults=(*seen.faults, *credentials.faults, *faults),
            permissions=(*seen.permissions, *self._permissions({kubeconfig: True})),
        )  # fmt: skip

    def _from_kubeconfig(self, spec: CertificateSpec, path: str) -> Iterator[Observation]:
        config = (credentials := self._credentials(path)).config
        embedded, about_trust = self._trust(path, credentials)
        users = sorted(config.users, key=lambda user: user.name != config.current_user)
        holders = [user for user in users if user.certificate]
        faults = [*credentials.faults, *(about_trust if spec.embedded_ca else ())]
        own = own_user(config) if spec.subject else next(iter(holders), None)
        others = [user for user in users if user.other and (not holders or user.name == config.current_user)]
        if spec.subject and not credentials.faults:
            faults += lacks(path, credentials, others, embeds=spec.embedded_ca is not None)
        permissions = tuple(self._permissions({path: True}))
        whole = Observation(
            spec.name, spec, path, embedded=embedded, permissions=permissions, faults=tuple(faults),
            wanted=self._wanted(spec), changed_at=self._entry(path).changed_at, renewable=not others,
            broken_cluster=broken_cluster(credentials) if spec.subject and spec.embedded_ca else "",
        )  # fmt: skip
        plain = spec.model_copy(update={"subject": (), "names": (), "usages": ("client auth",)})
        for user in holders:
            bare = Observation(f"{spec.name}#{user.name}", plain, path)
            yield self._with_user(whole if user is own else bare, credentials, user)
        if faults and own is None:
            yield whole
        if spec.embedded_ca is None:
            yield from self._clusters(spec, path, credentials)

    def _with_user(self, seen: Observation, credentials: Credentials, user: User) -> Observation:
        certificate = self._material(seen.path, credentials, user.name, "certificate", user.certificate)
        key = self._material(seen.path, credentials, user.name, "key", user.key)
        key_path = (user.key and user.key.path) or seen.path
        faults = [*seen.faults, *certificate.faults, *without_missing(key.faults), *encrypted_key_in(key, key_path)]
        if not (is_broken(certificate) or certificate.certificates):
            held_in = (user.certificate and user.certificate.path) or f"{seen.path}, certificate of {user.name!r},"
            faults.append(Fault(Reason.MALFORMED, f"{held_in} holds no certificate"))
        referrer = self._referrer(seen.path)
        named = referrer if key_path != seen.path else None
        permissions = self._permissions({key_path: True}, named) if named else ()
        # What a stranger names is not the kubeconfig's own: else it would be shared with the entry whose file it is.
        own = self._entry((not referrer.writers and user.certificate and user.certificate.path) or seen.path)
        return replace(
            seen, **leaf_of(certificate), key=key.key, key_unknown=may_hide_key(key), key_path=key_path,
            permissions=(*seen.permissions, *permissions), faults=tuple(dict.fromkeys(faults)),
            renewable=_is_embedded(user.certificate) and _is_embedded(user.key), holder=("user", user.name),
            certificate_file=own.own_file, key_file=self._entry(key_path, named).own_file,
            foreign_key=bool(named and named.writers), changed_at=latest_change(own, self._entry(key_path, named)),
        )  # fmt: skip

    def _clusters(self, spec: CertificateSpec, path: str, credentials: Credentials) -> Iterator[Observation]:
        """The CA certificates in a kubeconfig that no row of the catalogue stands for: their ends matter as well."""
        update: dict[str, Any] = {"subject": (), "names": (), "usages": (), "ca": (), "key": None, "key_optional": True}
        bare = spec.model_copy(update=update)
        for cluster in credentials.config.clusters:
            document = self._material(path, credentials, cluster.name, "ca", cluster.ca)
            whole = Observation(
                f"{spec.name}#ca:{cluster.name}", bare, path, faults=document.faults, holder=("cluster", cluster.name)
            )
            yield from _one_each(whole, document.certificates) if document.certificates or document.faults else ()

    def _trust(self, path: str, credentials: Credentials) -> tuple[tuple[Embedded, ...], tuple[Fault, ...]]:
        """The CA certificates that a kubeconfig embeds for the cluster of its context, and what is wrong with them."""
        config = credentials.config
        current = [cluster for cluster in config.clusters if cluster.name == config.current_cluster]
        if not current and len(config.clusters) != 1:
            return (), ()
        cluster = (current or config.clusters)[0]
        document = self._material(path, credentials, cluster.name, "ca", cluster.ca)
        # The entry of a separate file reports what is wrong with it. A file that strangers name has no such entry.
        own = cluster.ca and cluster.ca.data is None and not self._referrer(path).writers
        faults = () if own else document.faults
        told = not document.certificates and (faults or credentials.faults)
        file = cluster.ca.path if cluster.ca and cluster.ca.data is None else None
        others = bool(self._entry(path).writers)
        return () if told else (Embedded(path, document.certificates, file, cluster.name, others),), faults

    def _material(
        self, path: str, credentials: Credentials, owner: str, field: str, material: Material | None
    ) -> Document:
        """What the kubeconfig at `path` has inside, or names: as far as the users who can change it can read that."""
        if material is None:
            return Document()
        if material.path and material.data is None:
            return self._document(material.path, None, self._referrer(path))
        return credentials.documents.get((owner, field), Document())

    def _referrer(self, path: str) -> Referrer:
        return Referrer(path, self._entry(path).writers)

    def _document(self, path: str, spec: CertificateSpec | None, referrer: Referrer | None = None) -> Document:
        entry = self._entry(path, referrer)
        document = self._files.value(path, self._parser(spec) if spec else decode_apart, referrer)
        return document if document is not None else Document(faults=(entry.fault,) if entry.fault else ())

    def _parser(self, spec: CertificateSpec) -> Parser[Any]:
        """What reads the files of a row."""
        if spec.kind is Kind.KUBECONFIG:
            return parse_credentials
        password = self._password(spec.password_file) if spec.password_file else None
        return decode_apart if password is None else _decode_with(password)

    def _password(self, path: str) -> bytes | None:
        self._entry(path)
        return self._files.value(path, _first_line)

    def _password_faults(self, spec: CertificateSpec) -> tuple[Fault, ...]:
        fault = self._entry(spec.password_file).fault if spec.password_file else None
        return (fault,) if fault else ()

    def _credentials(self, path: str) -> Credentials:
        entry = self._entry(path)
        credentials = self._files.value(path, parse_credentials)
        return credentials or Credentials(faults=(entry.fault,) if entry.fault else ())

    def _manifest(self, path: str) -> Manifest | None:
        self._entry(path)
        return self._files.value(path, parse_manifest)

    def _entry(self, path: str, referrer: Referrer | None = None) -> Entry:
        entry = self._files.entry(path, referrer)
        self._used[entry.asked] = entry
        return entry

    def _expected(self, spec: CertificateSpec) -> bool:
        """The node should have it: unconditionally, or because one of its other files says so."""
        if spec.optional or not spec.conditional:
            return not spec.optional
        mentioned = (self._manifest(path) for path in spec.mentioned_in)
        unread = any(self._entry(path).fault and not self._entry(path).missing for path in spec.mentioned_in)
        return (
            unread
            or any(text and spec.path in text.text for text in mentioned)
            or any(not self._entry(path).missing for path in spec.belongs_with)
        )

    def _changed_at(self, *entries: Entry) -> datetime | None:
        """When any of these files changed last: of one that is not there, its directory."""
        gone = (self._files.changed_in(posixpath.dirname(each.path)) for each in entries if each.missing)
        return max(filter(None, (latest_change(*entries), *gone)), default=None)

    def _wanted(self, spec: CertificateSpec) -> bool:
        """Whether a file that is there, or was, is one that the node should have: see `Observation.wanted`."""
        return spec.optional or spec.is_glob or self._expected(spec)

    def _missing(self, spec: CertificateSpec, path: str, entry: Entry) -> Fault:
        says = next(
            (place for place in spec.mentioned_in if (text := self._manifest(place)) and path in text.text), None
        )
        because = f", though {says} uses it" if says else ""
        dangling = " (it is a symlink that leads nowhere)" if entry.is_link else ""
        return Fault(Reason.MISSING, f"{path} is not there{dangling}{because}")

    def _permissions(self, secret: Mapping[str, bool], referrer: Referrer | None = None) -> Iterator[Permissions]:
        """Of the given files, each with whether it holds a private key."""
        for path, is_secret in secret.items():
            entry = self._entry(path, referrer)
            if entry.fault is None:
                yield Permissions(path, entry.mode, owner_name(entry.uid, entry.gid, self._own_root), is_secret)

    def _facts(self) -> Mapping[str, str]:
        self._used = {}
        manifests = f"{_KUBERNETES}/manifests"
        hostname = self._files.value("/etc/hostname", _first_line) or b""
        return (
            node_facts(
                apiserver=self._manifest(f"{manifests}/kube-apiserver.yaml"),
                etcd=self._manifest(f"{manifests}/etcd.yaml"),
                kubelet_conf=self._credentials(f"{_KUBERNETES}/kubelet.conf").config,
                admin_conf=self._credentials(f"{_KUBERNETES}/admin.conf").config,
                kubelet_config=self._manifest(_KUBELET_CONFIG),
                kubelet_flags=self._manifest(_KUBELET_FLAGS),
                hostname=hostname.decode("ascii", "replace"),
            )
            | self._given
        )


def _kept(used: tuple[Entry, ...], seen: tuple[Observation, ...], before: _Built | None) -> _Built:
    """What was seen, as the objects of last time where nothing that they tell has changed: no news for anybody. That a
    file that cannot be used is still being written is news.
    """
    same = (
        before
        and before[1] == seen
        and not any(
            each.faults and each.changed_at != old.changed_at for each, old in zip(seen, before[1], strict=True)
        )
    )
    return used, before[1] if before and same else seen


def _one_each(whole: Observation, certificates: Sequence[Certificate]) -> Iterator[Observation]:
    """A bundle: an observation for each certificate; what is said of the file, and its key, stays with the first."""
    distinct = tuple(dict.fromkeys(certificates))
    yield replace(whole, certificates=distinct[:1])
    for number, certificate in enumerate(distinct[1:], start=2):
        name = f"{whole.name}#{number}"
        yield Observation(name, whole.spec, whole.path, certificates=(certificate,), holder=whole.holder)


def _is_embedded(material: Material | None) -> bool:
    return material is not None and material.data is not None


def _first_line(data: bytes, _path: str) -> bytes:
    return data.split(b"\n", 1)[0].rstrip(b"\r")


@lru_cache(maxsize=64)
def _decode_with(password: bytes) -> Parser[Document]:
    return lambda data, path: decode_apart(data, path, password)


def _too_many(spec: CertificateSpec, cut: str) -> Fault:
    fact = f"{spec.path} {cut}, and only the first are looked at"
    return Fault(Reason.UNREADABLE, fact, "narrow the pattern, or `exclude` names")


def _no_match(spec: CertificateSpec) -> Fault:
    return Fault(Reason.MISSING, f"{spec.path} matches no certificate", "correct the pattern, or put the files back")
