"""`check` reports every certificate that a flag or field of a Kubernetes program names, without any configuration.

The table of flags and fields is tests/data/kubernetes-references.yaml, written from the sources of the programs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
import yaml
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.cli.main import cli
from tests.builders import Issued, make_leaf, reissue
from tests.node import DATA, NOW, PKI, Node, sans_of

TABLE: dict[str, list[dict[str, dict[str, Any]]]] = yaml.safe_load((DATA / "kubernetes-references.yaml").read_text())
DIRECTORY = "/etc/extra"
START, SOON, LATER = NOW - timedelta(days=360), NOW + timedelta(days=5), NOW + timedelta(days=1800)
USAGES = ["server auth", "client auth"]
CARRIERS = ("static Pod", "unit")
CASES = [
    pytest.param(program, number, carrier, id=f"{program}-{number}-{carrier}")
    for program, nodes in TABLE.items()
    for number in range(len(nodes))
    for carrier in CARRIERS
    if (program, carrier) != ("kubelet", "static Pod")
]


class Reference(NamedTuple):
    """A flag or field, and the file whose certificate it names."""

    field: str
    path: str


class ReferenceFiles:
    """The files that the flags of one program name. The certificate of each reference ends at `end`."""

    def __init__(self, node: Node, program: str, end: datetime) -> None:
        self.node, self.references = node, list[Reference]()
        self._end, self._count = end, 0
        self._etcd_ca = authority(node, f"{PKI}/etcd/ca")
        self._signer = self._etcd_ca if program == "etcd" else authority(node, f"{PKI}/ca")
        self._ca = self._signer if end == LATER else reissue(self._signer, not_before=START, not_after=end)
        node.path(DIRECTORY[1:]).mkdir()

    def write(self, path: str, content: bytes | str) -> str:
        self.node.path(path[1:]).parent.mkdir(parents=True, exist_ok=True)
        self.node.write(path[1:], content)
        self.node.path(path[1:]).chmod(0o600)
        return path

    def fill(self, fields: dict[str, Any], prefix: str, place: str = "") -> dict[str, Any]:
        """Return the fields with a file, or its content, in place of each `$`. `place` is the file with the fields."""
        filled: dict[str, Any] = {}
        for name, value in fields.items():
            where = f"{prefix}.{name}"
            if isinstance(value, dict) and set(value) <= {"$file", "$beside", "$directory", "$pair"}:
                filled[name] = self._configuration(value, where)
            elif isinstance(value, dict):
                filled[name] = self.fill(value, where, place)
            elif isinstance(value, list):
                filled[name] = [
                    self.fill({name: item}, f"{prefix}[{at}]", place)[name] for at, item in enumerate(value)
                ]
            elif isinstance(value, str) and value.startswith("$"):
                filled[name] = self._value(value[1:], where, place)
            else:
                filled[name] = value
        return filled

    def _configuration(self, value: dict[str, Any], where: str) -> str:
        ((kind, content),) = value.items()
        if kind == "$directory":
            directory = self._name(".d")
            for name, fields in content.items():
                path = f"{directory}/{name}"
                self.write(path, yaml.safe_dump(self.fill(fields, where, path)))
            return directory
        if kind == "$pair":
            issued, path = leaf(self._signer, self._end), f"{DIRECTORY}/{content}.crt"
            self.references.append(Reference(where, self.write(path, issued.pem)))
            self.write(path.replace(".crt", ".key"), issued.key_pem)
            return DIRECTORY
        path = self._name(".yaml")
        self.write(path, yaml.safe_dump(self.fill(content, where, path)))
        return path.rpartition("/")[2] if kind == "$beside" else path

    def _name(self, suffix: str) -> str:
        self._count += 1
        return f"{DIRECTORY}/{self._count}{suffix}"

    def _value(self, kind: str, where: str, place: str) -> str:
        """Make the value for the placeholder `kind`. A key is that of the certificate before it."""
        match kind:
            case "certificate" | "certificate-for-etcd" | "ca":
                signer = self._etcd_ca if kind.endswith("etcd") else self._signer
                self._last = self._ca if kind == "ca" else leaf(signer, self._end)
                path, self._key_path = self._pair(self._last)
                self.references.append(Reference(where, path))
                return path
            case "key" | "ca-key":
                return self._key_path
            case "certificate-data" | "ca-data" | "ca-text":
                self._last = leaf(self._signer, self._end) if kind == "certificate-data" else self._ca
                self.references.append(Reference(where, place))
                return self._last.pem.decode() if kind == "ca-text" else _encoded(self._last.pem)
            case "key-data":
                return _encoded(self._last.key_pem)
            case "sni":
                return f"{self._value('certificate', where, place)},{self._value('key', where, place)}:a.example"
            case _:
                return self._kubeconfig(kind.removeprefix("kubeconfig").removeprefix("-"), where)

    def _pair(self, issued: Issued) -> tuple[str, str]:
        path = self._name(".crt")
        return self.write(path, issued.pem), self.write(path.replace(".crt", ".key"), issued.key_pem)

    def _kubeconfig(self, ending: str, where: str) -> str:
        path = self._name(".conf")
        self.references.append(Reference(where, path))
        users, cluster = [_user(leaf(self._signer, LATER))], {"certificate-authority-data": _encoded(self._signer.pem)}
        match ending:
            case "":
                users = [_user(leaf(self._signer, self._end))]
            case "user":
                users.append(_user(leaf(self._signer, self._end)))
            case "file":
                certificate, key = self._pair(leaf(self._signer, self._end))
                users = [{"client-certificate": certificate, "client-key": key}]
            case "ca":
                cluster = {"certificate-authority-data": _encoded(self._ca.pem)}
            case _:
                cluster = {"certificate-authority": self._pair(self._ca)[0]}
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": "https://a.example", **cluster}}],
            "contexts": [{"name": "x", "context": {"user": "u0", "cluster": "c"}}],
            "users": [{"name": f"u{number}", "user": user} for number, user in enumerate(users)],
        }  # fmt: skip
        return self.write(path, yaml.safe_dump(document))


def authority(node: Node, name: str) -> Issued:
    """Return a CA of the node."""
    certificate, key = node.certificate(f"{name}.crt"), node.key(f"{name}.key")
    key_id = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return Issued(certificate.public_bytes(Encoding.DER), key, certificate.subject, key_id, tuple(sans_of(certificate)))


def leaf(ca: Issued, end: datetime) -> Issued:
    return make_leaf(ca, extended_usages=USAGES, names=["DNS:a.example"], not_before=START, not_after=end)


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _user(issued: Issued) -> dict[str, str]:
    return {"client-certificate-data": _encoded(issued.pem), "client-key-data": _encoded(issued.key_pem)}


def start(files: ReferenceFiles, program: str, number: int, carrier: str) -> None:
    """Start the program of one row of the table by a manifest, or by an enabled unit of systemd."""
    row = TABLE[program][number]
    flags = files.fill(row.get("flags", {}), program)
    variables = files.fill(row.get("environment", {}), program)
    words = [f"--{flag}={value}" for flag, values in flags.items() for value in _listed(values)]
    manifest = f"/etc/kubernetes/manifests/{program}.yaml"
    if carrier == "static Pod":
        mounts = [{"name": "extra", "mountPath": DIRECTORY}]
        environment = [{"name": name, "value": value} for name, value in variables.items()]
        container = {"name": program, "command": [program, *words], "env": environment, "volumeMounts": mounts}
        volumes = [{"name": "extra", "hostPath": {"path": DIRECTORY}}]
        spec = {"containers": [container], "volumes": volumes}
        files.write(manifest, yaml.safe_dump({"kind": "Pod", "metadata": {"name": program}, "spec": spec}))
        return
    files.node.path(manifest[1:]).unlink(missing_ok=True)
    lines = [f"Environment={name}={value}" for name, value in variables.items()]
    command = " \\\n  ".join([f"ExecStart=/usr/local/bin/{program}", *words])
    unit = files.write(f"/etc/systemd/system/{program}.service", "\n".join(["[Service]", *lines, command, ""]))
    wants = files.node.path("etc/systemd/system/multi-user.target.wants")
    wants.mkdir()
    (wants / f"{program}.service").symlink_to(unit)


def _listed(value: str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [value]


def check(node: Node) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(cli, ["check", "--root", str(node.root), "--at", f"{NOW:%FT%TZ}", "-o", "json"])
    return done.exit_code, json.loads(done.stdout)


def findings(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each finding, with the path of its entry."""
    for entry in document["certificates"] + document["trust_anchors"]:
        yield from ((entry["path"], item) for item in entry["findings"])
    yield from (("", item) for item in document["findings"])


def test_the_table_has_at_least_60_references(node: Node) -> None:
    """The table has at least 60 pairs of a program and a flag or field that names a certificate."""
    files = ReferenceFiles(node, "", SOON)
    for program, rows in TABLE.items():
        for row in rows:
            files.fill(row.get("flags", {}) | row.get("environment", {}), program)
    assert len({reference.field for reference in files.references}) >= 60


@pytest.mark.long
@pytest.mark.parametrize(("program", "number", "carrier"), CASES)
def test_a_certificate_that_a_flag_names_is_reported_before_its_end(
    node: Node, program: str, number: int, carrier: str
) -> None:
    """Each certificate that a flag or field names has the finding `nearing_expiry` five days before its end."""
    files = ReferenceFiles(node, program, SOON)
    start(files, program, number, carrier)
    ending = [(path, item["message"]) for path, item in findings(check(node)[1]) if item["reason"] == "nearing_expiry"]
    assert files.references
    assert not [
        reference
        for reference in files.references
        if not any(path == reference.path and path in message for path, message in ending)
    ]


@pytest.mark.long
@pytest.mark.parametrize(("program", "number", "carrier"), CASES)
def test_certificates_that_flags_name_are_well(node: Node, program: str, number: int, carrier: str) -> None:
    """`check` has no warning for the same node with certificates that end years later."""
    start(ReferenceFiles(node, program, LATER), program, number, carrier)
    code, document = check(node)
    assert not [(path, item) for path, item in findings(document) if item["severity"] != "info"]
    assert code == 0
