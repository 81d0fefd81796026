"""The decision of `init` for any node: with any of its files, none of them, or all."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from certmond.config.loader import load
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm, Kind
from certmond.pki.catalog.field_types import expand
from certmond.pki.catalog.init_cluster_spec import InitSpec
from certmond.pki.catalog.observation import Embedded, Inventory, Observation
from certmond.pki.catalog.unmet_requirements import missing_names
from certmond.pki.catalog.validator import validated
from certmond.pki.findings import Fault, Reason
from certmond.pki.planning.bootstrap import Bootstrap, Ground, bootstrap
from certmond.pki.planning.bootstrap_steps import (
    InitStep,
    IssueFirst,
    MakeAuthority,
    MakeKeyPair,
    WriteKubeconfig,
    facts_of,
    is_usable_address,
    relocated,
)
from certmond.pki.planning.planner_inputs import Policy
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf

PROFILE = load().certificates
INIT = InitSpec(advertise_address="192.0.2.10", control_plane_endpoint="k8s.example.com")
FACTS = facts_of(INIT, "node-1", "192.0.2.10")
POLICY = Policy(key=KeyAlgorithm.ECDSA_P256)
SPECS = relocated(PROFILE, INIT)
AUTHORITIES = {"ca": "kubernetes", "etcd-ca": "etcd-ca", "front-proxy-ca": "front-proxy-ca"}
PEM, KUBELET_CONF = "/var/lib/kubelet/pki/kubelet-client-current.pem", "/etc/kubernetes/kubelet.conf"
PATHS = sorted({path for spec in SPECS for path in (spec.path, spec.key, spec.kubeconfig) if path})


@cache
def whole() -> Mapping[str, Issued]:
    """A certificate for each entry that has one, as it should be."""
    made = {name: make_ca(subject) for name, subject in AUTHORITIES.items()}
    for spec in SPECS:
        if spec.name not in made and spec.kind is not Kind.KEY_PAIR:
            subject = expand(spec.subject[0], FACTS) or ""
            cn, _, group = subject.removeprefix("CN=").partition(",O=")
            made[spec.name] = make_leaf(
                made[spec.ca[0]], subject=named(cn, group), names=missing_names(spec, FACTS, ()) or None,
                extended_usages=[usage for usage in spec.usages if usage.endswith("auth")],
            )  # fmt: skip
    return made


def named(cn: str, group: str) -> x509.Name:
    return x509.Name.from_rfc4514_string(f"CN={cn},O={group}" if group else f"CN={cn}")


def observed(
    paths: Iterable[str], certificates: Mapping[str, Issued] | None = None, specs: Sequence[CertificateSpec] = SPECS
) -> Assessment:
    """Return the judged observation of a node with these files."""
    there, made = frozenset(paths), {**whole(), **(certificates or {})}
    seen = []
    for spec in specs:
        if spec.path not in there:
            continue
        if spec.kind is Kind.KEY_PAIR:
            key = make_key_pair().facts.key
            own = key if spec.key in there else None
            seen.append(Observation(spec.name, spec, spec.path, key=own, key_path=spec.key, public_key=key))
            continue
        facts = made[spec.name].facts
        embeds = spec.embedded_ca and (spec.kind is Kind.KUBECONFIG or spec.kubeconfig in there)
        lacks = spec.kubeconfig and spec.kubeconfig not in there
        seen.append(Observation(
            spec.name, spec, spec.path, certificates=(facts,), key_path=spec.key or spec.path,
            key=facts.key if spec.key is None or spec.key in there else None,
            embedded=(Embedded(spec.path, (made["ca"].facts,)),) if embeds else (),
            faults=(Fault(Reason.MISSING, f"{spec.kubeconfig} is not there"),) if lacks else (),
        ))  # fmt: skip
    return assess(Inventory(tuple(seen), FACTS), NOW)


@cache
def make_key_pair() -> Issued:
    return make_ca("sa")


def decide(paths: Iterable[str], init: InitSpec = INIT, policy: Policy = POLICY, **more: object) -> Bootstrap:
    there = frozenset(paths)
    ground = Ground(observed(there), there)
    return bootstrap(SPECS, replace(ground, **more), init, policy)  # type: ignore[arg-type]


def files_of(step: InitStep) -> frozenset[str]:
    """Return the files of a step."""
    if isinstance(step, WriteKubeconfig):
        return frozenset({step.kubeconfig.path})
    return frozenset({step.spec.path, step.spec.key or step.spec.path})


def without(*paths: str) -> frozenset[str]:
    assert set(paths) <= set(PATHS), paths
    return frozenset(PATHS) - set(paths)


def pki(*names: str) -> list[str]:
    return [f"/etc/kubernetes/pki/{name}" for name in names]


# Any ground


@pytest.mark.long
@given(st.sets(st.sampled_from(PATHS)) | st.sets(st.sampled_from(PATHS)).map(lambda gone: set(PATHS) - gone))
@settings(max_examples=400, deadline=None)
def test_any_files(there: set[str]) -> None:
    """For any existing files there are problems and no step, or steps after which nothing is left to do. No step is for
    an existing file, an authority precedes its certificates, admin.conf is last, and the existing files are those that
    are kept.
    """
    made = decide(there)
    if made.problems:
        assert made.steps == ()
        assert made.kept == ()
        assert len(set(made.problems)) == len(made.problems)
        return
    written: set[str] = set()
    for step in made.steps:
        assert not files_of(step) & (there | written), step.detail
        if isinstance(step, IssueFirst | WriteKubeconfig):
            needed = {step.authority.path, step.authority.key if isinstance(step, IssueFirst) else None} - {None}
            assert needed <= there | written
        written |= files_of(step)
    assert "admin.conf" not in {step.spec.name for step in made.steps[:-1]}
    assert set(made.kept) == {spec.name for spec in SPECS if spec.path in there}
    again = decide(there | written)
    assert (again.steps, again.problems) == ((), ())


@given(st.integers(0, 17))
@settings(max_examples=18, deadline=None)
def test_any_step_may_be_the_last(number: int) -> None:
    """If a run ends after any step, the next run continues with exactly the remaining steps."""
    steps = decide(()).steps
    assert len(steps) == 17
    done = frozenset[str]().union(*map(files_of, steps[:number]))
    again = decide(done)
    assert again.problems == ()
    assert [step.detail for step in again.steps] == [step.detail for step in steps[number:]]


def test_nothing_is_there() -> None:
    """On an empty node everything is made, the authorities first."""
    steps = decide(()).steps
    kinds = [type(step) for step in steps]
    assert kinds.count(IssueFirst) == 12
    assert kinds[:3] == [MakeAuthority] * 3
    assert [kinds.count(kind) for kind in (MakeKeyPair, WriteKubeconfig)] == [1, 1]
    assert frozenset().union(*map(files_of, steps)) == frozenset(PATHS)


def test_everything_is_there() -> None:
    """On a complete node nothing is created, and everything is kept."""
    assert decide(PATHS) == Bootstrap(kept=tuple(spec.name for spec in SPECS))


# Obstacles


@pytest.mark.parametrize(
    ("gone", "reported"),
    [
        (pki("ca.crt", "ca.key"), "ca.crt is missing, but certificates of this CA exist"),
        (pki("ca.crt"), "ca.crt is missing, but certificates of this CA exist"),
        (pki("sa.pub"), "sa.key exists without /etc/kubernetes/pki/sa.pub; restore"),
        (pki("sa.key"), "sa.key, the private key of"),
        (pki("apiserver.crt"), "apiserver.key exists without /etc/kubernetes/pki/apiserver.crt"),
        (pki("apiserver.key"), "apiserver.crt has no private key"),
        ([PEM], "kubelet.conf exists without /var/lib/kubelet/pki/kubelet-client-current.pem"),
        (
            pki("ca.key", "apiserver.crt", "apiserver.key"),
            "ca.key is missing, so certmond cannot issue /etc/kubernetes/pki/apiserver.crt",
        ),
    ],
)
def test_what_forbids_it(gone: list[str], reported: str) -> None:
    """A file whose counterpart is missing, or that no CA can sign, prevents all steps."""
    made = decide(without(*gone))
    assert made.steps == ()
    assert any(reported in problem for problem in made.problems), made.problems


def test_every_obstacle_is_reported() -> None:
    """The plan has every problem, not only the first."""
    made = decide(without(*pki("ca.crt", "ca.key", "etcd/ca.crt", "etcd/ca.key", "front-proxy-client.key", "sa.pub")))
    assert len(made.problems) == 4
    text = made.problems[0]
    assert text.startswith("/etc/kubernetes/pki/ca.crt is missing, but certificates of this CA exist: ")
    assert all(path in text for path in ("/etc/kubernetes/admin.conf", PEM, *pki("apiserver.crt")))


SETTING = "if this node is node-2, set `node_name: node-2` in the configuration"


def test_certificates_of_another_node_name_the_setting() -> None:
    """If each certificate of the node has the name of the same other node, the problems contain the setting with this
    name. The problem of another subject does not contain this setting.
    """
    other = {
        name: make_leaf(whole()[ca], subject=named(cn, group), extended_usages=["client auth", "server auth"])
        for name, ca, cn, group in (
            ("etcd-server", "etcd-ca", "node-2", ""),
            ("etcd-peer", "etcd-ca", "node-2", ""),
            ("kubelet-client", "ca", "system:node:node-2", "system:nodes"),
        )
    }
    problems = bootstrap(SPECS, Ground(observed(PATHS, other), frozenset(PATHS)), INIT, POLICY).problems
    assert [f"{SETTING}, or move the file away" in problem for problem in problems] == [True] * 3
    assert "but the entry requires CN=node-1; if this node is node-2" in problems[0]
    admin = {"admin.conf": make_leaf(whole()["ca"], subject=named("eve", ""), extended_usages=["client auth"])}
    mixed = bootstrap(SPECS, Ground(observed(PATHS, other | admin), frozenset(PATHS)), INIT, POLICY).problems
    assert [SETTING in problem for problem in mixed if "CN=eve" in problem] == [False]


@pytest.mark.parametrize("name", ["on", "Node_2", "2", "a: b"])
def test_a_name_that_the_configuration_refuses_is_not_proposed(name: str) -> None:
    """The problems do not contain a setting with a name that no node of Kubernetes has, or that YAML reads as another
    type.
    """
    other = {"etcd-server": make_leaf(whole()["etcd-ca"], subject=named(name, ""))}
    problems = bootstrap(SPECS, Ground(observed(PATHS, other), frozenset(PATHS)), INIT, POLICY).problems
    assert problems
    assert not [problem for problem in problems if "node_name" in problem]


def test_the_file_of_another_entry_does_not_name_a_node() -> None:
    """If other certificates have the name of this node, a different subject does not name the node."""
    wrong = {"etcd-server": make_leaf(whole()["etcd-ca"], subject=named("kube-apiserver", ""))}
    problems = bootstrap(SPECS, Ground(observed(PATHS, wrong), frozenset(PATHS)), INIT, POLICY).problems
    assert [problem for problem in problems if "CN=kube-apiserver, but the entry requires CN=node-1" in problem]
    assert not [problem for problem in problems if "node_name" in problem]


def test_only_a_certificate_of_an_entry_names_a_node() -> None:
    """A file without a certificate, and a further CA in a file, name no node. The other certificates name the node."""
    other = {
        "etcd-peer": make_leaf(whole()["etcd-ca"], "node-2"),
        "kubelet-client": make_leaf(whole()["ca"], subject=named("system:node:node-2", "system:nodes")),
    }
    fault = Fault(Reason.MALFORMED, "/etc/kubernetes/pki/etcd/server.crt contains no certificate")
    seen = [
        replace(item, certificates=(), faults=(fault,)) if item.name == "etcd-server" else item
        for item in (status.seen for status in observed(PATHS, other).statuses)
    ]
    (ca,) = [item for item in seen if item.name == "ca"]
    further = replace(ca, name="ca#2", certificates=(make_ca().facts,), key=None, key_path=None)
    ground = Ground(assess(Inventory((*seen, further), FACTS), NOW), frozenset(PATHS))
    problems = bootstrap(SPECS, ground, INIT, POLICY).problems
    assert len([problem for problem in problems if SETTING in problem]) == 2
    assert [problem for problem in problems if problem.startswith(fault.detail)]


def test_a_key_elsewhere() -> None:
    """If a CA's key is elsewhere and all its certificates exist, nothing is missing."""
    assert decide(without(*pki("ca.key", "etcd/ca.key", "front-proxy-ca.key"))).problems == ()


def test_kubelet_conf_needs_no_key() -> None:
    """A kubeconfig that only refers to the PEM is written without the CA's key."""
    (step,) = decide(without(KUBELET_CONF, *pki("ca.key"))).steps
    assert isinstance(step, WriteKubeconfig)
    assert step.kubeconfig.user == "system:node:node-1"


def test_a_ca_with_another_key() -> None:
    """A CA with the key of another one is reported once."""
    there = without(*pki("apiserver.crt", "apiserver.key"))
    seen = observed(there)
    other = make_ca().facts.key
    statuses = tuple(status.seen for status in seen.statuses)
    odd = tuple(replace(item, key=other) if item.name == "ca" else item for item in statuses)
    ground = Ground(assess(Inventory(odd, FACTS), NOW), there)
    (problem,) = bootstrap(SPECS, ground, INIT, POLICY).problems
    assert "ca.key is not the private key of /etc/kubernetes/pki/ca.crt" in problem


def test_an_unreadable_key() -> None:
    """A CA's unreadable key signs nothing, which is reported before any file is made."""
    there = without(*pki("apiserver.crt", "apiserver.key"))
    odd = tuple(
        replace(item, key=None, key_unknown=True) if item.name == "ca" else item
        for item in (status.seen for status in observed(there).statuses)
    )
    (problem,) = bootstrap(SPECS, Ground(assess(Inventory(odd, FACTS), NOW), there), INIT, POLICY).problems
    assert problem.startswith("/etc/kubernetes/pki/ca.key is unreadable or encrypted")


def test_a_broken_ca() -> None:
    """An unreadable CA is reported as such, and as nothing else."""
    there = frozenset(pki("ca.crt", "ca.key"))
    spec = next(spec for spec in SPECS if spec.name == "ca")
    fault = Fault(Reason.MALFORMED, f"{spec.path} contains no certificate")
    seen = Inventory((Observation("ca", spec, spec.path, key_path=spec.key, faults=(fault,)),), FACTS)
    made = bootstrap(SPECS, Ground(assess(seen, NOW), there), INIT, POLICY)
    (problem,) = made.problems
    assert problem.startswith("/etc/kubernetes/pki/ca.crt contains no certificate; ")
    assert problem.endswith("(`certmond init` does not replace the file: repair it, or move it away)")


@pytest.mark.parametrize(
    ("changes", "reported"),
    [
        ({"not_after": NOW - DAY}, "ca.crt expired on"),
        ({"not_before": NOW + DAY}, "ca.crt is not valid before"),
        ({"is_ca": False}, "lacks basicConstraints CA:TRUE"),
        ({"usages": ["digital signature"]}, "without keyCertSign"),
    ],
)
def test_an_authority_that_is_no_good(changes: Mapping[str, object], reported: str) -> None:
    """A CA that is there and no good forbids everything."""
    there = frozenset(pki("etcd/ca.crt", "etcd/ca.key"))
    bad = make_ca("etcd-ca", **changes)  # type: ignore[arg-type]
    made = bootstrap(SPECS, Ground(observed(there, {"etcd-ca": bad}), there), INIT, POLICY)
    assert made.steps == ()
    assert reported in made.problems[0]


def test_what_is_due_is_kept() -> None:
    """A certificate that is near its end, or that outlives its CA, is no reason to refuse: `init` renews nothing."""
    late = make_leaf(
        whole()["front-proxy-ca"], "front-proxy-client", not_before=NOW - YEAR, not_after=NOW + timedelta(hours=1)
    )
    made = bootstrap(
        SPECS, Ground(observed(PATHS, {"front-proxy-client": late}), frozenset(PATHS)), INIT, POLICY
    )  # fmt: skip
    assert (made.steps, made.problems) == ((), ())


def test_a_certificate_that_lacks_a_name_is_kept() -> None:
    """The missing name is a warning of `check`."""
    bare = make_leaf(whole()["etcd-ca"], "node-1", extended_usages=["server auth", "client auth"])
    made = bootstrap(SPECS, Ground(observed(PATHS, {"etcd-peer": bare}), frozenset(PATHS)), INIT, POLICY)
    assert made.problems == ()


# The given Root CA, and the node that joins


def test_a_given_ca() -> None:
    """A given Root CA replaces a new one, and no certificate outlives it. The other CAs are new."""
    given = make_ca("Example Root", not_after=NOW + 100 * DAY)
    made = decide((), given=given.facts)
    authorities = {step.spec.name: step for step in made.steps if isinstance(step, MakeAuthority)}
    assert authorities["ca"].given == given.facts
    assert authorities["ca"].template is None
    assert authorities["ca"].detail == "the Root CA CN=Example Root of --root-ca-cert, until 2027-03-04"
    assert authorities["etcd-ca"].given is None
    for step in made.steps:
        if isinstance(step, IssueFirst):
            end = given.facts.not_after if step.authority.name == "ca" else NOW + YEAR
            assert step.template.not_after == end


def test_the_given_ca_is_there() -> None:
    """The same CA given again is accepted. Another one is refused."""
    assert decide(PATHS, given=whole()["ca"].facts).problems == ()
    (problem,) = decide(PATHS, given=make_ca().facts).problems
    fact = "/etc/kubernetes/pki/ca.crt differs from --root-ca-cert, but `certmond init` does not replace a CA"
    assert problem == f"{fact}; omit --root-ca-cert"


def test_a_node_that_joins() -> None:
    """A node that joins needs a copy of the shared files. Then `init` makes the others, except super-admin.conf."""
    made = decide((), joins=True)
    assert len(made.problems) == 4
    assert "copy it and /etc/kubernetes/pki/sa.key from another control-plane node" in made.problems[-1]
    shared = [f"{name}.{end}" for name in ("ca", "etcd/ca", "front-proxy-ca") for end in ("crt", "key")]
    made = decide(pki(*shared, "sa.pub", "sa.key"), joins=True)
    assert made.problems == ()
    assert "super-admin.conf" not in {step.spec.name for step in made.steps}
    assert len(made.steps) == 12


# The text of the steps


@pytest.mark.parametrize(
    ("version", "admins", "super_admin"),
    [("v1.28.0", "system:masters", False), ("v1.29.0", "kubeadm:cluster-admins", True),
     (None, "kubeadm:cluster-admins", True)],
)  # fmt: skip
def test_admins(version: str | None, admins: str, super_admin: bool) -> None:
    """Groups are those of the cluster's version, or of a current one."""
    made = decide((), replace(INIT, kubernetes_version=version))
    subjects = {
        step.spec.name: step.template.subject.rfc4514_string() for step in made.steps if isinstance(step, IssueFirst)
    }
    assert subjects["admin.conf"] == f"CN=kubernetes-admin,O={admins}"
    assert ("super-admin.conf" in subjects) is super_admin


def test_super_admin_is_not_created_again() -> None:
    """If admin.conf exists, super-admin.conf is not created."""
    assert decide(without("/etc/kubernetes/super-admin.conf")).steps == ()


def test_names_are_in_kubeadms_order() -> None:
    """DNS names come first, in alphabetical order, and each name comes once."""
    init = replace(INIT, cert_sans=("k8s.example.com", "192.0.2.10", "a.example.com"))
    step = next(step for step in decide((), init).steps if step.spec.name == "apiserver")
    assert isinstance(step, IssueFirst)
    assert [str(name.value) for name in step.template.names] == [
        "a.example.com", "k8s.example.com", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local", "node-1", "10.96.0.1", "192.0.2.10",
    ]  # fmt: skip


def test_a_step_has_the_names_of_its_certificate() -> None:
    """The operator reads the subject, the signer, the end and the names before a certificate is issued."""
    said = {step.spec.name: step.detail for step in decide(()).steps}
    assert said["etcd-server"] == (
        "CN=node-1, ECDSA-P256, signed by etcd-ca, until 2027-11-24, for DNS:localhost, DNS:node-1, IP:192.0.2.10, "
        "IP:127.0.0.1, IP:::1"
    )
    assert said["front-proxy-client"].endswith("signed by front-proxy-ca, until 2027-11-24")


@pytest.mark.parametrize(
    ("endpoint", "address", "common", "own"),
    [
        (None, "192.0.2.10", "https://192.0.2.10:7443", "https://192.0.2.10:7443"),
        ("k8s.example.com", "192.0.2.10", "https://k8s.example.com:7443", "https://192.0.2.10:7443"),
        ("k8s.example.com:443", "2001:db8::1", "https://k8s.example.com:443", "https://[2001:db8::1]:7443"),
        ("[2001:db8::2]:443", "192.0.2.10", "https://[2001:db8::2]:443", "https://192.0.2.10:7443"),
    ],
)
def test_servers(endpoint: str | None, address: str, common: str, own: str) -> None:
    """A kubeconfig has the cluster's endpoint, with this node's port unless it has its own; the node's own have it."""
    init = InitSpec(control_plane_endpoint=endpoint, bind_port=7443, kubernetes_version="v1.30")
    seen = replace(observed(()), facts=facts_of(init, "node-1", address))
    made = bootstrap(SPECS, Ground(seen, frozenset()), init, POLICY)
    servers = {
        step.kubeconfig.path.rpartition("/")[2]: step.kubeconfig.server
        for step in made.steps
        if isinstance(step, IssueFirst | WriteKubeconfig) and step.kubeconfig
    }
    assert servers == {
        "admin.conf": common, "super-admin.conf": common, "kubelet.conf": common, "scheduler.conf": own,
        "controller-manager.conf": own,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "expected"),
    [(KeyAlgorithm.ED25519, KeyAlgorithm.RSA_2048), (KeyAlgorithm.ECDSA_P384, KeyAlgorithm.ECDSA_P384)],
)
def test_keys_for_tokens(policy: KeyAlgorithm, expected: KeyAlgorithm) -> None:
    """Tokens are signed with RSA or ECDSA, whatever the other keys are."""
    made = decide((), policy=Policy(key=policy))
    assert [step.key for step in made.steps if isinstance(step, MakeKeyPair)] == [expected]
    assert {step.template.key for step in made.steps if isinstance(step, IssueFirst)} == {policy}


def test_validities() -> None:
    """A new CA has the lifetime of the cluster's configuration, otherwise of its entry, otherwise the general one;
    never beyond the calendar.
    """

    def ends(init: InitSpec, specs: Sequence[CertificateSpec] = SPECS) -> set[timedelta]:
        made = bootstrap(specs, Ground(observed(()), frozenset()), init, POLICY)
        return {step.not_after - NOW for step in made.steps if isinstance(step, MakeAuthority)}

    plain = [replace(spec, validity=None) for spec in SPECS]
    assert ends(INIT) == {10 * YEAR}
    assert ends(replace(INIT, ca_validity=5 * YEAR)) == {5 * YEAR}
    assert ends(INIT, plain) == {YEAR}
    (longest,) = ends(replace(INIT, ca_validity=99999 * YEAR))
    assert (NOW + longest).year == 9999


def test_an_impossible_subject() -> None:
    """A subject that no certificate can have is reported with the entry, before any file is made."""
    facts = facts_of(INIT, "n" * 60, "192.0.2.10")
    seen = replace(observed(()), facts=facts)
    made = bootstrap(SPECS, Ground(seen, frozenset()), INIT, POLICY)
    (problem,) = made.problems
    assert problem.startswith(f"certmond cannot create {PEM}: its entry kubelet-client has an invalid value (")


# Which entries belong to a node


def entry(**fields: object) -> CertificateSpec:
    return validated(
        CertificateSpec,
        {"name": "mine", "path": "/a.crt", "key": "/a.key", "ca": ("ca",), "subject": ("CN=mine",), **fields},
    )


@pytest.mark.parametrize(
    ("fields", "belongs"),
    [
        ({}, True),
        ({"kind": "kubeconfig", "key": None}, True),
        ({"key": None}, False),
        ({"key": "/a.crt"}, False),
        ({"path": "/*.crt", "key": None}, False),
        ({"kind": "bundle"}, False),
        ({"signer": "vault"}, False),
        ({"optional": True}, False),
        ({"subject": ()}, False),
        ({"ca": ()}, False),
        ({"authority": True}, False),
        ({"name": "ca", "authority": True, "key": None}, False),
        ({"name": "ca", "authority": True}, True),
        ({"kind": "key-pair", "subject": (), "ca": ()}, True),
    ],
)
def test_the_entries_that_are_created(fields: Mapping[str, object], belongs: bool) -> None:
    """`init` creates a pair or a kubeconfig of one of the cluster's CAs, with a subject, that is not optional."""
    assert bool(relocated([entry(**fields)], INIT)) is belongs


def test_of_another_ca() -> None:
    """An entry of a CA that is not the cluster's is not made, and is no obstacle where it is there."""
    other = entry(ca=("company",))
    specs = (*SPECS, other)
    assert bootstrap(specs, Ground(observed(()), frozenset()), INIT, POLICY).steps == decide(()).steps
    there = frozenset({*PATHS, "/a.crt", "/a.key"})
    seen = observed(there, {"mine": make_leaf(make_ca("company"), "mine")}, specs)
    made = bootstrap(specs, Ground(seen, there), INIT, POLICY)
    assert (made.steps, made.problems) == ((), ())


def test_a_kubelet_of_another_ca() -> None:
    """A kubelet's PEM of another CA is kept, and no kubeconfig is written for it."""
    specs = tuple(replace(spec, ca=("company",)) if spec.name == "kubelet-client" else spec for spec in SPECS)
    there = without(KUBELET_CONF)
    foreign = make_leaf(make_ca("company"), subject=named("system:node:node-1", "system:nodes"))
    made = bootstrap(specs, Ground(observed(there, {"kubelet-client": foreign}, specs), there), INIT, POLICY)
    assert (made.steps, made.problems) == ((), ())


@pytest.mark.parametrize(
    ("fields", "reported"),
    [
        ({"advertise_address": "host"}, "must be an IP address"),
        ({"advertise_address": "fe80::1%eth0"}, "must be an IP address"),
        ({"control_plane_endpoint": "k8s.example.com:0"}, "must have a port from 1 to 65535"),
        ({"control_plane_endpoint": "a:b:c"}, "must be HOST or HOST:PORT"),
        ({"control_plane_endpoint": "under_score:443"}, "must be an IP address, or a DNS name"),
        ({"cert_sans": "fe80::1%eth0"}, "must be an IP address, or a DNS name"),
        ({"dns_domain": "-"}, "must be a DNS name"),
        ({"service_subnet": "10.96.0.0/12,"}, "must be a network such as"),
        ({"service_subnet": "10.96.0.0/12,10.0.0.1/32"}, "must have at least two addresses"),
        ({"kubernetes_version": "latest"}, "must be a version such as"),
        ({"bind_port": "0"}, "greater than or equal to 1"),
    ],
)
def test_what_no_cluster_is(fields: Mapping[str, object], reported: str) -> None:
    """A cluster that cannot be is refused with a sentence."""
    with pytest.raises(ValidationError, match=reported):
        validated(InitSpec, fields)


def test_external_etcd() -> None:
    """With an external etcd, nothing of its CA is made."""
    names = {spec.name for spec in relocated(PROFILE, replace(INIT, external_etcd=True))}
    assert names == {spec.name for spec in SPECS if "etcd" not in spec.name}
    assert len(SPECS) - len(names) == 5


def test_certificates_elsewhere() -> None:
    """Only the files in pki/ follow `certificates_dir`."""
    moved = relocated(PROFILE, replace(INIT, certificates_dir="/srv/pki"))
    for before, after in zip(SPECS, moved, strict=True):
        for old, new in ((before.path, after.path), (before.key, after.key)):
            assert new == (old and old.replace("/etc/kubernetes/pki/", "/srv/pki/"))
    assert posixpath.dirname(moved[0].path) == "/srv/pki"


def test_usable_addresses() -> None:
    """The address of all interfaces is no usable address."""
    assert is_usable_address("192.0.2.1")
    assert not any(map(is_usable_address, (None, "0.0.0.0", "::")))  # noqa: S104 - nothing is bound to it
