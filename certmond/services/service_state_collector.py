"""Collection of the facts about services that a pass needs: files, flags, processes, served certificates.

For a root other than "/", certmond collects these facts only from files. `pki.services.staleness` evaluates the facts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from certmond.config.model import Config
from certmond.errors import MalformedError
from certmond.files.catalog_observer import Store
from certmond.formats.manifest import Components
from certmond.pki.catalog.component_certificate_flags import PROGRAMS
from certmond.pki.catalog.endpoint import Endpoint
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.served_entries import Listener, renewed_at_start, renewed_by_operator
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.services.outage import demands_in_outages
from certmond.pki.services.restart_episode import Past
from certmond.pki.services.service_observation import Content, Demand, Live, Survey
from certmond.pki.services.staleness import Surroundings, files_of
from certmond.pki.services.trust_set_digest import trust_sets
from certmond.pki.services.unwatched_served_certificates import served_observations
from certmond.pki.x509.certificate import to_pem
from certmond.services.content_times import EPOCH, Changes
from certmond.services.file_usage import manifest_path, pod_name, runtime_endpoint, survey
from certmond.services.observed_subjects import Pod, Question
from certmond.services.observer_thread import ObserverThread

if TYPE_CHECKING:
    from certmond.services.health_probe import Anchors


class SurroundingsObserver:
    """Collector of the facts about services.

    `acting` is True for a process that restarts services. Only such a process probes the health of the services.
    """

    def __init__(
        self, config: Config, root: str, changes: Changes, *, acting: bool, wake: Callable[[], None] = lambda: None
    ) -> None:
        self._config, self._changes, self._acting = config, changes, acting
        # A process that acts probes each second, and the client of the Kubernetes API needs asyncio and OpenSSL anyway.
        self._observer = ObserverThread(wake, isolated=not acting and not config.cluster.kubeconfig)
        self._visible = root == "/"
        self._question = Question()
        self._services: Sequence[ServiceSpec] = config.services
        self._contents: Mapping[str, Content] = {}
        self._requested: tuple[Question, Mapping[str, Content]] | None = None
        self._live: Live | None = None
        self._served: tuple[Observation, ...] = ()
        self._outage_demands: dict[str, Demand] = {}
        self.pods: Mapping[str, Pod] = {}
        self.runtime_endpoint: str | None = None

    def around(self, store: Store, inventory: Inventory, past: Mapping[str, Past]) -> Surroundings:
        """Return the present facts about services. The observation of the processes can be older than this call."""
        live = self._live = self._observer.seen or self._live
        components = store.components()
        self._services = [each for each in self._config.services if _is_here(each, store)]
        commands = {name: seen.command for name, seen in live.services.items()} if live else {}
        found = self._with_configured(survey(components, self._services, commands))
        if self._config.follows_references:
            found = replace(found, listeners={**found.listeners, **dict(self._without_entry(found, inventory))})
        used_paths = {path for used in found.uses.values() for path in used} | {
            path for _, path in found.serving.values()
        }
        seen = [each for each in inventory.observations if each.spec.consumers or each.path in used_paths]
        paths = sorted({path for each in seen for path in files_of(each)})
        self._prepare(components, found, inventory)
        sets = trust_sets(inventory.observations)
        states = ((path, sets.get(path, sha256), ctime) for path, sha256, ctime in store.states(paths))
        self._contents = self._changes.contents(states, datetime.now(UTC))  # the system clock, which also sets ctime
        self._served = served_observations(found.listeners, live, inventory.observations, self._served)
        demands = self._demands(store, components)
        self._outage_demands = demands_in_outages(demands, self._outage_demands, live)
        return Surroundings(
            self._services, found, live, self._contents, past,
            self._config.restart.reload_within, elsewhere=not self._visible, served=self._served,
            demands=demands | self._outage_demands,
        )  # fmt: skip

    def continue_from(self, former: SurroundingsObserver) -> None:
        """Use the last observation of `former`, which is closed, until the first observation of this object.

        Otherwise, each reload of the configuration would clear all findings about services for a short time. Leave out
        the services whose configuration has changed. If only one of the two objects is `acting`, do not use the
        observation.
        """
        live, known = former._observer.seen, {each.name: each for each in former._config.services}
        if live is None or former._acting != self._acting:  # only an acting process probes the health
            return
        same = {each.name for each in self._config.services if known.get(each.name) == each}
        self._observer.seen = self._live = replace(
            live, services={name: seen for name, seen in live.services.items() if name in same}
        )
        self._served, self._outage_demands = former._served, former._outage_demands

    @property
    def sees_other_processes(self) -> bool:
        """Whether the processes of the services have changed since the observation that `around` used."""
        seen, known = self._observer.seen, self._live
        return seen is not None and seen is not known and _instances(seen) != _instances(known)

    @property
    def has_news(self) -> bool:
        """Whether a file or a subject of the observation has changed since the latest request.

        Below another root (`--root`), the property is always False.
        """
        return self._visible and (self._question, self._contents) != self._requested

    def ask(self) -> None:
        """Request an observation of the services, and do not wait for the result."""
        if self._visible:
            self._requested = self._question, self._contents
            self._observer.ask(self._question)

    def view(self, store: Store, inventory: Inventory, past: Mapping[str, Past]) -> Surroundings:
        """Return the facts about services after an observation. Repeat the observation while new subjects appear."""
        around = self.around(store, inventory, past)
        self._requested = None
        while self.has_news:
            from certmond.services.service_observer import observe

            self._requested = self._question, self._contents
            self._live = observe(self._question, self._live)
            around = self.around(store, inventory, past)
        return around

    def close(self) -> None:
        self._observer.close()

    def _with_configured(self, found: Survey) -> Survey:
        """Return the survey with the configured endpoints, which take precedence over the endpoints from flags.

        With `profile: none`, the configuration names all listeners whose certificate is in no file.
        """
        entries = {spec.name: spec.path for spec in self._config.certificates}
        serving = dict(found.serving)
        listeners = dict(found.listeners) if self._config.follows_references else {}
        for service in self._services:
            for name, endpoints in service.serves.items():
                for text in endpoints:
                    serving[Endpoint.parse(text)] = service.name, entries[name]
            for text in service.listens:
                listeners[Endpoint.parse(text)] = Listener(service.name, renewed_at_start(service.name))
        return replace(
            found, serving=serving, listeners={at: each for at, each in listeners.items() if at not in serving}
        )

    def _without_entry(self, found: Survey, inventory: Inventory) -> Iterator[tuple[Endpoint, Listener]]:
        """Yield the endpoints of services whose certificate file is missing, or is not watched by certmond."""
        watched = {seen.path for seen in inventory.observations}
        specs = {spec.path: spec for spec in self._config.certificates}
        for endpoint, (service, path) in found.serving.items():
            if service and path not in watched:
                spec = specs.get(path)
                clause = renewed_at_start(service) if spec else renewed_by_operator(service)
                yield endpoint, Listener(service, (spec and spec.renewed_by) or clause)

    def _demands(self, store: Store, components: Components) -> dict[str, Demand]:
        """Return the manifest that starts each service in a static Pod, by the name of the service.

        Omit a Pod whose program is not in PROGRAMS.
        """
        found = dict[str, Demand]()
        for service in self._services:
            pod, path = self.pods.get(service.name), manifest_path(service, components)
            if pod and pod.executable in PROGRAMS:
                for _, _, ctime in store.states([path]):
                    found[service.name] = Demand(path, EPOCH + timedelta(microseconds=ctime // 1000))
        return found

    def _prepare(self, components: Components, found: Survey, inventory: Inventory) -> None:
        """Select the units, Pods, endpoints and health addresses of the next observation."""
        node = inventory.facts.get("node_name", "")
        pods = {}
        for service in self._services:
            if service.kind == "static-pod" and (pod := pod_name(service, components)):
                namespace, name, executable = pod
                pods[service.name] = Pod(
                    container=service.pod or "", name=f"{name}-{node}", executable=executable, namespace=namespace
                )
        self.pods, self.runtime_endpoint = pods, runtime_endpoint(components)
        units = {service.name: service.unit or "" for service in self._services if service.kind == "systemd"}
        pid_files = {service.name: service.pid_file for service in self._services if service.pid_file}
        health = {
            address: self._anchors(address, found, inventory) for each in found.health.values() for address in each
        }
        endpoints = tuple(dict.fromkeys((*found.serving, *found.listeners)))
        self._question = Question(units, pid_files, pods, endpoints, health if self._acting else {})

    def _anchors(self, address: str, found: Survey, inventory: Inventory) -> Anchors:
        """Return the CA certificates, in PEM, that verify the certificate of an https:// address.

        Return None for any other address, or if no such CA is known.
        """
        if not address.startswith("https://"):
            return None
        place = address.removeprefix("https://").partition("/")[0]
        try:
            port = Endpoint.parse(place).port
        except MalformedError:
            return None
        served = {path for endpoint, (_, path) in found.serving.items() if endpoint.port == port}
        named = {name for seen in inventory.observations if seen.path in served for name in seen.spec.ca}
        anchors = [seen.certificates[0] for seen in inventory.observations
                   if seen.spec.authority and seen.spec.name in named and seen.certificates]  # fmt: skip
        return "".join(to_pem(each).decode() for each in anchors) or None


def _instances(live: Live | None) -> dict[str, str | None]:
    """Return the identifier of the running instance of each service, or {} without an observation."""
    return {name: seen.instance for name, seen in live.services.items()} if live else {}


def _is_here(service: ServiceSpec, store: Store) -> bool:
    """Return whether the files of this node show that the node has the service."""
    if service.belongs_with and not any(map(store.has, service.belongs_with)):
        return False
    return not any(map(store.has, service.not_with))
