"""Choice of the signer for a renewal step.

This module creates the signer. `pki.signing.policy` decides which certificates a CA signs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from certmond.config.model import Config
from certmond.errors import RefusedError
from certmond.pki.catalog.settings import LOCAL, SignerSpec
from certmond.pki.planning.steps import Issue
from certmond.signers.local_ca import LocalSigner
from certmond.signers.protocol import Signer
from certmond.transaction.commit import Transactions


class SignerChoice:
    """Factory of the signers of one configuration. A csr signer without a kubeconfig uses `kubeconfig`."""

    def __init__(
        self,
        config: Config,
        transactions: Transactions,
        state_dir: Path,
        clock: Callable[[], datetime],
        *,
        kubeconfig: str,
    ) -> None:
        self._config, self._transactions, self._state_dir, self._clock = config, transactions, state_dir, clock
        self._kubeconfig = kubeconfig

    def of(self, step: Issue) -> Signer:
        """Return the signer of the step.

        Raises RefusedError if the kind of the signer is unknown. For the kinds `local` and `kubeadm`, also raises
        RefusedError if the catalogue contains no key of the CA.
        """
        spec = next((spec for spec in self._config.signers if spec.name == step.signer), None)
        match spec.kind if spec else LOCAL:
            case "local":
                return self._local(step, spec)
            case "command" if spec:
                from certmond.signers.command import CommandSigner

                return CommandSigner(spec.name, spec.command, time_limit=spec.time_limit, ca_profile=spec.ca_profile)
            case "kubeadm" if spec:
                from certmond.signers.kubeadm import KubeadmSigner

                certificate, key = self._authority(step)
                return KubeadmSigner(
                    spec.command, certificate, key, directory=str(self._state_dir), time_limit=spec.time_limit
                )
            case "csr" if spec:
                from certmond.cluster.csr_signer import CsrSigner

                kubeconfig = self._transactions.real(spec.kubeconfig or self._kubeconfig)
                return CsrSigner(str(kubeconfig), time_limit=spec.time_limit, approve=spec.approve)
            case kind:
                raise RefusedError(
                    f"{step.target} names the signer {step.signer}, of the unknown kind {kind}; correct `signers`"
                )

    def _local(self, step: Issue, spec: SignerSpec | None) -> Signer:
        certificate, key = self._authority(step)
        return LocalSigner(certificate, key, spec.passphrase if spec else None, clock=self._clock)

    def _authority(self, step: Issue) -> tuple[str, str]:
        """Return the paths of the certificate and the key of the CA that signs.

        Raises RefusedError if the catalogue contains no such CA with a key.
        """
        entries: Mapping[str, tuple[str, str | None]] = {s.name: (s.path, s.key) for s in self._config.certificates}
        path, key = entries.get(step.authority or "", ("", None))
        if not key:
            raise RefusedError(
                f"{step.target} has no CA with a key in the catalogue; set `ca` or `signer` in the entry"
            )
        return str(self._transactions.real(path)), str(self._transactions.real(key))
