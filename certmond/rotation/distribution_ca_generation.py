"""Generation of the new CAs that a distribution, such as k3s, stores in its datastore.

The file of each CA contains a new intermediate CA, its new Root CA signed by the present Root CA, the new Root CA, and
the present Root CA. k3s-io/k3s, contrib/util/rotate-default-ca-certs.sh, writes the same certificates in another order.
OpenSSL uses the first issuer that a server sends. Therefore, a client that trusts only the present Root CA needs the
cross-signed certificate before the self-signed certificate. The key file contains the key of the intermediate CA, then
the key of the new Root CA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certmond.errors import KeyUnusableError
from certmond.formats.private_key import PrivateKey, can_sign, key_pem, load_key, make_key
from certmond.immutable_class import immutable
from certmond.pki.catalog.entries import KeyAlgorithm
from certmond.pki.signing.template import BACKDATE, Template, algorithm_of, builder, name_of
from certmond.pki.x509.certificate import Certificate, load, to_pem
from certmond.pki.x509.path_building import signed_by
from certmond.pki.x509.pem import blocks_in
from certmond.pki.x509.public_key import describe_key
from certmond.signers.local_ca import signed

_USAGES = frozenset({"digital signature", "cert sign"})


@immutable
class PresentCA:
    """The present files of a CA. `label` is its name in the subject of the new CA, such as "k3s-etcd-server"."""

    label: str
    path: str
    key_path: str
    certificates: tuple[Certificate, ...]
    key_content: bytes | None


@immutable
class GeneratedCA:
    """The contents of the new certificate file and of the new key file."""

    certificates: bytes
    keys: bytes

    def __repr__(self) -> str:
        return "GeneratedCA(...)"


def generate_distribution_ca(
    present: PresentCA, now: datetime, validity: timedelta, algorithm: KeyAlgorithm | None = None
) -> GeneratedCA:
    """Return a new CA that the present Root CA cross-signs.

    Raises KeyUnusableError if the node does not have a usable key of the present Root CA.
    """
    old, old_key = signing_root(present)
    kind = algorithm or algorithm_of(present.certificates[0].key) or KeyAlgorithm.ECDSA_P256
    stamp = int(now.timestamp())
    start = now - BACKDATE
    root_terms = Template(
        name_of(f"CN={present.label}-root@{stamp}"), start.replace(microsecond=0),
        (now + validity).replace(microsecond=0), kind, _USAGES, is_ca=True,
    )  # fmt: skip
    root_key, own_key = make_key(kind), make_key(kind)
    root = _signed(root_terms, root_key, None, root_key, present)
    # The end of the present Root CA limits every path through the cross-signed certificate.
    crossed = _signed(
        replace(root_terms, not_after=min(root_terms.not_after, old.not_after)), root_key, old, old_key, present
    )
    own_terms = replace(root_terms, subject=name_of(f"CN={present.label}-ca@{stamp}"))
    own = _signed(own_terms, own_key, root, root_key, present)
    pem = b"".join(each.public_bytes(Encoding.PEM) for each in (own, crossed, root))
    return GeneratedCA(pem + to_pem(old), key_pem(own_key) + key_pem(root_key))


def signing_root(present: PresentCA) -> tuple[Certificate, PrivateKey]:
    """Return the present Root CA with its key.

    Raises KeyUnusableError if the key file is missing or unusable, or if the file contains no key of a Root CA.
    """
    if present.key_content is None:
        raise KeyUnusableError(
            f"{present.key_path} is missing, so certmond cannot cross-sign a new CA; run the command on a server that "
            "has this key"
        )
    blocks = (each for each in blocks_in(present.key_content) if each.is_private_key)
    keys = {describe_key(key.public_key()): key for key in (load_key(each.text, present.key_path) for each in blocks)}
    roots = [each for each in present.certificates if signed_by(each, each)]
    for root in roots:
        if root.key in keys:
            if not can_sign(keys[root.key]):
                raise KeyUnusableError(f"a key in {present.key_path} is damaged; restore this file from a backup")
            return root, keys[root.key]
    names = ", ".join(each.called for each in roots)
    fact = f"{present.key_path} contains no key of {names}" if roots else f"{present.path} contains no Root CA"
    raise KeyUnusableError(
        f"{fact}, so certmond cannot cross-sign a new CA; create the new CA with the Root CA of your organization "
        "(docs/profiles.md#replace-the-cas-of-k3s-or-rke2)"
    )


def _signed(
    terms: Template, key: PrivateKey, issuer: Certificate | x509.Certificate | None, issuer_key: PrivateKey,
    present: PresentCA,
) -> x509.Certificate:  # fmt: skip
    parsed = load(issuer.der) if isinstance(issuer, Certificate) else issuer
    made = builder(terms, key.public_key(), x509.random_serial_number(), parsed)
    return signed(made, issuer_key, present.key_path)


def contents(files: Sequence[tuple[PresentCA, GeneratedCA]]) -> dict[str, bytes]:
    """Return the new contents by the path of the present file that each new file replaces."""
    found = dict[str, bytes]()
    for present, made in files:
        found |= {present.path: made.certificates, present.key_path: made.keys}
    return found
