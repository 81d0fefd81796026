"""Entries of services: the fields of each kind, endpoints and health addresses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.validator import validated


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [("systemd", "unit", "kubelet.service"), ("static-pod", "pod", "etcd"), ("command", "command", ["/bin/x", "-a"])],
)
def test_a_service_has_the_field_that_restarts_it(kind: str, field: str, value: object) -> None:
    """Each kind has one required field."""
    service = validated(ServiceSpec, {"name": "s", "kind": kind, field: value})
    assert getattr(service, field) == (tuple(value) if isinstance(value, list) else value)
    with pytest.raises(ValidationError, match=f"must be given for kind {kind}"):
        validated(ServiceSpec, {"name": "s", "kind": kind, field: [] if field == "command" else ""})


def test_a_command_is_a_list() -> None:
    """certmond uses no shell to split it."""
    with pytest.raises(ValidationError, match="a list of the program"):
        validated(ServiceSpec, {"name": "s", "kind": "command", "command": "systemctl restart x"})


def service(**fields: Any) -> ServiceSpec:
    return validated(ServiceSpec, {"name": "s", "kind": "systemd", "unit": "s.service"} | fields)


def test_only_a_unit_can_reload() -> None:
    """A restart that keeps the process changes no instance, and neither does a command."""
    assert service().changes_instance
    assert not service(means="reload").changes_instance
    assert service(kind="static-pod", pod="etcd").changes_instance
    assert not service(kind="command", command=["/x"]).changes_instance
    with pytest.raises(ValidationError, match="must be restart unless the kind is systemd"):
        service(kind="command", command=["/x"], means="reload")


def test_a_command_with_a_pid_file_changes_its_instance() -> None:
    """certmond finds the process of the service in the file. Units and static Pods have no such file."""
    known = service(kind="command", command=["/x"], unit=None, pid_file="/run/s.pid")
    assert known.is_observable
    assert known.changes_instance
    assert not service(kind="command", command=["/x"], unit=None).is_observable
    for fields in ({"pid_file": "/run/s.pid"}, {"kind": "static-pod", "pod": "s", "pid_file": "/run/s.pid"}):
        with pytest.raises(ValidationError, match="must be absent unless the kind is command"):
            service(**fields)
    with pytest.raises(ValidationError, match="pid_file"):
        service(kind="command", command=["/x"], unit=None, pid_file="s.pid")


def test_a_served_address_must_be_connectable() -> None:
    """It is written in one way, with a name if the server needs one."""
    served = service(
        serves={"apiserver": ["[2001:DB8:0::1]:6443", "API.example.com@192.0.2.1:443"], "b": "127.0.0.1:1"}
    )
    assert served.serves == {
        "apiserver": ("[2001:db8::1]:6443", "api.example.com@192.0.2.1:443"), "b": ("127.0.0.1:1",)
    }  # fmt: skip
    for text in ("localhost:6443", "127.0.0.1", "0.0.0.0:1", "127.0.0.1:0", "https://127.0.0.1:1"):
        with pytest.raises(ValidationError, match="must be ADDRESS:PORT or NAME@ADDRESS:PORT: "):
            service(serves={"a": text})


@pytest.mark.parametrize(
    "text", ["http://127.0.0.1:2381/health?serializable=true", "https://[::1]:6443/readyz", "tcp://localhost:80"]
)
def test_a_health_address_has_a_port(text: str) -> None:
    """A name is accepted: the answer is not authenticated by the address."""
    assert service(health=text).health == (text,)


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:80", "http://127.0.0.1/", "http://:80/", "tcp://a:0", "tcp://a:65536", "http://a:1/a b", "http://a:1/\r\nX",
     "ftp://a:1", "https://u@a:1/", ""],
)  # fmt: skip
def test_other_health_addresses_are_refused(text: str) -> None:
    """The error has the accepted forms."""
    with pytest.raises(ValidationError, match="must be http://ADDRESS:PORT/PATH, https://"):
        service(health=text)


def test_a_restart_has_two_minutes_by_default() -> None:
    """The time limit for the command or the systemd job is two minutes, if the entry sets no `time_limit`."""
    assert service().time_limit == timedelta(minutes=2)
