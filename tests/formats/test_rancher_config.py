"""The configuration file of k3s and RKE2."""

from __future__ import annotations

import pytest

from certmond.formats.rancher_config import (
    Option,
    Setting,
    component_flag,
    endpoint_flags,
    flag_variables,
    merged_options,
    parse_rancher_config,
)


def test_only_texts_are_values() -> None:
    """A number, a Boolean or a mapping names no file."""
    data = b"datastore-cafile: /ca.crt\nkubelet-arg: [a=b, 1, {c: d}]\nhttps-listen-port: 6443\n5: x\n"
    settings = dict(parse_rancher_config(data, "").settings)
    assert settings == {"datastore-cafile": ("/ca.crt",), "kubelet-arg": ("a=b",), "https-listen-port": (), "": ("x",)}


@pytest.mark.parametrize(("data", "fault"), [(b"- a", "is not a YAML mapping"), (b"{", "is not YAML"), (b" \n", "")])
def test_a_file_without_settings_has_a_fault_unless_it_is_empty(data: bytes, fault: str) -> None:
    """k3s does not start with a file that is no mapping, and accepts an empty file."""
    parsed = parse_rancher_config(data, "")
    assert not parsed.settings
    assert parsed.fault.startswith(fault)
    assert bool(parsed.fault) == bool(fault)


def test_a_later_file_replaces_or_extends_the_values_of_a_key() -> None:
    """The values of a key with "+" follow those of earlier files (TestParse in pkg/configfilearg/parser_test.go)."""
    files = [
        ("a", [Setting("one", ("1",)), Setting("two", ("2",)), Setting("three", ("3", "4"))]),
        ("b", [Setting("one+", ("5",)), Setting("two", ("6",)), Setting("four+", ("7",))]),
    ]
    assert merged_options(files) == [
        Option("one", "1", "a"), Option("one", "5", "b"), Option("two", "6", "b"), Option("three", "3", "a"),
        Option("three", "4", "a"), Option("four", "7", "b"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "flag"),
    [
        ("oidc-ca-file=/a=b", ("oidc-ca-file", "/a=b")),
        ("--oidc-ca-file=/a", ("oidc-ca-file", "/a")),
        ("oidc_ca_file+=/a", ("oidc-ca-file", "/a")),
        ("tls-sni-cert-key-=/a,/b", ("tls-sni-cert-key", "/a,/b")),
        ("profiling", ("profiling", "true")),
    ],
)
def test_an_argument_for_a_component_is_a_flag(argument: str, flag: tuple[str, str]) -> None:
    """GetArgs in pkg/daemons/config/types.go adds the dashes, and removes the mark of an extension."""
    assert component_flag(argument) == flag


def test_variables_of_a_program_are_flags() -> None:
    """K3S_DATASTORE_CAFILE is --datastore-cafile of k3s. A variable with a secret, such as K3S_TOKEN, is no flag."""
    names = ["K3S_TOKEN", "K3S_DATASTORE_CAFILE", "K3S_CONFIG_FILE", "ETCD_NAME", "PATH"]
    assert flag_variables("k3s", names) == {
        "datastore-cafile": "K3S_DATASTORE_CAFILE", "config-file": "K3S_CONFIG_FILE"
    }  # fmt: skip
    assert flag_variables("etcd", names) == {"name": "ETCD_NAME"}
    assert flag_variables("kubelet", names) == {}


@pytest.mark.parametrize(
    ("url", "found"),
    [
        (
            "postgres://u:p@db:5432/k3s?sslmode=verify-full&sslcert=/a%20b.crt&sslkey=/k&sslrootcert=/ca&user=/x",
            {"sslcert": "/a b.crt", "sslkey": "/k", "sslrootcert": "/ca"},
        ),
        ("postgresql://?sslcert=/a&sslkey=", {"sslcert": "/a"}),
        ("postgres://db?sslrootcert=/ca;password=x&sslcert=/a&;sslkey=/k", {"sslcert": "/a"}),  # as net/url of Go
        ("postgres://db/k3s", {}),
        ("postgres://[db/k3s?sslcert=/a", {}),
        ("mysql://u:p@tcp(db:3306)/k3s?sslcert=/a", {}),
        ("https://etcd:2379", {}),
        ("", {}),
    ],
)
def test_the_url_of_a_datastore_names_files(url: str, found: dict[str, str]) -> None:
    """PostgreSQL reads the paths of three parameters."""
    flags = [("datastore-cafile", "postgres://?sslcert=/b"), ("datastore-endpoint", url)]
    assert dict(endpoint_flags(flags)) == {f"datastore-endpoint.{name}": value for name, value in found.items()}
