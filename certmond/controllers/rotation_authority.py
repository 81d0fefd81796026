"""Authorization of a new rotation of a cluster: a signature by the old CA's key, or a certificate from the old CA."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from certmond.config.model import Config
from certmond.errors import CertmondError, RotationError
from certmond.formats.private_key import load_key, make_key, sign
from certmond.pki.rotation.authorization import statement, with_certificate
from certmond.pki.rotation.phases import Rotation
from certmond.pki.signing.policy import Denial
from certmond.pki.signing.rotation_certificate import PERMISSIONS, rotation_grant
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import describe_key, public_key_of
from certmond.signers.command import CommandSigner
from certmond.signers.protocol import Request
from certmond.transaction.node_file_reader import NodeFiles

_RESERVE = timedelta(days=1)
"""Validity of a rotation certificate in addition to the minimum duration of the phases."""


class RotationAuthority:
    """Authorization of the rotations that begin on one node."""

    def __init__(self, config: Config, files: NodeFiles, clock: Callable[[], datetime]) -> None:
        self._config, self._files, self._clock = config, files, clock

    def authorized(self, rotation: Rotation) -> Rotation:
        """Return `rotation` with the authorization by the old CA, which the other nodes of a cluster require.

        Return `rotation` unchanged if `cluster.kubeconfig` is not set, or if a user has already replaced the CA. If
        this node has no file with the key, request a rotation certificate from `root_ca.record_signer`. Raises
        RotationError without the key of the old CA and without a usable certificate. Raises KeyUnusableError if the key
        is unusable.
        """
        if self._config.cluster.kubeconfig is None or rotation.found:
            return rotation
        path = next((spec.key for spec in self._config.certificates if spec.name == rotation.family), None)
        content = self._files.read(path) if path else None
        key = load_key(content, path) if path and content else None
        if key is None and self._config.root_ca.record_signer:
            return self._certified(rotation, self._config.root_ca.record_signer)
        if key is None or describe_key(key.public_key()) not in {each.key for each in rotation.old}:
            fact = f"{path} is not the key of the old CA" if content else "this node has no key of the old CA"
            raise RotationError(
                f"{rotation.name} cannot begin on this node: {fact}; begin the rotation on a control-plane node that "
                "has this key (if no node has this key, set `root_ca.record_signer`: "
                "docs/rotation.md#external-ca-in-a-cluster)"
            )
        return replace(rotation, signature=b64encode(sign(key, statement(rotation))).decode("ascii"))

    def _certified(self, rotation: Rotation, name: str) -> Rotation:
        """Return the rotation with a certificate from the signer `name`. Discard the private key of the certificate.

        Raises RotationError if the signer issues no usable certificate.
        """
        now, until = self._clock(), self._clock() + 2 * self._config.root_ca.overlap + _RESERVE
        try:
            issued = self._certificate(statement(rotation), name, now, until)
            made = with_certificate(rotation, issued, self._clock())  # not `now`, which can be before notBefore
        except CertmondError as error:
            raise RotationError(
                f"{rotation.name} cannot begin: the signer {name} of `root_ca.record_signer` has issued no usable "
                f"certificate: {error}; the signer must sign with the old CA, and must permit {PERMISSIONS}"
            ) from None
        return made

    def _certificate(self, text: bytes, name: str, now: datetime, until: datetime) -> Certificate:
        """Return a certificate that authorizes the rotation with the statement `text`.

        Raises RotationError if the policy denies the request, or if the certificate ends before `until`. Also raises
        the exceptions of the signer.
        """
        granted = rotation_grant(text, now, until)
        if isinstance(granted, Denial):
            raise RotationError(str(granted))
        spec = next(each for each in self._config.signers if each.name == name)
        key, node = make_key(granted.template.key), self._config.node_name or ""
        signer = CommandSigner(spec.name, spec.command, time_limit=spec.time_limit, ca_profile=spec.ca_profile)
        found = decode(signer.sign(Request("the rotation", granted, key, node)).pem, f"the answer of {name}")
        issued = next(each for each in found.certificates if each.key == public_key_of(key))
        if issued.not_after < until:
            fact = f"the certificate ends on {issued.not_after:%Y-%m-%d %H:%M} UTC, before the end of the rotation"
            raise RotationError(f"{fact}; the signer must permit a validity until {until:%Y-%m-%d %H:%M} UTC or later")
        return issued
