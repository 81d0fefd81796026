"""The configuration: one or several texts, an immutable value or all problems at once, each with its place."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certmond.config import source_files, yaml_source
from certmond.config.loader import load
from certmond.config.model import Config
from certmond.config.parser import dump, parse, parse_tree, schema
from certmond.config.shipped_profiles import profiles
from certmond.config.source_merger import Source
from certmond.errors import ConfigError
from certmond.pki.catalog.entries import SELF, CertificateSpec, Kind
from certmond.pki.catalog.field_types import FACTS, USAGES
from certmond.pki.catalog.init_cluster_spec import InitSpec
from certmond.pki.catalog.service_spec import ServiceSpec
from certmond.pki.catalog.settings import ClusterSpec, HoldSpec, RestartSpec
from certmond.pki.catalog.validator import validator
from tests.sampling import examples

ROOT = Path(__file__).parents[2]


def keys_of(model: type[Any]) -> list[str]:
    return [field.name for field in fields(model)]


def read(*texts: str, profile: str | None = "none") -> Config:
    """The configuration that the texts make, as files a.yaml, b.yaml, …"""
    names = (f"{letter}.yaml" for letter in "abcdef")
    return parse([Source(name, dedent(text)) for name, text in zip(names, texts, strict=False)], profile=profile)


def problems(*texts: str, profile: str | None = "none") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(*texts, profile=profile)
    return list(caught.value.problems)


# --- valid configurations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "certificates:\nservices:\nprofile:\n", "\ufeff{}"])
def test_nothing_is_the_default_configuration(text: str) -> None:
    """An empty file, comments alone and keys with nothing behind them all mean: the kubeadm profile, observed."""
    assert read(text, profile=None) == parse([])
    found = parse([])
    assert (found.mode, found.profile, found.node_name) == ("observe", "kubeadm", None)
    assert found.renew_before == timedelta(days=30)
    assert (found.resync, found.poll) == (timedelta(minutes=5), timedelta(seconds=10))
    assert found.listen == "127.0.0.1:9964"
    assert found.certificates


@pytest.mark.parametrize("text", ["''", "'  '", '"one\\nanother"'])
def test_renewed_by_is_a_few_words(text: str) -> None:
    """`renewed_by` is text on one line, because messages quote it."""
    (said,) = problems(f"certificates: [{{name: a, path: /a, renewed_by: {text}}}]")
    assert "renewed_by: must be a short text on one line" in said


def test_the_profile_none_has_only_what_is_listed() -> None:
    assert read("profile: none", profile=None) == Config(profile="none")
    assert [spec.name for spec in read("certificates: [{name: x, path: /x}]").certificates] == ["x"]


def test_the_command_line_chooses_the_profile_over_the_configuration() -> None:
    assert read("profile: kubeadm", profile="none").certificates == ()


def test_a_later_file_overrides_a_scalar() -> None:
    found = read("resync: 1m\nlisten: '[::1]:9964'", "resync: 1h", "poll: 1m")
    assert (found.resync, found.poll) == (timedelta(hours=1), timedelta(minutes=1))
    assert found.listen == "[::1]:9964"


def test_an_entry_of_a_known_name_overrides_only_what_it_gives_and_stays_in_its_place() -> None:
    own = """
        certificates:
          - {name: extra, path: /extra.pem}
          - {name: etcd-ca, renew_before: 1y, mode: null}
        services:
          - {name: kubelet, unit: kubelet-wrapper.service}
    """
    plain, found = parse([]), read(own, profile="kubeadm")
    assert [spec.name for spec in found.certificates] == [*(spec.name for spec in plain.certificates), "extra"]
    before = {spec.name: spec for spec in plain.certificates}
    for spec in found.certificates[:-1]:
        update: dict[str, Any] = {"renew_before": timedelta(days=365), "mode": None} if spec.name == "etcd-ca" else {}
        assert spec == replace(before[spec.name], **update)
    assert [spec.unit for spec in found.services if spec.name == "kubelet"] == ["kubelet-wrapper.service"]


def test_entries_of_several_files_merge_by_name() -> None:
    found = read("certificates: [{name: x, path: /a, optional: true}]", "certificates: [{name: x, path: /b}]")
    assert found.certificates == (CertificateSpec(name="x", path="/b", optional=True),)


def test_a_list_of_one_may_be_written_as_text() -> None:
    (spec,) = read("certificates: [{name: x, path: /x, names: DNS:a, usages: server auth, subject: CN=a}]").certificates
    assert (spec.names, spec.usages, spec.subject) == (("DNS:a",), ("server auth",), ("CN=a",))


@pytest.mark.parametrize("mode", ["0640", "640", "'0640'", "'640'", "0o640"])
def test_a_mode_is_octal_however_it_is_written(mode: str) -> None:
    (spec,) = read(f"certificates: [{{name: x, path: /x, key_mode: {mode}}}]").certificates
    assert spec.key_mode == 0o640


@pytest.mark.parametrize("name", ["007", "1_000", "2026-11-24", "1.5", "1e3", "0x10"])
def test_text_that_looks_like_a_number_or_a_date_stays_text(name: str) -> None:
    assert read(f"certificates: [{{name: {name}, path: /x}}]").certificates[0].name == name


def test_anchors_aliases_and_merge_keys_are_understood() -> None:
    text = """
        certificates:
          - &base {name: a, path: /a, mode: 0600, owner: &who root:root}
          - {<<: *base, name: b}
          - {<<: [{path: /c}, *base], name: c, owner: *who, mode: 0640}
    """
    a, b, c = read(text).certificates
    assert (a.name, b.name, c.name) == ("a", "b", "c")
    assert (b.path, b.mode, b.owner) == ("/a", 0o600, "root:root")
    assert (c.path, c.mode, c.owner) == ("/c", 0o640, "root:root")


# --- errors and their messages ----------------------------------------------------------------------------------------

IN_FILE = [
    ("archive: many", ":1: archive: must be an integer, not 'many'"),
    ("archive: 0", ":1: archive: must be 1 or more, not '0'"),
    ("archive: 101", ":1: archive: must be 100 or less, not '101'"),
    ("hold: {fiel: /x}", ":1: hold.fiel: unknown key; did you mean file?"),
    ("restart: {ready_withn: 4m}", ":1: restart.ready_withn: unknown key; did you mean ready_within?"),
    ("restart: {stable: 0s}", ":1: restart.stable: must be positive, not '0s'"),
    *(
        (
            f"cluster: {{batch: {it}}}",
            f":1: cluster.batch: must be a number from 1 to 999999, or a percentage such as 10%, not '{it}'",
        )
        for it in ("0", "007", "0%", "101%", "1.5")
    ),
    (
        "cluster: {api: hold}",
        f":1: cluster.api: unknown key; the keys are {', '.join(keys_of(ClusterSpec))}",
    ),
    ("cluster: {without_api: wait}", ":1: cluster.without_api: must be 'hold' or 'go_on', not 'wait'"),
    ("cluster: {kubeconfig: x}", ":1: cluster.kubeconfig: must be an absolute path, not 'x'"),
    (
        "cluster: {reader: true}",
        ":1: cluster.reader: needs `kubeconfig`, with which the reader calls the API server",
    ),
    (
        "cluster: {reader_namespaces: [web, W]}",
        (
            ":1: cluster.reader_namespaces[1]: must be a namespace: at most 63 lowercase letters and digits, with '-' "
            "only between them, not 'W'"
        ),
    ),
    ("cluster: {reader_interval: 59s}", ":1: cluster.reader_interval: must be from 1m to 24h, not '59s'"),
    ("hold: later", ":1: hold: must be a mapping, with lines such as `name: apiserver`, not 'later'"),
    (
        "key_algorithm: RSA-1024",
        (
            ":1: key_algorithm: must be 'RSA-2048', 'RSA-3072', 'RSA-4096', 'ECDSA-P256', 'ECDSA-P384' or 'Ed25519', "
            "not 'RSA-1024'"
        ),
    ),
    (
        "signers: [{name: x, kind: vault}]",
        ":1: signers[0].kind: must be 'local', 'kubeadm', 'csr' or 'command', not 'vault'",
    ),
    ("signers: [{name: x, kind: command}]", ":1: signers[0].command: must be given for kind command"),
    (
        "root_ca: {record_signer: y}",
        ":1: root_ca.record_signer: there is no signer 'y'; name a signer of the kind `command`",
    ),
    (
        "{root_ca: {record_signer: y}, signers: [{name: y, kind: csr}]}",
        ":1: root_ca.record_signer: 'y' is a signer of the kind 'csr'; name a signer of the kind `command`",
    ),
    (
        "certificates: [{name: x, path: /x, signer: y}]",
        ":1: certificates[0].signer: there is no signer 'y'; add it to `signers`, or remove it here",
    ),
    (
        "derived: [{name: x, kind: pem-bundle, source: y, path: /x}]",
        ":1: derived[0].source: there is no certificate 'y'; add it to `certificates`, or remove it here",
    ),
    ("mode: watch", ":1: mode: must be 'observe' or 'enforce', not 'watch'"),
    ("mode: on", ":1: mode: must be 'observe' or 'enforce'"),
    ("node_name: yes", ":1: node_name: must be text; put a value that YAML parses as another type in quotes"),
    ("resync: 9s", ":1: resync: must be from 10s to 24h, not '9s'"),
    ("resync: 25h", ":1: resync: must be from 10s to 24h, not '25h'"),
    ("poll: 2h", ":1: poll: must be from 1s to 1h, not '2h'"),
    ("poll: 10", ":1: poll: must be a duration such as 30d, 12h or 90s, not '10'"),
    ("poll: []", ":1: poll: must be a duration such as 30d, 12h or 90s"),
    ("renew_before: 0d", ":1: renew_before: must be positive, not '0d'"),
    ("web_config: web.yaml", ":1: web_config: must be an absolute path, not 'web.yaml'"),
    ("listen: 9964", ":1: listen: must be ADDRESS:PORT such as 127.0.0.1:9964 or [::1]:9964, not '9964'"),
    ("listen: ::1:9964", ":1: listen: must be ADDRESS:PORT such as 127.0.0.1:9964 or [::1]:9964, not '::1:9964'"),
    ("listen: localhost:0", ":1: listen: must be ADDRESS:PORT such as 127.0.0.1:9964 or [::1]:9964, not 'localhost:0'"),
    ("renew_befor: 3d", ":1: renew_befor: unknown key; did you mean renew_before?"),
    ("certificates: {}", ":1: certificates: must be a list, with lines such as `- name: …`"),
    ("certificates: [[]]", ":1: certificates[0]: must be a mapping, with lines such as `name: apiserver`"),
    ("certificates: [{path: /x}]", ":1: certificates[0].name: must be given"),
    ("certificates:\n- name: x", ":2: certificates[0].path: must be given"),
    ("- a", ":1: must be a mapping, with lines such as `profile: kubeadm`"),
    ("\nmode", ":2: must be a mapping, with lines such as `profile: kubeadm`"),
    ("a: [", ":2: is not YAML: while parsing a flow node, did not find expected node content"),
    ("a: 1\n\tb: 1", ":2: is not YAML: a tab indents the line; use spaces"),
    ("certificates:\n\t- name: a", ":2: is not YAML: a tab indents the line; use spaces"),
    ("poll: 1m # \x07", ":1: is not YAML: control characters are not allowed; remove the character"),
    ("poll: 1m\n# \ud800", ":1: is not UTF-8; save it as UTF-8"),
    ("poll: 1m\n---\npoll: 2m", ":2: begins a second document; remove the line ---"),
    ("poll: 1m\n\npoll: 2m", ":3: poll: repeats the key of line 1; remove one of the two keys"),
    (
        "hooks: [{name: x, command: [/x], on: raised}]",
        ":1: hooks[0].on: unknown key; the keys are name, command, environment, time_limit, at_least, repeat",
    ),
    ("null: 1", ":1: contains a key that is not text; put the key in quotes"),
    ("[a]: 1", ":1: contains a key that is not text; put the key in quotes"),
    ("poll: !much 1m", ":1: poll: has the tag '!much', which certmond does not support; remove it"),
    ("poll: !!bool 1m", ":1: poll: has the tag 'tag:yaml.org,2002:bool', which certmond does not support; remove it"),
    ("poll: *gone", ":1: poll: *gone has no complete &gone before it; define the anchor, or write the value"),
    ("poll: &own [*own]", ":1: poll[0]: *own has no complete &own before it; define the anchor, or write the value"),
    ("<<: 5m", ":1: '<<': must merge a mapping, or a list of mappings"),
]
IN_CERTIFICATE = [
    ("path: y", "path: must be an absolute path, not 'y'"),
    ("usage: x", "usage: unknown key; did you mean usages?"),
    ("usages: serve", f"usages: must be one of {', '.join(sorted(USAGES))}, not 'serve'"),
    ("usages: [server auth, serve]", f"usages[1]: must be one of {', '.join(sorted(USAGES))}, not 'serve'"),
    ("usages: {}", "usages: must be text or a list"),
    ("optional: 1", "optional: must be true or false, not '1'"),
    ("mode: 888", "mode: must be a file mode such as 0600, not '888'"),
    ("mode: 64", "mode: must be a file mode such as 0600, not '64'"),
    ("mode: true", "mode: must be a file mode such as 0600"),
    ("owner: a:b:c", "owner: must be user or user:group, not 'a:b:c'"),
    ("kind: pem", "kind: must be 'file', 'kubeconfig', 'bundle', 'kubelet' or 'key-pair', not 'pem'"),
    ("kind: key-pair", "key: must be given for kind key-pair"),
    ("names: x", "names: must begin with DNS: or IP:, or be ${control_plane_name}, not 'x'"),
    ("names: 'DNS: x'", "names: must begin with DNS: or IP:, or be ${control_plane_name}, not 'DNS: x'"),
    ("names: IP:10.0.0.300", "names: must have an IP address after IP:, not 'IP:10.0.0.300'"),
    ("names: ['DNS:${node}']", f"names[0]: there is no fact ${{node}}; the facts are {', '.join(FACTS)}"),
    (
        "subject: CN=$x",
        "subject: must contain each fact in the form ${node_name}, and each dollar sign as $$, not 'CN=$x'",
    ),
    ("subject: x", "subject: must be a subject such as CN=kubernetes-admin,O=system:masters, not 'x'"),
    ("ca: z", "ca: there is no certificate 'z'; add it to `certificates`, or remove it here"),
    ("ca: [self, x]", "ca[1]: x is not an authority; name an authority, or set `authority: true` in x"),
    ("embedded_ca: x", "embedded_ca: x is not an authority; name an authority, or set `authority: true` in x"),
    (
        "embedded_ca: root",
        "embedded_ca: there is no certificate 'root'; add it to `certificates`, or remove it here",
    ),
    ("consumers: [s, t]", "consumers[1]: there is no service 't'; add it to `services`, or remove it here"),
]
IN_SERVICE = [
    ("kind: systemd", "unit: must be given for kind systemd"),
    ("kind: static-pod", "pod: must be given for kind static-pod"),
    ("kind: command\n  command: []", "command: must be given for kind command"),
    ("kind: command\n  command: a b", "command: must be a list of the program and its arguments, not 'a b'"),
    ("kind: x", "kind: must be 'systemd', 'static-pod' or 'command', not 'x'"),
    ("reloads: [y]", "reloads[0]: there is no certificate 'y'; add it to `certificates`, or remove it here"),
    ("after: otter", "after: there is no service 'otter'; did you mean other?"),
    ("means: reload", "means: must be restart unless the kind is systemd, not 'reload'"),
    ("means: kill", "means: must be 'restart' or 'reload', not 'kill'"),
    ("time_limit: soon", "time_limit: must be a duration such as 30d, 12h or 90s, not 'soon'"),
    ("environment: [A=b]", "environment: must be a mapping, with lines such as `KEY: value`"),
    ("environment: {A: [b]}", "environment.A: must be text; put a value that YAML parses as another type in quotes"),
    (
        "serves: {y: '127.0.0.1:1'}",
        "serves.y: there is no certificate 'y'; add it to `certificates`, or remove it here",
    ),
    (
        "health: [http://127.0.0.1:1/, 127.0.0.1:1]",
        (
            "health[1]: must be http://ADDRESS:PORT/PATH, https://ADDRESS:PORT/PATH or tcp://ADDRESS:PORT, "
            "not '127.0.0.1:1'"
        ),
    ),
]


@pytest.mark.parametrize("field", ["serves: text", "serves: [text]", "reloads: {x: y}", "after: {s: s}"])
def test_a_value_of_the_wrong_type_is_reported_once(field: str) -> None:
    """Its meaning in another type is not checked."""
    (found,) = problems(f"services: [{{name: s, kind: command, command: [/s], {field}}}]\n")
    assert ": must be " in found


@pytest.mark.parametrize(("text", "said"), IN_FILE)
def test_a_problem_has_its_file_line_path_and_remedy(text: str, said: str) -> None:
    assert problems(text)[0] == f"a.yaml{said}"


@pytest.mark.parametrize(("field", "said"), IN_CERTIFICATE)
def test_a_certificate_says_what_is_wrong_with_which_of_its_fields(field: str, said: str) -> None:
    rest = "" if field.startswith("path") else "  path: /y\n"
    head = "services: [{name: s, kind: command, command: [/s]}]\ncertificates:\n- {name: x, path: /x}\n"
    (found,) = problems(f"{head}- name: y\n{rest}  {field}\n")
    assert re.sub(r"^a.yaml:\d: certificates\[1\]\.", "", found) == said
    if "must be given" not in said:
        assert found.startswith("a.yaml:6:" if rest else "a.yaml:5:")


def test_a_served_name_is_a_certificate_of_the_configuration() -> None:
    """Each unknown name is reported at its place, and so is each endpoint without a possible connection."""
    text = """\
certificates: [{name: web, path: /web}]
services:
- name: s
  kind: command
  command: [/s]
  serves:
    web: ["127.0.0.1:1", "localhost:1"]
    wed: "127.0.0.1:2"
"""
    endpoint = "services[0].serves.web[1]: must be ADDRESS:PORT or NAME@ADDRESS:PORT: "
    assert problems(text)[0].startswith(f"a.yaml:7: {endpoint}")
    named = text.replace('"localhost:1"', '"a.example@[::1]:1"')
    assert problems(named) == ["a.yaml:8: services[0].serves.wed: there is no certificate 'wed'; did you mean web?"]
    (service,) = read(named.replace("wed", "web").replace('    web: "127.0.0.1:2"\n', "")).services
    assert service.serves == {"web": ("127.0.0.1:1", "a.example@[::1]:1")}


def test_a_pattern_has_no_one_key() -> None:
    """The key of a pattern is in the same file, or has the same text for each `*`."""
    said = (
        "certificates[0].key: must be absent, be equal to `path`, or contain as many `*` as `path`, because `path` "
        "is a glob"
    )
    for path, key in (
        ("/y/*.pem", "/y.key"), ("/*/*.pem", "/*/y.key"), ("/y/*.pem", "/y/?.key"), ("/y/?.pem", "/y/?.key"),
        ("/y/*-*.pem", "/y/*-*.key"), ("/**/y.pem", "/**/y.key"),
    ):  # fmt: skip
        assert problems(f"certificates:\n- name: y\n  path: {path}\n  key: {key}\n  renewed_by: x")[0].startswith(
            f"a.yaml:4: {said}"
        )
    (spec,) = read("certificates:\n- name: y\n  path: /*/y-*.pem\n  key: /*/{*}-key.pem\n").certificates
    assert spec.key_of("/a/y-b.pem") == "/a/{b}-key.pem"
    said = f"{said}, not '/y.key'"
    assert problems("certificates:\n- name: y\n  path: /y/*.pem\n  key: /y.key") == [f"a.yaml:4: {said}"]
    assert read("certificates: [{name: y, path: '/y/*.pem', key: '/y/*.pem'}]").certificates[0].is_glob


@pytest.mark.parametrize("name", ["'a b'", "''", "-a", "a" * 64])
def test_a_name_can_be_a_label_and_a_file_name(name: str) -> None:
    (said,) = problems(f"certificates: [{{name: {name}, path: /y}}]")
    assert "certificates[0].name: must be a name of at most 63 letters, digits, '.', '_' and '-', not " in said


@pytest.mark.parametrize("name", ["Node", "node_1", "-a", "a.", "a" * 254])
def test_the_node_name_is_one_that_kubernetes_takes(name: str) -> None:
    (said,) = problems(f"node_name: {name}")
    assert "must be the name of the node in Kubernetes: lowercase letters, digits, '-' and '.', not" in said


@pytest.mark.parametrize(("fields", "said"), IN_SERVICE)
def test_a_service_says_what_is_wrong_with_which_of_its_fields(fields: str, said: str) -> None:
    kind = "" if fields.startswith("kind") else "  kind: command\n  command: [/s]\n"
    (found,) = problems(f"services:\n- {{name: other, kind: command, command: [/o]}}\n- name: s\n{kind}  {fields}\n")
    assert re.sub(r"^a.yaml:\d: services\[1\]\.", "", found) == said


def test_an_entry_that_keeps_its_key_has_no_signer_that_makes_one() -> None:
    """kubeadm makes a new key: an entry of the profile that keeps its key gets an error with the setting, at the line
    with the signer.
    """
    text = """
        signers: [{name: adm, kind: kubeadm}, {name: site, kind: command, command: [/helper]}, {name: api, kind: csr}]
        certificates:
        - {name: etcd-server, signer: adm}
        - {name: etcd-peer, signer: adm, keep_key: false}
        - {name: apiserver, signer: adm}
        - {name: front-proxy-client, signer: adm, keep_key: true}
        - {name: apiserver-etcd-client, signer: adm, keep_key: true, renewed_by: another program}
        - {name: etcd-healthcheck-client, signer: site, keep_key: true}
        - {name: scheduler.conf, signer: api, keep_key: true}
    """
    said = "keeps its key (`keep_key: true`), but a signer of kind kubeadm creates a new key; write `keep_key: false`"
    assert problems(text, profile="kubeadm") == [
        f"a.yaml:{line}: certificates[{number}].signer: {name} {said} in the entry {name}, or name a signer of "
        "another kind"
        for line, number, name in ((4, 0, "etcd-server"), (7, 3, "front-proxy-client"))
    ]
    everywhere = problems("signers: [{name: local, kind: kubeadm}]", profile="kubeadm")
    assert [each.split("signer: ")[1].split()[0] for each in everywhere] == ["etcd-server", "etcd-peer"]


def test_a_derived_file_has_a_place_of_its_own_and_a_source_that_it_can_be_made_from() -> None:
    """Not the path of an entry, a key, another derived file or a static Pod; made from a certificate with its key. Only
    the copy of a pair can be that of a CA.
    """
    text = """
        derived:
        - {name: a, kind: pem-bundle, source: apiserver, path: /etc/kubernetes/pki/ca.crt}
        - {name: b, kind: pem-bundle, source: apiserver, path: /etc/kubernetes/pki/apiserver.key}
        - {name: c, kind: pem-bundle, source: apiserver, path: /etc/kubernetes/manifests/x.pem}
        - {name: d, kind: kubeconfig, source: apiserver, path: /d}
        - {name: e, kind: pem-bundle, source: ca, path: /e}
        - {name: f, kind: pem-bundle, source: admin.conf, path: /f}
        - {name: g, kind: kubeconfig, source: admin.conf, path: /f}
        - {name: h, kind: copy, source: ca, path: /h}
        - {name: i, kind: copy, source: keyless, path: /h}
        certificates:
        - {name: keyless, path: /keyless.crt, authority: true}
    """
    assert problems(text, profile="kubeadm") == [
        "a.yaml:3: derived[0].path: is also the path of the entry ca; choose another path",
        "a.yaml:4: derived[1].path: is also the path of the entry apiserver; choose another path",
        (
            "a.yaml:5: derived[2].path: is in the directory of the static Pods, and the kubelet starts each "
            "file there; choose another path"
        ),
        (
            "a.yaml:6: derived[3].source: certmond cannot derive a kubeconfig from apiserver; name a leaf of kind "
            "kubeconfig whose path is not a pattern"
        ),
        (
            "a.yaml:7: derived[4].source: certmond cannot derive a pem-bundle from ca; name a leaf of kind file or "
            "kubeconfig or kubelet whose path is not a pattern"
        ),
        "a.yaml:9: derived[6].path: is also the path of the derived file f; choose another path",
        (
            "a.yaml:11: derived[8].source: certmond cannot derive a copy from keyless; name a leaf of kind file whose "
            "path is not a pattern"
        ),
    ]


def test_a_copy_that_an_operator_has_made_gives_way_to_an_own_entry() -> None:
    """An entry of `certificates` or `derived` can have the path of root's kubeconfig, which the profile also has."""
    for own in (
        "certificates: [{name: own, kind: kubeconfig, path: /root/.kube/config, embedded_ca: ca}]",
        "derived: [{name: own, kind: kubeconfig, source: admin.conf, path: /root/.kube/config}]",
        "derived: [{name: own, kind: pem-bundle, source: admin.conf, path: /root/.kube/config}]",
    ):
        found = read(own, profile="kubeadm")
        paths = [*(each.path for each in found.certificates), *(each.path for each in found.derived)]
        assert paths.count("/root/.kube/config") == 2


@pytest.mark.parametrize("write", ["existing", "never"])
def test_only_a_copy_of_a_kubeconfig_can_be_left_to_its_operator(write: str) -> None:
    """certmond always writes a PEM bundle, because it cannot tell an old one from a file of the operator."""
    text = f"derived: [{{name: a, kind: pem-bundle, source: apiserver, path: /a, write: {write}}}]"
    assert problems(text, profile="kubeadm") == [
        f"a.yaml:1: derived[0].write: must be always unless the kind is kubeconfig, not {write!r}"
    ]
    copy = read(text.replace("pem-bundle", "kubeconfig").replace("apiserver", "admin.conf"), profile="kubeadm").derived
    assert copy[-1].write == write


def test_the_profile_of_kubeadm_has_the_copy_of_root() -> None:
    """An entry of this name changes single fields, such as `write: never`."""
    (copy,) = read("derived: [{name: root-kubeconfig, write: never}]", profile="kubeadm").derived
    assert (copy.path, copy.source, copy.write) == ("/root/.kube/config", "admin.conf", "never")


def test_a_name_is_given_once_in_a_file() -> None:
    text = "certificates:\n- {name: x, path: /x}\n- {name: y, path: /y}\n- {name: x, path: /z}\n"
    said = "certificates[2]: repeats the name of line 2, 'x'; merge the two entries, or rename one of them"
    assert problems(text) == [f"a.yaml:4: {said}"]


def test_all_problems_are_reported_in_the_order_of_files_and_lines() -> None:
    first = """
        mode: renew
        certificates:
          - name: apisever
            names: [DNS:a]
          - name: x
            path: x
            ca: [gone, apiserver]
        windows: []
        poll: 1s
        poll: 2s
    """
    second = "resync: never\nservices:\n- name: etcd\n  after: [kubelet]\n- 5\n"
    assert [problem.split(": ")[:2] for problem in problems(first, second, profile="kubeadmm")] == [
        ["--profile", f"must be one of {', '.join(profiles())}, none, not 'kubeadmm'"],
        ["a.yaml:2", "mode"],
        ["a.yaml:4", "certificates[0].path"],
        ["a.yaml:7", "certificates[1].path"],
        ["a.yaml:8", "certificates[1].ca[0]"],
        ["a.yaml:8", "certificates[1].ca[1]"],
        ["a.yaml:9", "windows"],
        ["a.yaml:11", "poll"],
        ["b.yaml:1", "resync"],
        ["b.yaml:4", "services[0].after[0]"],
        ["b.yaml:5", "services[1]"],
    ]


def test_a_mistaken_name_is_met_with_the_one_that_was_meant() -> None:
    (said,) = problems("certificates: [{name: apisever, chain: true}]", profile="kubeadm")
    assert said == "a.yaml:1: certificates[0].path: must be given; did you mean the entry apiserver?"


def test_a_key_of_another_version_is_distinguished_from_a_mistake() -> None:
    (said,) = problems("plugins: {}")
    assert said == f"a.yaml:1: plugins: unknown key; the keys are {', '.join(keys_of(Config))}"


def test_a_problem_in_an_overriding_entry_has_the_line_of_the_field() -> None:
    """Merging moves entries. The error still has the file, line and number of the field."""
    first = "certificates:\n- {name: a, path: /a}\n- name: b\n  path: b\n"
    second = "certificates:\n- name: b\n  mode: 9\n"
    assert [said.partition(": must")[0] for said in problems(first, second)] == [
        "a.yaml:4: certificates[1].path",
        "b.yaml:3: certificates[0].mode",
    ]


def test_a_cycle_of_services_is_reported_once_in_the_last_file() -> None:
    services = """
        services:
          - {name: one, kind: command, command: [/one], after: [two, alone]}
          - {name: two, kind: command, command: [/two], after: one}
          - {name: alone, kind: command, command: [/alone], after: alone}
    """
    assert problems(services) == [
        (
            "a.yaml:3: services[0].after[0]: completes a dependency cycle: one after two after one; "
            "remove one of these dependencies"
        ),
        (
            "a.yaml:5: services[2].after: completes a dependency cycle: alone after alone; "
            "remove one of these dependencies"
        ),
    ]
    (said,) = problems("services: [{name: etcd, after: kubelet}]", profile="kubeadm")
    assert said.startswith("a.yaml:1: services[0].after: completes a dependency cycle: ")


def test_what_may_stand_in_an_unusable_file_is_not_held_against_the_others() -> None:
    """No reference is called unknown, and no field missing, while a part of the configuration cannot be read."""
    said = problems("services: [", "certificates: [{name: x, consumers: s}]\npoll: 0s")
    assert [each.partition(": ")[0] for each in said] == ["a.yaml:2", "b.yaml:2"]


def test_hostile_words_are_shown_on_one_short_line() -> None:
    (said,) = problems('"a\\nb\\e[31m": 1')
    assert said.startswith("a.yaml:1: 'a\\nb\\x1b[31m': unknown key")
    (said,) = problems(f"profile: {'x' * 1000}", profile=None)
    assert len(said) < 200


# --- memory limits ----------------------------------------------------------------------------------------------------


def test_a_document_of_more_than_a_mebibyte_is_refused() -> None:
    (said,) = problems("#" * (2**20 + 1))
    assert said == "a.yaml: is larger than 1 MiB; split it into files in conf.d/"
    assert read("#" * 2**20) == Config(profile="none")


def test_aliases_that_would_unfold_without_end_are_refused() -> None:
    bomb = "a0: &a0 [" + "x," * 9 + "x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    (said,) = problems(bomb)
    assert said == "a.yaml:5: contains more than 100000 values, including aliases; shorten the file"


@pytest.mark.parametrize("text", ["[" * 900, "- " * 5000, "{a: " * 300, "? " * 5000])
def test_deep_nesting_is_refused(text: str) -> None:
    (said,) = problems(text)
    assert said == "a.yaml:1: is nested more than 32 levels deep; reduce the nesting"


# --- files ------------------------------------------------------------------------------------------------------------


def test_drop_ins_are_read_in_the_order_of_their_names_after_the_main_file(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    for name, text in {
        "config.yaml": "profile: none\npoll: 1s\nresync: 1m",
        "conf.d/20-b.yaml": "poll: 20s",
        "conf.d/10-a.yaml": "poll: 10s\nresync: 10m",
        "conf.d/.30-hidden.yaml": "poll: 30s",
        "conf.d/40-other.yml": "poll: 40s",
    }.items():
        (tmp_path / name).write_text(text)
    found = load(tmp_path / "config.yaml")
    assert (found.poll, found.resync) == (timedelta(seconds=20), timedelta(minutes=10))


def test_the_default_file_may_be_missing_and_one_that_was_asked_for_may_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "config.yaml"
    monkeypatch.setattr(source_files, "DEFAULT_PATH", gone)
    assert load() == load(gone) == parse([])
    with pytest.raises(ConfigError) as caught:
        load(gone, explicit=True)
    assert caught.value.problems == (
        f"{gone}: is unreadable (No such file or directory); correct the path or the permissions",
    )
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/a.yaml").write_text("profile: none")
    assert load() == Config(profile="none")


def test_unreadable_files_are_reported_with_all_other_problems(tmp_path: Path) -> None:
    main, drop_ins = tmp_path / "config.yaml", tmp_path / "conf.d"
    main.write_bytes(b"poll: 1s\n# \xff\n")
    (drop_ins / "a.yaml").mkdir(parents=True)
    (drop_ins / "b.yaml").write_bytes(b"# " + "é".encode() * 2**20)
    (drop_ins / "c.yaml").write_text("polls: 1s")
    (drop_ins / "d.yaml").symlink_to("nowhere")
    with pytest.raises(ConfigError) as caught:
        load(main)
    assert set(caught.value.problems) == {
        f"{main}:2: is not UTF-8; save it as UTF-8",
        f"{drop_ins}/a.yaml: is unreadable (Is a directory); correct the path or the permissions",
        f"{drop_ins}/b.yaml: is larger than 1 MiB; split it into files in conf.d/",
        f"{drop_ins}/c.yaml:1: polls: unknown key; did you mean poll?",
        f"{drop_ins}/d.yaml: is unreadable (No such file or directory); correct the path or the permissions",
    }


def test_a_directory_of_drop_ins_that_cannot_be_listed_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> Any:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "config.yaml").write_text("profile: none")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ConfigError, match=r"conf\.d: is unreadable \(Permission denied\)"):
        load(tmp_path / "config.yaml")


# --- any text, any configuration --------------------------------------------------------------------------------------

_words = st.sampled_from(
    ["certificates", "services", "name", "path", "ca", "self", "x", "- ", ": ", "\n", "\n  ", "&a ", "*a", "<<", "[",
     "]", "{", "}", "'", '"', "!", "!!int ", "|", ">", "?", "~", "true", "5m", "/x", ",", "#", "---\n", "${node_name}",
     "\t"]
)  # fmt: skip


@pytest.mark.long
@given(st.one_of(st.text(), st.binary(), st.lists(_words).map("".join)), st.sampled_from(["none", "kubeadm", None]))
@example("a: &a\n- *a", None)
@example("=: 1", None)
@example("? {a: b}\n: c", None)
@example("certificates: [{name: [x], consumers: {a: b}}]", None)
@example("services: [{kind: command}, {after: x, name: [y]}]", None)
@example("renew_before: 999999999999d", None)
@example("renew_before: 999999y999999d", None)
def test_any_text_is_a_configuration_or_a_list_of_problems(text: str | bytes, profile: str | None) -> None:
    said: tuple[str, ...] = ()
    try:
        parse([Source("any", text)], profile=profile)
    except ConfigError as error:
        said = error.problems or ("nothing",)
    for problem in said:
        assert re.fullmatch(r"(any(:\d+)?|profile kubeadm:\d+): .+", problem)


@given(st.one_of(st.text(), st.lists(_words).map("".join)))
@example("0: !")
@example("0: ! ''")
@settings(max_examples=50)
def test_the_reader_in_pure_python_refuses_and_accepts_the_same(text: str) -> None:
    """Where PyYAML was built without libyaml."""

    def outcome() -> Any:
        node, found = yaml_source.read("any", text)
        return node.plain() if node and not found else None

    fast = outcome()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_source, "_LOADER", yaml.SafeLoader)
        slow = outcome()
    assert fast == slow or None in (fast, slow)  # they differ in what is YAML at its edges, never in what it means


_names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
_text = st.text(st.characters(codec="utf-8", exclude_characters="\x00$"), min_size=1, max_size=12)
_paths = _text.map(lambda text: "/" + "/".join(part for part in text.split("/") if part not in {"", "."}))
_plain_paths = _paths.filter(lambda path: not any(character in path for character in "*?["))
_durations = st.integers(1, 10**8).map(lambda seconds: timedelta(seconds=seconds))
_san = st.one_of(
    st.ip_addresses().map(lambda address: f"IP:{address}"),
    st.sampled_from(["DNS:a.example", "DNS:${node_name}", "${control_plane_name}"]),
)
_endpoints = st.lists(st.sampled_from(["127.0.0.1:1", "a.example@[::1]:443"]), max_size=2).map(tuple)
_subjects = st.sampled_from(["CN=a", "CN=a,O=b+OU=c", r"CN=a\,b", "CN=system:node:${node_name},O=system:nodes"])


def _maybe(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


@st.composite
def configurations(draw: st.DrawFn) -> Config:
    names = draw(st.lists(_names.filter(lambda name: name != SELF), unique=True, max_size=5))
    services = draw(st.lists(_names, unique=True, max_size=4))
    authorities = draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
    anchors = [name for name, authority in zip(names, authorities, strict=True) if authority]
    some = st.lists(st.sampled_from([*anchors, SELF]), max_size=2).map(tuple)
    certificates = [
        CertificateSpec(
            name=name,
            authority=authority,
            path=draw(_plain_paths),
            **draw(
                _maybe(
                    key=st.none() | _plain_paths,
                    kind=st.sampled_from([Kind.FILE, Kind.KUBECONFIG, Kind.BUNDLE, Kind.KUBELET]),
                    ca=some,
                    subject=st.lists(_subjects, max_size=2).map(tuple),
                    usages=st.lists(st.sampled_from(sorted(USAGES)), max_size=2).map(tuple),
                    names=st.lists(_san, max_size=3).map(tuple),
                    mode=st.none() | st.integers(0, 0o777),
                    key_mode=st.integers(0, 0o777),
                    owner=st.sampled_from([None, "root", "root:root", "1000:50"]),
                    renew_before=st.none() | _durations,
                    embedded_ca=st.sampled_from([None, *anchors]),
                    optional=st.booleans(),
                    mentioned_in=st.lists(_paths, max_size=2).map(tuple),
                    exclude=st.lists(st.text(st.characters(codec="utf-8")), max_size=2).map(tuple),
                    consumers=st.lists(st.sampled_from(services or [""]), max_size=min(2, len(services))).map(tuple),
                )
            ),
        )
        for name, authority in zip(names, authorities, strict=True)
    ]
    service_specs = [
        ServiceSpec(
            name=name,
            after=tuple(draw(st.lists(st.sampled_from(services[:number]), max_size=2)) if number else ()),
            reloads=tuple(draw(st.lists(st.sampled_from(names), max_size=2)) if names else ()),
            serves=draw(st.dictionaries(st.sampled_from(names), _endpoints, max_size=2)) if names else {},
            health=tuple(draw(st.lists(st.sampled_from(["tcp://[::1]:1", "http://127.0.0.1:1/a?b"]), max_size=2))),
            time_limit=draw(_durations),
            environment=draw(st.dictionaries(_text, _text, max_size=2)),
            **draw(
                st.one_of(
                    st.fixed_dictionaries({"kind": st.just("systemd"), "unit": _text}),
                    st.fixed_dictionaries({"kind": st.just("static-pod"), "pod": _text}),
                    st.fixed_dictionaries({"kind": st.just("command"), "command": st.tuples(_text, _text)}),
                )
            ),
        )
        for number, name in enumerate(services)
    ]
    return Config(
        profile="none",
        certificates=tuple(certificates),
        services=tuple(service_specs),
        **draw(
            _maybe(
                node_name=st.sampled_from([None, "node-1", "007", "on", "null"]),
                renew_before=_durations,
                restart=st.builds(RestartSpec, ready_within=_durations, stable=_durations),
                cluster=st.builds(
                    ClusterSpec, kubeconfig=st.none() | _paths, without_api=st.sampled_from(["hold", "go_on"])
                ),
                resync=st.integers(10, 86400).map(lambda seconds: timedelta(seconds=seconds)),
                poll=st.integers(1, 3600).map(lambda seconds: timedelta(seconds=seconds)),
                listen=st.sampled_from(
                    ["127.0.0.1:9964", "[::1]:1", "localhost:65535", "0.0.0.0:80", "[fe80::1%eth0]:99"]
                ),
                web_config=st.none() | _paths,
            )
        ),
    )


@pytest.mark.long
@given(configurations())
@settings(max_examples=examples(200))
def test_what_is_shown_is_what_is_in_force(found: Config) -> None:
    """`config show` prints a configuration that means the same."""
    text = yaml.safe_dump(validator(Config).dump_python(found, mode="json"))
    given = parse_tree([Source("given", text)])
    assert given.config == found
    assert parse([Source("shown", dump(given))]) == found


def test_what_is_shown_of_a_profile_with_changes_can_be_put_in_their_place() -> None:
    found = parse_tree([Source("a", "certificates: [{name: admin.conf, owner: null, subject: [], mode: 0640}]")])
    assert parse([Source("shown", dump(found))]) == found.config
    assert found.config.certificates != parse([]).certificates


# --- the schema, the example, the documentation -----------------------------------------------------------------------


def test_the_schema_knows_each_key_and_asks_of_an_entry_no_more_than_its_name() -> None:
    whole = json.loads(json.dumps(schema()))
    assert list(whole["properties"]) == keys_of(Config)
    assert whole["additionalProperties"] is False
    assert whole["properties"]["profile"]["enum"] == [*profiles(), "none"]
    for name in ("CertificateSpec", "ServiceSpec", "SignerSpec", "DerivedSpec"):
        assert whole["$defs"][name]["required"] == ["name"]
        assert whole["$defs"][name]["additionalProperties"] is False


def test_the_example_is_all_comments_and_right_without_them() -> None:
    text = (ROOT / "config/certmond.yaml").read_text()
    assert parse([Source("as it is", text)]) == parse([])
    found = parse([Source("uncommented", re.sub(r"(?m)^#(?=\S|  )", "", text))])
    plain = parse([])
    assert {spec.name for spec in found.certificates} - {spec.name for spec in plain.certificates} == {
        "nginx", "company-ca", "billing", "backup.conf"
    }  # fmt: skip
    examples: dict[str, Any] = {"certificates": (), "services": (), "node_name": None, "signers": (), "derived": (),
                "hooks": (), "compatibility": (), "web_config": None,
                "init": InitSpec(), "cluster": ClusterSpec()}  # fmt: skip
    assert found.cluster.kubeconfig == "/etc/kubernetes/certmond.conf"
    assert replace(found.cluster, kubeconfig=None) == ClusterSpec()
    assert found.hold.file == "/run/upgrade-in-progress"
    assert replace(found, **{**examples, "hold": HoldSpec()}) == Config()
    assert next(spec.names for spec in found.certificates if spec.name == "apiserver")[-1] == "DNS:lb.example.com"


@pytest.mark.parametrize(
    "text", ["mode: enforce", "hold: {command: [/x]}", "signers: [{name: s, kind: command, command: [/x]}]"]
)
def test_a_configuration_that_others_can_write_does_not_allow_actions(tmp_path: Path, text: str) -> None:
    """If certmond changes the node or runs a program, a file that group or others can write is refused by name."""
    main, more = tmp_path / "config.yaml", tmp_path / "conf.d/more.yaml"
    more.parent.mkdir()
    more.write_text("resync: 1m\n")
    main.write_text(text)
    main.chmod(0o644)
    more.chmod(0o664)
    with pytest.raises(ConfigError) as refused:
        load(main)
    assert refused.value.problems == (f"{more}: is writable by other users (mode 0664); run: chmod go-w {more}",)
    main.write_text("mode: observe")
    assert load(main).resync == timedelta(minutes=1)


@pytest.mark.parametrize("name", ["config.yaml", "conf.d/a.yaml"])
@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "link to a pipe"])
def test_only_a_regular_file_is_a_configuration(tmp_path: Path, name: str, kind: str) -> None:
    """A file without an end, or without a writer, is an error without a wait."""
    path = tmp_path / name
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "config.yaml").write_text("profile: none")
    path.unlink(missing_ok=True)
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    with pytest.raises(ConfigError, match=rf"{name}: is unreadable \(.*\); correct the path or the permissions"):
        load(tmp_path / "config.yaml")


def test_a_command_that_writes_refuses_a_configuration_that_others_can_write(tmp_path: Path) -> None:
    """The rule holds in each mode."""
    main = tmp_path / "config.yaml"
    main.write_text("mode: observe")
    main.chmod(0o666)
    assert load(main).mode == "observe"
    with pytest.raises(
        ConfigError, match=rf"^{main}: is writable by other users \(mode 0666\); run: chmod go-w {main}$"
    ):
        load(main, acting=True)


@pytest.mark.parametrize("below", ["", "conf.d", "elsewhere"])
def test_a_directory_that_others_can_write_is_as_bad_as_the_file(tmp_path: Path, below: str) -> None:
    """A user who can replace the file can write it. The sticky bit prevents the replacement."""
    home = tmp_path / "home"
    for name in ("conf.d", "elsewhere"):
        (home / name).mkdir(parents=True)
    (home / "elsewhere/real.yaml").write_text("mode: enforce")
    (home / "elsewhere/real.yaml").chmod(0o644)
    (home / "config.yaml").symlink_to("elsewhere/real.yaml")
    assert load(home / "config.yaml").acts
    where = home / below
    where.chmod(0o775)
    with pytest.raises(ConfigError) as refused:
        load(home / "config.yaml")
    assert refused.value.problems == (f"{where}: is writable by other users (mode 0775); run: chmod go-w {where}",)
    where.chmod(0o1777)
    assert load(home / "config.yaml").acts


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("below", ["", "conf.d"])
def test_a_directory_of_another_user_is_as_bad_as_the_file(tmp_path: Path, below: str) -> None:
    """The owner of the directory can put any file into it."""
    home = tmp_path / "home"
    (home / "conf.d").mkdir(parents=True)
    os.chown(home / below, 1234, 0)
    assert load(home / "config.yaml") == load(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=rf"^{home / below}: belongs to user 1234; run: chown root {home / below}$"):
        load(home / "config.yaml", acting=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_configuration_of_another_user_does_not_allow_enforce_mode(tmp_path: Path) -> None:
    """A file that belongs neither to root nor to the user of certmond is refused in enforce mode."""
    main = tmp_path / "config.yaml"
    main.write_text("mode: enforce")
    main.chmod(0o600)
    os.chown(main, 1234, 0)
    with pytest.raises(ConfigError, match=r"belongs to user 1234; run: chown root"):
        load(main)


@pytest.mark.parametrize("command", ["hook", "/hook --now", ["hook"], [], [""], ["/a\0b"]])
def test_a_hook_is_a_list_that_begins_with_an_absolute_path(command: object) -> None:
    """certmond uses no shell and no PATH for a hook."""
    (said,) = problems(yaml.safe_dump({"hooks": [{"name": "x", "command": command}]}))
    assert said.startswith("a.yaml:2: hooks[0].command: must be a list ")


def test_a_configuration_with_a_hook_runs_programs() -> None:
    """A hook runs programs, so no other user may be able to write the configuration, also in observe mode."""
    assert read("hooks: [{name: x, command: [/x]}]").acts
