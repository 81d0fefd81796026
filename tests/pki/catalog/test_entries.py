"""The entries of the catalogue: the accepted input, and its value."""

from __future__ import annotations

from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from certmond.cli.root_ca.inspection import FAMILIES, TOKEN_KEYS
from certmond.pki.catalog.entries import DEFAULT_EXCLUDE, ROOT_CAS, CertificateSpec, Kind, anchors_first
from certmond.pki.catalog.field_types import FACTS, expand, subject_attributes
from certmond.pki.catalog.validator import validated, validator

BASE = {"name": "x", "path": "/x.crt"}
STAGE = "certmond root-ca stage --generate"


def row(**fields: Any) -> CertificateSpec:
    return validated(CertificateSpec, BASE | fields)


def refused(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        row(**fields)
    return str(caught.value)


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, "0600", "600", "0o600"])
def test_a_mode_is_octal_however_it_is_written(mode: object) -> None:
    """Operators write modes in octal. YAML itself reads 0600 as a number."""
    assert row(mode=mode).mode == 0o600
    assert validator(CertificateSpec).dump_python(row(mode=mode), mode="json")["mode"] == "0600"


def test_a_mode_may_forbid_everything() -> None:
    """The smallest mode is 0000."""
    assert row(mode="0000").mode == 0


@pytest.mark.parametrize("mode", ["rw", "0999", "06000", 0o1000, -1, True, 6.0])
def test_an_invalid_mode_is_refused(mode: object) -> None:
    """Modes beyond permissions, such as the sticky bit, are refused as well."""
    assert "mode" in refused(mode=mode)


def test_a_path_is_absolute_and_written_in_one_way() -> None:
    """Superfluous slashes and dots go, so that a path is the same wherever it is named; `..` is left to the node."""
    assert row(path="//etc/./pki//a.crt").path == "/etc/pki/a.crt"
    assert row(path="/etc/../a").path == "/etc/../a"
    assert "absolute path" in refused(path="etc/a.crt")
    assert "absolute path" in refused(path="/etc/\0")


def test_subjects_and_names_may_use_the_facts_of_the_node() -> None:
    """A fact that there is not, and a stray dollar sign, are refused with the facts that there are."""
    spec = row(
        subject="CN=system:node:${node_name},O=system:nodes", names=["DNS:${node_name}", "${control_plane_name}"]
    )
    assert spec.subject == ("CN=system:node:${node_name},O=system:nodes",)
    assert row(subject="CN=a$$b").subject == ("CN=a$$b",)
    message = refused(subject="CN=${hostname}")
    assert all(fact in message for fact in ("${hostname}", *FACTS))
    assert "$$" in refused(subject="CN=$node_name")
    assert "$$" in refused(names=["DNS:$x"])


@pytest.mark.parametrize("subject", ["", "kubernetes", "CN=", "=x", "CN=a,O", "C N=a"])
def test_a_subject_is_made_of_attributes(subject: str) -> None:
    """Type and value, separated by commas."""
    assert "must be a subject" in refused(subject=subject)


@pytest.mark.parametrize("name", ["kubernetes", "dns:a", "DNS:", "DNS:a b", "IP:", "URI:spiffe://a", "${node_name}"])
def test_an_alternative_name_is_a_dns_name_or_an_address(name: str) -> None:
    """A fact that is such a name is accepted."""
    assert "DNS: or IP:" in refused(names=name)


def test_an_address_is_an_address() -> None:
    """If it is not a fact, it must be an address."""
    assert row(names=["IP:10.96.0.1", "IP:::1", "IP:${service_ip}"]).names[1] == "IP:::1"
    assert "an IP address" in refused(names="IP:10.96.0.256")


def test_usages_are_those_of_kubernetes() -> None:
    """The message lists them."""
    assert "client auth, crl sign" in refused(usages=["clientAuth"])
    assert row(usages="server auth").usages == ("server auth",)


@pytest.mark.parametrize("owner", ["root", "root:root", "65532:0"])
def test_an_owner_is_a_user_or_a_user_and_a_group(owner: str) -> None:
    """Both may be names or numbers."""
    assert row(owner=owner).owner == owner


@pytest.mark.parametrize("owner", ["", ":root", "root:", "a b", "a:b:c"])
def test_other_owners_are_refused(owner: str) -> None:
    """The error has the accepted form."""
    assert "user or user:group" in refused(owner=owner)


def test_one_value_may_stand_for_a_list_of_one() -> None:
    """The schema has both forms for an editor."""
    assert row(ca="ca", consumers=["a", "b"]).ca == ("ca",)
    assert "tuple" in refused(ca=1)
    schema = TypeAdapter(CertificateSpec).json_schema()["properties"]
    assert [option["type"] for option in schema["ca"]["anyOf"]] == ["string", "array"]
    assert schema["mode"]["anyOf"][0]["type"] == ["integer", "string"]


@pytest.mark.parametrize("text", ["two\nlines", " ", "\x1b[31m"])
def test_the_renewer_of_an_entry_is_text_on_one_line(text: str) -> None:
    """The reason of a hold contains this text."""
    assert "must be a short text on one line" in refused(renewed_by=text)


def test_nothing_unknown_is_let_through() -> None:
    """A misspelt field is an error, not a certificate without that demand."""
    assert "unexpected keyword" in refused(subjects="CN=a").lower()


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "x" * 64])
def test_a_name_is_good_as_a_label(name: str) -> None:
    """Letters, digits, dots, dashes and underscores."""
    assert "name" in refused(name=name)


def test_a_key_pair_has_a_key_and_a_glob_has_none_beside_it() -> None:
    """A glob's files hold their keys themselves; there is no rule that finds the key for each."""
    assert "must be given for kind key-pair" in refused(kind="key-pair")
    assert row(kind="key-pair", key="/x.key").kind is Kind.KEY_PAIR
    assert "must be absent" in refused(path="/certs/*.pem", key="/x.key")
    assert row(path="/certs/*.pem", key="/certs/*.pem").is_glob
    assert row(path="/certs/*.pem").key is None
    assert not row(key="/x.key").is_glob
    # With the path itself at fault, the key is not blamed for it.
    assert "must be absent" not in refused(path="relative/*.pem", key="/x.key")


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("ca", f"rotate it: {STAGE}, then: certmond root-ca rotate"),
        ("etcd-ca", f"rotate it: {STAGE} --family etcd-ca, then: certmond root-ca rotate --family etcd-ca"),
        ("own-ca", "replace the CA, and then each certificate that the CA signed, with the tool that issued the CA"),
    ],
)
def test_the_remedy_of_a_ca_has_the_commands_for_its_family(name: str, remedy: str) -> None:
    """`root-ca stage` and `root-ca rotate` without a family change `ca`, so the commands for another CA name its
    family. An expired CA gets new dates, because its leaves are then valid again.
    """
    spec = CertificateSpec(name=name, path="/ca.crt", authority=True)
    assert spec.ca_remedy(expired=False, has_key=True) == remedy
    assert spec.ca_remedy(expired=True, has_key=True) == remedy.replace("--generate", "--reuse-key")
    staged = "create a CA on a node that has its key, and stage the certificate here: certmond root-ca stage CERT"
    assert spec.ca_remedy(expired=False, has_key=False) == remedy.replace(f"rotate it: {STAGE}", staged)
    assert (*ROOT_CAS, TOKEN_KEYS) == FAMILIES


def test_an_entry_is_conditional_if_other_files_decide() -> None:
    """They decide by a reference to its path, or by their existence."""
    assert row(mentioned_in="/m.yaml").conditional
    assert row(belongs_with=["/m.yaml"]).conditional
    assert not row(optional=True).conditional


# --- around them ------------------------------------------------------------------------------------------------------


def test_authorities_precede_their_certificates() -> None:
    """All others stay in the given order."""
    rows = [row(name="b"), row(name="ca", authority=True), row(name="a"), row(name="etcd-ca", authority=True)]
    assert [spec.name for spec in anchors_first(rows)] == ["ca", "etcd-ca", "b", "a"]


def test_text_with_an_unknown_fact_is_unknown() -> None:
    """So the entry has no such requirement."""
    assert expand("CN=system:node:${node_name}", {"node_name": "worker-1"}) == "CN=system:node:worker-1"
    assert expand("DNS:${node_name}.${dns_domain}", {"node_name": "worker-1"}) is None
    assert expand("CN=a$$b", {}) == "CN=a$b"


def test_subjects_are_compared_by_their_attributes() -> None:
    """Order and grouping do not count. An escaped comma separates nothing."""
    assert subject_attributes("CN=a,O=b") == subject_attributes("O=b, CN=a") == subject_attributes("CN=a+O=b")
    assert subject_attributes(r"CN=a\,b,O=c") == {r"CN=a\,b", "O=c"}


@pytest.mark.parametrize(
    "name",
    [
        "kubelet-client-2026-11-24-14-15-30.pem", "kubelet-server-2026-11-24-14-15-30.pem", "expired", "apiserver.key",
        "apiserver.crt.bak", "apiserver.crt~", "apiserver.crt.old", ".hidden", "..data", "sa.pub", "x.csr", "x.pem.tmp",
        "x.crt.orig", "x.pem.dpkg-old", "x.pem.rpmsave",
    ],
)  # fmt: skip
def test_a_glob_passes_over_what_is_no_certificate_in_use(name: str) -> None:
    """Keys, requests, backups, hidden files, and the PEM files that the kubelet has retired."""
    assert any(fnmatchcase(name, pattern) for pattern in DEFAULT_EXCLUDE)


@pytest.mark.parametrize("name", ["apiserver.crt", "kubelet-client-current.pem", "tls.pem", "haproxy.pem", "ca.crt"])
def test_a_glob_takes_up_certificates(name: str) -> None:
    """The kubelet's current PEM among them."""
    assert not any(fnmatchcase(name, pattern) for pattern in DEFAULT_EXCLUDE)


@pytest.mark.parametrize("missing", ["renewed_by", "consumers"])
def test_a_start_that_renews_needs_a_service(missing: str) -> None:
    """`renewed_at_start` alone does not say which service to restart."""
    fields = {"name": "a", "path": "/a", "renewed_by": "k3s", "consumers": "k3s", "renewed_at_start": "90d"}
    assert validated(CertificateSpec, fields).renewed_at_start == timedelta(days=90)
    with pytest.raises(ValidationError, match="must be absent unless `renewed_by` and `consumers` name"):
        validated(CertificateSpec, {key: value for key, value in fields.items() if key != missing})


def test_intermediates_need_an_authority() -> None:
    """`intermediates` describes the file of a CA."""
    fields = {"name": "a", "path": "/a", "authority": True, "intermediates": True}
    assert validated(CertificateSpec, fields).intermediates
    with pytest.raises(ValidationError, match="must be absent without `authority: true`"):
        validated(CertificateSpec, fields | {"authority": False})
