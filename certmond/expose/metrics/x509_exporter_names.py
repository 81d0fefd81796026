"""Additional metrics with the names of x509-certificate-exporter, for existing alert rules and dashboards.

Versions 3 and 4 of the exporter use these names (internal/collector.go and docs/metrics.md). The values are from the
assessment of certmond.
"""

from __future__ import annotations

from functools import lru_cache
from posixpath import basename

from cryptography import x509
from cryptography.x509.oid import NameOID

from certmond import __version__
from certmond.expose.metrics.label_escapes import escaped
from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.x509.certificate import Certificate, is_ordinary

X509_CERTIFICATE_EXPORTER = "x509-certificate-exporter"
_FIELDS = {
    NameOID.COUNTRY_NAME: "C",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.LOCALITY_NAME: "L",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COMMON_NAME: "CN",
}
_FAMILIES = (
    ("x509_cert_not_before", "Start of validity, Unix time"),
    ("x509_cert_not_after", "End of validity, Unix time"),
    ("x509_cert_expired", "1 if the certificate has expired"),
    ("x509_cert_error", "1 if the file contains no readable certificate"),
)


@immutable
class _Series:
    """The labels that identify one certificate, and the line of each metric for this certificate."""

    labels: str
    not_before: str
    not_after: str
    expired: str


@immutable
class _Rendered:
    """The lines for one certificate status.

    At the Unix time `until`, the next certificate expires, and the lines change.
    """

    status: CertificateStatus
    file: str
    broken: bool
    series: tuple[_Series, ...]
    until: float


class Compatible:
    """Renderer of the metrics with the names of x509-certificate-exporter.

    The renderer keeps the lines of unchanged statuses.
    """

    def __init__(self) -> None:
        self._version = __version__
        self._kept: dict[tuple[str, str], _Rendered] = {}

    def text(self, assessment: Assessment) -> str:
        """Return the metrics text about files.

        A certificate in a file appears only once, even if several entries contain the path of the file.
        """
        now, before = int(assessment.taken_at.timestamp()), self._kept
        self._kept = kept = {}
        found: dict[str, _Series] = {}
        files: dict[str, bool] = {}
        for status in (each for each in assessment.certificates if each.seen.endpoint is None):
            identity = status.seen.identity
            rendered = before.get(identity)
            if rendered is None or rendered.status is not status or now > rendered.until:
                rendered = _rendered(status, now)
            kept[identity] = rendered
            for series in rendered.series:
                found.setdefault(series.labels, series)
            files[rendered.file] = rendered.broken or files.get(rendered.file, False)
        every = found.values()
        columns = (
            [series.not_before for series in every],
            [series.not_after for series in every],
            [series.expired for series in every],
            [f"x509_cert_error{{{file}}} {int(broken)}\n" for file, broken in files.items()],
        )
        parts: list[str] = []
        for (name, explanation), column in zip(_FAMILIES, columns, strict=True):
            parts.append(f"# HELP {name} {explanation}\n# TYPE {name} gauge\n")
            parts += column
        parts.append("# HELP x509_read_errors Number of unreadable files\n# TYPE x509_read_errors gauge\n")
        parts.append(f"x509_read_errors {sum(files.values())}\n")
        parts.append("# HELP x509_exporter_build_info 1, with the version\n# TYPE x509_exporter_build_info gauge\n")
        parts.append(f'x509_exporter_build_info{{version="{self._version}",revision="certmond"}} 1\n')
        return "".join(parts)


def _rendered(status: CertificateStatus, now: int) -> _Rendered:
    """Return the lines for all certificates in the file of `status`, and for the CAs that a kubeconfig file embeds."""
    seen, series, until = status.seen, list[_Series](), float("inf")
    own = seen.certificates if not status.stale else (status.certificate,) if status.certificate else ()
    holders = [(seen.path, seen.holder, own)]
    holders += [(each.path, ("cluster", each.cluster), each.certificates) for each in seen.embedded]
    for path, holder, certificates in holders:
        place = _file(path)
        if holder:
            place += f',embedded_kind="{holder[0]}",embedded_key="{escaped(holder[1])}"'
        for certificate in certificates:
            labels = f'{place},serial_number="{certificate.serial}"{_names(certificate)}'
            start, end = int(certificate.not_before.timestamp()), int(certificate.not_after.timestamp())
            until = min(until, end) if end >= now else until
            series.append(
                _Series(
                    labels,
                    f"x509_cert_not_before{{{labels}}} {start}\n",
                    f"x509_cert_not_after{{{labels}}} {end}\n",
                    f"x509_cert_expired{{{labels}}} {int(end < now)}\n",
                )
            )
    broken = status.stale or status.certificate is None
    return _Rendered(status, _file(seen.path), broken, tuple(series), until)


def _file(path: str) -> str:
    return f'filename="{escaped(basename(path))}",filepath="{escaped(path)}"'


def _names(certificate: Certificate) -> str:
    parts = _known_parts if is_ordinary(certificate.der) else _parts
    return "".join(
        f',{prefix}_{field}="{escaped(value)}"'
        for prefix, name in (("issuer", certificate.issuer), ("subject", certificate.subject))
        for field, value in parts(name).items()
    )


def _parts(name: str) -> dict[str, str]:
    """Return the last CN and the first value of each other attribute of a distinguished name.

    Go makes the same choice (crypto/x509/pkix, FillFromRDNSequence).
    """
    try:
        attributes = list(x509.Name.from_rfc4514_string(name))
    except ValueError:  # an attribute type without a name
        return {}
    found: dict[str, str] = {}
    for attribute in attributes:
        field = _FIELDS.get(attribute.oid)
        if field and (field == "CN" or field not in found):
            found[field] = str(attribute.value)
    return found


_known_parts = lru_cache(maxsize=1024)(_parts)
