"""The record of a rotation in the cluster: public data, one writer at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import PrivateFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certmond.cluster.api_access import Access
from certmond.cluster.record import ClusterRecord, parse
from certmond.cluster.record_api import create_record, read_record, replace_record
from certmond.cluster.record_rules import rotation_of
from certmond.errors import MalformedError, OvertakenError, RefusedError, RotationError, UnreachableError
from certmond.pki.rotation.phases import abort, following, sequence
from tests.builders import NOW, bundle, make_ca
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.conftest import Silence
from tests.deadline import DEADLINE
from tests.json_documents import edited

OLD, NEW = make_ca(), make_ca()
PATH = "/api/v1/namespaces/kube-system/configmaps"


def record(**changes: Any) -> ClusterRecord:
    given: dict[str, Any] = {
        "id": "20261124-ca", "family": "ca", "mode": "overlap", "phase": "trust", "since": NOW,
        "old": (OLD.pem.decode(),), "new": NEW.pem.decode(), "excluded": ("node-9",), "coordinator": "node-1",
    } | changes  # fmt: skip
    return ClusterRecord(**given)


# --- the value --------------------------------------------------------------------------------------------------------


def test_a_record_is_parsed_as_it_was_written() -> None:
    """Its text gives the same record, with its certificates as facts."""
    again = parse(record().text(), "it")
    assert again == record()
    assert (again.old_anchors, again.new_anchors) == ((OLD.facts,), (NEW.facts,))


def test_each_version_writes_the_same_text() -> None:
    """The nodes of a cluster can have different versions of certmond, so the text does not change."""
    old, new = (json.dumps(each.pem.decode()) for each in (OLD, NEW))
    changes = {"published": NOW + timedelta(microseconds=5), "signature": "YWJj", "released": 0.25}
    assert record(**changes).text() == (
        '{\n "schema": 1,\n "id": "20261124-ca",\n "family": "ca",\n "mode": "overlap",\n "phase": "trust",\n '
        f'"since": "2026-11-24T12:00:00Z",\n "old": [\n  {old}\n ],\n "new": {new},\n '
        '"excluded": [\n  "node-9"\n ],\n "aborted": false,\n "coordinator": "node-1",\n '
        '"published": "2026-11-24T12:00:00.000005Z",\n "signature": "YWJj",\n "released": 0.25\n}'
    )
    assert '"old": [],\n' in record(old=()).text()


def test_public_keys_are_recorded_where_there_are_no_certificates() -> None:
    """A rotation of the service account key has public keys, and no certificates."""
    made = record(family="sa", old=(OLD.public_pem.decode(),), new=NEW.public_pem.decode())
    assert parse(made.text(), "it").new_anchors == (NEW.facts.key,)
    assert parse(made.text(), "it").old_anchors == (OLD.facts.key,)


def test_fields_of_a_later_certmond_are_ignored() -> None:
    """Unknown fields do not prevent the parse."""
    assert parse(json.dumps(json.loads(record().text()) | {"later": {"a": 1}}), "it") == record()


def test_a_schema_of_a_later_certmond_is_refused() -> None:
    """Another schema is an error with the remedy, whatever it contains."""
    text = json.dumps({"schema": 2, "id": 5})
    with pytest.raises(
        MalformedError, match=r"^the map contains a record with a schema that .* \(supported: 1\); upgrade certmond"
    ):
        parse(text, "the map")


@pytest.mark.parametrize(
    "changes",
    [
        {"old": (OLD.key_pem.decode(),)},
        {"new": NEW.pem.decode() + NEW.key_pem.decode()},
        {"new": NEW.pem.decode() + NEW.key_as(PrivateFormat.PKCS8, b"secret").decode()},
        {"coordinator": NEW.key_pem.decode()},
        {"new": f"# PRIVATE KEY\n{NEW.pem.decode()}"},
        {"new": f"-----BEGIN RSA PRIVATE KEY-----\n{NEW.pem.decode()}"},
    ],
)
def test_a_private_key_is_never_part_of_a_record(changes: dict[str, Any]) -> None:
    """A record with a private key in any of its fields is not made, and the refusal does not quote it."""
    with pytest.raises(ValueError, match="contains a private key") as raised:
        record(**changes)
    assert "PRIVATE KEY" not in str(raised.value).replace("contains a private key", "")


@pytest.mark.parametrize("field", ["new", "coordinator", "later"])
def test_a_private_key_is_found_in_any_spelling(field: str) -> None:
    """JSON can have each character as an escape. A record with such a key in one of its fields is refused."""
    value = f"# PRIVATE KEY\n{NEW.pem.decode()}"
    text = json.dumps(json.loads(record().text()) | {field: value}).replace("PRIVATE KEY", "PRIVATE\\u0020KEY")
    if field == "later":
        assert "PRIVATE" not in parse(text, "it").text()
        return
    with pytest.raises(MalformedError) as raised:
        parse(text, "it")
    assert NEW.pem.decode() not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"new": "x"}, "new does not consist only of certificates or public keys in PEM"),
        ({"since": "yesterday"}, "since must be a time with an offset"),
        ({"since": "2026-11-24T12:00:00"}, "since must be a time with an offset"),
        ({"since": "9999-12-31T23:59:59Z"}, "since must be a time between the years 2 and 9998"),
        ({"published": "0001-01-01T00:00:00+14:00"}, "published must be a time between the years 2 and 9998"),
        ({"excluded": "node-1"}, "excluded must be a list"),
        ({"excluded": ["node-1", "Node"]}, "excluded.1 must be the name of a node"),
        ({"new": "\ud800"}, "new contains characters that are invalid in UTF-8"),
        ({"coordinator": "node-1\n"}, "coordinator must be the name of a node"),
        ({"aborted": 1}, "aborted must be true or false"),
        ({"released": 1.5}, "released must be from 0 to 1"),
        ({"released": "1"}, "released must be a number"),
        ({"signature": "a b"}, "signature must be a signature in base64"),
        ({"family": None}, "family must be text"),
        ({"phase": "a b"}, "phase must be a name of at most 63 letters"),
        ({"later": NEW.key_pem.decode()}, "contains a private key, which must never be in a record"),
    ],
)
def test_an_invalid_record_is_an_error(changes: dict[str, Any], said: str) -> None:
    """The error has the object, the fact and the remedy, and never the content."""
    with pytest.raises(MalformedError) as raised:
        parse(json.dumps(json.loads(record().text()) | changes), "the ConfigMap it")
    message = str(raised.value)
    assert message.startswith(f"the ConfigMap it contains an invalid record ({said}")
    assert message.endswith("in progress, run: kubectl -n kube-system delete configmap certmond-rotation")


@pytest.mark.long
@given(edited(json.loads(record().text())))
@settings(max_examples=200, deadline=None)
def test_any_record_is_parsed_or_refused(document: Any) -> None:
    """Any JSON, and a record with any of its fields changed, is a record or an error with one printable sentence. A
    record gives a rotation whose phases follow each other, or an error in the same form.
    """
    said = ""
    try:
        found = rotation_of(parse(json.dumps(document), "the map"))
    except (MalformedError, RotationError) as error:
        said = str(error)
    else:
        assert following(found, NOW).phase in sequence(found)
        with suppress(RotationError):
            abort(found, NOW)
    assert said.isprintable()


@given(st.text(max_size=40))
@example("[" * 100_000)
@example('{"id": ' + "9" * 5000 + "}")
@settings(max_examples=100, deadline=None)
def test_a_text_that_is_no_record_is_an_error(text: str) -> None:
    """The rule covers any text."""
    with pytest.raises(MalformedError):
        parse(text, "the map")


# --- in the cluster ---------------------------------------------------------------------------------------------------


def test_a_record_is_created_read_and_replaced(cluster: ApiServer, access: Access) -> None:
    """At first there is no record, then the created one, then its replacement. Other content of the map stays."""
    assert read_record(access) is None
    made = create_record(access, record())
    found = cluster.store.get("configmaps", "certmond-rotation", "kube-system")
    found["data"]["notes"] = "of a person"
    found["metadata"]["labels"] = {"a": "b"}
    cluster.store.change(found)
    again = read_record(access)
    assert again is not None
    assert again.record == made.record == record()
    written = replace_record(access, again, record(phase="issue"))
    assert written.record.phase == "issue"
    assert read_record(access) == written
    after = cluster.store.get("configmaps", "certmond-rotation", "kube-system")
    assert (after["data"]["notes"], after["metadata"]["labels"]) == ("of a person", {"a": "b"})


def test_the_second_creator_of_a_record_gets_an_error(access: Access) -> None:
    """If a record exists, no other is created."""
    create_record(access, record())
    with pytest.raises(
        OvertakenError, match=r"another client has created .*kube-system/certmond-rotation; certmond reads it again"
    ):
        create_record(access, record(id="other"))
    found = read_record(access)
    assert found
    assert found.record == record()


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_the_second_writer_of_a_record_gets_an_error(cluster: ApiServer, access: Access, moment: str) -> None:
    """A change by another node since the read is never overwritten, whether it comes before the call or during it."""
    found = create_record(access, record())

    def other() -> None:
        held = cluster.store.get("configmaps", "certmond-rotation", "kube-system")
        held["data"]["record"] = record(phase="distrust", coordinator="node-2").text()
        cluster.store.change(held)

    if moment == "before":
        other()
    else:
        cluster.store.before_write = other
    with pytest.raises(OvertakenError, match=r"another client has changed .* since certmond read it"):
        replace_record(access, found, record(phase="issue"))
    now = read_record(access)
    assert now
    assert (now.record.phase, now.record.coordinator) == ("distrust", "node-2")


@pytest.mark.parametrize("again", [False, True])
def test_a_record_that_was_deleted_is_not_replaced(cluster: ApiServer, access: Access, again: bool) -> None:
    """A record that was deleted since the read is not restored, and a new one under its name is not overwritten."""
    found = create_record(access, record())
    cluster.store.remove("configmaps", "certmond-rotation", "kube-system")
    if again:
        create_record(access, record(id="other"))
    with pytest.raises(OvertakenError):
        replace_record(access, found, record(phase="issue"))
    now = read_record(access)
    assert (now and now.record.id) == ("other" if again else None)


def test_an_answer_without_a_version_is_not_overwritten(cluster: ApiServer, access: Access) -> None:
    """Without a resource version a replacement would be blind: the server is no Kubernetes API."""
    create_record(access, record())
    del cluster.store.get("configmaps", "certmond-rotation", "kube-system")["metadata"]["resourceVersion"]
    with pytest.raises(UnreachableError, match="does not answer like a Kubernetes API server"):
        read_record(access)


@pytest.mark.parametrize("data", [{"record": "[1"}, {"other": "x"}, None])
def test_a_map_without_a_record_is_an_error(cluster: ApiServer, access: Access, data: Any) -> None:
    """The error names the ConfigMap, with the fact and the remedy."""
    cluster.store.add("configmaps", "certmond-rotation", "kube-system", data=data)
    with pytest.raises(
        MalformedError, match=r"^the ConfigMap kube-system/certmond-rotation contains .*; find the client"
    ):
        read_record(access)


def test_every_node_reads_the_record_and_only_leaders_write_it(
    cluster: ApiServer, access: Access, access_of: Callable[..., Access]
) -> None:
    """A kubelet's user may read it, as config/rbac.yaml grants; it may not write it, and the missing right is named."""
    create_record(access, record())
    kubelet = access_of("system:node:node-1", "system:nodes")
    found = read_record(kubelet)
    assert found
    assert found.record == record()
    with pytest.raises(RefusedError, match=r"may not update the ConfigMap .*resources \[configmaps\]"):
        replace_record(kubelet, found, record(phase="issue"))


def test_without_its_namespace_it_is_refused(cluster: ApiServer, access: Access) -> None:
    """In a cluster without kube-system a rotation cannot be recorded."""
    cluster.store.remove("namespaces", "kube-system")
    with pytest.raises(RefusedError, match="has no namespace kube-system"):
        create_record(access, record())


@pytest.mark.parametrize(("fault", "error"), [(401, RefusedError), (403, RefusedError), (500, UnreachableError)])
def test_refusals_and_failures_are_distinguished(
    cluster: ApiServer, access: Access, fault: int, error: type[Exception]
) -> None:
    """A call that the API refuses is a refusal. A call that fails for now is tried later."""
    found = create_record(access, record())
    calls: tuple[Callable[[], object], ...] = (
        lambda: read_record(access),
        lambda: create_record(access, record()),
        lambda: replace_record(access, found, record()),
    )
    for call in calls:
        cluster.faults = [Fault(fault)]
        with pytest.raises(error):
            call()


def test_an_api_that_is_silent_is_unreachable(access: Access, silence: Silence) -> None:
    """A call ends with its time limit."""
    silence("call")
    with pytest.raises(UnreachableError, match=rf"cannot reach .* \(no answer within {DEADLINE:g} s\)"):
        read_record(access)


def test_a_bundle_is_recorded_as_one() -> None:
    """Several certificates in one PEM are all there."""
    assert record(old=(bundle(OLD, NEW).decode(),)).old_anchors == (OLD.facts, NEW.facts)
