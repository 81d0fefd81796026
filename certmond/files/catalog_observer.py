"""Observation of the certificates of the node. The result is an inventory of the files that the catalogue names.

The observation of an unusable file contains a `Fault`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from certmond.files.cache import Files
from certmond.files.cache_entry import Entry
from certmond.files.catalog_file_reader import DocumentReader, bundle_observations, first_line
from certmond.files.directory_names import WatchedNames
from certmond.files.glob import Expansion, expand
from certmond.files.kubeconfig_copies import KubeconfigCopies, own_mounts
from certmond.files.kubeconfig_observer import KubeconfigObserver
from certmond.files.references.component_references import ComponentReferences
from certmond.files.references.component_sources import ComponentSources
from certmond.files.references.kubelet_view import KubeletView
from certmond.files.references.node_kubelet_reader import KubeletConfiguration
from certmond.files.references.uncataloged_file_observer import ReferenceObserver
from certmond.files.references.unit_files import UnitFiles
from certmond.formats.manifest import Components, node_facts
from certmond.pki.catalog.component_certificate_flags import KUBELET
from certmond.pki.catalog.derived_file_spec import DerivedSpec
from certmond.pki.catalog.entries import CertificateSpec, Kind
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.findings import Fault, Reason
from certmond.pki.x509.certificate_file_parser import Document
from certmond.pki.x509.certificate_file_properties import (
    encrypted_key_in,
    has_key,
    is_broken,
    leaf_of,
    may_hide_key,
    not_pem,
    public_key_in,
    without_missing,
)

_KUBERNETES = "/etc/kubernetes"

_NOTHING = Document()
_Built = tuple[tuple[Entry, ...], tuple[Observation, ...]]
"""The cache entries of files, and the observations that result from these files."""
_NOT_BUILT: _Built = (), ()


class Store:
    """Observer of the files that the catalogue entries `specs` name, on the node below `root`.

    `facts` override the facts in files of the node. `also` are additional paths to watch. If `references` is true, the
    store also observes files that have a reference on the node but no entry. The store then also reads the command
    lines of processes in `proc`, by default only if `root` is "/". `derived` are the derived files: the store watches
    all of these files, and observes the copies of kubeconfigs. If `renewers` is true, the store also observes other
    programs that renew certificates. The store calls `alive` after it has parsed a file, also in a forked process.
    """

    def __init__(
        self,
        specs: Sequence[CertificateSpec],
        root: str = "/",
        facts: Mapping[str, str] | None = None,
        also: Sequence[str] = (),
        *,
        references: bool = False,
        derived: Sequence[DerivedSpec] = (),
        proc: str | None = None,
        renewers: bool = False,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self._specs = specs
        self._files = Files(root, alive)
        self._given = dict(facts or {})
        self._also = (*also, *(spec.path for spec in derived))
        self._built: list[dict[str, _Built]] = [{} for _ in specs]
        self._expansions: dict[int, Expansion] = {}
        self._reader = DocumentReader(self._files, own_root=root == "/")
        self._kubeconfigs = KubeconfigObserver(self._reader)
        self._copies = KubeconfigCopies(self._reader, derived, specs, own_mounts() if root == "/" else ())
        units = UnitFiles(self._reader, self._files)
        self._renewers = None
        if renewers:
            from certmond.files.other_renewers import OtherRenewers  # noqa: PLC0415 - not in observe mode

            self._renewers = OtherRenewers(self._reader, self._files, units)
        self._kubelet = KubeletConfiguration(self._reader, self._files, units)
        manifests = f"{_KUBERNETES}/manifests"
        proc = ("/proc" if root == "/" else "") if proc is None else proc
        self._sources = ComponentSources(
            self._reader, self._files, self._kubelet, units, manifests=manifests, proc=proc if references else ""
        )
        self._processes_changed = False
        self._view = KubeletView()
        found = self._references = ComponentReferences(self._reader, self._files, self._sources)
        self._reference_observer = ReferenceObserver(self._reader, found) if references else None
        self._built_references: dict[str, tuple[CertificateSpec, dict[str, _Built]]] = {}

    def observe(self, touched: frozenset[str] | None = None) -> Inventory:
        """Return the inventory of the node.

        Read the files of the `touched` lookups again, or all files if `touched` is None.
        """
        self._files.refresh(touched)
        if touched is None or self._processes_changed:
            self._sources.read_processes()
            self._processes_changed = False
        self._observe_kubelet()
        observations: list[Observation] = []
        for number, spec in enumerate(self._specs):
            before = self._built[number]
            paths, faults = self._paths(number, spec)
            built = self._built[number] = self._built_of(spec, paths, before)
            if faults:
                rest = Observation(spec.name, spec, spec.path, faults=faults)
                built[spec.path] = _reused((), (rest,), before.get(spec.path))
            found = [seen for _, some in built.values() for seen in some]
            if spec.is_glob and not found and self._reader.is_expected(spec):
                nothing = Observation(spec.name, spec, spec.path, faults=(_no_match(spec),))
                built[spec.path] = _reused((), (nothing,), before.get(spec.path))
                found = [*built[spec.path][1]]
            observations += found
        if self._reference_observer:
            observations += self._of_references(self._reference_observer, tuple(observations))
        observations += self._copies.observations()
        for path in self._also:
            self._files.entry(path)
        renewers = self._renewers.found() if self._renewers else ()
        return Inventory(tuple(observations), self._facts(), renewers)

    def _observe_kubelet(self) -> None:
        """Find the certificates of the kubelets. After a change, drop the results for kubelets and for references."""
        if self._reference_observer:
            self._references.find()
        if (view := self._sources.view()) != self._view:
            self._view = view
            pairs = zip(self._specs, self._built, strict=True)
            self._built = [{} if KUBELET in spec.consumers else built for spec, built in pairs]
            self._built_references = {}

    def _of_references(
        self, observer: ReferenceObserver, observations: tuple[Observation, ...]
    ) -> Iterator[Observation]:
        """Yield the observations of files that have a reference on the node but no entry."""
        specs, others = observer.result(observations)
        before, self._built_references = self._built_references, {}
        for spec in specs:
            known, old = before.get(spec.name, (None, {}))
            built = self._built_of(spec, (spec.path,), old if spec == known else {})
            self._built_references[spec.name] = spec, built
            yield from built[spec.path][1]
        yield from others

    def read_processes(self) -> None:
        """Read the command lines of processes again at the next call of `observe`."""
        self._processes_changed = True

    def components(self) -> Components:
        """Return the configuration of the static Pods and the kubelet at the time of the last call of `observe`."""
        paths = self._sources.manifests()
        pods = [self._reader.manifest(path) for path in paths if not self._reader.entry(path).fault]
        found = tuple(pod for pod in pods if pod)
        return Components(found, self._kubelet.manifest(), self._kubelet.flags_manifest())

    def has(self, path: str) -> bool:
        """Return whether the file at `path` existed at the time of the last call of `observe`."""
        return not self._files.entry(path).missing

    def states(self, paths: Iterable[str]) -> Iterator[tuple[str, str, int]]:
        """Yield the path, the SHA-256 and the ctime in nanoseconds of each file in `paths` that certmond has read."""
        for path in paths:
            entry = self._files.entry(path)
            if entry.fault is None and entry.digest and entry.changed_ns is not None:
                yield path, entry.digest.hex(), entry.changed_ns

    @property
    def unfinished(self) -> frozenset[str]:
        """The lookups of files that the next pass must read again, because a write might be in progress."""
        return frozenset(self._files.unfinished)

    @property
    def interest(self) -> Mapping[str, WatchedNames]:
        """The names to watch, by directory."""
        return self._files.interest

    def _paths(self, number: int, spec: CertificateSpec) -> tuple[tuple[str, ...], tuple[Fault, ...]]:
        """Return the paths of an entry, and the faults of its pattern, such as an exceeded limit."""
        if not spec.is_glob:
            return (spec.path,), ()
        known = self._expansions.get(number)
        known = (known and known.updated(self._files)) or expand(self._files, spec.path, spec.exclude)
        self._expansions[number] = known
        return known.paths, (*_too_many(spec, known.excess), *known.unread)

    def _built_of(self, spec: CertificateSpec, paths: Iterable[str], before: Mapping[str, _Built]) -> dict[str, _Built]:
        """Return the observations of each path of an entry. Reuse the observations in `before` for unchanged files."""
        dropped = self._files.dropped
        is_current = self._current if dropped is None else dropped.isdisjoint
        built = {
            path: known if (known := before.get(path, _NOT_BUILT))[0] and is_current(known[0]) else _NOT_BUILT
            for path in paths
        }
        fresh = [path for path, known in built.items() if known is _NOT_BUILT]
        for path in chain.from_iterable(self._files.parsed(fresh, self._reader.parser(spec))):
            self._reader.used = {}
            seen = tuple(self._observe(spec, path))
            built[path] = _reused(tuple(self._reader.used.values()), seen, before.get(path))
        return built

    def _current(self, used: tuple[Entry, ...]) -> bool:
        return all(self._files.entry(entry.path, entry.referrer) is entry for entry in used)

    def _observe(self, spec: CertificateSpec, path: str) -> Iterator[Observation]:
        entry = self._reader.entry(path)
        if self._view.is_unused(spec, path):
            return
        if entry.missing:
            if self._view.is_requested(path) and not entry.is_link:
                faults = (_no_serving_certificate(path),)  # not wanted: only the kubelet can request this certificate
                yield Observation(
                    spec.name, spec, path, faults=faults, wanted=False, requested=True,
                    changed_at=self._reader.changed_at(entry),
                )  # fmt: skip
                return
            if not entry.is_link and (spec.is_glob or not self._reader.is_expected(spec)):
                return
            whole = Observation(
                spec.name, spec, path, faults=(self._reader.missing_fault(spec, path, entry),),
                key_path=spec.key_of(path), wanted=self._reader.is_wanted(spec),
                changed_at=self._reader.changed_at(entry),
            )  # fmt: skip
            if spec.kind is not Kind.KUBELET:
                yield whole
            elif self._kubeconfigs.is_named(whole):
                yield replace(whole, wanted=self._kubeconfigs.is_wanted(whole))
        elif spec.kind is Kind.KUBECONFIG:
            yield from self._kubeconfigs.observations(spec, path)
        else:
            document = self._reader.document(path, spec)
            if spec.is_glob and (entry.is_directory or document.only_keys or document == _NOTHING):
                return
            yield from self._from_document(spec, path, document, entry)

    def _from_document(
        self, spec: CertificateSpec, path: str, document: Document, entry: Entry
    ) -> Iterator[Observation]:
        is_pair = spec.kind is Kind.KEY_PAIR
        kubelet_conf = spec.kubeconfig if spec.kind is Kind.KUBELET else None
        own_key = spec.key_of(path)
        key_path = own_key or (path if has_key(document) else None)
        key_document = self._reader.document(key_path, spec) if key_path and key_path != path else document
        key_entry = self._reader.entry(key_path) if key_path else None
        public_key = public_key_in(document, key_document.key) if is_pair else None
        is_secret = has_key(document) and bool(is_pair or document.certificates)  # otherwise the key is misplaced
        faults = [*self._reader.password_faults(spec), *document.faults]
        if spec.authority or (own_key and own_key != path):
            faults += not_pem(document, path)
        if not (is_broken(document) or public_key or document.certificates):
            faults.append(Fault(Reason.MALFORMED, f"{path} contains no {'public key' if is_pair else 'certificate'}"))
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
            public_key=public_key,
            public_keys=document.public_keys if is_pair else (),
            symlink=entry.is_link if kubelet_conf else None,
            permissions=tuple(self._reader.permissions({path: is_secret} | ({key_path: True} if key_path else {}))),
            faults=tuple(faults),
            renewable=document.pem and key_document.pem,
            certificate_file=entry.own_file,
            key_file=key_entry.own_file if key_entry else None,
            wanted=self._reader.is_wanted(spec),
            changed_at=self._reader.changed_at(entry, *((key_entry,) if key_entry else ())),
        )
        if is_pair:
            yield whole
        elif separate:
            yield from bundle_observations(whole, document.certificates)
        else:
            yield self._kubeconfigs.with_kubelet_conf(whole, kubelet_conf) if kubelet_conf else whole
        if kubelet_conf:
            yield from self._kubeconfigs.further_observations(spec, kubelet_conf)

    def _facts(self) -> Mapping[str, str]:
        self._reader.used = {}
        manifests = f"{_KUBERNETES}/manifests"
        hostname = self._files.value("/etc/hostname", first_line) or b""
        return (
            node_facts(
                apiserver=self._reader.manifest(f"{manifests}/kube-apiserver.yaml"),
                etcd=self._reader.manifest(f"{manifests}/etcd.yaml"),
                kubelet_conf=self._reader.credentials(f"{_KUBERNETES}/kubelet.conf").config,
                admin_conf=self._reader.credentials(f"{_KUBERNETES}/admin.conf").config,
                kubelet_config=self._kubelet.manifest(),
                kubelet_flags=self._kubelet.flags_manifest(),
                hostname=hostname.decode("ascii", "replace"),
                kubelet_serving_file=self._view.serving.path if self._view.serving else None,
            )
            | self._given
        )


def _reused(used: tuple[Entry, ...], seen: tuple[Observation, ...], before: _Built | None) -> _Built:
    """Return `used` and `seen`, or the equal observations of `before` instead of `seen`."""
    # Later stages skip an observation that is the same object as before. Observations with faults are equal only if
    # their files have not changed.
    same = (
        before
        and before[1] == seen
        and not any(
            each.faults and each.changed_at != old.changed_at for each, old in zip(seen, before[1], strict=True)
        )
    )
    return used, before[1] if before and same else seen


def _too_many(spec: CertificateSpec, excess: str) -> Iterator[Fault]:
    if excess:
        fact = f"{spec.path} {excess}, and certmond ignores the others"
        yield Fault(Reason.UNREADABLE, fact, "narrow the pattern, or add file names to `exclude`")


def _no_serving_certificate(path: str) -> Fault:
    fact = (
        f"{path} does not exist, but the kubelet requests this certificate, and rejects all clients until "
        "this certificate exists"
    )
    return Fault(
        Reason.MISSING,
        fact,
        "find the request of this node with `kubectl get csr`, then run: kubectl certificate approve NAME",
    )


def _no_match(spec: CertificateSpec) -> Fault:
    return Fault(Reason.MISSING, f"{spec.path} matches no certificate", "correct the pattern, or restore the files")
