"""Signing by kubeadm: `certs renew` for the pairs below pki/, and `kubeconfig user` for client credentials.

kubeadm runs in a private directory with a separate configuration. With only `--cert-dir`, kubeadm would overwrite the
real files of the node (cmd/kubeadm/app/cmd/certs.go, getInternalCfg).
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from certmond.errors import KeyUnusableError, MalformedError, RefusedError, UnreachableError
from certmond.formats.kubeconfig import Material, parse_kubeconfig
from certmond.formats.private_key import PrivateKey, load_key
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.signing.template import BACKDATE, Template
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.public_key import public_key_of
from certmond.signers.local_ca import read_file, self_signed
from certmond.signers.protocol import Issued, Request
from certmond.subprocesses import Ended, first_line, run

# phases/certs/certlist.go: kubeadm's name -> the files of the pair and of its CA, without suffix.
_PAIRS = {
    "apiserver": ("apiserver", "ca"),
    "apiserver-kubelet-client": ("apiserver-kubelet-client", "ca"),
    "front-proxy-client": ("front-proxy-client", "front-proxy-ca"),
    "etcd-server": ("etcd/server", "etcd/ca"),
    "etcd-peer": ("etcd/peer", "etcd/ca"),
    "etcd-healthcheck-client": ("etcd/healthcheck-client", "etcd/ca"),
    "apiserver-etcd-client": ("apiserver-etcd-client", "etcd/ca"),
}
_PREFIX = "kubeadm-"
_VERSION = re.compile(r"v1\.([0-9]{1,3})\.[0-9A-Za-z.+-]+")
_OLDEST, _V1BETA4 = 22, 31  # v1.22 introduced v1beta3, v1.31 v1beta4


class KubeadmSigner:
    """Signer that runs kubeadm (`command`) in a temporary directory below `directory`.

    `ca_certificate` and `ca_key` are the paths of the CA. The caller must hold the lock of all writers, because `sign`
    removes files of a crashed run.
    """

    def __init__(
        self, command: tuple[str, ...], ca_certificate: str, ca_key: str, *, directory: str, time_limit: timedelta
    ) -> None:
        self._command = command or ("kubeadm",)
        self._ca_certificate = ca_certificate
        self._ca_key = ca_key
        self._directory = directory
        self._time_limit = time_limit

    def sign(self, request: Request) -> Issued:
        """Return the certificate, and the key that kubeadm created.

        Raises RefusedError if kubeadm does not issue the certificate, and UnreachableError if kubeadm cannot run or
        does not end in time.
        """
        name, organizations = _subject(request)
        if request.name not in _PAIRS and not _is_client(request.template):
            detail = f"kubeadm has no certificate {request.name}, and issues other certificates only for clients"
            raise RefusedError(f"{detail}; choose another signer")
        version = self._version(request.alive)
        if not _makes(request.template.key, version):
            raise RefusedError(
                f"kubeadm {version} cannot create a {request.template.key.value} key; choose another signer"
            )
        with self._work_directory() as directory:
            configuration = self._write_configuration(directory, request.template, version)
            if request.name in _PAIRS:
                return self._renewed(request, directory, configuration)
            self._link(directory, "ca")
            groups = (f"--org={organization}" for organization in organizations)
            lifetime = f"--validity-period={_lifetime(request.template)}"
            options = (f"--config={configuration}", f"--client-name={name}", *groups, lifetime)
            ended = self._run(("kubeconfig", "user", *options), request.alive)
            return _from_kubeconfig(ended.output)

    def _renewed(self, request: Request, directory: Path, configuration: Path) -> Issued:
        pair, ca = _PAIRS[request.name]
        self._link(directory, ca)
        certificate, key = directory / f"{pair}.crt", directory / f"{pair}.key"
        certificate.parent.mkdir(mode=0o700, exist_ok=True)
        # kubeadm copies the subject, the subject alternative names and the extended key usage from the present
        # certificate (renewal/manager.go, certToConfig). The placeholder contains these values of the template, so
        # certmond does not copy the old pair.
        placeholder = self_signed(request.template, request.key)
        certificate.write_bytes(placeholder)
        ended = self._run(("certs", "renew", request.name, f"--config={configuration}"), request.alive)
        made, made_key = (_output_file(path) for path in (certificate, key))
        if made == placeholder:  # kubeadm exits with 0 also in this case, for example without the CA's key
            message = first_line(ended.output) or "without a message"
            raise RefusedError(
                f"kubeadm did not renew {request.name} ({message}); check that its CA and the CA's key are on this node"
            )
        return _issued(made, made_key)

    def _version(self, alive: Callable[[], None]) -> str:
        """Return the version of kubeadm. Without a version in its configuration, kubeadm would query the Internet.

        Raises RefusedError if the program is not kubeadm, or if the version is too old.
        """
        message = first_line(self._run(("version", "-o", "short"), alive).output)
        match = _VERSION.fullmatch(message)
        if match is None or int(match[1]) < _OLDEST:
            raise RefusedError(
                f"{self._command[0]} is not kubeadm v1.{_OLDEST} or newer; set `command` to a newer kubeadm"
            )
        return message

    def _run(self, arguments: tuple[str, ...], alive: Callable[[], None]) -> Ended:
        ended = run((*self._command, *arguments), {}, self._time_limit, alive)
        message = first_line(ended.said)
        detail = f"{' '.join((self._command[0], *arguments[:2]))} ended with status {ended.status}"
        if ended.status < 0:
            raise UnreachableError(f"{detail} ({message}); run this command manually to see the cause")
        if ended.status:
            raise RefusedError(f"{detail} ({message}); run this command manually to see the cause")
        return ended

    @contextmanager
    def _work_directory(self) -> Iterator[Path]:
        for left in Path(self._directory).glob(f"{_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._directory) as directory:  # its mode is 0700
            yield Path(directory)

    def _link(self, directory: Path, ca: str) -> None:
        """Create symlinks to the files of the CA, with the names that kubeadm expects."""
        (directory / ca).parent.mkdir(mode=0o700, exist_ok=True)
        os.symlink(self._ca_certificate, directory / f"{ca}.crt")
        os.symlink(self._ca_key, directory / f"{ca}.key")

    def _write_configuration(self, directory: Path, template: Template, version: str) -> Path:
        """Write a configuration with which kubeadm queries neither the cluster nor the Internet.

        Return the path of the configuration file.
        """
        api = {"apiVersion": "kubeadm.k8s.io/v1beta4" if _is_newer(version) else "kubeadm.k8s.io/v1beta3"}
        init = {
            "kind": "InitConfiguration",
            "nodeRegistration": {"name": "node", "criSocket": "unix:///var/run/containerd/containerd.sock"},
            "localAPIEndpoint": {
                "advertiseAddress": "192.0.2.1"
            },  # a valid address that kubeadm does not use (RFC 5737)
        }
        cluster = {"kind": "ClusterConfiguration", "certificatesDir": str(directory), "kubernetesVersion": version}
        if _is_newer(version):
            cluster["certificateValidityPeriod"] = _lifetime(template)
            cluster["encryptionAlgorithm"] = template.key.value  # the names of kubeadm
        path = directory / "kubeadm.yaml"
        path.write_text(yaml.safe_dump_all([api | init, api | cluster]))
        return path


def _is_newer(version: str) -> bool:
    """Return whether kubeadm supports v1beta4. A v1beta4 configuration sets the key algorithm and the lifetime."""
    match = _VERSION.fullmatch(version)
    return match is not None and int(match[1]) >= _V1BETA4


def _makes(key: KeyAlgorithm, version: str) -> bool:
    return key is not KeyAlgorithm.ED25519 if _is_newer(version) else key is KeyAlgorithm.RSA_2048


def _subject(request: Request) -> tuple[str, tuple[str, ...]]:
    """Return the common name and the organizations. Raises RefusedError for a certificate that kubeadm cannot issue."""
    template = request.template
    names = [str(each.value) for each in template.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [str(each.value) for each in template.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    if template.is_ca:
        raise RefusedError(f"{request.name} is a CA, which kubeadm does not renew; to create a CA, run: certmond init")
    if len(names) != 1 or len(names) + len(groups) != len(list(template.subject)):
        detail = (
            "kubeadm supports only subjects with one CN and any number of O attributes, not "
            f"{template.subject.rfc4514_string()}"
        )
        raise RefusedError(f"{detail}; choose another signer for {request.name}")
    if any(re.search(r'[",\n\r]', group) or not group for group in groups):  # --org is a comma-separated list
        raise RefusedError(
            "kubeadm does not support an O attribute that is empty, or that contains a comma, a quote or a line "
            f"break; choose another signer for {request.name}"
        )
    if not all(isinstance(name, x509.DNSName | x509.IPAddress) for name in template.names):
        raise RefusedError(
            "kubeadm supports only DNS names and IP addresses as subject alternative names; choose another signer for "
            f"{request.name}"
        )
    return names[0], tuple(groups)


def _lifetime(template: Template) -> str:
    """Return the lifetime of the requested certificate as a Go duration."""
    return f"{int((template.not_after - template.not_before - BACKDATE).total_seconds())}s"


def _is_client(template: Template) -> bool:
    return template.extended_usages == ("client auth",) and not template.names


def _output_file(path: Path) -> bytes:
    """Return the content of a file that kubeadm wrote, or b"" if the file is missing or unreadable."""
    try:
        return read_file(str(path))
    except OSError:
        return b""


def _from_kubeconfig(output: bytes) -> Issued:
    """Return the credentials of the only user in a kubeconfig.

    Raises RefusedError if there is no such user. The message does not quote the kubeconfig.
    """
    try:
        users = parse_kubeconfig(output, "/").users
    except MalformedError:
        users = ()
    match [(user.certificate, user.key) for user in users]:
        case [(Material(data=bytes(certificate)), Material(data=bytes(key)))]:
            return _issued(certificate, key)
        case _:
            raise RefusedError(
                "kubeadm wrote no kubeconfig with a certificate and its key; run kubeadm manually to see the cause"
            )


def _issued(certificate: bytes, key_data: bytes) -> Issued:
    found = decode(certificate, "kubeadm's certificate").certificates
    key: PrivateKey | None = None
    with suppress(KeyUnusableError):
        key = load_key(key_data, "kubeadm's output")
    if not found or key is None or found[0].key != public_key_of(key):
        raise RefusedError("kubeadm wrote no certificate with its key; run kubeadm manually to see the cause")
    return Issued(certificate, key)
