"""Controllers that change the node, lookups for damaged files and due certificates, and the time of their construction.

On an intact node, `certmond check` and the daemon in observe mode use none of them. Therefore, a process that does not
act imports their modules only when it needs them. A process that acts imports all at its start.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from certmond.config.model import Config
from certmond.controllers.coordinator_interface import Coordinator
from certmond.controllers.rotation_state import RotationState
from certmond.daemon.paced_call import PacedCall
from certmond.immutable_class import immutable
from certmond.notify.audit import Audit
from certmond.pki.planning.steps import Held
from certmond.restart.history import History
from certmond.rotation.staged_ca import Staging
from certmond.state.rotation_record import RotationRecord
from certmond.transaction.node_file_reader import NodeFiles

if TYPE_CHECKING:
    from certmond.controllers.executor import Executor
    from certmond.controllers.host_holds import HostHolds
    from certmond.controllers.restart import RestartController
    from certmond.controllers.rotation import RotationController
    from certmond.renewal.certificate_origin import ProvenanceLookup
    from certmond.renewal.derived_files import Derivations
    from certmond.renewal.repair_sources import SalvageLookup
    from certmond.restart.rollback import PreviousFiles
    from certmond.rotation.distribution_ca_files import DistributionCAFiles

T = TypeVar("T")


def available(lookup: Callable[[], T]) -> T | None:
    """Return the result of `lookup`, or None if this process cannot import the modules of the result.

    An upgrade has replaced a module, or no descriptor is available. The next pass calls `lookup` again.
    """
    with suppress(ImportError, OSError):
        return lookup()
    return None


@immutable(slots=False)
class ActingControllers:
    """Controllers of one configuration. `alive` is called often, for the watchdog of systemd.

    `acting` permits the execution of restarts. With `scattered`, a worker delays its restarts by a time that depends on
    the name of the node.
    """

    config: Config
    root: str
    state_dir: Path
    node: str
    audit: Audit
    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    alive: Callable[[], None]
    real: Callable[[str], str]
    files: NodeFiles
    history: History
    record: RotationRecord
    staging: Staging
    coordinator: Coordinator
    rotation_state: RotationState
    acting: bool
    scattered: bool

    def __post_init__(self) -> None:
        """Construct all members in a process that acts. Later, a lack of descriptors could prevent the import."""
        if self.acting:
            _ = self.executor, self.rotating, self.restarting, self.derivations, self.host_holds
            _ = self.provenance, self.salvage

    @cached_property
    def executor(self) -> Executor:
        """The executor of steps that change files."""
        from certmond.controllers.coordinator_factory import KUBELET_CONF
        from certmond.controllers.executor import Executor
        from certmond.controllers.signer_choice import SignerChoice
        from certmond.transaction.commit import Transactions

        transactions = Transactions(self.root, self.state_dir)
        choice = SignerChoice(self.config, transactions, self.state_dir, self.clock, kubeconfig=KUBELET_CONF)
        return Executor(
            self.config, root=self.root, state_dir=self.state_dir, audit=self.audit, signer=choice.of, clock=self.clock,
            alive=self.alive,
        )  # fmt: skip

    @cached_property
    def rotating(self) -> RotationController:
        """The controller of CA rotations."""
        from certmond.controllers.rotation import RotationController

        return RotationController(
            self.config, self.executor, self.rotation_state, files=self.files, record=self.record, staging=self.staging,
            coordinator=self.coordinator, audit=self.audit, clock=self.clock,
        )  # fmt: skip

    @property
    def used_rotating(self) -> RotationController | None:
        """The controller of CA rotations, or None if this process has not used the controller yet."""
        return self.__dict__.get("rotating")

    @cached_property
    def previous_files(self) -> PreviousFiles:
        """The archive of the files with which services ran."""
        from certmond.restart.rollback import PreviousFiles

        return PreviousFiles(self.config, self.root, self.state_dir, self.clock, alive=self.alive)

    @cached_property
    def restarting(self) -> RestartController:
        """The controller of restarts."""
        from certmond.controllers.restart import RestartController
        from certmond.controllers.restart_lock import RestartLock, SingleNodeLock
        from certmond.controllers.restart_lock_choice import restart_lock_of

        lock: RestartLock = SingleNodeLock()
        if self.acting:
            lock = restart_lock_of(
                self.config, node=self.node, files=self.files, real=self.real, alive=self.alive,
                scattered=self.scattered, called=lambda: self.rotation_state.called,
            )  # fmt: skip
        return RestartController(
            self.config, self.executor, self.history, self.previous_files, self.audit, lock=lock, alive=self.alive
        )

    @cached_property
    def _distribution_cas(self) -> DistributionCAFiles:
        from certmond.rotation.distribution_ca_files import DistributionCAFiles

        return DistributionCAFiles(self.config, self.root, self.state_dir)

    def distribution_holds(self, now: datetime) -> tuple[Held, ...]:
        """Return a hold if new CAs of a distribution are staged, otherwise ()."""
        return self._distribution_cas.holds(now) if self.config.ca_replacement.command else ()

    @cached_property
    def derivations(self) -> Derivations:
        """The states of the derived files."""
        from certmond.renewal.derived_files import Derivations

        return Derivations(self.config.derived, self.config.certificates, self.files)

    @cached_property
    def provenance(self) -> ProvenanceLookup:
        """The evidence about the origin of due certificates."""
        from certmond.renewal.certificate_origin import ProvenanceLookup

        return ProvenanceLookup(self.config, self.root, self.state_dir, PacedCall(self.alive))

    @cached_property
    def salvage(self) -> SalvageLookup:
        """The sources for the repair of damaged entries."""
        from certmond.config.renewal_policy import policy_of
        from certmond.renewal.repair_sources import SalvageLookup

        return SalvageLookup(self.config, self.root, self.state_dir, policy_of(self.config))

    @cached_property
    def host_holds(self) -> HostHolds:
        """The checks for holds of the host."""
        from certmond.controllers.host_holds import HostHolds

        return HostHolds(self.config, self.root, self.alive, self.monotonic)
