"""Rules for the certificates of a Kubernetes node, as a list of checks.

certmond reports a fault for only one entry: if a CA has a fault, the leaves of this CA have no finding for this fault.
`validity_rules` contains the checks of the dates.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

from certmond.pki.assessment.rule_input import Case, Check, finding, has_entry
from certmond.pki.assessment.validity_rules import expired, nearing_expiry, not_yet_valid, outlives_ca, still_due
from certmond.pki.catalog.entries import SELF, Kind
from certmond.pki.catalog.unmet_requirements import (
    accepted_subjects,
    has_accepted_subject,
    lacking_usages,
    missing_names,
)
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.go.public_key import LARGEST_RSA, SMALLEST_RSA, unusable
from certmond.pki.x509.certificate import Certificate
from certmond.pki.x509.path_building import WEAK_HASHES, Refusal, Rejection, find_paths, signed_by
from certmond.pki.x509.search_budget import MAX_WORK, Budget

ROOT_CA_ONLY = "Kubernetes supports only Root CAs, not intermediate CAs"
_ADD_ROOT_CA = "its Root CA is not in the file; install the file with the whole chain"


def no_path(case: Case) -> Iterator[Finding]:
    """Report that there is no certification path to a trust anchor, unless another check reports the reason."""
    if case.search.paths or case.anchors_reported:
        return
    if not case.anchors and case.spec.ca != (SELF,):
        absent = " or ".join(case.spec.ca)
        fact = f"{case.where} has no trust anchor: this node has no certificate of {absent}"
        yield finding(Reason.NO_PATH, f"{fact}; install the certificate of the CA")
        return
    if any(_reported_elsewhere(case, why) for why in case.search.rejections):
        return
    rank = {Refusal.BAD_SIGNATURE: 2, Refusal.NO_ISSUER: 1}  # a more specific refusal has a lower rank
    why = min(case.search.rejections, key=lambda why: rank.get(why.refusal, 0))
    yield finding(
        Reason.NO_PATH,
        f"{case.where} has no certification path to {' or '.join(case.spec.ca) or SELF}: {why.certificate.subject} "
        f"(issuer {why.certificate.issuer}): {why.refusal}; reissue the certificate from the present CA, or restore "
        "the CA",
    )


def ca_not_self_signed(case: Case) -> Iterator[Finding]:
    """Report a trust anchor that is not self-signed.

    If the entry permits intermediate CAs, and the Root CA of this CA is in the same file, the severity is info.
    """
    if not case.spec.authority or _is_self_signed(case.certificate):
        return
    if case.spec.intermediates and (root := _root_in_file(case)):
        fact = f"{case.where}: {case.certificate.subject} is an intermediate CA of {root.subject} in the same file"
        yield finding(Reason.CA_NOT_SELF_SIGNED, f"{fact}; keep both certificates in the file", Severity.INFO)
        return
    yield finding(
        Reason.CA_NOT_SELF_SIGNED,
        f"{case.where}: {case.certificate.subject} is not self-signed (issuer {case.certificate.issuer}); "
        + (_ADD_ROOT_CA if case.spec.intermediates else f"{ROOT_CA_ONLY}; install a self-signed CA"),
    )


_self_signed = WeakKeyDictionary[Certificate, bool]()
"""Results of `_is_self_signed`. The rule for each CA of a file needs the results for all other CAs of the file."""


def _is_self_signed(certificate: Certificate) -> bool:
    if not certificate.self_issued:
        return False
    known = _self_signed.get(certificate)
    if known is None:
        known = _self_signed[certificate] = signed_by(certificate, certificate)
    return known


def _root_in_file(case: Case) -> Certificate | None:
    """Return the Root CA of an intermediate CA, or None if the search finds no path to a Root CA in the file."""
    bundle = case.seen.bundle
    roots = [each for each in bundle if each.is_ca and _is_self_signed(each)]
    budget = Budget(work=MAX_WORK // max(len(bundle), 1))  # the rule runs for each certificate of the file
    best = find_paths(case.certificate, roots, bundle, budget=budget).best if roots else None
    return best.anchor if best else None


def ca_not_ca(case: Case) -> Iterator[Finding]:
    """Report a trust anchor without CA:TRUE (RFC 5280, 4.2.1.9). Accepts versions 1 and 2, which have no extensions."""
    if case.spec.authority and not case.certificate.is_ca and case.certificate.version >= 3:
        yield finding(
            Reason.CA_NOT_CA,
            f"{case.where}: {case.certificate.subject} lacks basicConstraints CA:TRUE, so every component rejects the "
            "certificates of this CA; install a CA certificate",
        )


def ca_cannot_sign(case: Case) -> Iterator[Finding]:
    """Report a trust anchor whose keyUsage lacks keyCertSign (RFC 5280, 4.2.1.3). Accepts a CA without keyUsage."""
    if case.spec.authority and not case.certificate.has_usage("cert sign"):
        yield finding(
            Reason.CA_CANNOT_SIGN,
            f"{case.where}: {case.certificate.subject} has a keyUsage without keyCertSign, so every component rejects "
            "the certificates of this CA; reissue the CA with keyCertSign",
        )


def wrong_subject(case: Case) -> Iterator[Finding]:
    """Report a subject that the entry does not accept, or a kubelet's common name that the API server refuses.

    Kubernetes authenticates a client by the subject of its certificate. The API server requires the common name of a
    kubelet only with --enable-kubelet-cert-cn-validation.
    """
    accepted = accepted_subjects(case.spec, case.facts)
    if accepted and not has_accepted_subject(case.certificate, accepted):
        yield finding(
            Reason.WRONG_SUBJECT,
            f"{case.where} has the subject {case.certificate.subject}, but the entry requires "
            f"{' or '.join(accepted)}; reissue the certificate",
        )
    expected = case.facts.get("kubelet_common_name")
    served = case.where == case.facts.get("kubelet_serving_file")
    if expected and served and not accepted and case.certificate.common_name != expected:
        fact = f"{case.where} has the subject {case.certificate.subject}, but the API server"
        why = f"requires CN={expected} (--enable-kubelet-cert-cn-validation)"
        yield finding(Reason.WRONG_SUBJECT, f"{fact} {why}; reissue the certificate of the kubelet")


def wrong_usage(case: Case) -> Iterator[Finding]:
    """Report required usages that the certificate does not permit. For an authority, see `ca_cannot_sign`."""
    missing = () if case.spec.authority else lacking_usages(case.spec, case.certificate)
    if missing:
        yield finding(
            Reason.WRONG_USAGE,
            f"{case.where} lacks the usage {', '.join(missing)}; reissue the certificate with all usages that the "
            "entry requires",
        )


def missing_name(case: Case) -> Iterator[Finding]:
    """Report a DNS name or IP address that the entry requires, but the subject alternative names lack."""
    if missing := missing_names(case.spec, case.facts, case.certificate.names):
        yield finding(
            Reason.MISSING_NAME,
            f"{case.where} lacks the subject alternative name {', '.join(missing)}; reissue the certificate "
            "with all names that the entry requires",
        )


def key_missing(case: Case) -> Iterator[Finding]:
    """Report a missing private key, unless the key is optional in the entry (`key_optional`)."""
    seen = case.seen
    if seen.key_path and seen.key is None and not seen.key_unknown and not seen.spec.key_optional:
        yield finding(
            Reason.KEY_MISSING,
            f"{case.where} has no private key: {seen.key_path} contains no key; restore the key, or reissue the pair",
        )


def key_mismatch(case: Case) -> Iterator[Finding]:
    """Report a private key that does not match the certificate."""
    key = case.seen.key
    if key is not None and key.der != case.certificate.key.der:
        yield finding(
            Reason.KEY_MISMATCH,
            f"{case.seen.key_path or case.where} is not the private key of {case.where}; "
            "restore a matching pair, or reissue the pair",
        )


def embedded_ca_differs(case: Case) -> Iterator[Finding]:
    """Report a kubeconfig that does not trust exactly the CA certificates of the entry `embedded_ca`."""
    required = frozenset(case.embeddable)
    for embedded in case.seen.embedded if required else ():
        trusted = frozenset(embedded.certificates)
        if trusted != required:
            differs = "trusts none of" if not trusted & required else "does not trust exactly"
            yield finding(
                Reason.EMBEDDED_CA_DIFFERS,
                f"{embedded.path} {differs} the CA certificates of {case.spec.embedded_ca}; "
                "embed the present CA in the kubeconfig, and restart the services that read the kubeconfig",
                None if trusted & required else Severity.CRITICAL,
            )


def copy_differs(case: Case) -> Iterator[Finding]:
    """Report a copy that differs from its original. A component might restore the copy over the original."""
    if case.difference:
        yield finding(
            Reason.COPY_DIFFERS,
            f"{case.where}, a copy of {case.difference.original}, does not contain the same certificates: "
            f"{case.difference.fact}; copy the valid file over the other file; see: certmond explain copy_differs",
        )


def not_rotating_pem(case: Case) -> Iterator[Finding]:
    """Report a kubelet.conf that does not refer to the rotated PEM file.

    With such a kubelet.conf, a restarted kubelet loads old credentials.
    """
    if case.spec.kind is Kind.KUBELET and case.seen.refers_to is not None and case.seen.refers_to != case.where:
        instead = case.seen.refers_to or "embedded credentials"
        yield finding(
            Reason.NOT_ROTATING_PEM,
            f"{case.spec.kubeconfig} uses {instead}, not {case.where}; "
            f"set client-certificate and client-key to {case.where}",
        )


def not_a_symlink(case: Case) -> Iterator[Finding]:
    """Report that the kubelet's current PEM file is not a symlink. The kubelet cannot rotate a regular file."""
    if case.seen.symlink is False:
        yield finding(
            Reason.NOT_A_SYMLINK,
            f"{case.where} is a regular file, not a symlink to a dated PEM file, so the kubelet cannot rotate it; "
            "rename the file to a dated name in the same directory, and create a symlink to this name",
        )


def unexpected_chain(case: Case) -> Iterator[Finding]:
    """Report a file that begins with the wrong certificate, or contains a chain although the entry permits none."""
    extra = len(case.seen.certificates) - 1
    if extra and not case.seen.leaf_first:
        yield finding(
            Reason.UNEXPECTED_CHAIN,
            f"{case.where} does not begin with the leaf, and Go's TLS uses the first certificate of a file; "
            "move the leaf to the start of the file",
            Severity.CRITICAL,
        )
    elif extra and not case.spec.chain and not case.spec.authority:
        more = "1 certificate" if extra == 1 else f"{extra} certificates"
        fact = f"{case.where} contains {more} in addition to the leaf, but components expect only the leaf"
        yield finding(Reason.UNEXPECTED_CHAIN, f"{fact}; remove the additional certificates")


def weak_key(case: Case) -> Iterator[Finding]:
    """Report a key that is shorter than RSA-2048 or P-256, or whose algorithm Kubernetes does not support.

    The finding is critical if Go refuses the key. For example, Go refuses RSA keys below 1,024 bits (crypto/rsa,
    checkKeySize), and Go's TLS refuses ECDSA P-224 keys of leaves (crypto/tls, signatureSchemesForCertificate).
    """
    key = case.certificate.key
    least = {"RSA": 2048, "ECDSA": 256, "Ed25519": 256}.get(key.algorithm)
    if least is None or key.bits < least:
        accepted = key.algorithm == "RSA" and key.bits >= SMALLEST_RSA
        # Go verifies the signatures of a CA with a P-224 key.
        accepted = accepted or (key.algorithm == "ECDSA" and case.spec.authority)
        fact = f"{case.where} has the key {key}" + ("" if accepted else ", which Go's TLS refuses")
        severity = None if accepted else Severity.CRITICAL
        yield finding(Reason.WEAK_KEY, f"{fact}; use at least RSA-2048 or ECDSA P-256, or use Ed25519", severity)


def key_unusable(case: Case) -> Iterator[Finding]:
    """Report a key that Go parses but cannot use, such as an RSA key with more than 8,192 bits."""
    if why := unusable(case.certificate.key):
        # Go verifies the signatures of a CA with such a key, but Go's TLS refuses a chain that contains the CA.
        large = case.spec.authority and case.certificate.key.bits > LARGEST_RSA
        yield finding(
            Reason.KEY_UNUSABLE,
            f"{case.where} has the key {case.certificate.key}, which Go cannot use ({why}); use RSA-2048 to RSA-8192, "
            "ECDSA P-256 or Ed25519",
            Severity.WARNING if large else None,
        )


def weak_signature(case: Case) -> Iterator[Finding]:
    """Report a signature with MD5 or SHA-1, which Go refuses. Go does not verify the signature of a trust anchor."""
    if case.certificate.signature_hash in WEAK_HASHES:
        yield finding(
            Reason.WEAK_SIGNATURE,
            f"{case.where} is signed with {case.certificate.signature_hash}; reissue it with SHA-256",
            Severity.INFO if case.spec.authority else None,
        )


def nonpositive_serial(case: Case) -> Iterator[Finding]:
    """Report a serial number of zero or below (forbidden by RFC 5280, 4.1.2.2), as in CAs of kubeadm before v1.27."""
    if case.certificate.serial <= 0:
        yield finding(
            Reason.NONPOSITIVE_SERIAL,
            f"{case.where} has the serial number {case.certificate.serial_hex}, which is not positive, as in CAs of "
            "kubeadm before v1.27 and of k3s; no action is necessary until you replace the certificate",
        )


POLICY: tuple[Check, ...] = (
    expired,
    not_yet_valid,
    no_path,
    ca_not_self_signed,
    ca_not_ca,
    ca_cannot_sign,
    key_missing,
    key_mismatch,
    wrong_subject,
    wrong_usage,
    missing_name,
    weak_signature,
    nearing_expiry,
    still_due,
    outlives_ca,
    embedded_ca_differs,
    copy_differs,
    not_rotating_pem,
    not_a_symlink,
    unexpected_chain,
    weak_key,
    key_unusable,
    nonpositive_serial,
)
"""Checks in the order of the report: present failures first, then future failures, and then other deviations."""


_OF_THE_ANCHOR = frozenset({Refusal.NOT_CA, Refusal.CANNOT_SIGN, Refusal.UNSUPPORTED, Refusal.UNKNOWN_CRITICAL})
"""Refusals of a trust anchor that do not depend on the other certificates of the path."""


def _reported_elsewhere(case: Case, why: Rejection) -> bool:
    """Return whether another check, or the entry of the trust anchor, reports the rejection."""
    if why.certificate.objections and why.certificate in case.seen.certificates:
        return True
    if why.certificate == case.certificate:
        return why.refusal in {Refusal.USAGE, Refusal.WEAK_SIGNATURE}
    is_entry = why.certificate in case.anchors and has_entry(case, why.certificate)
    return is_entry and why.refusal in _OF_THE_ANCHOR
