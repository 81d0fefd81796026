"""Sources for a repair of damaged entries: the archive, the entry, and facts of the node.

`pki.assessment.repairable_damage` chooses the repair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from certmond.config.model import Config
from certmond.errors import CertmondError, MalformedError
from certmond.files.untrusted_writers import WriterLookup
from certmond.formats.kubeconfig import parse_kubeconfig
from certmond.formats.kubeconfig_edit import (
    credentials_obstacle,
    embeds_ca,
    has_several_entries,
    with_cluster,
)
from certmond.formats.manifest import parse_manifest
from certmond.pki.assessment.missing_ca_certificate import lacks_ca_certificate, missing_ca
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.assessment.repairable_damage import (
    damage,
    is_cluster_damage,
    lacks_key,
    new_template,
    obstacle,
    unneeded_damage,
)
from certmond.pki.catalog.entries import SELF, Kind
from certmond.pki.catalog.observation import Inventory, Observation, Salvage
from certmond.pki.catalog.settings import LOCAL
from certmond.pki.findings import printable
from certmond.pki.planning.planner_inputs import Policy
from certmond.pki.planning.steps import Identity
from certmond.pki.signing.template import Terms
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.renewal.archive_generation_check import Generations, Pairs
from certmond.renewal.archived_pair_check import Worth, as_put_back
from certmond.renewal.ca_certificate_sources import copy_command
from certmond.renewal.new_files import is_damaged_name
from certmond.renewal.symlink_target_check import SymlinkTargets
from certmond.state.archive import DID_NOT_WORK, Archive, ArchivedFile
from certmond.state.last_subjects import LastSubjects
from certmond.state.renewals import Ledger
from certmond.transaction.node_file_reader import NodeFiles

API_SERVER = "/etc/kubernetes/manifests/kube-apiserver.yaml"
_PORT = "6443"  # the default of kube-apiserver's --secure-port


class SalvageLookup:
    """Collector of the sources for the repair of damaged entries of one node."""

    def __init__(self, config: Config, root: str, state_dir: Path, policy: Policy) -> None:
        self._config, self._root, self._state_dir, self._policy = config, root, state_dir, policy
        self._files, self._archive, self._ledger = NodeFiles(root), Archive(state_dir), Ledger(state_dir)
        self._symlink_targets = SymlinkTargets(config.certificates, self._files)
        self._subjects = LastSubjects(state_dir, config.certificates)
        self._named_servers: dict[str, tuple[tuple[str, str], ...]] = {}  # by the path of a kubeconfig, in one search

    def of_damaged(self, inventory: Inventory, now: datetime) -> dict[Identity, Salvage]:
        """Return the repair sources of each entry that is damaged at `now` (aware, UTC).

        For a CA whose key is missing, the only source is the archive directory that contains the key. For a CA whose
        certificate is missing or damaged, the only source is the command that restores a copy of the certificate.
        """
        keyless = (seen for seen in inventory.observations if lacks_key(seen))
        found = {
            each.identity: Salvage(key_directory=where) for each in keyless if (where := self._key_directory(each))
        }
        for seen in filter(lacks_ca_certificate, inventory.observations):
            if command := copy_command(seen, inventory, self._archive, self._files, now):
                found[seen.identity] = Salvage(copy_command=command)
        damaged = [seen for seen in inventory.observations if damage(seen) or unneeded_damage(seen)]
        if not damaged:
            return found
        self._named_servers, attempts = {}, dict[Identity, Attempt]()
        with suppress(CertmondError, OSError):
            attempts = self._ledger.attempts()
        generations = Generations(self._config, self._archive, self._files, lambda: now)
        subjects = self._subjects.read()
        for seen in damaged:
            salvage = self._of(seen, inventory, generations, attempts, now)
            found[seen.identity] = replace(salvage, seen_subject=subjects.get(seen.name))
        return found

    def _key_directory(self, seen: Observation) -> str | None:
        """Return an archive directory of damaged files that contains the certificate's private key.

        Return None if there is no such directory.
        """
        key = seen.certificates[0].key
        with suppress(OSError):
            for name in filter(is_damaged_name, self._archive.names()):
                for generation, files in self._generations(name):
                    if any(decode(file.content, file.path).key == key for file in files):
                        return str(self._state_dir / "archive" / name / generation)
        return None

    def _of(
        self,
        seen: Observation,
        inventory: Inventory,
        generations: Generations,
        attempts: dict[Identity, Attempt],
        now: datetime,
    ) -> Salvage:
        spec, attempt = seen.spec, attempts.get(seen.identity)
        whole = list(self._generations(spec.name))
        pairs: Pairs | None = None
        with suppress(CertmondError):
            pairs = generations.pairs(spec.name) if whole else None
        good, archived = list[tuple[str, Certificate]](), list[Certificate]()
        for number, files in whole:
            with suppress(CertmondError):
                location = generations.location(spec.name, files)
                leaf = generations.pair(location, as_put_back(files, self._files)).leaf
                if leaf and location.spec == spec:
                    archived.append(leaf)
                    if self._is_good(seen, number, files, generations, pairs):
                        good.append((number, leaf))
        barrier = ""
        with suppress(CertmondError):
            own = [path for path in (seen.path, seen.key_path) if path]
            barrier = self._files.exposed(own, spec.owner) or self._symlink_targets.objection(own, spec) or ""
        server, cluster_obstacle = None, ""
        if spec.kind is Kind.KUBECONFIG:
            servers = self._servers(seen, inventory, [files for _, files in whole])
            barrier = barrier or self._credentials_obstacle(seen)
            if is_cluster_damage(seen):
                usable, cluster_obstacle = self._cluster_sources(seen, generations, list(servers))
                server = next(iter(usable), None)
            else:
                server = next(servers, None)
        found = Salvage(
            tuple(good), tuple(archived), attempt.sha256 if attempt else None, barrier, server, None,
            attempt.repairs if attempt else 0, attempt.repaired_at if attempt else None,
            attempt.subject if attempt else None, cluster_obstacle=cluster_obstacle,
        )  # fmt: skip
        named = (each for name in spec.ca if name != SELF for each in inventory.observations if each.name == name)
        terms = Terms(now, None, inventory.facts, self._policy.validity, self._policy.key)
        signer = self._policy.signers.get(spec.signer or LOCAL, spec.signer or LOCAL)
        authority = next(named, None)
        why = obstacle(seen, signer, authority)
        if why is None and (not seen.certificates or spec.kind is Kind.KUBECONFIG):
            template = new_template(seen, found, terms, signer=signer, authority=authority)
            why = template if isinstance(template, str) else None
        return replace(found, obstacle=why)

    def _is_good(
        self, seen: Observation, number: str, files: tuple[ArchivedFile, ...], generations: Generations,
        pairs: Pairs | None,
    ) -> bool:  # fmt: skip
        """Return whether the generation is valid now, and whether it can repair the damage.

        Raises WriteError if the archived kubeconfig must not trust the present CA.
        """
        if generations.judged(seen.spec.name, number, files, pairs).worth is not Worth.GOOD:
            return False
        generations.to_restore(seen.spec.name, files)  # raises an error if certmond cannot restore the files
        if not is_cluster_damage(seen):
            return True
        if has_several_entries(self._files.read(seen.path, follow_any_link=False) or b""):
            return False  # the restore would keep the clusters of the present file
        location, content = generations.location(seen.spec.name, files), files[-1].content
        return not generations.broken_cluster(location, generations.with_present_ca(location, content))

    def _credentials_obstacle(self, seen: Observation) -> str:
        """Return why certmond cannot write credentials into a damaged kubeconfig with other users.

        Return "" if certmond can write the credentials.
        """
        if is_cluster_damage(seen):
            return ""
        with suppress(CertmondError):
            present = self._files.read(seen.path, follow_any_link=False) or b""
            if has_several_entries(present) and (why := credentials_obstacle(present, seen.path)):
                return f"{why}; move the file away, then run: certmond renew {seen.name}"
        return ""

    def _cluster_sources(
        self, seen: Observation, generations: Generations, servers: list[tuple[str, str]]
    ) -> tuple[list[tuple[str, str]], str]:
        """Return the usable `servers`, and why certmond cannot repair the cluster in the file.

        If certmond can repair the cluster, the second value is "".
        """
        try:
            present = self._files.read(seen.path, follow_any_link=False) or b""
            config = parse_kubeconfig(present, seen.path)
            trust = generations.embedded_ca(seen.spec, seen.certificates)
        except CertmondError as error:
            return servers, str(error)
        if not trust:
            return servers, missing_ca([str(seen.spec.embedded_ca)])
        known = {url.rstrip("/") for _, url in servers}
        if has_several_entries(present):  # another cluster has another server
            servers = [each for each in servers if each[0] == config.current_cluster]
        named = [each for each in config.clusters if config.current_cluster in {None, each.name}]
        if named and named[0].server and not embeds_ca(present) and named[0].server.rstrip("/") not in known:
            fact = f"cluster {named[0].name!r} has no CA data, and no other file of this node contains its server"
            remedy = (
                f"add certificate-authority-data of this cluster to {seen.path}, unless the server uses a public CA"
            )
            return servers, printable(f"{fact} {named[0].server}; {remedy}")
        try:
            with_cluster(present, seen.path, trust, servers[0][1] if servers else None)
        except CertmondError as error:
            fact = str(error).partition(";")[0]
            remedy = f"{fact}; move the file away, then run: certmond renew {seen.name}"
            return servers, remedy if servers else str(error)
        return servers, ""

    def _generations(self, name: str) -> Iterator[tuple[str, tuple[ArchivedFile, ...]]]:
        """Yield the archived generations of an entry with their files, newest first.

        Skip generations with which a service failed.
        """
        with suppress(CertmondError, OSError):
            for described, files in self._archive.complete_generations(name):
                if described.description.get("detail") != DID_NOT_WORK:
                    yield described.id, files

    def _servers(
        self, seen: Observation, inventory: Inventory, archived: Sequence[Sequence[ArchivedFile]]
    ) -> Iterator[tuple[str, str]]:
        """Yield candidates for the cluster name and the server URL of a kubeconfig.

        The sources are the archive, other kubeconfigs, and the manifest of the API server.
        """
        for files in archived:
            yield from _of_current(files[-1].content, seen.path)
        for path in self._others(seen, inventory):
            if path not in self._named_servers:
                self._named_servers[path] = tuple(self._servers_in(path))
            yield from self._named_servers[path]
        address = inventory.facts.get("advertise_address")
        with suppress(CertmondError):
            if address and (content := self._files.read(API_SERVER)):
                flags = parse_manifest(content, API_SERVER).flags.get("kube-apiserver", {})
                host = f"[{address}]" if ":" in address else address
                yield "kubernetes", f"https://{host}:{flags.get('secure-port', _PORT)}"

    def _servers_in(self, path: str) -> Iterator[tuple[str, str]]:
        """Yield the cluster name and the server URL of a kubeconfig that only root can write."""
        with suppress(CertmondError):
            writers = WriterLookup(self._root).writers([path], None)
            if not (writers.path or writers.file):
                yield from _of_current(self._files.read(path, follow_any_link=False) or b"", path)

    @staticmethod
    def _others(seen: Observation, inventory: Inventory) -> Iterator[str]:
        """Yield the paths of other kubeconfigs of the same CA. Start with the kubeconfigs of a similar use."""
        same = [each for each in inventory.observations if each.spec.embedded_ca == seen.spec.embedded_ca is not None]
        for each in sorted(same, key=lambda each: bool(each.spec.mentioned_in) != bool(seen.spec.mentioned_in)):
            if each.path != seen.path and each.spec.kind is Kind.KUBECONFIG and each.certificates:
                yield each.path
            elif each.spec.kind is Kind.KUBELET and each.spec.kubeconfig:
                yield each.spec.kubeconfig


def _of_current(content: bytes, path: str) -> Iterator[tuple[str, str]]:
    """Yield the name and server of the cluster in the current context."""
    with suppress(MalformedError):
        config = parse_kubeconfig(content, path)
        for cluster in config.clusters:
            if cluster.name == config.current_cluster and cluster.server:
                yield cluster.name, cluster.server
