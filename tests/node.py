"""The tree of a control-plane node that a real kubeadm wrote, in which a test breaks one thing."""

from __future__ import annotations

import base64
import tarfile
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as EKU
from cryptography.x509.oid import NameOID

from tests.builders import Issued, make_server

DATA = Path(__file__).parent / "data"
NOW = datetime(2026, 12, 1, tzinfo=UTC)
PKI = "etc/kubernetes/pki"
KUBELET_PEM = "var/lib/kubelet/pki/kubelet-client-2026-11-24-14-15-30.pem"
USAGES = {"server": EKU.SERVER_AUTH, "client": EKU.CLIENT_AUTH}

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Node:
    """The tree below `root`. Paths are relative to it. `reissue` signs with the tree's own CA keys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with tarfile.open(DATA / "kubeadm-1.24.tar") as archive:
            archive.extraction_filter = lambda member, _: member  # trusted; Python 3.11.2 has no `filter=`
            archive.extractall(root)  # noqa: S202 - our own data, whose modes and links matter

    def path(self, name: str) -> Path:
        return self.root / name

    def read(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def write(self, name: str, content: bytes | str) -> None:
        """Write in place: mode, owner and inode stay."""
        self.path(name).write_bytes(content if isinstance(content, bytes) else content.encode())

    def replace(self, name: str, content: bytes | str) -> None:
        """Replace by a rename, like a careful writer; the mode stays."""
        staged = self.path(name).with_name(".staged")
        staged.write_bytes(content if isinstance(content, bytes) else content.encode())
        staged.chmod(self.path(name).stat().st_mode & 0o777)
        staged.rename(self.path(name))

    def certificate(self, name: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.read(name))

    def key(self, name: str) -> Any:
        return serialization.load_pem_private_key(self.read(name), None, unsafe_skip_rsa_key_validation=True)

    def kubeconfig(self, name: str) -> dict[str, Any]:
        document: dict[str, Any] = yaml.safe_load(self.read(name))
        return document

    def edit_kubeconfig(self, name: str, **fields: object) -> None:
        """Set fields of the (only) user, or of the cluster where they begin with certificate-authority."""
        document = self.kubeconfig(name)
        for field, value in fields.items():
            entry = document["clusters"][0]["cluster"] if "authority" in field else document["users"][0]["user"]
            entry[field.replace("_", "-")] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        self.write(name, yaml.safe_dump(document))

    def reissue(self, name: str, ca: str = f"{PKI}/ca", **changes: Any) -> None:
        """Write new `name`.crt and `name`.key, which `mint` makes from the old certificate."""
        certificate, key = self.mint(self.certificate(f"{name}.crt"), ca, **changes)
        self.write(f"{name}.crt", pem(certificate))
        self.write(f"{name}.key", key_pem(key))

    def mint(
        self,
        old: x509.Certificate,
        ca: str = f"{PKI}/ca",
        *,
        subject: str | None = None,
        names: list[str] | None = None,
        drop: str | None = None,
        usages: tuple[str, ...] | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        key: Key | None = None,
        signer: Key | None = None,
        digital_signature: bool = True,
        extra: x509.ExtensionType | None = None,
    ) -> tuple[x509.Certificate, Key]:
        """Return a certificate like `old`, except for the parameters."""
        own = key or ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate(f"{ca}.crt")
        ekus = old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name.from_rfc4514_string(subject) if subject else old.subject)
            .issuer_name(issuer.subject)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start or old.not_valid_before_utc)
            .not_valid_after(end or old.not_valid_after_utc)
            .public_key(own.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(digital_signature=digital_signature, key_encipherment=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([USAGES[u] for u in usages]) if usages else ekus, critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
        )
        if sans := names if names is not None else [name for name in sans_of(old) if name != drop]:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(map(general_name, sans))), critical=False)
        if extra:
            builder = builder.add_extension(extra, critical=True)
        return builder.sign(signer or self.key(f"{ca}.key"), hashes.SHA256()), own

    def new_ca(self, ca: str = f"{PKI}/ca", **changes: Any) -> None:
        """Replace a CA certificate by one of the same name and key, and embed it in every kubeconfig."""
        certificate = ca_like(self.certificate(f"{ca}.crt"), self.key(f"{ca}.key"), **changes)
        self.write(f"{ca}.crt", pem(certificate))
        for name in ("admin", "controller-manager", "scheduler", "kubelet"):
            self.edit_kubeconfig(f"etc/kubernetes/{name}.conf", certificate_authority_data=pem(certificate))


def ca_like(
    old: x509.Certificate,
    key: Any,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    is_ca: bool = True,
    cert_sign: bool = True,
    issuer: str | None = None,
    signer: Key | None = None,
) -> x509.Certificate:
    """Return a CA certificate with the same name and key, except for the parameters."""
    return (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(x509.Name.from_rfc4514_string(issuer) if issuer else old.subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start or old.not_valid_before_utc)
        .not_valid_after(end or old.not_valid_after_utc)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True, key_cert_sign=cert_sign), critical=True)
        .sign(signer or key, hashes.SHA256())
    )


def key_usage(**given: bool) -> x509.KeyUsage:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
             "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
    return x509.KeyUsage(**{name: given.get(name, False) for name in names})


def sans_of(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [f"{'DNS' if isinstance(name, x509.DNSName) else 'IP'}:{name.value}" for name in names]


def general_name(text: str) -> x509.GeneralName:
    kind, _, value = text.partition(":")
    return x509.DNSName(value) if kind == "DNS" else x509.IPAddress(ip_address(value))


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Any, password: bytes | None = None) -> bytes:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8 if password else serialization.PrivateFormat.TraditionalOpenSSL
    return bytes(key.private_bytes(serialization.Encoding.PEM, form, protection))


def public_pem(key: Any) -> bytes:
    public = key.public_key()
    return bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))


def common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def sha1_signed(node: Node, name: str, ca: str) -> bytes:
    """Sign the certificate of `name` again with SHA-1, which current libraries no longer do."""
    authority, old = node.certificate(f"{ca}.crt"), node.certificate(f"{name}.crt")
    key_id = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    issuer = Issued(
        authority.public_bytes(serialization.Encoding.DER), node.key(f"{ca}.key"), authority.subject, key_id, None
    )
    return make_server(
        issuer, key=node.key(f"{name}.key"), subject=old.subject, names=sans_of(old), hash="sha1",
        not_before=old.not_valid_before_utc, not_after=old.not_valid_after_utc,
    ).pem  # fmt: skip
