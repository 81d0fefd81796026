"""A stand-in for kubeadm: run as `kubeadm_stand_in.py VERSION ARGUMENTS…`, it does what kubeadm's source does.

Follows cmd/kubeadm/app: cmd/{certs,kubeconfig,version}.go, phases/certs/renewal/, phases/certs/certlist.go,
util/pkiutil/pki_helpers.go and util/config/. It takes subject, names and usages from the certificate that it finds,
makes a key, writes key and certificate in place without a rename, and ends with 0 where it finds nothing to renew. What
it makes and how it ends was compared with kubeadm v1.22.6 for the pairs, where the real one was run: a new RSA-2048 key
in PKCS#1, 0600, a certificate that begins with its CA, and status 1 where a CA has no key and the pair has none either.
Where the real one would look at the node, the cluster or the Internet, it fails.
"""

from __future__ import annotations

import base64
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CERTIFICATES = {
    "apiserver": ("apiserver", "ca"),
    "apiserver-kubelet-client": ("apiserver-kubelet-client", "ca"),
    "front-proxy-client": ("front-proxy-client", "front-proxy-ca"),
    "etcd-server": ("etcd/server", "etcd/ca"),
    "etcd-peer": ("etcd/peer", "etcd/ca"),
    "etcd-healthcheck-client": ("etcd/healthcheck-client", "etcd/ca"),
    "apiserver-etcd-client": ("apiserver-etcd-client", "etcd/ca"),
}


def fail(message: str) -> NoReturn:
    sys.stderr.write(f"{message}\nTo see the stack trace of this error execute with --v=5 or higher\n")
    sys.exit(1)


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def configured(path: str | None, version: str) -> dict[str, Any]:
    """LoadInitConfigurationFromFile: the two documents as one."""
    if path is None:
        fail("would ask the cluster for its configuration, and write to its certificatesDir")
    newer = int(version.split(".")[1]) >= 31
    found: dict[str, Any] = {}
    for document in yaml.safe_load_all(Path(path).read_text()):
        known = {"kubeadm.k8s.io/v1beta3", *(["kubeadm.k8s.io/v1beta4"] if newer else [])}
        if document.pop("apiVersion") not in known:
            fail("your configuration file uses an API spec that this kubeadm does not know")
        found[document.pop("kind")] = document
    init, cluster = found["InitConfiguration"], found["ClusterConfiguration"]
    if set(cluster) - {"certificatesDir", "kubernetesVersion", "encryptionAlgorithm", "certificateValidityPeriod"}:
        fail("unknown field")
    if not cluster.get("kubernetesVersion", "").startswith("v1."):
        fail("could not fetch a Kubernetes version from the internet")
    if not init["nodeRegistration"]["criSocket"].startswith("unix://"):
        fail("found multiple CRI endpoints on the host")
    if not init["localAPIEndpoint"]["advertiseAddress"]:
        fail("unable to select an IP from default routes")
    return dict(cluster)


def private_key(algorithm: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    kind, _, size = algorithm.partition("-")
    if kind == "RSA":
        return rsa.generate_private_key(65537, int(size))
    return ec.generate_private_key({"P256": ec.SECP256R1(), "P384": ec.SECP384R1()}[size])


def issue(config: dict[str, Any], ca: str, like: x509.Certificate, seconds: int) -> tuple[bytes, bytes]:
    """NewCertAndKey: certificate and key for the subject, names and usages of `like`."""
    directory = Path(config["certificatesDir"])
    issuer = x509.load_pem_x509_certificates((directory / f"{ca}.crt").read_bytes())[0]
    issuer_key: Any = load_pem_private_key((directory / f"{ca}.key").read_bytes(), None)
    key = private_key(config.get("encryptionAlgorithm", "RSA-2048"))
    attributes = [*like.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    attributes += like.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    made = x509.CertificateBuilder(
        issuer.subject, x509.Name(attributes), key.public_key(), x509.random_serial_number(),
        issuer.not_valid_before_utc, datetime.now(UTC) + timedelta(seconds=seconds),
    )  # fmt: skip
    made = made.add_extension(x509.KeyUsage(True, False, True, *[False] * 6), True)
    made = made.add_extension(like.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value, False)
    made = made.add_extension(x509.BasicConstraints(False, None), True)
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    made = made.add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False)
    for extension in like.extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            made = made.add_extension(extension.value, False)
    certificate = made.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)
    return certificate, key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def renew(name: str, config: dict[str, Any]) -> None:
    pair, ca = CERTIFICATES[name]
    directory = Path(config["certificatesDir"])
    if not (directory / f"{pair}.crt").exists():
        say(f"MISSING! certificate for {name}")
        return
    if not (directory / f"{ca}.key").exists():
        if not (directory / f"{pair}.key").exists():
            reason = f"couldn't load the private key file {directory}/{pair}.key: no such file or directory"
            fail(f"Error checking external CA condition for {ca} certificate authority: failure loading key: {reason}")
        say(f"Detected external {ca}, certificate for {name} can't be renewed")
        return
    like = x509.load_pem_x509_certificates((directory / f"{pair}.crt").read_bytes())[0]
    certificate, key = issue(config, ca, like, seconds(config.get("certificateValidityPeriod", "8760h")))
    (directory / f"{pair}.key").touch(0o600)
    (directory / f"{pair}.key").write_bytes(key)
    (directory / f"{pair}.crt").write_bytes(certificate)
    say(f"certificate for {name} renewed")


def user(name: str, organizations: list[str], lifetime: str, config: dict[str, Any]) -> None:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, each) for each in organizations]
    attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, name))
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(attributes)
    like = x509.CertificateBuilder(
        subject, subject, key.public_key(), 1, datetime.now(UTC), datetime.now(UTC) + timedelta(1)
    )
    like = like.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
    certificate, pem = issue(config, "ca", like.sign(key, hashes.SHA256()), seconds(lifetime))
    encoded = {
        "client-certificate-data": base64.b64encode(certificate).decode(),
        "client-key-data": base64.b64encode(pem).decode(),
    }
    context = f"{name}@kubernetes"
    sys.stderr.write("W1124 12:00:00.000000 1 kubeconfig.go:1] a warning, as klog writes them\n")
    say(yaml.safe_dump({
        "apiVersion": "v1", "kind": "Config", "current-context": context,
        "clusters": [{"name": "kubernetes", "cluster": {"server": "https://192.0.2.1:6443"}}],
        "contexts": [{"name": context, "context": {"cluster": "kubernetes", "user": name}}],
        "users": [{"name": name, "user": encoded}],
    }))  # fmt: skip


def seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "h": 3600}[duration[-1]]


def main(version: str, *arguments: str) -> None:
    words = [word for word in arguments if not word.startswith("-")]
    flags: dict[str, list[str]] = {}
    for word in arguments:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            flags.setdefault(name, []).append(value)
    match words:
        case ["version", "short"]:
            say(version)
        case ["certs", "renew", name] if name in CERTIFICATES and not set(flags) - {"config", "cert-dir", "kubeconfig"}:
            renew(name, configured(flags.get("config", [None])[0], version))
        case ["kubeconfig", "user"] if not set(flags) - {"config", "client-name", "org", "validity-period"}:
            config = configured(flags.get("config", [None])[0], version)
            organizations = [each for value in flags.get("org", ()) for each in value.split(",")]
            user(flags["client-name"][0], organizations, flags.get("validity-period", ["8760h"])[0], config)
        case _:
            fail("unknown command or flag")


if __name__ == "__main__":
    main(*sys.argv[1:])
