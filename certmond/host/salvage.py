"""What the files of an entry that are damaged can be made from again: the archive, the entry, what the node knows.

Owns the gathering of that, for the entries that are damaged at this moment, and where the API server of a kubeconfig
is. Judges what is kept by `generations`, and decides nothing: `pki.damage` does. Only reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from certmond.config import Config
from certmond.errors import CertmondError, MalformedError
from certmond.host.archive import DID_NOT_WORK, Archive, ArchivedFile
from certmond.host.archived_pair import Worth, as_put_back
from certmond.host.destination import Destinations
from certmond.host.generations import Generations
from certmond.host.kubeconfig import parse_kubeconfig
from certmond.host.kubeconfig_text import has_others, unfit, with_cluster
from certmond.host.last_subjects import LastSubjects
from certmond.host.ledger import Ledger
from certmond.host.manifest import parse_manifest
from certmond.host.node_files import NodeFiles
from certmond.host.placing import is_damaged_name
from certmond.host.writers import WriterLookup
from certmond.pki.assess import Assessment
from certmond.pki.attempt import Attempt
from certmond.pki.catalog import SELF, Kind
from certmond.pki.certificate import Certificate
from certmond.pki.circumstances import Policy
from certmond.pki.damage import damage, is_of_cluster, lacks_key, new_template, obstacle
from certmond.pki.encoding import decode
from certmond.pki.inventory import Inventory, Observation, Salvage
from certmond.pki.issuance import Terms
from certmond.pki.settings import LOCAL
from certmond.pki.steps import Identity

API_SERVER = "/etc/kubernetes/manifests/kube-apiserver.yaml"
_PORT = "6443"  # kube-apiserver's --secure-port


class SalvageLookup:
    """The damaged entries of one node, for one configuration."""

    def __init__(self, config: Config, root: str, state_dir: Path, policy: Policy) -> None:
        self._config, self._root, self._state_dir, self._policy = config, root, state_dir, policy
        self._files, self._archive, self._ledger = NodeFiles(root), Archive(state_dir), Ledger(state_dir)
        self._destinations = Destinations(config.certificates, self._files)
        self._subjects = LastSubjects(state_dir, config.certificates)

    def note(self, assessment: Assessment) -> None:
        """Remember what a repair has to know of files that are whole now."""
        self._subjects.note(assessment)

    def of_damaged(self, inventory: Inventory, now: datetime) -> dict[Identity, Salvage]:
        """Return what there is for each entry that is damaged at `now` (aware, UTC), and each CA that lacks its key."""
        keyless = (seen for seen in inventory.observations if lacks_key(seen))
        found = {seen.identity: Salvage(key_in=place) for seen in keyless if (place := self._key_of(seen))}
        damaged = [seen for seen in inventory.observations if damage(seen)]
        if not damaged:
            return found
        attempts = dict[Identity, Attempt]()
        with suppress(CertmondError, OSError):
            attempts = self._ledger.attempts()
        generations = Generations(self._config, self._archive, self._files, lambda: now)
        subjects = self._subjects.read()
        for seen in damaged:
            salvage = self._of(seen, inventory, generations, attempts, now)
            found[seen.identity] = replace(salvage, seen_subject=subjects.get(seen.name))
        return found

    def _key_of(self, seen: Observation) -> str | None:
        """The directory of the newest damaged files of an entry that hold the private key of a certificate."""
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
        good, kept = list[tuple[str, Certificate]](), list[Certificate]()
        for number, files in whole:
            with suppress(CertmondError):
                form = generations.form(spec.name, files)
                leaf = generations.pair(form, as_put_back(files, self._files)).leaf
                if leaf and form.spec == spec:
                    kept.append(leaf)
                    if self._is_good(seen, number, files, generations):
                        good.append((number, leaf))
        barrier = ""
        with suppress(CertmondError):
            own = [path for path in (seen.path, seen.key_path) if path]
            barrier = self._files.exposed(own, spec.owner) or self._destinations.astray(own, spec) or ""
        server, uncorrected = None, ""
        if spec.kind is Kind.KUBECONFIG:
            server = next(self._servers(seen, inventory, [files for _, files in whole]), None)
            barrier = barrier or self._unfit(seen)
        if is_of_cluster(seen):
            uncorrected = self._uncorrected(seen, generations, server)
        found = Salvage(
            tuple(good), tuple(kept), attempt.sha256 if attempt else None, barrier, server, None,
            attempt.repairs if attempt else 0, attempt.repaired_at if attempt else None,
            attempt.subject if attempt else None, uncorrected=uncorrected,
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
        self, seen: Observation, number: str, files: tuple[ArchivedFile, ...], generations: Generations
    ) -> bool:
        """The generation is good now, and of a kubeconfig whose cluster is broken, it brings a whole one."""
        if generations.judged(seen.spec.name, number, files).worth is not Worth.GOOD:
            return False
        if not is_of_cluster(seen):
            return True
        form, content = generations.form(seen.spec.name, files), files[-1].content
        others = has_others(self._files.read(seen.path, anyones=False) or b"")  # it keeps its clusters
        return not (others or generations.broken_cluster(form, generations.trusting(form, content)))

    def _unfit(self, seen: Observation) -> str:
        """Why no credentials can be put into a damaged kubeconfig that has other users; "" where they can."""
        with suppress(CertmondError):
            present = self._files.read(seen.path, anyones=False) or b""
            if not is_of_cluster(seen) and has_others(present) and (why := unfit(present, seen.path)):
                return f"{why}; move the file away, then: certmond renew {seen.name}"
        return ""

    def _uncorrected(self, seen: Observation, generations: Generations, server: tuple[str, str] | None) -> str:
        """Why the cluster of a kubeconfig cannot be put right in place; "" where it can."""
        try:
            present = self._files.read(seen.path, anyones=False) or b""
            with_cluster(present, seen.path, generations.trust(seen.spec), server[1] if server else None)
        except CertmondError as error:
            anew = f"{str(error).partition(';')[0]}; move the file away, then: certmond renew {seen.name}"
            return anew if server else str(error)
        return ""

    def _generations(self, name: str) -> Iterator[tuple[str, tuple[ArchivedFile, ...]]]:
        """Newest first, but for those with which a service did not work; none where they cannot be read."""
        with suppress(CertmondError, OSError):
            for described, files in self._archive.whole(name):
                if described.description.get("detail") != DID_NOT_WORK:
                    yield described.id, files

    def _servers(
        self, seen: Observation, inventory: Inventory, kept: Sequence[Sequence[ArchivedFile]]
    ) -> Iterator[tuple[str, str]]:
        """The cluster and the server of a kubeconfig: as it had them, as another of the same CA has them that only root
        can write, as the API server's manifest says.
        """
        for files in kept:
            yield from _of_current(files[-1].content, seen.path)
        writers = WriterLookup(self._root)
        for path in self._others(seen, inventory):
            with suppress(CertmondError):
                strangers = writers.writers([path], None)
                if not (strangers.path or strangers.file):
                    yield from _of_current(self._files.read(path, anyones=False) or b"", path)
        address = inventory.facts.get("advertise_address")
        with suppress(CertmondError):
            if address and (content := self._files.read(API_SERVER)):
                flags = parse_manifest(content, API_SERVER).flags.get("kube-apiserver", {})
                host = f"[{address}]" if ":" in address else address
                yield "kubernetes", f"https://{host}:{flags.get('secure-port', _PORT)}"

    @staticmethod
    def _others(seen: Observation, inventory: Inventory) -> Iterator[str]:
        """The kubeconfigs of the same CA: first those of the same kind, of a static pod or of people."""
        same = [each for each in inventory.observations if each.spec.embedded_ca == seen.spec.embedded_ca is not None]
        for each in sorted(same, key=lambda each: bool(each.spec.mentioned_in) != bool(seen.spec.mentioned_in)):
            if each.path != seen.path and each.spec.kind is Kind.KUBECONFIG and each.certificates:
                yield each.path
            elif each.spec.kind is Kind.KUBELET and each.spec.kubeconfig:
                yield each.spec.kubeconfig


def _of_current(content: bytes, path: str) -> Iterator[tuple[str, str]]:
    """Name and server of the cluster of a kubeconfig's current context."""
    with suppress(MalformedError):
        config = parse_kubeconfig(content, path)
        for cluster in config.clusters:
            if cluster.name == config.current_cluster and cluster.server:
                yield cluster.name, cluster.server
