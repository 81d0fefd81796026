"""Permission to sign a certificate of the plan, from the evidence at the time of the signature.

`pki.signing.policy` decides on the permission.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path

from certmond.config.model import Config
from certmond.errors import RefusedError, WriteError
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.entries import SELF
from certmond.pki.planning.installed_successors import Renewals, holder_of
from certmond.pki.planning.steps import Identity, Issue
from certmond.pki.signing.policy import Basis, Denial, Grant, basis, contents_of, fixed_by, grant
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.renewal.certificate_origin import ProvenanceLookup
from certmond.transaction.node_file_reader import NodeFiles


class SigningPermissions:
    """Permissions to sign certificates on one node.

    The evidence of a plan does not contain the certificates that the steps of this plan install. The caller calls
    `begin` before the first step, and reports each of these certificates to `installed`.
    """

    def __init__(self, config: Config, root: str, state_dir: Path, files: NodeFiles) -> None:
        self._authorities = {
            spec.name: spec.path
            for spec in config.certificates
            if spec.authority and not spec.is_glob and spec.password_file is None
        }
        self._files, self._provenance = files, ProvenanceLookup(config, root, state_dir)
        self._renewals = Renewals({})
        self._new: dict[tuple[str, str | None], dict[Hashable, Certificate]] = {}

    def begin(self, attempts: Mapping[Identity, Attempt]) -> None:
        """Begin the steps of another plan. `attempts` are the recorded attempts before the first step."""
        self._renewals, self._new = Renewals(attempts), {}

    def installed(self, step: Issue, certificate: Certificate) -> None:
        """Record the certificate that `step` has installed. No other file of a pattern may get other contents."""
        of_holder = self._new.setdefault((step.target, holder_of(certificate)), {})
        of_holder[contents_of(certificate)] = certificate

    def granted(self, step: Issue) -> Grant:
        """Return the permission to sign, from the present evidence.

        Raises RefusedError if the policy denies the permission, and WriteError if certmond cannot read the archive.
        """
        seen = step.status.seen
        if step.old is None:
            paths = [each for each in (step.path, seen.key_path) if each]
            derived = Basis(barrier=self._files.exposed(paths, seen.spec.owner) or "")
        else:
            derived = self._basis(step, step.old)
        granted = grant(step.template, fixed_by(seen.spec, step.facts), derived)
        if isinstance(granted, Denial):
            fact = f"certmond does not renew {step.path} with the key of the CA: {granted}"
            raise RefusedError(
                f"{fact}; see the contents that certmond would sign: certmond renew {step.target} --dry-run"
            )
        return granted

    def _basis(self, step: Issue, old: Certificate) -> Basis:
        """Return the sources for the certificate that replaces `old`, from the present evidence."""
        status, seen, known = step.status, step.status.seen, step.status.presence.provenance
        provenance = self._provenance.of(status, step.authority, self._renewals)
        if provenance.owner_writes and seen.spec.is_glob and not (known and known.owner_writes):
            provenance = replace(provenance, uncompared=True)  # a later certificate can be in another file
        if provenance.owner_writes:
            new = self._new.get((step.target, holder_of(old)), {}).values()
            provenance = replace(provenance, later_issued=(*provenance.later_issued, *new))
        return basis(old, seen.certificates[1:], status.issuers, provenance)

    def check_authorities(self, step: Issue) -> None:
        """Raise WriteError if a CA of the certificate has changed on the node since the plan."""
        named = [name for name in step.status.seen.spec.ca if name != SELF]
        if not self._authorities.keys() >= set(named):
            return
        paths = [self._authorities[name] for name in named]
        found = {each for path in paths for each in decode(self._files.read(path) or b"", path).certificates}
        own = set(step.status.seen.certificates if SELF in step.status.seen.spec.ca else ())
        if paths and found - own != set(step.status.anchors) - own:
            raise WriteError(f"{', '.join(paths)} changed while the signer signed {step.target}; certmond tries again")
