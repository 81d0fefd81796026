"""A node of a bed: its tree, its components, and certmond on it.

It creates and changes the node's files from outside, and restarts each of its components. The record of the bed has the
failures.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from certmond.pki.x509.certificate import EXTENDED_USAGES
from certmond.services import systemd_client as units
from tests.builders import HOUR, YEAR, Issued, make_leaf
from tests.control_plane import COMPONENTS, ELECTING, KUBECONFIGS, PKI, SETTINGS, ControlPlane
from tests.deadline import DEADLINE
from tests.node import common_name, sans_of
from tests.rotation import unit_stand_in
from tests.rotation.backend import signed

KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
KUBELET_PKI = "/var/lib/kubelet/pki"
CURRENT = f"{KUBELET_PKI}/kubelet-client-current.pem"
SERVER_CURRENT = f"{KUBELET_PKI}/kubelet-server-current.pem"


class BedNode(ControlPlane):
    """Below `work`. A worker has a kubelet alone, and no key of a CA."""

    def __init__(self, work: Path, name: str, address: str, *, worker: bool, verified: bool) -> None:
        super().__init__(work, () if worker else COMPONENTS)
        self.name, self.address, self.worker = name, address, worker
        self.verified = verified
        """The API servers verify the serving certificate of this kubelet, which is therefore signed by the CA."""
        self.bus = work / "bus"
        self.signer = work / "signer"
        self.settings = {**SETTINGS, "node_name": name, "init": {"advertise_address": address}}

    @property
    def kubeconfigs(self) -> tuple[str, ...]:
        """All that embed the Root CA."""
        return (KUBELET_CONF,) if self.worker else (*KUBECONFIGS, KUBELET_CONF)

    # --- its files ----------------------------------------------------------------------------------------------------

    def read(self, path: str) -> bytes:
        return self.at(path).read_bytes()

    def replace(self, path: str, content: bytes, mode: int = 0o600) -> None:
        """Replace the file by a rename from outside the watched directories. `mode` is that of a new file."""
        file = self.at(path)
        staged = self.work / "staged"
        staged.write_bytes(content)
        staged.chmod(file.stat().st_mode & 0o777 if file.exists() else mode)
        staged.rename(file)

    def authority(self, name: str = "ca") -> Issued:
        """Return the first certificate of pki/`name`.crt, and the key beside it."""
        certificate = self.tree.certificate(f"{PKI[1:]}/{name}.crt")
        return issued(certificate, self.tree.key(f"{PKI[1:]}/{name}.key"))

    def put_pair(self, name: str, made: Issued) -> None:
        """pki/`name`.key and .crt. Where the key is the same only the certificate is touched."""
        if self.tree.key(f"{PKI[1:]}/{name}.key").public_key() != made.key.public_key():
            self.replace(f"{PKI}/{name}.key", made.key_pem)
        self.replace(f"{PKI}/{name}.crt", made.pem, 0o644)

    def put_current(self, path: str, made: Issued) -> None:
        """Replace the target of the link at `path` with another file, like the kubelet's own rotation."""
        stem = path.removesuffix("-current.pem")
        dated = f"{stem}-{datetime.now(UTC):%Y-%m-%d-%H-%M-%S-%f}.pem"
        self.replace(dated, made.pem + made.key_pem)
        link = self.work / "link"
        link.symlink_to(dated)
        link.rename(self.at(path))

    def current(self, path: str) -> x509.Certificate:
        target = os.readlink(self.at(path))
        return x509.load_pem_x509_certificate(self.read(os.path.join(KUBELET_PKI, target)))

    def current_pair(self) -> Issued:
        """Return the client certificate of the kubelet, and its key."""
        content = self.read(os.path.join(KUBELET_PKI, os.readlink(self.at(CURRENT))))
        return issued(x509.load_pem_x509_certificate(content), load_pem_private_key(content, None))

    def edit_kubeconfig(self, path: str, *, trusted: bytes | None = None, client: Issued | None = None) -> None:
        document = yaml.safe_load(self.read(path))
        if trusted is not None:
            document["clusters"][0]["cluster"]["certificate-authority-data"] = base64.b64encode(trusted).decode()
        if client is not None:
            user = document["users"][0]["user"]
            user["client-certificate-data"] = base64.b64encode(client.pem).decode()
            user["client-key-data"] = base64.b64encode(client.key_pem).decode()
        self.replace(path, yaml.safe_dump(document).encode())

    def client_of(self, path: str) -> x509.Certificate:
        user = yaml.safe_load(self.read(path))["users"][0]["user"]
        return x509.load_pem_x509_certificate(base64.b64decode(user["client-certificate-data"]))

    # --- its components -----------------------------------------------------------------------------------------------

    def restart(self, *names: str) -> None:
        """Restart all of these at once, and wait until they are ready. Components that end with the API server are
        included.
        """
        containers = [name for name in names if name != "kubelet"]
        with self.again(*{*containers, *(ELECTING if "kube-apiserver" in names else ())}):
            for name in containers:
                self.stop(name)
            if "kubelet" in names:
                done = units.restart("kubelet.service", reload=False, alive=lambda: None, bus=f"unix:path={self.bus}")
                assert done.result == "done", done.message

    def stop(self, name: str) -> None:
        """Stop it without a wait for the result."""
        os.kill(self.starts(name)[-1]["pid"], signal.SIGTERM)

    @contextmanager
    def again(self, *names: str) -> Iterator[None]:
        """Wait until the containers that the block restarts are ready."""
        before = {name: len(self.starts(name)) for name in names}
        yield
        for name, count in before.items():
            self.pods.until(partial(self._newer, name, count), f"{name} begins")
            started = self.starts(name)[-1]
            self.pods.ready(name, uid=started["uid"], attempt=started["attempt"])

    def _newer(self, name: str, count: int) -> bool:
        return len(self.starts(name)) > count

    def edit(self, component: str, change: Callable[[list[str]], list[str]]) -> None:
        """Change the command of a component in its manifest, until the new pod is ready."""
        path = f"/etc/kubernetes/manifests/{component}.yaml"
        manifest = yaml.safe_load(self.read(path))
        (container,) = manifest["spec"]["containers"]
        container["command"] = change(container["command"])
        with self.again(component):
            self.replace(path, yaml.safe_dump(manifest).encode())

    def canary(self) -> x509.Certificate:
        """A client certificate that its controller-manager signs, with the CA that this has. Raises SigningError."""
        builder = x509.CertificateSigningRequestBuilder(common_name("canary"))
        request = builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.PEM)
        return x509.load_pem_x509_certificate(signed([self.signer], request, ["digital signature", "client auth"]))

    def asked(self, to: str, client: Issued | None = None, trusted: Path | str = "", **more: str) -> str:
        """Return the result of a connection from here with this client certificate: "" or the error. `more` are other
        flags of the program.
        """
        words = [f"--to={to}", *(f"--{flag}={value}" for flag, value in more.items())]
        if client:
            path = self.work / "client.pem"
            path.write_bytes(client.pem + client.key_pem)
            words += [f"--cert={path}", f"--key={path}"]
        if trusted:
            words.append(f"--cacert={trusted}")
        return self.run(str(self.work.parent / "bin/ask"), *words, check=True).stdout.strip()

    @contextmanager
    def unit(self, environment: dict[str, str], *command: str) -> Iterator[None]:
        """The kubelet, as its unit."""
        log = self.work / "kubelet-unit.log"
        log.unlink(missing_ok=True)
        words = [sys.executable, unit_stand_in.__file__, "kubelet.service", str(self.bus), str(log), *command]
        with (self.work / "unit.log").open("wb") as output:
            process = subprocess.Popen(
                [*self.inside, *words],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=os.environ | environment,
            )
        try:
            end = time.monotonic() + DEADLINE
            while not (log.exists() and b"ready\n" in log.read_bytes()):
                assert process.poll() is None, (self.work / "unit.log").read_text()
                assert time.monotonic() < end, log.read_text() if log.exists() else "no kubelet"
                signal.sigtimedwait([], 0.02)
            yield
        finally:
            process.communicate(timeout=DEADLINE)


def issued(certificate: x509.Certificate, key: Any) -> Issued:
    """Return a certificate with its key, from the files on disk."""
    key_ids = (each.value for each in certificate.extensions if isinstance(each.value, x509.SubjectKeyIdentifier))
    key_id = next((each.digest for each in key_ids), None)
    return Issued(certificate.public_bytes(Encoding.DER), key, certificate.subject, key_id, None)


def like(old: x509.Certificate, by: Issued, key: Any = "ec") -> Issued:
    """Return a certificate with the same subject, names and usages, of another issuer; with a new key by default."""
    now = datetime.now(UTC)
    usages = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    return make_leaf(
        by, key=key, subject=old.subject, names=sans_of(old) or None, not_before=now - HOUR, not_after=now + YEAR,
        extended_usages=[EXTENDED_USAGES[usage] for usage in usages],
    )  # fmt: skip
