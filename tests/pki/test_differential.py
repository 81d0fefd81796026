"""certmond's verdict on two thousand generated chains, compared with Go and OpenSSL.

Go's crypto/x509 is the authority, because Kubernetes' components use it: each difference of certmond belongs to a class
in `GO` with its reason. `openssl verify` is the second opinion of operators: the classes in `OPENSSL` are the table of
docs/path-validation.md. A disagreement without a class fails the test, and so does a class that no longer occurs. A
third part compares the PEM reader with client-go's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from certmond.errors import MalformedError
from certmond.pki.x509.certificate import Certificate, parse_certificate
from certmond.pki.x509.certificate_file_parser import decode
from certmond.pki.x509.path_building import PathSearch, Refusal, find_paths
from fuzz.differential import MUTANTS
from fuzz.differential import compare as compare_mutants
from tests.builders import (
    DAY,
    HOUR,
    NOW,
    SECOND,
    UNKNOWN_OID,
    Issued,
    cross_sign,
    general_name,
    make_ca,
    make_intermediate,
    make_leaf,
    new_key,
    oid,
    pem_block,
    reissue,
    tlv,
)
from tests.conftest import real_part, unavailable
from tests.go_oracle import build, encoded, is_old, lines, version_of

SEED = 20261124
CHAINS = 2000
DOCUMENTS = 3000
MUTATED_CHAINS, MUTATED_PAIRS = 500, 200

# --- the questions ----------------------------------------------------------------------------------------------------

SERVER, CLIENT = "server auth", "client auth"
Changes = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """May this certificate be used so, at this time, if those are the anchors and these were sent along?"""

    number: int
    scenario: str
    leaf: bytes
    anchors: tuple[bytes, ...]
    intermediates: tuple[bytes, ...]
    usage: str
    at: datetime

    @cached_property
    def facts(self) -> Certificate | None:
        return _facts(self.leaf)

    @cached_property
    def anchor_facts(self) -> list[Certificate]:
        return [facts for der in self.anchors if (facts := _facts(der))]

    @cached_property
    def intermediate_facts(self) -> list[Certificate]:
        return [facts for der in self.intermediates if (facts := _facts(der))]

    @cached_property
    def all_facts(self) -> list[Certificate]:
        return [*([self.facts] if self.facts else []), *self.anchor_facts, *self.intermediate_facts]

    @cached_property
    def search(self) -> PathSearch:
        if self.facts is None:
            return PathSearch((), ())
        return find_paths(self.facts, self.anchor_facts, self.intermediate_facts, [self.usage] if self.usage else [])

    @property
    def certmond(self) -> bool:
        return self.search.valid_at(self.at) is not None


def _facts(der: bytes) -> Certificate | None:
    try:
        return parse_certificate(der)
    except MalformedError:
        return None


def some_time_ago(rng: Random) -> timedelta:
    return rng.choice([SECOND, HOUR, DAY, 30 * DAY])


OTHER_SPELLINGS = [
    x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "KUBERNETES")]),
    x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes  ")]),
    x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes", _ASN1Type.PrintableString)]),
]
SUBTREES = [
    "DNS:example.com", "DNS:.example.com", "DNS:kubernetes", "DNS:svc.cluster.local", "DNS:EXAMPLE.com", "DNS:",
    "IP:10.0.0.0/8", "IP:10.96.0.0/12", "IP:fd00::/8", "IP:0.0.0.0/0", "email:example.com", "email:root@example.com",
    "email:.example.com", "URI:example.com", "URI:.example.com", "DNS:example.com.",
]  # fmt: skip
NAMES = [
    "DNS:example.com", "DNS:a.example.com", "DNS:A.Example.Com", "DNS:notexample.com", "DNS:kubernetes",
    "DNS:kubernetes.default.svc.cluster.local", "DNS:node-1", "IP:10.96.0.1", "IP:192.168.0.1", "IP:fd00::1", "IP:::1",
    "email:root@example.com", "email:Root@a.Example.com", "URI:https://a.example.com:6443/x", "URI:spiffe://example.com/ns",
    "URI:https://10.0.0.1/", "URI:urn:uuid:1", "DNS:example.com.", "DNS:a..example.com", "dirName:another",
]  # fmt: skip
ANY_FAULT: dict[str, Callable[[Random], Changes]] = {
    "expired": lambda rng: {"not_after": NOW - some_time_ago(rng)},
    "not yet valid": lambda rng: {"not_before": NOW + some_time_ago(rng)},
    "unknown critical": lambda rng: {"extra": [(UNKNOWN_OID, True, b"\x05\x00")]},
    "negative serial": lambda rng: {"serial": -rng.randrange(1, 1 << 64)},
    "strange curve": lambda rng: {"key": "ec-secp256k1", "hash": "sha256"},
    "strange key": lambda rng: {"key": rng.choice(["ed448", "dsa"]), "hash": "sha256"},
    "critical key identifier": lambda rng: {
        "subject_key_id": None,
        "extra": [("2.5.29.14", True, tlv(0x04, b"12345678"))],
    },
    "critical names of a strange kind": lambda rng: {"names": ["dirName:another"], "names_critical": True},
}
SIGNED_FAULT: dict[str, Callable[[Random], Changes]] = {
    "bad signature": lambda rng: {"signing_key": new_key("ec")},
    "sha1": lambda rng: {"hash": "sha1"},
    "md5": lambda rng: {"hash": "md5"},
    "sha224": lambda rng: {"hash": "sha224"},
    "issuer spelt otherwise": lambda rng: {"issuer_name": rng.choice(OTHER_SPELLINGS)},
}
CA_FAULT: dict[str, Callable[[Random], Changes]] = {
    "CA:FALSE": lambda rng: {"is_ca": False},
    "no basicConstraints": lambda rng: {
        "is_ca": None,
        "usages": rng.choice([None, ["cert sign"], ["digital signature"]]),
    },
    "may not sign": lambda rng: {"usages": rng.choice([["digital signature"], ["crl sign"], ["key encipherment"]])},
    "path length": lambda rng: {"path_length": rng.choice([0, 0, 1])},
    "ca usage": lambda rng: {"extended_usages": rng.sample([CLIENT, SERVER, "code signing", "any", "1.2.3.4"], 2)},
    "constraints": lambda rng: {
        "permitted": rng.sample(SUBTREES, rng.randrange(3)) or ["DNS:example.com"],
        "excluded": rng.sample(SUBTREES, rng.randrange(2)),
        "constraints_critical": rng.random() < 0.7,
    },
    "directory constraints": lambda rng: {
        rng.choice(["permitted", "excluded"]): ["dirName:another"],
        "constraints_critical": rng.random() < 0.3,
    },
    "policies": lambda rng: {"extra": [("2.5.29.36", True, tlv(0x30, tlv(0x80, b"\x00")))]},
}
LEAF_FAULT: dict[str, Callable[[Random], Changes]] = {
    "wrong usage": lambda rng: {"extended_usages": rng.choice([["code signing"], ["1.2.3.4"], [CLIENT], [SERVER]])},
    "unreadable here": lambda rng: {"path_length": 0},
}


class Draw:
    """All random decisions of one question. They derive from its number: each question can be drawn alone."""

    def __init__(self, number: int) -> None:
        self.rng = Random(f"{SEED}/{number}")  # noqa: S311 - chance, not secrecy
        self.number = number
        self.usage = self.rng.choices([CLIENT, SERVER, ""], [50, 45, 5])[0]
        self.scenario: list[str] = []
        self.made: list[Issued] = []
        self.pending = Counter(
            self.rng.choices(["leaf", "intermediate", "root"], k=self.rng.choices([0, 1, 2], [20, 55, 25])[0])
        )

    def question(self) -> Question:
        rng = self.rng
        scene = rng.choices(list(SCENES), list(SCENES.values()))[0]
        self.scenario.insert(0, scene.__name__)
        leaf, anchors, intermediates = scene(self)
        if rng.random() < 0.4:
            rng.shuffle(anchors)
        if rng.random() < 0.5:
            rng.shuffle(intermediates)
        return Question(
            self.number,
            ", ".join(self.scenario),
            leaf.der,
            tuple(anchor.der for anchor in anchors),
            tuple(intermediate.der for intermediate in intermediates),
            self.usage,
            self.moment(),
        )

    def moment(self) -> datetime:
        """Mostly now; sometimes a second before, at, or after one of the certificates begins or ends."""
        if self.rng.random() < 0.9:
            return NOW
        facts = _facts(self.rng.choice(self.made).der)
        if facts is None:
            return NOW
        self.scenario.append("at a boundary")
        return self.rng.choice([facts.not_before, facts.not_after]) + self.rng.choice([-1, 0, 0, 1]) * SECOND

    # --- certificates ---

    def root(self, name: str = "kubernetes", **changes: Any) -> Issued:
        return self.keep(make_ca(name, **self.dress("root", {**self.ca_quirks(), **self.root_quirks(), **changes})))

    def intermediate(self, issuer: Issued, name: str = "intermediate", **changes: Any) -> Issued:
        changes = self.dress("intermediate", {**self.ca_quirks(), **changes})
        return self.keep(make_intermediate(issuer, name, **_signable(issuer, changes)))

    def leaf(self, issuer: Issued, **changes: Any) -> Issued:
        changes = self.dress("leaf", {**self.leaf_quirks(), **changes})
        return self.keep(make_leaf(issuer, "leaf", **_signable(issuer, changes)))

    def bridge(self, ca: Issued, by: Issued) -> Issued:
        changes = self.dress("intermediate", {})
        changes.pop("key", None)  # it must stay that of `ca`
        return self.keep(cross_sign(ca, by, **_signable(by, changes)))

    def keep(self, issued: Issued) -> Issued:
        self.made.append(issued)
        return issued

    def dress(self, role: str, changes: Changes) -> Changes:
        """`changes`, with the faults that chance has in store for a certificate of this role."""
        faults = (
            ANY_FAULT
            | {"leaf": SIGNED_FAULT | LEAF_FAULT, "intermediate": SIGNED_FAULT | CA_FAULT, "root": CA_FAULT}[role]
        )
        while self.pending[role]:
            self.pending[role] -= 1
            name = self.rng.choice(list(faults))
            self.scenario.append(f"{role}: {name}")
            changes = changes | faults[name](self.rng)
        return changes

    # --- deviations that Go accepts ---

    def maybe(self, chance: float, **changes: Any) -> Changes:
        return changes if self.rng.random() < chance else {}

    def key(self) -> str:
        return self.rng.choices(["ec", "ec-p384", "rsa", "ed25519"], [55, 5, 25, 15])[0]

    def ca_quirks(self) -> Changes:
        return {
            "key": self.key(),
            **self.maybe(0.10, serial=0),
            **self.maybe(0.10, usages=None),
            **self.maybe(0.02, usages=[]),
            **self.maybe(0.06, subject_key_id=None),
            **self.maybe(0.08, authority_key_id=None),
            **self.maybe(0.03, authority_key_id=b"another key's"),
            **self.maybe(0.30, names=None),
            **self.maybe(0.08, path_length=self.rng.choice([2, 3])),
            **self.maybe(0.06, extended_usages=[SERVER, CLIENT]),
            **self.maybe(0.02, extended_usages=["any"]),
            **self.maybe(0.02, extra=[("2.5.29.31", True, _distribution_points())]),
            **self.maybe(0.01, extra=[("2.5.29.33", True, tlv(0x30, tlv(0x30, oid("1.2.3"), oid("1.2.4"))))]),
        }

    def root_quirks(self) -> Changes:
        return {**self.maybe(0.05, version=1), **self.maybe(0.05, hash="sha1", key="rsa")}

    def leaf_quirks(self) -> Changes:
        ordinary = [self.usage] if self.usage else []
        return {
            "key": self.key(),
            "extended_usages": ordinary or None,
            "names": self.rng.sample(NAMES, self.rng.randrange(1, 4))
            if self.usage == SERVER or self.rng.random() < 0.4
            else None,
            **self.maybe(0.10, names=None),
            **self.maybe(0.12, extended_usages=[SERVER, CLIENT]),
            **self.maybe(0.05, extended_usages=None),
            **self.maybe(0.03, extended_usages=["any"]),
            **self.maybe(0.06, usages=None),
            **self.maybe(0.04, usages=self.rng.choice([[], ["key encipherment"], ["cert sign"], ["key agreement"]])),
            **self.maybe(0.12, authority_key_id=None),
            **self.maybe(0.03, authority_key_id=b"another key's"),
            **self.maybe(0.04, serial=0),
            **self.maybe(0.02, version=1),
            **self.maybe(0.06, is_ca=None),
            **self.maybe(0.03, is_ca=True),
        }


def _signable(issuer: Issued, changes: Changes) -> Changes:
    """Return `changes` with a digest for which a signature algorithm exists."""
    match changes.get("signing_key", issuer.key), changes.get("hash"):
        case ec.EllipticCurvePrivateKey(), "md5":
            return changes | {"hash": "sha1"}
        case dsa.DSAPrivateKey(), _:
            return changes | {"hash": "sha256"}
        case _:
            return changes


def _distribution_points() -> bytes:
    return tlv(0x30, tlv(0x30, tlv(0xA0, tlv(0xA0, general_name("URI:http://example.com/crl")))))


Scene = tuple[Issued, list[Issued], list[Issued]]


def straight(draw: Draw) -> Scene:
    root = draw.root()
    return draw.leaf(root), [root], []


def bundle_of_other_roots(draw: Draw) -> Scene:
    root, others = draw.root(), [make_ca(name, key="ec") for name in ("etcd-ca", "front-proxy-ca")]
    return draw.leaf(root), [root, *others], []


def two_roots_of_one_name(draw: Draw) -> Scene:
    old, new = draw.root(), make_ca(key=draw.key(), **draw.maybe(0.2, serial=0))
    return draw.leaf(old), draw.rng.choice([[old, new], [new, old]]), []


def root_not_at_hand(draw: Draw) -> Scene:
    return draw.leaf(draw.root()), [make_ca(key=draw.key())], []


def through_intermediates(draw: Draw) -> Scene:
    chain = [root := draw.root(), draw.intermediate(root)]
    while draw.rng.random() < 0.35 and len(chain) < 5:
        chain.append(draw.intermediate(chain[-1], f"intermediate {len(chain)}"))
    return draw.leaf(chain[-1]), [root], chain[:0:-1]


def intermediate_missing(draw: Draw) -> Scene:
    root = draw.root()
    return draw.leaf(draw.intermediate(root)), [root], []


def intermediate_as_anchor(draw: Draw) -> Scene:
    root = draw.root()
    issuer = draw.intermediate(root)
    return draw.leaf(issuer), [issuer], draw.rng.choice([[], [root]])


def bridged_rotation(draw: Draw) -> Scene:
    old, new = draw.root(), make_ca(key=draw.key())
    anchors = draw.rng.choice([[old], [old, new], [new, old]])
    return draw.leaf(new), anchors, draw.rng.choice([[draw.bridge(new, old)], [draw.bridge(new, old), new]])


def bridge_on_the_way(draw: Draw) -> Scene:
    """A self-issued certificate between leaf and root counts for Go's path length, and not for OpenSSL's."""
    old = draw.root(**draw.maybe(0.7, path_length=0))
    new = make_ca(key=draw.key())
    return draw.leaf(new), [old], [draw.bridge(new, old)]


def crossed_both_ways(draw: Draw) -> Scene:
    one, other = draw.root(), draw.root("other")
    intermediates = [draw.bridge(one, other), draw.bridge(other, one)]
    return draw.leaf(one), draw.rng.choice([[one], [other], [one, other]]), intermediates


def renewed_with_its_key(draw: Draw) -> Scene:
    old = draw.root()
    renewed = reissue(old, not_before=NOW - DAY, **_signable(old, {}))
    anchors = draw.rng.choice([[old, renewed], [renewed, old], [renewed]])
    return draw.leaf(old), anchors, draw.rng.choice([[], [old]])


def its_own_anchor(draw: Draw) -> Scene:
    """Return a self-signed serving certificate, to which the requirements of a CA do not apply."""
    changes = {
        "is_ca": draw.rng.choice([True, False, None]),
        "extended_usages": [draw.usage or SERVER],
        "key": draw.key(),
    }
    alone = draw.keep(make_ca("node@1", **draw.dress("root", changes)))
    return alone, [alone], []


def anchored_leaf(draw: Draw) -> Scene:
    leaf = draw.leaf(draw.root())
    return leaf, [leaf], []


def a_root_as_leaf(draw: Draw) -> Scene:
    """A renewed root judged by the bundle with the one it renews: the same name and key, the names in another order."""
    names = draw.rng.choice([None, ["DNS:kubernetes"], ["DNS:kubernetes", "DNS:b"], ["DNS:b", "DNS:kubernetes"]])
    old = draw.root(names=["DNS:kubernetes", "DNS:b"])
    return draw.keep(reissue(old, names=names, not_before=NOW - DAY, **_signable(old, {}))), [old], []


def constrained(draw: Draw) -> Scene:
    """Name constraints on the root or between it and the leaf, and names on every certificate below."""
    rng = draw.rng
    names = rng.choice([None, rng.sample(NAMES, 1)])
    root = draw.root(**(limits := CA_FAULT["constraints"](rng)))
    issuer = draw.intermediate(root, names=names, **rng.choice([{}, limits])) if rng.random() < 0.5 else root
    return draw.leaf(issuer, names=rng.sample(NAMES, rng.randrange(1, 3))), [root], [issuer]


def nested_usages(draw: Draw) -> Scene:
    def some() -> list[str] | None:
        return draw.rng.choice(
            [None, draw.rng.sample([CLIENT, SERVER, "any", "code signing", "1.2.3.4"], draw.rng.randrange(1, 4))]
        )

    root = draw.root(extended_usages=some())
    issuer = draw.intermediate(root, extended_usages=some())
    return draw.leaf(issuer, extended_usages=some()), [root], [issuer]


SCENES: dict[Callable[[Draw], Scene], int] = {
    straight: 28,
    bundle_of_other_roots: 7,
    two_roots_of_one_name: 14,
    root_not_at_hand: 4,
    through_intermediates: 18,
    intermediate_missing: 2,
    intermediate_as_anchor: 4,
    bridged_rotation: 7,
    bridge_on_the_way: 3,
    crossed_both_ways: 4,
    renewed_with_its_key: 5,
    its_own_anchor: 3,
    anchored_leaf: 1,
    a_root_as_leaf: 2,
    constrained: 6,
    nested_usages: 4,
}


# --- the answers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """The answer of a peer, and the reason of its refusal. `errors` are OpenSSL's numbers
    (openssl-verification-options(1)).
    """

    ok: bool
    text: str
    errors: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """Query Go through tests/pki/oracle/main.go."""
    go, place = real_part("go"), tmp_path_factory.mktemp("oracle")
    if is_old(version := version_of(go)):
        unavailable(f"{version} is older than go1.24, whose rules the test compares")
    build(go, place)
    return Oracle(place)


@dataclass(frozen=True)
class Oracle:
    place: Path

    def ask(self, questions: Sequence[Question] = (), documents: Sequence[bytes] = ()) -> dict[str, Any]:
        path = self.place / "questions.json"
        chains = [
            {
                "leaf": encoded(question.leaf),
                "anchors": [*map(encoded, question.anchors)],
                "intermediates": [*map(encoded, question.intermediates)],
                "usage": question.usage,
                "at": int(question.at.timestamp()),
            }
            for question in questions
        ]
        path.write_text(json.dumps({"chains": chains, "documents": [*map(encoded, documents)]}))
        done = subprocess.run([self.place / "oracle", path], check=True, capture_output=True)
        answers: dict[str, Any] = json.loads(done.stdout)
        return answers


PURPOSES = {SERVER: "sslserver", CLIENT: "sslclient", "": "any"}


def openssl_verify(openssl: str, place: Path, question: Question) -> Answer:
    """Run `openssl verify` like an operator."""

    def file(kind: str, *ders: bytes) -> str:
        path = place / f"{question.number}.{kind}"
        path.write_bytes(b"".join(pem_block("CERTIFICATE", der) for der in ders))
        return str(path)

    command = [openssl, "verify", "-purpose", PURPOSES[question.usage], "-attime", str(int(question.at.timestamp()))]
    command += ["-no-CApath", "-no-CAstore", "-CAfile", file("anchors", *question.anchors)]
    if question.intermediates:
        command += ["-untrusted", file("untrusted", *question.intermediates)]
    done = subprocess.run([*command, file("leaf", question.leaf)], capture_output=True, text=True, check=False)
    errors = re.findall(r"^error (\d+) at \d+ depth lookup", done.stderr, re.MULTILINE)
    return Answer(done.returncode == 0, done.stderr, frozenset(map(int, errors)))


# --- where the answers may differ -------------------------------------------------------------------------------------


class Class(NamedTuple):
    """A kind of disagreement: certmond's answer, and why it is right. The first class that matches counts."""

    name: str
    certmond: bool
    why: str
    fits: Callable[[Question, Answer], bool]


def refused_for(*refusals: Refusal) -> Callable[[Question, Answer], bool]:
    return lambda question, _: any(rejection.refusal in refusals for rejection in question.search.rejections)


def _strange_leaf_key(question: Question, _: Answer) -> bool:
    return question.facts is not None and question.facts.key.algorithm in {"Ed448", "DSA"}


GO = (
    Class(
        "key that TLS cannot use",
        False,
        "Go's Verify does not look at the leaf's own key; its TLS takes neither Ed448 nor DSA",
        _strange_leaf_key,
    ),
)


def _extensions(facts: Certificate) -> dict[x509.ObjectIdentifier, Any]:
    return {extension.oid: extension.value for extension in x509.load_der_x509_certificate(facts.der).extensions}


def _path(question: Question) -> tuple[Certificate, ...]:
    path = question.search.valid_at(question.at)
    return path.certificates if path else ()


def _folded(name: str) -> str:
    return " ".join(name.replace("\\ ", " ").casefold().split())


def _issuer_spelt_otherwise(question: Question, _: Answer) -> bool:
    children = [
        rejection.certificate for rejection in question.search.rejections if rejection.refusal is Refusal.NO_ISSUER
    ]
    return any(
        _folded(child.issuer) == _folded(issuer.subject) and child.issuer_der != issuer.subject_der
        for child in children
        for issuer in question.all_facts
    )


def _understood_by_openssl(question: Question, _: Answer) -> bool:
    theirs = {"2.5.29.14", "2.5.29.17", "2.5.29.30", "2.5.29.35"}
    return any(theirs.issuperset(found.unknown_critical) for found in question.all_facts if found.unknown_critical)


def _ca_by_key_usage(question: Question, _: Answer) -> bool:
    rejected = [
        rejection.certificate for rejection in question.search.rejections if rejection.refusal is Refusal.NOT_CA
    ]
    return any(issuer.is_ca is None and issuer.usages and "cert sign" in issuer.usages for issuer in rejected)


def _self_issued_between(question: Question, _: Answer) -> bool:
    too_long = any(rejection.refusal is Refusal.TOO_LONG for rejection in question.search.rejections)
    return too_long and any(facts.self_issued for facts in question.intermediate_facts)


def _name_that_cannot_be_parsed(question: Question, _: Answer) -> bool:
    names = [name for facts in question.all_facts for name in facts.names]
    odd = any(name.endswith(".") or ".." in name or name.startswith("URI:") for name in names)
    return odd and refused_for(Refusal.NAME_CONSTRAINT)(question, _)


def _end_is_excluded(question: Question, answer: Answer) -> bool:
    return 10 in answer.errors and any(facts.not_after == question.at for facts in question.all_facts)


def _anchor_is_no_root(question: Question, answer: Answer) -> bool:
    return bool(answer.errors & {2, 20}) and not any(path.anchor.self_issued for path in question.search.paths)


def _key_identifier_differs(question: Question, answer: Answer) -> bool:
    path = _path(question)
    return bool(answer.errors & {2, 18, 19, 20}) and any(
        child.authority_key_id and issuer.subject_key_id and child.authority_key_id != issuer.subject_key_id
        for child, issuer in zip(path, (*path[1:], path[-1]), strict=True)
    )


def _any_usage(question: Question, answer: Answer) -> bool:
    return 26 in answer.errors and any(
        link.extended_usages and "any" in link.extended_usages and question.usage not in link.extended_usages
        for link in _path(question)
    )


def _key_usage_of_the_leaf(question: Question, answer: Answer) -> bool:
    facts = question.facts
    good = {
        SERVER: {"digital signature", "key encipherment", "key agreement"},
        CLIENT: {"digital signature", "key agreement"},
    }
    return bool(
        26 in answer.errors
        and facts
        and facts.usages is not None
        and not facts.usages & good.get(question.usage, set())
    )


def _empty_key_usage(question: Question, answer: Answer) -> bool:
    return any(facts.usages is not None and not facts.usages for facts in question.all_facts)


def _self_signed_leaf(question: Question, answer: Answer) -> bool:
    facts = question.facts
    return bool(18 in answer.errors and facts and facts.self_issued and len(_path(question)) > 1)


def _constrained_directory_name(question: Question, answer: Answer) -> bool:
    return bool(answer.errors & {47, 48, 50, 51}) and any(facts.constrains_names for facts in _path(question))


def _one_issuer_tried(question: Question, answer: Answer) -> bool:
    """Return whether another certificate on the path also has the issuer's name, and OpenSSL cannot distinguish
    them.
    """
    parties = {*question.anchor_facts, *question.intermediate_facts}
    return any(
        len([other for other in parties if _folded(other.subject) == _folded(child.issuer)]) > 1
        for child in _path(question)
    )


OPENSSL = (
    Class(
        "broken digest",
        False,
        "without `-auth_level` OpenSSL verifies SHA-1 and MD5 signatures; Go does not, save with settings long gone",
        refused_for(Refusal.WEAK_SIGNATURE),
    ),
    Class(
        "what Go cannot use",
        False,
        "OpenSSL takes SHA-224, Ed448, DSA, secp256k1, negative serial numbers, constraints with a final dot",
        refused_for(Refusal.UNSUPPORTED),
    ),
    Class(
        "certificate policies",
        False,
        "a certificate that demands explicit policies fails in Go, and in OpenSSL with `-policy_check` only",
        refused_for(Refusal.POLICIES),
    ),
    Class(
        "critical extension that Go does not understand",
        False,
        "OpenSSL understands critical key identifiers, and directory names in constraints and subjectAltName",
        _understood_by_openssl,
    ),
    Class(
        "issuer's name spelt otherwise",
        False,
        "OpenSSL compares names without regard to case, blanks and string type; Go compares bytes",
        _issuer_spelt_otherwise,
    ),
    Class(
        "CA by its keyUsage only",
        False,
        "OpenSSL takes keyCertSign without basicConstraints for a CA; Go wants CA:TRUE of every version 3 certificate",
        _ca_by_key_usage,
    ),
    Class(
        "self-issued certificate counted",
        False,
        "OpenSSL leaves self-issued certificates out of the path length, as RFC 5280 says; Go counts each",
        _self_issued_between,
    ),
    Class(
        "name that cannot be compared",
        False,
        "under a CA with name constraints Go refuses what it cannot parse, such as a final dot or a URI without a host",
        _name_that_cannot_be_parsed,
    ),
    Class(
        "last second",
        True,
        "a certificate is good at its notAfter (RFC 5280, 4.1.2.5) to Go; to OpenSSL it has expired by then",
        _end_is_excluded,
    ),
    Class(
        "anchor that is no root",
        True,
        "OpenSSL continues to a self-signed root unless given `-partial_chain`; to Go, whatever is trusted ends a path",
        _anchor_is_no_root,
    ),
    Class(
        "key identifier differs",
        True,
        "OpenSSL takes an authorityKeyIdentifier that fits no issuer for proof of no issuer; to Go it is a hint",
        _key_identifier_differs,
    ),
    Class(
        "keyUsage of the leaf",
        True,
        "OpenSSL wants digitalSignature (a server may do with keyEncipherment); Go's Verify ignores a leaf's keyUsage",
        _key_usage_of_the_leaf,
    ),
    Class(
        "any extended usage",
        True,
        "anyExtendedKeyUsage does for every usage in Go; OpenSSL looks for the very one",
        _any_usage,
    ),
    Class(
        "keyUsage without a usage",
        True,
        "a keyUsage with no bit set makes a certificate invalid to OpenSSL; Go treats it as absent",
        _empty_key_usage,
    ),
    Class(
        "self-signed leaf",
        True,
        "a leaf signed with its own key ends OpenSSL's search; Go continues to an anchor of the same name and key",
        _self_signed_leaf,
    ),
    Class(
        "directory name in a constraint",
        True,
        "OpenSSL holds the leaf's subject against directory names in constraints; Go passes over those not critical",
        _constrained_directory_name,
    ),
    Class(
        "another issuer of that name",
        True,
        "OpenSSL follows one issuer of the name and does not come back when it was the wrong one; Go tries each",
        _one_issuer_tried,
    ),
)


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return [Draw(number).question() for number in range(CHAINS)]


def compare(title: str, classes: Sequence[Class], questions: Sequence[Question], answers: Sequence[Answer]) -> None:
    """Print how often they agree; fail for a disagreement in no class, and for a class without a disagreement."""
    counts: Counter[str] = Counter()
    strange = []
    for question, answer in zip(questions, answers, strict=True):
        mine = question.certmond
        if mine == answer.ok:
            counts["both accept" if mine else "both refuse"] += 1
            continue
        fitting = (known.name for known in classes if known.certmond == mine and known.fits(question, answer))
        if name := next(fitting, None):
            counts[name] += 1
        else:
            refusals = [rejection.refusal.name for rejection in question.search.rejections]
            strange.append(f"{question.number} ({question.scenario}): certmond {mine} {refusals}, {title} {answer}")
    names = ("both accept", "both refuse", *(known.name for known in classes))
    _tell(f"{title}: {len(questions)} chains", *(f"{counts[name]:6} {name}" for name in names))
    assert not strange, "\n".join(strange)
    assert not [known.name for known in classes if not counts[known.name]], "a class of disagreement no longer occurs"


def _tell(*lines: str) -> None:
    print("", *lines, sep="\n")  # noqa: T201 - the figures; `pytest -s` or `-rP` shows them


@pytest.mark.long
@pytest.mark.real("go")
def test_certmond_and_go_agree_on_every_chain_save_for_the_classes_that_are_explained(
    oracle: Oracle, questions: list[Question]
) -> None:
    answers = oracle.ask(questions)
    verdicts = [Answer(verdict["ok"], verdict["error"]) for verdict in answers["chains"]]
    compare(answers["go"], GO, questions, verdicts)


@pytest.mark.long
@pytest.mark.real("go")
def test_no_file_that_kubernetes_cannot_use_is_reported_as_ok(oracle: Oracle) -> None:
    """Of mutated chains and pairs, in a directory: where Go fails certmond has a critical finding, and both parse the
    same certificates. `python -m fuzz.differential` compares 27,000 chains and 2,000 pairs.
    """
    program = oracle.place / "oracle"
    for compared in compare_mutants(program, chain_count=MUTATED_CHAINS, pair_count=MUTATED_PAIRS, seed=SEED):
        _tell(*lines(compared.counts))
        assert not compared.unexplained, "\n".join(compared.unexplained)
        assert compared.counts["both accept"] > compared.counts.total() / 10
        assert compared.counts["both refuse"] > compared.counts.total() / 10
        assert set(compared.counts) <= {"both accept", "both refuse", *MUTANTS}


def test_every_class_of_mutants_is_explained_to_users() -> None:
    """Each class that certmond alone refuses is in the table of the documentation."""
    page = (Path(__file__).parents[2] / "docs/path-validation.md").read_text()
    assert all(f"| {name} |" in page for name in MUTANTS)


@pytest.mark.long
@pytest.mark.real("openssl")
def test_certmond_and_openssl_agree_on_every_chain_save_for_the_classes_that_are_explained(
    questions: list[Question], tmp_path: Path
) -> None:
    openssl = real_part("openssl")
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as workers:
        answers = list(workers.map(lambda question: openssl_verify(openssl, tmp_path, question), questions))
    compare("openssl", OPENSSL, questions, answers)


@pytest.mark.long
def test_a_third_of_the_generated_chains_are_good(questions: list[Question]) -> None:
    assert 0.3 < sum(question.certmond for question in questions) / len(questions) < 0.45


def test_every_class_of_disagreement_is_explained_to_users() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs/path-validation.md").read_text().split())
    for known in (*GO, *OPENSSL):
        assert known.name in page


# --- PEM --------------------------------------------------------------------------------------------------------------

Text = list[bytes]


def _any_place(rng: Random, text: bytes) -> int:
    return rng.randrange(len(text)) if text else 0


def _overwrite(rng: Random, text: bytes) -> bytes:
    """Replace one byte with one outside base64: this test does not cover the content of a certificate."""
    place = _any_place(rng, text)
    return text[:place] + bytes([rng.choice(b"-\n\r\t\v\f :=*\x00\xff")]) + text[place + 1 :]


def _cut(rng: Random, text: bytes) -> bytes:
    start = _any_place(rng, text)
    return text[:start] + text[start + rng.choice([1, 10, 100, 1000]) :]


def _replace_one(rng: Random, text: bytes, old: bytes, new: bytes) -> bytes:
    places = [match.start() for match in re.finditer(re.escape(old), text)]
    place = rng.choice(places) if places else len(text)
    return text[:place] + new + text[place + len(old) :]


DAMAGES: list[Callable[[Random, bytes], bytes]] = [
    lambda _, text: text,
    lambda _, text: text.replace(b"\n", b"\r\n"),
    lambda _, text: text.replace(b"\n", b"\r"),
    lambda _, text: b"\xef\xbb\xbf" + text,
    lambda _, text: b"# a comment\n" + text,
    lambda _, text: text + b"# a comment\n",
    lambda _, text: text.rstrip(),
    lambda _, text: b"\n".join(b"    " + line for line in text.split(b"\n")),
    lambda rng, text: _replace_one(rng, text, b"-----\n-----", b"----------"),
    lambda rng, text: _replace_one(rng, text, b"-----\n", b"-----  \t\n"),
    lambda rng, text: _replace_one(rng, text, b"-----\n", b"----- note\n"),
    lambda rng, text: _replace_one(rng, text, b"-----\nM", b"-----\nName: value\n\nM"),
    lambda rng, text: _replace_one(rng, text, b"-----\nM", b"-----\n\nM"),
    lambda rng, text: _replace_one(rng, text, b"-----\n-----B", b"-----\nSubject: CN=a\n-----B"),
    lambda rng, text: _replace_one(rng, text, b"-----END CERTIFICATE", b"-----END X509 CERTIFICATE"),
    lambda rng, text: _replace_one(rng, text, b"-----BEGIN CERTIFICATE-----\n", b""),
    lambda rng, text: _replace_one(rng, text, b"-----END CERTIFICATE-----\n", b""),
    _overwrite,
    _overwrite,
    _cut,
    lambda rng, text: _cut(rng, text) + text,
]


def some_documents() -> list[bytes]:
    """Bundles of certificates and keys, most of them damaged once or twice as hands, editors and full disks do."""
    rng = Random(SEED)  # noqa: S311 - chance, not secrecy
    issued = [make_ca(name, key=key) for name, key in (("a", "ec"), ("b", "rsa"), ("c", "ed25519"), ("d", "ec-p384"))]
    blocks = [
        *(ca.pem for ca in issued),
        *(ca.key_pem for ca in issued),
        pem_block("CERTIFICATE", b"0\x03\x02\x01\x01", width=76),
    ]
    documents = []
    for _ in range(DOCUMENTS):
        text = b"".join(rng.choices(blocks, [4, 4, 4, 4, 1, 1, 1, 1, 1], k=rng.randrange(1, 6)))
        for damage in rng.choices(DAMAGES, k=rng.randrange(4)):
            text = damage(rng, text)
        documents.append(text)
    return documents


@pytest.mark.long
@pytest.mark.real("go")
def test_a_pem_file_without_a_fault_has_the_same_certificates_for_kubernetes(
    oracle: Oracle,
) -> None:
    """certmond also reads whatever Kubernetes reads of a file with faults. The one exception are several certificates
    in one block: it has a fault, client-go reads them all, crypto/tls none, and certmond the first.
    """
    documents = some_documents()
    answers = oracle.ask(documents=documents)["documents"]
    faultless = 0
    for text, answer in zip(documents, answers, strict=True):
        document = decode(text, "a.pem")
        mine = [certificate.sha256 for certificate in document.certificates]
        if not document.faults:
            faultless += 1
            assert (mine, "") == (answer["certificates"], answer["error"]), (text, document.faults)
        more_in_a_block = any("after the certificate" in fault.detail for fault in document.faults)
        assert more_in_a_block or set(answer["certificates"]) <= set(mine), (text, document.faults)
    _tell(f"{len(documents)} documents, {faultless} without a fault")
    assert 0.3 < faultless / len(documents) < 0.7
