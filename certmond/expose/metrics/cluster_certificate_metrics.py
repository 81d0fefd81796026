"""Metrics about the objects of the cluster, on a node whose configuration enables the reader of the cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from certmond.expose.metrics.exposition import Family
from certmond.expose.metrics.label_escapes import escaped

if TYPE_CHECKING:
    from certmond.pki.services.cluster_objects import ClusterReading

READER = Family(
    "certmond_cluster_reader", "1 on the node that reads the objects of the cluster, 0 on the other nodes", ()
)
READ_AT = Family(
    "certmond_cluster_last_read_timestamp_seconds",
    "Time of the last successful listing of this kind, Unix time",
    ("kind", "namespace"),
)
OBJECTS = Family("certmond_cluster_objects", "Number of objects in the last successful listing", ("kind", "namespace"))
END = Family(
    "certmond_cluster_certificate_not_after_timestamp_seconds",
    "End of validity of a certificate in an object of the cluster, Unix time",
    ("kind", "namespace", "name", "key", "subject", "sha256"),
)
REQUESTS = Family(
    "certmond_cluster_certificate_requests",
    "Number of CertificateSigningRequests without a certificate",
    ("signer", "phase"),
)
OLDEST = Family(
    "certmond_cluster_oldest_certificate_request_timestamp_seconds",
    "Creation of the oldest CertificateSigningRequest without a certificate, Unix time",
    ("signer", "phase"),
)
CLUSTER_FAMILIES = (READER, READ_AT, OBJECTS, END, REQUESTS, OLDEST)
"""The gauges about the cluster, in the order of the exposition. Only the reading node has series after the first."""


class ClusterMetrics:
    """Metrics text of a reading, with a cache of the last text."""

    def __init__(self) -> None:
        self._reading: ClusterReading | None = None
        self._text = ""

    def text(self, reading: ClusterReading | None) -> str:
        """Return the metrics text (format 0.0.4), or "" if the reader is disabled."""
        if reading is not self._reading:
            self._reading, self._text = reading, _text(reading) if reading else ""
        return self._text


def _text(reading: ClusterReading) -> str:
    series = {
        READER: _series([((), int(reading.leads))], READER),
        READ_AT: _series(
            (
                ((each.place.kind, each.place.namespace), int(each.read_at.timestamp()))
                for each in reading.listings
                if each.read_at
            ),
            READ_AT,
        ),
        OBJECTS: _series(
            (((each.place.kind, each.place.namespace), each.count) for each in reading.listings if each.read_at),
            OBJECTS,
        ),
        END: _series(_ends(reading), END),
    }
    kinds = Counter((each.signer, each.phase.value) for each in reading.requests)
    oldest = dict[tuple[str, ...], int]()
    for each in reading.requests:
        created, labels = int(each.created_at.timestamp()), (each.signer, each.phase.value)
        oldest[labels] = min(created, oldest.get(labels, created))
    series |= {REQUESTS: _series(kinds.items(), REQUESTS), OLDEST: _series(oldest.items(), OLDEST)}
    return "".join(family.head + lines for family, lines in series.items() if lines)


def _ends(reading: ClusterReading) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the labels and the end of validity of each certificate. Omit duplicates in the same data."""
    for data in reading.data:
        place = data.place
        for each in dict.fromkeys(data.certificates):
            labels = (place.kind, place.namespace, place.name, place.key, each.subject, each.sha256)
            yield labels, int(each.not_after.timestamp())


def _series(values: Iterable[tuple[tuple[str, ...], int]], family: Family) -> str:
    lines = []
    for labels, value in values:
        pairs = ",".join(f'{name}="{escaped(text)}"' for name, text in zip(family.labels, labels, strict=True))
        lines.append(f"{family.name}{{{pairs}}} {value}\n" if pairs else f"{family.name} {value}\n")
    return "".join(lines)
