"""A Kubernetes API server for tests, over TLS on loopback: requests, Leases and other objects by the API's own rules.

It follows pkg/apis/certificates/validation, pkg/registry/certificates and pkg/controller/certificates of Kubernetes:
client certificates, names in use (409), resource versions (409), conditions that are never removed, and a signer that
checks usages and names and signs approved requests. A test reads and changes `objects` and `leases`, sets the answers
of the next calls in `faults`, and forbids calls of the user in `denied`. With `rbac`, a user may do only what it
grants. `received` has every byte that arrived inside TLS. Any number of processes may call.
"""

from __future__ import annotations

import base64
import copy
import json
import socket
import ssl
import sys
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certmond.pki.x509.certificate import EXTENDED_USAGES
from tests.builders import Issued, make_ca, make_leaf, make_server
from tests.cluster.lease_store import LEASES, Json, LeaseStore, status
from tests.cluster.object_store import ObjectStore
from tests.cluster.rbac import Asked, Rbac
from tests.cluster.token_store import TokenStore
from tests.deadline import DEADLINE

CSRS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
_KUBELET = {
    "kubernetes.io/kube-apiserver-client-kubelet": "client auth",
    "kubernetes.io/kubelet-serving": "server auth",
}
_EKUS = {name: oid for oid, name in EXTENDED_USAGES.items()}


@dataclass
class Fault:
    """The answer to a call instead of the real one: no answer if `status` is 0. With `late` the call still takes
    effect.
    """

    status: int
    message: str = "as the test has it"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str | None = "application/json"
    late: bool = False


class _Server(ThreadingHTTPServer):
    """A server that waits for the running calls when it closes. A disconnected client is no error."""

    daemon_threads = False

    def __init__(self, *arguments: Any) -> None:
        self._open = set[socket.socket]()
        self._lock = threading.Lock()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Wait for the running calls, but not for a caller that keeps its connection."""
        with self._lock:
            for each in self._open:
                with suppress(OSError):  # the caller has closed it
                    socket.socket.shutdown(each, socket.SHUT_RD)  # an SSLSocket would send its answer in the clear
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError | ssl.SSLError):
            super().handle_error(request, client_address)


class ApiServer:
    """Started by `with`. `before` is called with method and path before each call, outside of the lock; what it waits
    for it must wait for no longer than until `closing`.
    """

    def __init__(self, directory: Path, node: str = "node-1") -> None:
        self.objects: dict[str, Json] = {}
        self.nodes: dict[str, Json] = {node: {"addresses": [{"type": "InternalIP", "address": "10.0.0.5"}]}}
        self.leases = LeaseStore(self._changed)
        self.tokens = TokenStore()
        self.rbac: Rbac | None = None
        self.received = bytearray()
        self.calls: list[str] = []
        self.faults: list[Fault] = []
        self.denied: set[str] = set()
        self.signs = True
        self.approves: set[str] = set()
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.closing = threading.Event()
        self.ca = make_ca(not_before=_now(-1), not_after=_now(100))
        self._version = 100
        self.store = ObjectStore(self._changed)
        self.lock = threading.RLock()
        self._directory = directory
        serving = make_server(self.ca, "kube-apiserver", names=["IP:127.0.0.1"], not_before=_now(-1), not_after=_now(1))
        client = make_leaf(self.ca, f"system:node:{node}", not_before=_now(-1), not_after=_now(1))
        self.kubeconfig = self._write("kubelet.conf", b"")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._write("serving.pem", serving.pem + serving.key_pem))
        context.load_verify_locations(self._write("ca.crt", self.ca.pem))
        context.verify_mode = ssl.CERT_REQUIRED
        self._http = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": self}))
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._write("kubelet.conf", self.kubeconfig_of(client))

    def user(self, name: str, *groups: str) -> str:
        """The path of a kubeconfig for a user of these groups."""
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        client = make_leaf(self.ca, subject=subject, not_before=_now(-1), not_after=_now(1))
        file_name = name.replace(":", "-")
        return self._write(f"{file_name}.conf", self.kubeconfig_of(client, pem_name=f"{file_name}.pem"))

    def kubeconfig_of(self, client: Issued, port: int | None = None, pem_name: str = "client.pem") -> bytes:
        pem = self._write(pem_name, client.pem + client.key_pem)
        user = {"client-certificate": pem, "client-key": pem}  # like the kubelet's, which refers to its rotating file
        cluster = {
            "server": f"https://127.0.0.1:{port or self._http.server_port}",
            "certificate-authority-data": base64.b64encode(self.ca.pem).decode(),
        }
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": user}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }  # fmt: skip
        return yaml.dump(document, Dumper=yaml.CSafeDumper, encoding="utf-8")

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def only(self) -> Json:
        """The one request that was filed."""
        (made,) = self.objects.values()
        return made

    def decide(self, kind: str, message: str = "", name: str | None = None) -> None:
        """Approve, deny or fail a request, as people and controllers do."""
        with self.lock:
            made = self.objects[name] if name else self.only
            condition = {"type": kind, "status": "True", "reason": "Decided", "message": message}
            made["status"].setdefault("conditions", []).append(condition)
            self._changed(made)
            self._control(made)

    def touch(self) -> None:
        """Change every request a little, so that its resource version is another."""
        with self.lock:
            for made in self.objects.values():
                made["metadata"].setdefault("labels", {})["touched"] = str(self._version)
                self._changed(made)

    def answer(
        self,
        method: str,
        path: str,
        body: bytes,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "",
        user: str = "",
    ) -> tuple[int, Json]:
        with self.lock:
            if path.startswith(LEASES):
                return self.leases.answer(method, path, body)
            parts = path.removeprefix(CSRS).strip("/").split("/")
            match method, parts:
                case "GET", ["api", "v1", "nodes", name] if name in self.nodes:
                    return self._get("nodes", name, {"status": self.nodes[name]})
                case "POST", ["api", "v1", "namespaces", namespace, "serviceaccounts", name, "token"]:
                    found = self.store.answer("GET", path.removesuffix("/token"), b"")
                    return self.tokens.request(namespace, name, json.loads(body)) if found[0] == 200 else found
                case "POST", ["apis", "authentication.k8s.io", "v1", "tokenreviews"]:
                    return self.tokens.review(json.loads(body))
                case _, ["api" | "apis", *_]:
                    return self.store.answer(method, path, body, query=query, content_type=content_type, user=user)
                case "GET", [""]:
                    return self._list(query or {})
                case "GET", [name]:
                    return self._get("certificatesigningrequests", name, self.objects.get(name))
                case "POST", [""]:
                    return self._create(json.loads(body))
                case "PUT", [name, "approval"]:
                    return self._approve(name, json.loads(body), dry_run=bool(query and query.get("dryRun") == "All"))
                case "DELETE", [name]:
                    return self._get("certificatesigningrequests", name, self.objects.pop(name, None))
                case _:
                    return status(405, "the server does not allow this method on the requested resource")

    def refusal(self, method: str, path: str, query: dict[str, str], user: str, groups: list[str]) -> str | None:
        """Return why the user may not make the request, or None. To approve takes a right for the signer, too."""
        if self.rbac is None:
            return None
        asked = [Asked.of(method, path, query)]
        if path.endswith("/approval") and (made := self.objects.get(asked[0].name)):
            asked.append(Asked("approve", "certificates.k8s.io", "signers", name=made["spec"]["signerName"]))
        for each in asked:
            if not self.rbac.allows(user, groups, each):
                what = f'cannot {each.verb} resource "{each.resource}" in API group "{each.group}"'
                return f'{each.resource} "{each.name}" is forbidden: User "{user}" {what}'
        return None

    def _get(self, kind: str, name: str, found: Json | None) -> tuple[int, Json]:
        return (200, found) if found else status(404, f'{kind} "{name}" not found', "NotFound")

    def _list(self, query: dict[str, str]) -> tuple[int, Json]:
        field, _, value = query.get("fieldSelector", "").partition("=")
        if field not in {"", "spec.signerName"}:
            return status(400, f"field label not supported: {field}", "BadRequest")
        wanted = value.removeprefix("=")
        found = [each for each in self.objects.values() if not field or each["spec"]["signerName"] == wanted]
        return 200, {"kind": "CertificateSigningRequestList", "metadata": {"resourceVersion": "1"}, "items": found}

    def _create(self, made: Json) -> tuple[int, Json]:
        name, spec = made["metadata"]["name"], made["spec"]
        if name in self.objects:
            message = f'certificatesigningrequests.certificates.k8s.io "{name}" already exists'
            return status(409, message, "AlreadyExists")
        csr = x509.load_pem_x509_csr(base64.b64decode(spec["request"]))
        if not (csr.is_signature_valid and spec["usages"] and "/" in spec["signerName"]):
            return status(422, "spec: Invalid value", "Invalid")
        if spec.get("expirationSeconds", 600) < 600:
            return status(
                422, "spec.expirationSeconds: Invalid value: may not specify a duration less than 600 seconds"
            )
        made["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": f"{_now(0):%Y-%m-%dT%H:%M:%SZ}"}
        spec |= {"username": "system:node:node-1", "groups": ["system:nodes", "system:authenticated"]}
        made["status"] = {}
        self._changed(made)
        self.objects[name] = made
        answer = copy.deepcopy(made)
        if spec["signerName"] in self.approves:
            self.decide("Approved", "Auto approving kubelet client certificate", name)
        return 201, answer

    def _approve(self, name: str, given: Json, *, dry_run: bool) -> tuple[int, Json]:
        made = self.objects.get(name)
        if made is None:
            return self._get("certificatesigningrequests", name, None)
        if given["metadata"].get("resourceVersion") != made["metadata"]["resourceVersion"]:
            message = "the object has been modified; please apply your changes to the latest version and try again"
            return status(409, f'Operation cannot be fulfilled on "{name}": {message}', "Conflict")
        conditions = given["status"].get("conditions") or []
        before = made["status"].get("conditions", [])
        kinds = {each["type"] for each in conditions}
        if {each["type"] for each in before} - kinds or {"Approved", "Denied"} <= kinds:
            return status(422, "status.conditions: Forbidden", "Invalid")
        if dry_run:
            return 200, given
        made["status"]["conditions"] = conditions
        self._changed(made)
        answer = copy.deepcopy(made)
        self._control(made)
        return 200, answer

    def _changed(self, made: Json) -> None:
        self._version += 1
        made["metadata"]["resourceVersion"] = str(self._version)

    def _control(self, made: Json) -> None:
        """The signing controller."""
        kinds = {each["type"] for each in made["status"].get("conditions", [])}
        if not self.signs or "Approved" not in kinds or "Failed" in kinds or "certificate" in made["status"]:
            return
        csr = x509.load_pem_x509_csr(base64.b64decode(made["spec"]["request"]))
        if (reason := _unfit(csr, made["spec"])) is not None:
            self.decide("Failed", reason, made["metadata"]["name"])
            return
        made["status"]["certificate"] = base64.b64encode(self.sign(csr, made["spec"])).decode()
        self._changed(made)

    def sign(self, csr: x509.CertificateSigningRequest, spec: Json) -> bytes:
        now = _now(0)
        usages = spec["usages"]
        named = {"digital_signature": "digital signature" in usages, "key_encipherment": "key encipherment" in usages}
        others = ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
        rest = dict.fromkeys((*others, "encipher_only", "decipher_only"), False)
        end = min(now + timedelta(seconds=spec.get("expirationSeconds", 365 * 86400)), self.ca.facts.not_after)
        made = x509.CertificateBuilder(
            self.ca.subject, csr.subject, csr.public_key(), x509.random_serial_number(),
            now - timedelta(minutes=5), end,
        )  # fmt: skip
        made = made.add_extension(x509.KeyUsage(**named, **rest), True)
        made = made.add_extension(x509.ExtendedKeyUsage([_EKUS[usage] for usage in usages if usage in _EKUS]), False)
        for extension in csr.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                made = made.add_extension(extension.value, extension.critical)
        assert isinstance(self.ca.key, ec.EllipticCurvePrivateKey)
        return b"# signed by the cluster\n" + made.sign(self.ca.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _write(self, name: str, content: bytes) -> str:
        path = self._directory / name
        path.write_bytes(content)
        path.chmod(0o600)
        return str(path)


def _unfit(csr: x509.CertificateSigningRequest, spec: Json) -> str | None:
    """Follows ValidateKubeletClientCSR, ValidateKubeletServingCSR and validAPIServerClientUsages."""
    usages = set(spec["usages"])
    organizations = [each.value for each in csr.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    common_name = csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    has_names = any(isinstance(each.value, x509.SubjectAlternativeName) for each in csr.extensions)
    if (needed := _KUBELET.get(spec["signerName"])) is None:
        wrong = usages - {"digital signature", "key encipherment", "client auth"}
        return f"invalid usage for client certificate: {wrong}" if wrong or "client auth" not in usages else None
    if organizations != ["system:nodes"]:
        return "subject organization is not system:nodes"
    if not str(common_name).startswith("system:node:"):
        return "subject common name does not begin with system:node:"
    if has_names != (needed == "server auth"):
        return "subjectAltNames are not allowed, or missing"
    fitting = ({"digital signature", needed}, {"digital signature", "key encipherment", needed})
    return None if usages in fitting else f"usages did not match {fitting[1]}"


def _now(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = DEADLINE
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait for the caller's delayed ACK
    api: ApiServer

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, query = url.path, dict(parse_qsl(url.query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.api.lock:
            self.api.received += b"\n".join((self.requestline.encode(), bytes(self.headers), body, b""))
        self.api.calls.append(f"{self.command} {path.removeprefix(CSRS) or '/'}")
        self.api.before(self.command, path)
        fault = self.api.faults.pop(0) if self.api.faults else None
        if fault is None or fault.late:
            answer = self._answer(path, query, body, *self._identity())
            fault = fault or Fault(answer[0], body=json.dumps(answer[1]).encode())
        self._fail(fault)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - http.server's names

    def _answer(self, path: str, query: dict[str, str], body: bytes, user: str, groups: list[str]) -> tuple[int, Json]:
        call = f"{self.command} {path.removeprefix(CSRS) or '/'}"
        if any(call.startswith(start) for start in self.api.denied):
            return status(403, 'User "system:node:node-1" cannot do this at the cluster scope', "Forbidden")
        if (refusal := self.api.refusal(self.command, path, query, user, groups)) is not None:
            return status(403, refusal, "Forbidden")
        content_type = self.headers.get("Content-Type", "")
        return self.api.answer(self.command, path, body, query=query, content_type=content_type, user=user)

    def _identity(self) -> tuple[str, list[str]]:
        """Return user and groups of the client certificate."""
        assert isinstance(self.connection, ssl.SSLSocket)
        shown: Any = self.connection.getpeercert() or {}
        fields = [(key, value) for part in shown.get("subject", ()) for key, value in part]
        user = next((value for key, value in fields if key == "commonName"), "")
        return user, [value for key, value in fields if key == "organizationName"]

    def _fail(self, fault: Fault) -> None:
        self.close_connection = fault.status == 0
        if fault.status == 0:
            return
        body = json.dumps(status(fault.status, fault.message)[1]).encode() if fault.body is None else fault.body
        self.send_response(fault.status)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        if fault.content_type:
            self.send_header("Content-Type", fault.content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        pass
