"""Observations of the certificates that a listener on this node serves, but that no watched file contains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved
from certmond.pki.catalog.observation import Observation
from certmond.pki.catalog.served_entries import Listener, served_spec
from certmond.pki.findings import Fault, Reason, Severity
from certmond.pki.services.service_observation import Live
from certmond.pki.x509.certificate_file_parser import Document, certificate_document
from certmond.pki.x509.path_building import signed_by

_REMEDY = "see the log of the service, and run: certmond explain not_watched"


def served_observations(
    listeners: Mapping[Endpoint, Listener], live: Live | None, files: Sequence[Observation],
    before: Iterable[Observation],
) -> tuple[Observation, ...]:  # fmt: skip
    """Return an observation of each served certificate that is in no file, or of the fault of its listener.

    `files` contains the observations of files, and `before` the last observations, for listeners that do not answer. If
    no CA of the node has signed the certificate, no client of the node can verify the certificate. In this case, the
    maximum severity is a warning. Without an observation of the services (`live`), the result is empty.
    """
    if not listeners or live is None:
        return ()
    known = {seen.path: seen for seen in before}
    in_files = {each for seen in files for each in seen.certificates}
    authorities = [seen.certificates[0] for seen in files if seen.spec.authority and seen.certificates]
    found = list[Observation]()
    for endpoint, listener in listeners.items():
        last = known.get(str(endpoint))
        contents = _contents(endpoint, listener, live.served.get(endpoint), last)
        if contents is None or not in_files.isdisjoint(contents.certificates):
            continue
        issued = any(signed_by(leaf, ca) for leaf in contents.certificates for ca in authorities)
        spec = served_spec(endpoint, listener, None if issued else Severity.WARNING)
        seen = Observation(spec.name, spec, spec.path, contents.certificates, faults=contents.faults)
        found.append(last if last == seen else seen)
    return tuple(found)


def _contents(endpoint: Endpoint, listener: Listener, answer: Seen | None, last: Observation | None) -> Document | None:
    """Return the served certificate, or the last one if the listener serves none now.

    If there is no last certificate, return a fault, or None if the port is closed or certmond has not probed the port.
    """
    match answer:
        case Served():
            document = certificate_document(answer.der, f"the certificate at {endpoint}")
            remedy = f"it is renewed by {listener.renewed_by}"
            return replace(document, faults=tuple(replace(each, remedy=remedy) for each in document.faults))
        case _ if last and last.certificates:
            return Document(last.certificates, faults=last.faults)
        case Unserved(refused=False):
            fact = f"certmond does not watch the certificate of {listener.service} at {endpoint}: {answer.reason}"
            return Document(faults=(Fault(Reason.NOT_WATCHED, fact, _REMEDY),))
        case _:
            return None
