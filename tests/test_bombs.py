"""YAML bombs: aliases of aliases, merge keys of merge keys, and unbounded nesting.

A child process with a limit of one gigabyte passes all of them to every reader and reports each result.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

from tests.builders import make_ca
from tests.documents import ROOT

USERS = """
users:
- {name: u, user: {client-certificate-data: QQ==, client-key-data: QQ==, more: %s}}
clusters:
- {name: c, cluster: {server: %s, certificate-authority-data: QQ==}}
contexts:
- {name: x, context: {user: u, cluster: c}}
current-context: x
"""
POD = """
kind: Pod
metadata: {name: %s}
spec: {containers: [{name: c, command: %s, image: %s}]}
"""
GIGABYTE = 1 << 30

READING = """
import json, sys
from pathlib import Path
from certmond.config.parser import parse
from certmond.config.source_merger import Source
from certmond.errors import CertmondError
from certmond.expose.http.web_config import parse as web
from certmond.formats.kubeadm_config import parse_kubeadm_config
from certmond.formats.kubeconfig import parse_kubeconfig
from certmond.formats.kubeconfig_edit import with_credentials, with_trust
from certmond.formats.manifest import containers, kubelet_fields, parse_manifest
from certmond.formats.manifest_edit import with_flags

PEM = Path(sys.argv[1]).read_bytes()
READERS = {
    "a configuration": lambda text: parse([Source("/f", text)]),
    "a web configuration": lambda text: web("/f", text, Path("/etc")),
    "kubeadm's": lambda text: parse_kubeadm_config(text, "/f"),
    "a kubeconfig": lambda text: parse_kubeconfig(text, "/f"),
    "new credentials": lambda text: with_credentials(
        text, "/f", old=None, trust_pem=PEM, certificate_pem=b"a", key_pem=b"b"),
    "a manifest": lambda text: [containers(parse_manifest(text, "/f").fields),
                                kubelet_fields(parse_manifest(text, "/f").fields, "/f")],
    "new flags": lambda text: with_flags(text, "/f", "c", {"x": "/y"}),
}
for name, text in json.load(sys.stdin).items():
    for reader, read in READERS.items():
        try:
            read(text.encode())
            said = ""
        except CertmondError as error:
            said = str(error)
        print(json.dumps([name, reader, said]))
"""


def expanding(item: str, first: str, ends: str, width: int = 9, levels: int = 30) -> str:
    """Levels that each have the one before `width` times: 9 to the power of 29 values, in six kilobytes."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{n}: &a{n} {item % ', '.join([f'*a{n - 1}'] * width)}" for n in range(1, levels)]
    return "\n".join(lines) + ends


BOMBS = {
    "aliases, users": expanding("[%s]", "[lol]", USERS % ("*a29", "*a29")),
    "aliases, pod": expanding("[%s]", "[lol]", POD % ("*a29", "*a29", "*a29")),
    "merges, users": expanding("{<<: [%s]}", "{k: 1}", USERS % ("*a29", "x")),
    "merges, pod": expanding("{<<: [%s]}", "{k: 1}", POD % ("*a29", "*a29", "x")),
    "lists": USERS % ("[" * 100_000, "x"),
    "mappings": USERS % ("{a: " * 100_000, "x"),
    "lists that end": USERS % ("[" * 900 + "]" * 900, "x"),
    "itself": USERS % ("&z [*z, {a: *z}]", "x"),
}
MAY_BE_READ = {"a kubeconfig", "new credentials", "a manifest"}
"""Readers that accept deep nesting, as the kubelet and client-go do. Their refusals need not have the path."""


def test_a_small_text_that_represents_much_takes_no_memory(tmp_path: Path) -> None:
    """Each reader finishes within a gigabyte of memory: with a value, or with a sentence that names the file. A
    configuration with such a text is refused.
    """
    (tmp_path / "reading.py").write_text(READING)
    (tmp_path / "ca.pem").write_bytes(make_ca().pem)
    ended = subprocess.run(
        [sys.executable, str(tmp_path / "reading.py"), str(tmp_path / "ca.pem")], input=json.dumps(BOMBS), text=True,
        capture_output=True, check=False, cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (GIGABYTE, GIGABYTE)),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {name for name, _, _ in found} == BOMBS.keys()
    for name, reader, said in found:
        if reader in MAY_BE_READ:
            assert said == "" or "/f" in said or said.startswith(("is not", "is too large")), (name, reader, said)
        else:
            assert "/f" in said, (name, reader, said)
