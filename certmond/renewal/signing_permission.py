"""The permission to sign a step of the plan, by what the node shows at the moment of the signature.

Owns that the evidence is looked up afresh, and that the CA is the same one afterwards. What is permitted is
`pki.signing_policy`'s decision. Only reads.
"""

from __future__ import annotations

from pathlib import Path

from certmond.config.model import Config
from certmond.errors import RefusedError, WriteError
from certmond.pki.catalog.entries import SELF
from certmond.pki.planning.steps import Issue
from certmond.pki.signing.policy import Basis, Denial, Grant, basis, fixed_by, grant
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.parsing import decode
from certmond.renewal.certificate_origin import ProvenanceLookup
from certmond.transaction.node_files import NodeFiles


class Grants:
    """For one configuration and the node below `root`."""

    def __init__(self, config: Config, root: str, state_dir: Path, files: NodeFiles) -> None:
        self._authorities = {
            spec.name: spec.path
            for spec in config.certificates
            if spec.authority and not spec.is_glob and spec.password_file is None
        }
        self._files, self._provenance = files, ProvenanceLookup(config, root, state_dir)

    def granted(self, step: Issue) -> Grant:
        """The permission to sign it, by what the node shows at this moment. Raises RefusedError."""
        seen = step.status.seen
        if step.old is None:
            paths = [each for each in (step.path, seen.key_path) if each]
            derived = Basis(barrier=self._files.exposed(paths, seen.spec.owner) or "")
        else:
            derived = self._basis(step, step.old)
        granted = grant(step.template, fixed_by(seen.spec, step.facts), derived)
        if isinstance(granted, Denial):
            fact = f"{step.path} is not renewed: the CA's key does not sign it: {granted}"
            raise RefusedError(f"{fact}; see what would be signed: certmond renew {step.target} --dry-run")
        return granted

    def _basis(self, step: Issue, old: Certificate) -> Basis:
        """What the successor of a certificate can be derived from, as the node shows it at this moment."""
        status, seen = step.status, step.status.seen
        provenance = self._provenance.of(seen, step.authority, status.presence.provenance)
        return basis(old, seen.certificates[1:], status.issuers, provenance)

    def check_authorities(self, step: Issue) -> None:
        """A signer may take its time. Raises WriteError where the CA on the node has become another meanwhile.

        Not asked of anchors that more than reading a file of PEM finds: those of a pattern, or below a password.
        """
        named = [name for name in step.status.seen.spec.ca if name != SELF]
        if not self._authorities.keys() >= set(named):
            return
        paths = [self._authorities[name] for name in named]
        found = {each for path in paths for each in decode(self._files.read(path) or b"", path).certificates}
        own = set(step.status.seen.certificates if SELF in step.status.seen.spec.ca else ())
        if paths and found - own != set(step.status.anchors) - own:
            raise WriteError(f"{', '.join(paths)} changed while {step.target} was signed; it is looked at again")
