"""Validation of the new CAs of a distribution, before the command of the distribution stores them.

The rules of `k3s certificate rotate-ca` are in k3s-io/k3s: pkg/server/handlers/cert.go (validateCA, validateCAKey) and
pkg/cluster/bootstrap.go (ReconcileBootstrapData). certmond also requires that old and new leaves have a certification
path at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from certmond.immutable_class import immutable
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import find_paths, signed_by
from certmond.pki.x509.public_key import PublicKey

_SKEW = timedelta(seconds=3)
"""Time by which a present file may be newer than the new file (systemTimeSkew in pkg/cluster/bootstrap.go)."""
_USAGE = ("server auth",)
"""The usage that Go requires by default (crypto/x509, VerifyOptions.KeyUsages)."""


@immutable
class NewCA:
    """The new certificates and the key of one CA of a distribution, and the present certificates.

    `name` is the entry of the CA. `key` is the first private key in the new key file, or in the present key file if
    there is no new key file. `key_problem` says why there is no `key`. `faults` describes the unreadable parts of the
    new file. The times are the modification times of the certificate files.
    """

    name: str
    path: str
    key_path: str
    present_path: str
    present: tuple[Certificate, ...]
    new: tuple[Certificate, ...]
    key: PublicKey | None
    key_problem: str = ""
    faults: tuple[str, ...] = ()
    written_at: datetime | None = None
    present_written_at: datetime | None = None

    @property
    def is_installed(self) -> bool:
        """Whether the present file contains exactly the new certificates."""
        return self.new == self.present


def objections(ca: NewCA, now: datetime, command: str) -> Iterator[str]:
    """Yield each reason why the new CA cannot replace the present CA. `command` is the command of the distribution."""
    yield from ca.faults
    if not ca.new:
        if not ca.faults:
            yield f"{ca.path} contains no certificate"
        return
    first = ca.new[0]
    if len(ca.new) == 1:
        yield f"{ca.path} contains only one certificate, but {command} requires the Root CA in the same file"
    if not (first.is_ca and first.has_usage("cert sign")):
        yield f"the first certificate in {ca.path}, {first.called}, may not sign certificates"
    yield from _unverified(ca, now)
    if ca.key is None:
        yield ca.key_problem or f"{ca.key_path} is missing"
    elif ca.key != first.key:
        yield f"the first key in {ca.key_path} is not the key of the first certificate in {ca.path}"
    times = ca.written_at, ca.present_written_at
    if not ca.is_installed and times[0] and times[1] and times[1] - times[0] >= _SKEW:
        yield (
            f"{ca.path} is older than {ca.present_path}, so the service would not start after {command}; check the "
            "clock of this host"
        )


def _unverified(ca: NewCA, now: datetime) -> Iterator[str]:
    """Yield the certificates without a necessary certification path."""
    first, *others = ca.new
    present_roots = [each for each in ca.present if each.authority_key_id in {None, each.subject_key_id}]
    if first in ca.present:
        if not find_paths(first, _roots(ca.new), others, _USAGE).valid_at(now):
            yield f"{ca.path} contains no valid Root CA for its first certificate, {first.called}"
        return
    between = [each for each in ca.present if each not in present_roots]
    between += [each for each in others if each.authority_key_id]
    if not find_paths(first, present_roots, between, _USAGE).valid_at(now):
        yield (
            f"{first.called} in {ca.path} has no valid certification path to a Root CA in {ca.present_path}, so "
            "clients that trust only this Root CA would refuse the new certificates"
        )
    if not find_paths(first, _roots(others), others, _USAGE).valid_at(now):
        yield f"{ca.path} contains no valid Root CA for its first certificate, {first.called}"
    if ca.present and not find_paths(ca.present[0], _roots(others), ca.present, _USAGE).valid_at(now):
        yield (
            f"{ca.path} does not contain the Root CA of {ca.present[0].called} in {ca.present_path}, so components "
            "with the new CA would refuse the old certificates"
        )


def _roots(certificates: tuple[Certificate, ...] | list[Certificate]) -> list[Certificate]:
    return [each for each in certificates if each.self_issued and signed_by(each, each)]
