"""A stand-in for k3s: `certificate rotate-ca` and `start`, and the published CA of a server.

The rules are those of k3s-io/k3s: pkg/server/handlers/cert.go (validateBootstrap) for `rotate-ca`, which stores the CAs
and changes no file; pkg/cluster/bootstrap.go (ReconcileBootstrapData) and pkg/daemons/control/deps/deps.go for a start,
which writes the stored CAs and issues each leaf that the first certificate of its CA has not signed; and
pkg/clientaccess/token.go for the hash in a token. The datastore is a JSON file that the servers share.

    rancher_stand_in.py HOME certificate rotate-ca --path=DIRECTORY
    rancher_stand_in.py HOME start

HOME/node.json has the settings: `kind`, `datastore`, `server` (the home of the server that an agent joins), `token`,
and `keeps`, a leaf that no start issues. HOME/stops names the step in which the stand-in waits for its end.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CAS = ("client-ca", "server-ca", "request-header-ca", "etcd/server-ca", "etcd/peer-ca")
LEAVES = {
    "server/tls/client-admin": "client-ca", "server/tls/serving-kube-apiserver": "server-ca",
    "server/tls/client-auth-proxy": "request-header-ca", "server/tls/etcd/client": "etcd/server-ca",
    "server/tls/etcd/peer-server-client": "etcd/peer-ca",
}  # fmt: skip
AGENT_LEAVES = {"agent/client-kubelet": "client-ca", "agent/serving-kubelet": "server-ca"}
SKEW = 3


def certificates(content: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(content)


def issued(child: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        child.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_root(certificate: x509.Certificate) -> bool:
    try:
        authority = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return True
    own = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.key_identifier
    return authority == own


def path(
    leaf: x509.Certificate, roots: Sequence[x509.Certificate], between: Sequence[x509.Certificate]
) -> list[x509.Certificate]:
    """Return the first path from `leaf` to a root, or []."""
    if leaf in roots:
        return [leaf]
    for root in roots:
        if issued(leaf, root):
            return [leaf, root]
    for each in between:
        rest = [other for other in between if other is not each]
        if each != leaf and issued(leaf, each) and (found := path(each, roots, rest)):
            return [leaf, *found]
    return []


def ca_hash(content: bytes) -> str:
    first, *others = certificates(content)
    roots = [each for each in others if is_root(each)]
    found = path(first, roots, [each for each in others if not is_root(each)]) if others else []
    return hashlib.sha256(found[-1].public_bytes(Encoding.DER) if found else content).hexdigest()


def refusals(new_directory: Path, present: Path) -> list[str]:
    """Return the problems of `validateBootstrap`."""
    found = []
    for name in CAS:
        new, new_key = new_directory / f"{name}.crt", new_directory / f"{name}.key"
        old, old_key = present / f"{name}.crt", present / f"{name}.key"
        used = new if new.exists() and new.stat().st_size else old
        used_key = new_key if new_key.exists() and new_key.stat().st_size else old_key
        if used == old and used_key == old_key:
            continue
        first, *others = certificates(used.read_bytes())
        if used == new:
            if not others:
                found.append(f"{name}: new CA bundle contains only a single certificate")
            olds = certificates(old.read_bytes())
            between = [each for each in (*olds, *others) if not is_root(each)]
            if not path(first, [each for each in olds if is_root(each)], between):
                found.append(f"{name}: new CA cert cannot be verified using old CA chain")
        if load_pem_private_key(used_key.read_bytes(), None).public_key() != first.public_key():
            found.append(f"{name}: new CA cert and key cannot be loaded")
    return found


def stop(home: Path, step: str) -> None:
    """If a test wants to kill certmond in this step, tell the test, and wait until it has done so."""
    file = home / "stops"
    if file.exists() and file.read_text() == step:
        (home / f"stopped-{step}").touch()
        parent = os.getppid()
        while os.getppid() == parent and file.exists():
            time.sleep(0.05)


def rotate_ca(home: Path, node: dict[str, Any], given: Path) -> int:
    present = home / "server/tls"
    stop(home, "rotate-ca")
    if not (home / "running").exists():
        sys.stderr.write("connection refused")
        return 1
    if found := refusals(given / "tls", present):
        sys.stderr.write(f"failed to validate new CA certificates and keys: {'; '.join(found)}")
        return 1
    stored = {}
    for name in CAS:
        for suffix in ("crt", "key"):
            new, old = given / f"tls/{name}.{suffix}", present / f"{name}.{suffix}"
            used = new if new.exists() and new.stat().st_size else old
            content = base64.b64encode(used.read_bytes()).decode()
            stored[f"{name}.{suffix}"] = {"content": content, "time": used.stat().st_mtime}
    draft = Path(f"{node['datastore']}.new")
    draft.write_text(json.dumps(stored))
    draft.replace(node["datastore"])
    sys.stdout.write("certificates saved to datastore\n")
    return 0


def reconcile(home: Path, node: dict[str, Any]) -> str:
    """Write the CAs in the datastore to the files. Return an error, or ""."""
    if not Path(node["datastore"]).exists():
        return ""
    stored = json.loads(Path(node["datastore"]).read_text())
    newer = []
    for name, each in stored.items():
        file, content = home / "server/tls" / name, base64.b64decode(each["content"])
        if file.read_bytes() != content and int(file.stat().st_mtime) - int(each["time"]) >= SKEW:
            newer.append(str(file))
    if newer:
        return f"{', '.join(newer)} newer than datastore and could cause a cluster outage"
    for name, each in stored.items():
        file = home / "server/tls" / name
        file.write_bytes(base64.b64decode(each["content"]))
        os.utime(file, (each["time"], each["time"]))
    return ""


def issue(home: Path, node: dict[str, Any], leaf: str, ca: Path) -> None:
    chain = certificates(ca.read_bytes())
    place = home / f"{leaf}.crt"
    if place.exists() and (node.get("keeps") == leaf or issued(certificates(place.read_bytes())[0], chain[0])):
        return
    key = ec.generate_private_key(ec.SECP256R1())
    authority = load_pem_private_key(ca.with_suffix(".key").read_bytes(), None)
    assert isinstance(authority, ec.EllipticCurvePrivateKey)
    now = datetime.now(UTC)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if "serving" in leaf else ExtendedKeyUsageOID.CLIENT_AUTH
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    made = x509.CertificateBuilder(
        issuer_name=chain[0].subject,
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, leaf.rpartition("/")[2])]),
        public_key=key.public_key(), serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(hours=1), not_valid_after=now + timedelta(days=365),
    ).add_extension(x509.ExtendedKeyUsage([usage]), critical=False).add_extension(
        x509.KeyUsage(digital_signature=True, **usages), critical=True
    ).add_extension(x509.SubjectAlternativeName(names), critical=False).add_extension(
        x509.AuthorityKeyIdentifier(
            chain[0].extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest, None, None
        ), critical=False,
    ).sign(authority, SHA256())  # fmt: skip
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    place.with_suffix(".key").touch(0o600)
    place.with_suffix(".key").write_bytes(secret)
    place.write_bytes(made.public_bytes(Encoding.PEM) + ca.read_bytes())


def start(home: Path, node: dict[str, Any]) -> int:
    (home / "running").unlink(missing_ok=True)
    stop(home, "start")
    with Path(node["log"]).open("a") as log:
        log.write(f"{home.name}\n")
    if (home / "fails").exists():
        return 0
    server = home if node["kind"] == "server" else Path(node["server"])
    if node["kind"] == "server":
        if error := reconcile(home, node):
            sys.stderr.write(error)
            return 1
        for leaf, ca in LEAVES.items():
            issue(home, node, leaf, home / f"server/tls/{ca}.crt")
    published = (
        server / "published.crt" if node["kind"] == "agent" else home / "server/tls/server-ca.crt"
    ).read_bytes()
    if node["kind"] == "agent" and node.get("token") and node["token"] != ca_hash(published):
        sys.stderr.write("token CA hash does not match the Cluster CA certificate hash")
        return 1
    for leaf, ca in AGENT_LEAVES.items():
        issue(home, node, leaf, server / f"server/tls/{ca}.crt")
    for ca in ("client-ca", "server-ca"):
        (home / f"agent/{ca}.crt").write_bytes((server / f"server/tls/{ca}.crt").read_bytes())
    if node["kind"] == "server":  # what the process has in memory, until the next start
        (home / "published.crt").write_bytes(published)
        for suffix in ("crt", "key"):
            content = (home / f"server/tls/serving-kube-apiserver.{suffix}").read_bytes()
            (home / f"served.{suffix}").write_bytes(content)
    (home / "running").touch()
    return 0


def main(home: Path, arguments: list[str]) -> int:
    node = json.loads((home / "node.json").read_text())
    if arguments == ["start"]:
        return start(home, node)
    command, directory = arguments[:2], Path(arguments[2].removeprefix("--path="))
    assert command == ["certificate", "rotate-ca"]
    return rotate_ca(home, node, directory)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
