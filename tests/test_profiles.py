"""The shipped profiles match the files of the real tools."""

from __future__ import annotations

import base64
import re
import tarfile
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from certmond.config.parser import parse
from certmond.config.shipped_profiles import profiles
from certmond.config.source_merger import Source
from certmond.pki.catalog.entries import SELF, CertificateSpec, Kind
from certmond.pki.catalog.field_types import expand, subject_attributes
from certmond.pki.x509.certificate import Certificate, parse_certificate

FACTS = {
    "node_name": "controller-0",
    "advertise_address": "192.0.2.10",
    "service_ip": "10.96.0.1",
    "dns_domain": "cluster.local",
    "control_plane_name": "DNS:k8s.example.com",
}
NOT_IN_1_24 = ("super-admin.conf", "kubelet-server", "kubelet-server-self")
CONTRACT = """
    ca, apiserver, apiserver-kubelet-client, front-proxy-ca, front-proxy-client, etcd-ca, etcd-server, etcd-peer,
    etcd-healthcheck-client, apiserver-etcd-client, admin.conf, super-admin.conf, controller-manager.conf,
    scheduler.conf, kubelet-client, kubelet-server
"""

PROFILE = parse([])
SPECS = {spec.name: spec for spec in PROFILE.certificates}
SERVICES = {service.name: service for service in PROFILE.services}
PRESENT = [spec for spec in PROFILE.certificates if spec.name not in NOT_IN_1_24]
CERTIFICATES = [spec for spec in PRESENT if spec.kind is not Kind.KEY_PAIR]
LEAVES = [spec for spec in CERTIFICATES if not spec.authority]


def called(spec: CertificateSpec) -> str:
    return spec.name


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A control-plane node as kubeadm v1.24 left it."""
    place = tmp_path_factory.mktemp("node")
    with tarfile.open(Path(__file__).parent / "data/kubeadm-1.24.tar") as archive:
        archive.extraction_filter = lambda member, _: member  # trusted; Python 3.11.2 has no `filter=`
        archive.extractall(place)  # noqa: S202  # our own, whose modes and links matter
    return place


def real(root: Path, path: str) -> Path:
    """Return the file to which a path of the node resolves."""
    place = root / path[1:]
    return real(root, str(place.readlink())) if place.is_symlink() else place


def written(root: Path, spec: CertificateSpec) -> list[Certificate]:
    """Return the certificates that kubeadm wrote at the path of the entry."""
    data = real(root, spec.path).read_bytes()
    if spec.kind is Kind.KUBECONFIG:
        data = base64.b64decode(yaml.safe_load(data)["users"][0]["user"]["client-certificate-data"])
    return [parse_certificate(found.public_bytes(Encoding.DER)) for found in x509.load_pem_x509_certificates(data)]


@pytest.mark.parametrize("name", profiles())
def test_every_profile_loads_and_stands_on_its_own(name: str) -> None:
    assert parse([], profile=name).certificates
    text = profiles()[name]
    begins = yaml.safe_load(text).get("profile", "none")  # from another profile, or from none
    assert parse([Source("as an operator writes it", text)], profile=begins).certificates


def test_the_names_are_those_that_others_build_on() -> None:
    assert {name.strip() for name in CONTRACT.split(",")} | {"sa", "kubelet-server-self"} == set(SPECS)


@pytest.mark.parametrize("spec", PRESENT, ids=called)
def test_each_file_is_where_the_profile_looks(spec: CertificateSpec, root: Path) -> None:
    assert real(root, spec.path).is_file()
    assert spec.key is None or real(root, spec.key).is_file()


@pytest.mark.parametrize("spec", [SPECS[name] for name in NOT_IN_1_24], ids=called)
def test_what_kubeadm_1_24_does_not_write_is_optional(spec: CertificateSpec, root: Path) -> None:
    assert spec.optional
    assert not real(root, spec.path).exists()


def test_the_profile_has_every_certificate_of_the_tree(root: Path) -> None:
    known = {real(root, spec.path) for spec in PROFILE.certificates}
    found = {path for pattern in ("*.crt", "*.pem", "*.pub", "*.conf") for path in root.rglob(pattern)}
    assert {path for path in found if not path.is_symlink()} - known == {root / "etc/kubernetes/kubelet.conf"}
    assert SPECS["kubelet-client"].kubeconfig == "/etc/kubernetes/kubelet.conf"


@pytest.mark.parametrize("spec", LEAVES, ids=called)
def test_subject_usages_and_names_are_those_that_kubeadm_wrote(spec: CertificateSpec, root: Path) -> None:
    (certificate,) = written(root, spec)
    accepted = [subject_attributes(expand(subject, FACTS) or "") for subject in spec.subject]
    assert certificate.attributes in accepted
    assert certificate.usages is not None
    assert certificate.extended_usages is not None
    assert set(spec.usages) == certificate.usages | certificate.extended_usages
    extra = {"DNS:k8s.example.com", "IP:198.51.100.7"} if spec.name == "apiserver" else set()  # apiServer.certSANs
    assert {expand(name, FACTS) for name in spec.names} | extra == certificate.names


@pytest.mark.parametrize("spec", [spec for spec in CERTIFICATES if spec.authority], ids=called)
def test_a_ca_is_only_asked_to_be_one(spec: CertificateSpec, root: Path) -> None:
    """An operator's own Root CA has any name, and its key may be elsewhere."""
    (certificate,) = written(root, spec)
    assert certificate.is_ca
    assert spec.usages == ("cert sign",)
    assert certificate.has_usage("cert sign")
    assert (spec.subject, spec.names, spec.ca, spec.key_optional) == ((), (), (), True)
    assert spec.renew_before is not None
    assert spec.renew_before.days == 180


@pytest.mark.parametrize("spec", LEAVES, ids=called)
def test_the_issuer_is_the_authority_that_the_profile_names(spec: CertificateSpec, root: Path) -> None:
    (leaf,) = written(root, spec)
    (issuer,) = (each for name in spec.ca for each in written(root, SPECS[name]))
    load = x509.load_der_x509_certificate
    load(leaf.der).verify_directly_issued_by(load(issuer.der))


@pytest.mark.parametrize("spec", PRESENT, ids=called)
def test_the_modes_that_kubeadm_sets_are_within_what_the_profile_permits(spec: CertificateSpec, root: Path) -> None:
    assert spec.mode is not None
    assert real(root, spec.path).stat().st_mode & 0o777 & ~spec.mode == 0
    if spec.key:
        assert real(root, spec.key).stat().st_mode & 0o777 & ~spec.key_mode == 0
    secret = spec.kind in {Kind.KUBECONFIG, Kind.KUBELET}
    assert (spec.mode, spec.key_mode, spec.owner) == (0o600 if secret else 0o644, 0o600, "root:root")


@pytest.mark.parametrize("spec", [spec for spec in PRESENT if spec.embedded_ca], ids=called)
def test_each_kubeconfig_embeds_the_root_ca(spec: CertificateSpec, root: Path) -> None:
    assert spec.embedded_ca == "ca"
    kubeconfig = yaml.safe_load(real(root, spec.kubeconfig or spec.path).read_bytes())
    embedded = base64.b64decode(kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"])
    assert embedded == real(root, SPECS["ca"].path).read_bytes()


@pytest.mark.parametrize("spec", PRESENT, ids=called)
def test_each_certificate_of_the_tree_is_expected_there(spec: CertificateSpec, root: Path) -> None:
    """Each existing file that decides whether a node should have the certificate names it."""
    places = [real(root, path) for path in spec.mentioned_in if real(root, path).exists()]
    assert all(spec.path in place.read_text() for place in places)
    assert places or any(real(root, path).exists() for path in spec.belongs_with)
    assert not spec.optional


@pytest.mark.parametrize("spec", PRESENT, ids=called)
def test_what_a_static_pod_is_given_has_that_pod_as_consumer(spec: CertificateSpec, root: Path) -> None:
    manifests = {path.stem: path.read_text() for path in (root / "etc/kubernetes/manifests").iterdir()}
    users = {name for name, text in manifests.items() if f"={spec.path}" in text or f"={spec.key}" in text}
    assert users == set(spec.consumers) - {"kubelet"}


def test_the_service_account_keys_belong_together(root: Path) -> None:
    spec = SPECS["sa"]
    public = load_pem_public_key(real(root, spec.path).read_bytes())
    private = load_pem_private_key(real(root, spec.key or "").read_bytes(), None)
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert public.public_bytes(*form) == private.public_key().public_bytes(*form)


def test_leaves_that_kubeadm_renews_are_alone_in_their_files() -> None:
    """A bundle of two Root CAs is normal while one replaces the other; the kubelet's files are not kubeadm's."""
    alone = {spec.name for spec in PROFILE.certificates if not spec.chain}
    assert alone == {spec.name for spec in LEAVES} - {"kubelet-client"} | {"super-admin.conf"}


def test_a_worker_needs_only_what_its_files_name() -> None:
    """A node with only the kubelet needs the Root CA and the certificate of the kubelet."""
    worker = {"/var/lib/kubelet/config.yaml", "/etc/kubernetes/kubelet.conf"}
    expected = {name for name, spec in SPECS.items() if worker & {*spec.mentioned_in, *spec.belongs_with}}
    assert expected == {"ca", "kubelet-client"}
    assert all(spec.conditional or spec.optional for spec in PROFILE.certificates)


def test_the_newest_subject_is_the_one_issued() -> None:
    assert SPECS["apiserver-kubelet-client"].subject[0].endswith("O=kubeadm:cluster-admins")
    assert SPECS["admin.conf"].subject[0].endswith("O=kubeadm:cluster-admins")
    assert SPECS["apiserver-etcd-client"].subject[0] == "CN=kube-apiserver-etcd-client"
    assert SPECS["etcd-healthcheck-client"].subject[0] == "CN=kube-etcd-healthcheck-client"


def test_a_demand_with_an_unknown_fact_is_not_made() -> None:
    assert [expand(name, {}) for name in SPECS["etcd-server"].names] == [
        None,
        "DNS:localhost",
        None,
        "IP:127.0.0.1",
        "IP:::1",
    ]
    assert expand("${control_plane_name}", FACTS) == "DNS:k8s.example.com"


def test_restarts_follow_one_another_from_etcd_to_the_kubelet() -> None:
    order = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet"]
    assert list(SERVICES) == order
    assert [SERVICES[name].after for name in order] == [(), *((name,) for name in order[:-1])]
    assert all(service.pod == service.name for service in PROFILE.services if service.kind == "static-pod")
    assert SERVICES["kubelet"].unit == "kubelet.service"


def test_what_is_read_once_needs_a_restart() -> None:
    needs = {
        (name, spec.name)
        for spec in PROFILE.certificates
        for name in spec.consumers
        if spec.name not in SERVICES[name].reloads
    }
    assert needs == {
        ("etcd", "etcd-ca"),
        ("kube-apiserver", "etcd-ca"),
        ("kube-apiserver", "sa"),
        ("kube-controller-manager", "ca"),
        ("kube-controller-manager", "sa"),
        ("kube-controller-manager", "controller-manager.conf"),
        ("kube-scheduler", "scheduler.conf"),
    }
    consumed = {(name, spec.name) for spec in PROFILE.certificates for name in spec.consumers}
    assert {(service.name, name) for service in PROFILE.services for name in service.reloads} <= consumed


def test_the_kubelet_may_serve_with_its_own_certificate_or_with_one_of_the_root_ca() -> None:
    assert SPECS["kubelet-server"].ca == ("ca",)
    assert SPECS["kubelet-server"].path == SPECS["kubelet-server"].key
    assert SPECS["kubelet-server-self"].ca == (SELF, "ca")
    assert SPECS["kubelet-server-self"].chain


def test_both_tables_of_distributions_have_a_row_for_each_profile() -> None:
    """The overview names each profile, and the table of versions each distribution by the heading of its section."""
    text = (Path(__file__).parents[1] / "docs/profiles.md").read_text()
    overview = text.partition("\n## Overview\n")[2].partition("\n## ")[0]
    names = re.findall(r"^\| \[`([\w-]+)`\]", overview, re.MULTILINE)
    assert names == re.findall(r"^`profile: (.+?)`\. ", text, re.MULTILINE)
    assert set(names) == set(profiles()) - {"none"}
    headings = re.findall(r"^## (.+)\n\n`profile: ", text, re.MULTILINE)
    page = (Path(__file__).parents[1] / "docs/compatibility.md").read_text()
    versions = page.partition("\n## Versions and distributions\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|(?: [^|]+ \|){15}$", versions, re.MULTILINE)
    assert [row for row in rows if row != "distribution"] == headings
