"""Targets of the fuzzer. For each format, a function parses any bytes, and fails if the parser violates an invariant.

An invariant is the set of permitted errors, or a property of the result. The docstring of a parser states its
invariants, and the functions of this module check them without the code of the parser.
"""

from __future__ import annotations

import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from certmond.cluster.node_api import Acknowledgement
from certmond.cluster.record import parse as parse_cluster_record
from certmond.cluster.record_rules import record_of, rotation_of
from certmond.config.parser import dump
from certmond.config.parser import parse as parse_config
from certmond.config.parser import parse_tree as parse_config_tree
from certmond.config.source_merger import Source
from certmond.errors import CertmondError, ConfigError, MalformedError, RotationError, RuntimeDirError, WriteError
from certmond.expose.documents.status_reader import STATUS, read_status
from certmond.expose.http.heartbeat_check import halted
from certmond.expose.http.web_config import parse as parse_web_config
from certmond.expose.page.render import page
from certmond.formats.component_config import named_files
from certmond.formats.kubeadm_config import parse_kubeadm_config
from certmond.formats.kubeconfig import parse_kubeconfig
from certmond.formats.kubeconfig_edit import with_credentials, with_trust
from certmond.formats.kubelet import pem as kubelet_pem
from certmond.formats.manifest import containers, flag_values, kubelet_fields, node_facts, parse_manifest
from certmond.formats.manifest_edit import flag_values_in, with_flags
from certmond.formats.unit_file import command_line, parse_environment, parse_unit, places, settings
from certmond.pki.assessment.renewal_attempt import Attempt
from certmond.pki.catalog.component_certificate_flags import FileKind
from certmond.pki.x509.certificate import parse_certificate, to_pem
from certmond.pki.x509.certificate_file_parser import decode
from certmond.restart.history import History
from certmond.services.content_times import Changes
from certmond.state.pending_requests import Pending
from certmond.state.renewals import Ledger
from certmond.state.rotation_record import DIRECTORY, RotationRecord
from certmond.transaction.dirfd import opened
from certmond.transaction.journal import Records
from fuzz.sameness import Difference, around, differences
from tests.builders import Issued, make_ca, make_leaf

Target = Callable[[bytes], None]

PATH, NOW = "/etc/kubernetes/the.file", datetime(2026, 11, 24, 12, tzinfo=UTC)
LEAF = ("apiserver", "/etc/kubernetes/pki/apiserver.crt")
CONTAINER = "kube-controller-manager"
NOTHING = (
    b'{"schema": 1, "taken_at": "2026-11-24T12:00:00Z", "node": "", "mode": "observe", "findings": [], '
    b'"certificates": []}'
)
FLAGS = {"cluster-signing-cert-file": "/new.crt", "cluster-signing-key-file": "/new.key"}


@cache
def authority() -> Issued:
    return make_ca()


@cache
def leaf() -> Issued:
    return make_leaf(authority())


@contextmanager
def state(name: str, content: bytes) -> Iterator[Path]:
    """Yield a new state directory in memory that contains the file `name` with `content`."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        yield Path(directory)


def encoding(data: bytes) -> None:
    """Check that any bytes give a document, and that its certificates are equal after an encoding as PEM."""
    document = decode(data, PATH)
    assert all(PATH in fault.detail for fault in document.faults)
    if document.certificates:
        again = decode(b"".join(map(to_pem, document.certificates)), PATH)
        assert again.certificates == document.certificates
        assert bool(again.faults) == any(each.objections or each.unread for each in document.certificates)


def certificate(data: bytes) -> None:
    """Check that the result is a certificate with the same bytes, or MalformedError."""
    with suppress(MalformedError):
        assert parse_certificate(data).der == data


def kubeconfig(data: bytes) -> None:
    """Check that the result contains entries with data or a path, or is MalformedError."""
    with suppress(MalformedError):
        found = parse_kubeconfig(data, PATH)
        held = [each for user in found.users for each in (user.certificate, user.key)]
        for material in filter(None, [*held, *(cluster.ca for cluster in found.clusters)]):
            assert (material.data is None) != (material.path is None)
            assert "BEGIN" not in repr(material)


def kubeconfig_text(data: bytes) -> None:
    """Check that only credentials and CA data change, or that WriteError names the file."""
    new = {"client-certificate-data": b"a new certificate", "client-key-data": b"a new key"}
    trust = {"certificate-authority-data": authority().pem}
    pair = {"certificate_pem": new["client-certificate-data"], "key_pem": new["client-key-data"]}

    def expected(wanted: dict[str, bytes]) -> Callable[[Difference], bool]:
        return lambda found: b64decode(str(found.after)) == wanted.get(str(found.place[-1]))

    _edited(
        data,
        lambda text: with_credentials(text, PATH, old=None, trust_pem=authority().pem, **pair),
        expected(new | trust),
    )
    _edited(data, lambda text: with_trust(text, PATH, [authority().facts]), expected(trust))


def manifest_text(data: bytes) -> None:
    """Check that both flags get their values and nothing else changes, or that WriteError names the file."""

    def expected(found: Difference) -> bool:
        words = {word for flag, value in FLAGS.items() for word in (value, f"--{flag}={value}")}
        return found.place[-2] in {"command", "args"} and found.after in words

    result = _edited(data, lambda text: with_flags(text, PATH, CONTAINER, FLAGS), expected)
    if result is not None:
        values = flag_values_in(result, PATH, CONTAINER, FLAGS)
        assert {flag: set(given) for flag, given in values.items()} == {flag: {value} for flag, value in FLAGS.items()}


def _edited(data: bytes, edit: Callable[[bytes], bytes], expected: Callable[[Difference], bool]) -> bytes | None:
    """Return the edited text, or None. Assert that only expected values differ, and that a repeated edit is a no-op."""
    try:
        result = edit(data)
    except WriteError as error:
        assert PATH in str(error)  # noqa: PT017 - an error is permitted, not required
        return None
    found = differences(data, result)
    assert all(map(expected, found)), [each.place for each in found]
    places = [each.place for each in found]
    assert around(data, places) == around(result, places)
    assert edit(result) == result
    return result


def kubelet(data: bytes) -> None:
    """Check that the dated file is beside the symlink and has an unused name, or that the result is WriteError.

    Also check the PEM that contains both the certificate and the key.
    """
    path, _, rest = data.decode("utf-8", "surrogateescape").partition("\n")
    taken = set(rest.split("\n"))
    with suppress(WriteError):
        found = kubelet_pem.successor(path, NOW, taken)
        assert found.rpartition("/")[0] == path.rpartition("/")[0]
        assert found.rpartition("/")[2] not in taken
    document = decode(kubelet_pem.content(leaf().pem + data, leaf().key_pem), PATH)
    assert document.certificates[0] == leaf().facts


def component_configuration(data: bytes) -> None:
    """Check for each kind that the result is a tuple of paths and embedded certificates, or MalformedError."""
    for kind in FileKind:
        with suppress(MalformedError):
            for each in named_files(data, kind):
                assert each.path or each.pem is not None
                assert "\x00" not in f"{each.path}{each.key}"


def unit_file(data: bytes) -> None:
    """Check that any bytes give a unit and an environment file, and that each flag has the file of its value."""
    unit = parse_unit(b"[Service]\nExecStart=/a $A ${A}\n" + data, "/u")
    variables = {name: (value, "/e") for name, value in parse_environment(data, "/e").items()}
    for command in settings([("/u", unit)]).get("ExecStart", ()):
        words = command_line(command, variables, "a@b.service")
        flags = dict(flag_values([word.text for word in words], single_dash=True))
        assert {word.file for word in words} <= {"/u", "/e"}
        assert places(words).keys() == flags.keys()


def kubeadm_configuration(data: bytes) -> None:
    """Check that the result is a configuration, or ConfigError with the file in each problem."""
    try:
        parse_kubeadm_config(data, PATH)
    except ConfigError as error:
        assert all(PATH in problem for problem in error.problems)  # noqa: PT017 - an error is permitted


def manifest(data: bytes) -> None:
    """Check that no document causes an error, and that a document that is not a Pod gives no facts."""
    found = parse_manifest(data, PATH)
    assert found.text == data.decode("utf-8", "replace")
    for container in [*containers(found.fields), kubelet_fields(found.fields, PATH)]:
        for flag, value in container.flags:
            assert value in container.values(flag) or not value
            on_host = container.on_host(value)
            assert on_host is None or on_host.startswith("/")
    facts = node_facts(
        apiserver=found, etcd=found, kubelet_conf=None, admin_conf=None, kubelet_config=found, kubelet_flags=found,
        hostname="Node",
    )  # fmt: skip
    assert all(facts.values())


def configuration(data: bytes) -> None:
    """Check that the result is a configuration that `dump` writes as equivalent text, or ConfigError with the file."""
    try:
        found = parse_config_tree([Source(PATH, data)])
    except ConfigError as error:
        assert all(PATH in problem for problem in error.problems)  # noqa: PT017 - an error is permitted
    else:
        assert parse_config([Source(PATH, dump(found))]) == found.config


def web_configuration(data: bytes) -> None:
    """Check that the result is a web configuration, or ConfigError with the file in each problem."""
    try:
        parse_web_config(PATH, data, Path("/etc"))
    except ConfigError as error:
        assert all(PATH in problem for problem in error.problems)  # noqa: PT017 - an error is permitted


def transaction(data: bytes) -> None:
    """Check that the result is a record with safe paths, or the new name of the invalid file."""
    with state("0123456789abcdef.commit.json", data) as directory, opened(directory) as descriptor:
        (found,) = Records(descriptor).left()
        if isinstance(found, str):
            assert (directory / found).read_bytes() == data
        else:
            assert all(entry.real.startswith("/") and "/../" not in entry.real for entry in found.entries)
            assert all(entry.staged.startswith(f".certmond-{found.id}-") for entry in found.entries)


def restarts(data: bytes) -> None:
    """Check that the result is a history, which can be empty, and that its entries can be stored and read again."""
    with state("restarts.json", data) as directory:
        history = History(directory)
        known = history.all()
        for past in known.values():
            history.store(past)
        assert history.all() == known | {past.service: past for past in known.values()}


def renewals(data: bytes) -> None:
    """Check that the result is a ledger, which can be empty, and that its entries remain after an addition."""
    with state("renewals.json", data) as directory:
        ledger = Ledger(directory)
        known = ledger.attempts()
        ledger.store(LEAF, Attempt(NOW))
        assert ledger.attempts() == known | {LEAF: Attempt(NOW)}
        assert all(instant.tzinfo is UTC for instant in ledger.renewed().values())


def changes(data: bytes) -> None:
    """Check that the result is a record, which can be empty."""
    with state("changes.json", data) as directory:
        found = Changes(directory, keeps=True).contents([(PATH, "ab", 1)], NOW)
        assert found.keys() == {PATH}


def pending(data: bytes) -> None:
    """Check that, with one damaged file of a request, the result is the complete request or nothing."""
    for suffix in (".key", ".csr", ".for"):
        with state("nothing", b"") as directory:
            kept = Pending(directory)
            kept.keep(LEAF, leaf().key, data, "ab")  # type: ignore[arg-type]
            (path,) = (directory / "pending").glob(f"*{suffix}")
            path.write_bytes(data)
            found = kept.resume(LEAF, "cookie")
            assert None not in found or set(found) == {None}
            kept.replaces(LEAF)


def rotation(data: bytes) -> None:
    """Check that the result is a rotation that is equal after a write and a read, or an error that names the file."""
    with state(f"{DIRECTORY}/record.json", data) as directory:
        record = RotationRecord(directory)
        try:
            found = record.load()
        except MalformedError as error:
            assert "record.json" in str(error)  # noqa: PT017 - an error is permitted
        else:
            assert found
            record.save(found)
            assert record.load() == found
    with state("anchors.json", data) as directory:
        record = RotationRecord(directory)
        known = record.anchors()
        record.accept(known)
        assert record.anchors() == known


def cluster_record(data: bytes) -> None:
    """Check that the result is a record that is equal after a write and a read, or an error that quotes no key."""
    text = data.decode("utf-8", "replace")
    try:
        found = parse_cluster_record(text, PATH)
        assert parse_cluster_record(found.text(), PATH) == found
        made = rotation_of(found)
        assert rotation_of(record_of(made, found.coordinator)) == made
    except CertmondError as error:
        assert isinstance(error, (MalformedError, RotationError))  # noqa: PT017 - an error is permitted
        assert "PRIVATE KEY" not in str(error)  # noqa: PT017 - the same


def acknowledgement(data: bytes) -> None:
    """Check that the result is the report of a node, which is written with the same content, or nothing."""
    text = data.decode("utf-8", "replace")
    found = Acknowledgement.parse(text)
    assert found is None or str(found) == text


def status(data: bytes) -> None:
    """Check that the result is the page, or an error that the server reports. Also check `read_status`."""
    understood = (AttributeError, LookupError, RecursionError, TypeError, ValueError)
    with suppress(*understood):
        assert page(data, None, None, "").startswith("<!doctype html>")
    with suppress(*understood):
        assert page(NOTHING, data, None, "").startswith("<!doctype html>")
    with state(STATUS, data) as directory, suppress(RuntimeDirError):
        assert read_status(directory)["schema"] == 1


def heartbeat(data: bytes) -> None:
    """Check that no heartbeat causes an error, and that an unreadable heartbeat counts as a stopped daemon."""
    why = halted(data, NOW.timestamp())
    assert why is None or why


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (
        acknowledgement, certificate, changes, cluster_record, component_configuration, configuration, encoding,
        heartbeat, kubeadm_configuration, kubeconfig, kubeconfig_text, kubelet, manifest, manifest_text, pending,
        renewals, restarts, rotation, status, transaction, unit_file, web_configuration,
    )
}  # fmt: skip
