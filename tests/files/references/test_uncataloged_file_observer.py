"""The files that the flags and configuration files of a node name, without an entry in the configuration."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from certmond.config.parser import parse
from certmond.files.catalog_observer import Store
from certmond.files.references.component_sources import RANCHER_MANIFESTS
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.component_certificate_flags import FLAGS
from certmond.pki.catalog.component_certificate_flags import PROGRAMS as REFERENCE_PROGRAMS
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Reason, Severity
from tests.builders import make_ca, make_leaf
from tests.distributions import Tree
from tests.node import KUBELET_PEM, NOW, PKI, Node, key_pem, pem
from tests.proc_tree import ProcTree
from tests.reference_node import EXTRA, MANIFESTS, ReferenceNode, pod

CONFIG = parse((), profile="kubeadm")
SOON, LATER = NOW + timedelta(days=5), NOW + timedelta(days=300)
API = f"/{MANIFESTS}/kube-apiserver.yaml"


def store(node: Node) -> Store:
    return Store(CONFIG.certificates, str(node.root), references=True)


def judged(node: Node) -> Assessment:
    return assess(store(node).observe(), NOW)


def named(node: Node) -> dict[str, Observation]:
    """Return the observations of references, by name."""
    return {each.name: each for each in store(node).observe().observations if each.named_by}


def reasons(assessment: Assessment, name: str) -> set[str]:
    return {item.reason.value for status in assessment.statuses if status.seen.name == name for item in status.findings}


def owners(names: set[str]) -> set[str]:
    """Return the names of entries, from those of users and clusters in kubeconfigs."""
    return {name.partition("#")[0] for name in names}


@pytest.mark.long
def test_every_named_certificate_near_its_end_is_reported(node: Node) -> None:
    """Each certificate that a flag or field of the table names is watched and reported five days before its end."""
    world = ReferenceNode(node, SOON)
    assessment = judged(node)
    ending = {
        status.seen.name
        for status in assessment.statuses
        if status.seen.named_by and any(item.reason is Reason.NEARING_EXPIRY for item in status.findings)
    }
    assert len(world.names) >= 60
    assert owners(ending) == world.names
    unwatched = [item.message for item in assessment.loose_findings if item.reason is Reason.NOT_WATCHED]
    assert not unwatched


@pytest.mark.long
def test_healthy_named_certificates_give_no_warning(node: Node) -> None:
    """The same files with 300 days left give no finding above info, and each certificate has a valid path."""
    world = ReferenceNode(node, LATER)
    assessment = judged(node)
    findings = [item for status in assessment.statuses for item in status.findings]
    assert [item.message for item in findings if item.severity is not Severity.INFO] == []
    assert owners({status.seen.name for status in assessment.statuses if status.seen.named_by}) == world.names
    assert all(status.chain_valid for status in assessment.certificates)


def test_files_of_the_catalogue_have_no_second_entry(node: Node) -> None:
    """On a node of kubeadm, the flags name only files of the profile, so no entry is added."""
    assert not named(node)


@pytest.mark.long
def test_a_file_behind_a_symlink_has_no_second_entry(node: Node) -> None:
    """A flag that names a file of the catalogue through a symlink adds no entry."""
    world = ReferenceNode(node, LATER)
    before = set(named(node))
    node.path(f"{EXTRA[1:]}/link.crt").symlink_to(f"/{PKI}/ca.crt")
    world.add_flags("kube-apiserver", f"--peer-ca-file={EXTRA}/link.crt")
    assert set(named(node)) == before - {"kube-apiserver.peer-ca-file"}


@pytest.mark.long
def test_a_client_is_verified_with_the_ca_that_the_other_end_trusts(node: Node) -> None:
    """The API server's certificate for etcd must have a path to the CA of etcd's --trusted-ca-file."""
    world = ReferenceNode(node, LATER)
    assert named(node)["kube-apiserver.etcd-certfile"].spec.ca == ("etcd.trusted-ca-file",)
    world.write(f"{EXTRA}/etcd-trusted-ca-file.crt", make_ca("another", not_after=LATER).pem)
    assert "no_path" in reasons(judged(node), "kube-apiserver.etcd-certfile")


def test_a_new_flag_is_followed_without_another_look_at_other_files(node: Node) -> None:
    """After a manifest has gained a flag, the next pass observes the file of this flag, and no other file again."""
    world = ReferenceNode(node, LATER)
    watched = store(node)
    before = watched.observe().observations
    assert all(one is other for one, other in zip(before, watched.observe(frozenset()).observations, strict=True))
    certificate, key = world.pair(f"{EXTRA}/new")
    world.add_flags("kube-apiserver", f"--tls-sni-cert-key={certificate},{key}")
    manifest = str(node.path(f"{MANIFESTS}/kube-apiserver.yaml"))
    after = watched.observe(frozenset({manifest})).observations
    new = [each for each in after if each not in before]
    assert [(each.path, each.key_path) for each in new] == [(certificate, key)]
    assert {id(each) for each in before} <= {id(each) for each in after}
    assert str(node.path(EXTRA[1:])) in watched.interest


@pytest.mark.parametrize("directory", RANCHER_MANIFESTS)
def test_static_pods_of_rke2_and_k3s_are_followed(node: Node, directory: str) -> None:
    """No file of such a node names the directory of the static Pods."""
    world = ReferenceNode(node, LATER)
    fields = pod("kube-apiserver")
    fields["spec"]["containers"][0] |= {
        "command": ["kube-apiserver", f"--peer-ca-file={world.trust(f'{EXTRA}/rke2')}"],
        "volumeMounts": [{"name": "x", "mountPath": f"{EXTRA}/rke2.crt"}],
    }
    fields["spec"]["volumes"] = [{"name": "x", "hostPath": {"path": f"{EXTRA}/rke2.crt"}}]
    watched = store(node)
    watched.observe()
    world.write(f"{directory}/kube-apiserver.yaml", yaml.safe_dump(fields))
    seen = {each.path: each for each in watched.observe().observations}
    assert seen[f"{EXTRA}/rke2.crt"].name == "kube-apiserver.peer-ca-file.2"
    assert seen[f"{EXTRA}/rke2.crt"].is_watched


def test_a_configuration_file_that_changes_is_followed(node: Node) -> None:
    """After AuthorizationConfiguration has gained a webhook, the next pass observes its kubeconfig."""
    world = ReferenceNode(node, LATER)
    watched = store(node)
    watched.observe()
    path = f"{EXTRA}/kube-apiserver-authorization-config.yaml"
    fields: dict[str, Any] = yaml.safe_load(node.read(path[1:]))
    fields["authorizers"] += [{"webhook": {"connectionInfo": {"kubeConfigFile": world.kubeconfig(f"{EXTRA}/second")}}}]
    node.replace(path[1:], yaml.safe_dump(fields))
    seen = watched.observe(frozenset({str(node.path(path[1:]))})).observations
    assert f"{EXTRA}/second.conf" in {each.path for each in seen}


@pytest.mark.long
@pytest.mark.parametrize(
    ("flag", "fact"),
    [
        (
            "--oidc-ca-file=/etc/kubernetes/$(NODE).crt",
            "/etc/kubernetes/$(NODE).crt is not the path of a file on this host",
        ),
        ("--oidc-ca-file=/usr/local/ca.crt", "/usr/local/ca.crt is not mounted into the container from this host"),
        ("--oidc-ca-file=ca.crt", "ca.crt is not the path of a file on this host"),
        ("--oidc-ca-file=/scratch/ca.crt", "/scratch/ca.crt is not the path of a file on this host"),
        ("--oidc-ca-file=/etc/kubernetes/extra/*.crt", "/etc/kubernetes/extra/*.crt is not the path of a file"),
        ("--oidc-ca-file=/etc/ssl/certs/ca-certificates.crt", "contains the CAs of the operating system"),
        (f"--oidc-ca-file={EXTRA}/system.pem", "contains the CAs of the operating system"),
        (f"--authorization-config={EXTRA}/none.yaml", f"{EXTRA}/none.yaml does not exist"),
        (f"--authorization-config={EXTRA}/other.yaml", "is not of kind AuthorizationConfiguration"),
    ],
)
def test_a_reference_that_certmond_cannot_follow_is_named(node: Node, flag: str, fact: str) -> None:
    """certmond names the flag and the file with the info finding not_watched, and the metrics and JSON count it."""
    world = ReferenceNode(node, LATER)
    world.write(f"{EXTRA}/other.yaml", "kind: Pod")
    world.write("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", make_ca("system", not_after=SOON).pem)
    node.path(f"{EXTRA[1:]}/system.pem").symlink_to("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem")
    path = f"{MANIFESTS}/kube-apiserver.yaml"
    fields = yaml.safe_load(node.read(path))
    fields["spec"]["containers"][0]["volumeMounts"].append({"name": "scratch", "mountPath": "/scratch"})
    fields["spec"]["volumes"].append({"name": "scratch", "emptyDir": {}})
    node.write(path, yaml.safe_dump(fields))
    world.add_flags("kube-apiserver", flag)
    assessment = judged(node)
    (finding,) = [item for item in assessment.loose_findings if item.reason is Reason.NOT_WATCHED]
    assert finding.severity is Severity.INFO
    assert fact in finding.message
    assert f"{flag.partition('=')[0]} in {API}" in finding.message
    assert assessment.unwatched == 1
    assert all(status.seen.is_watched for status in assessment.certificates)


def test_a_file_that_another_user_can_change_is_not_followed(node: Node) -> None:
    """Another user who can change a configuration file never decides which files certmond reads."""
    ReferenceNode(node, LATER)
    node.path(f"{EXTRA[1:]}/kube-apiserver-authorization-config.yaml").chmod(0o646)
    assessment = judged(node)
    (finding,) = [item for item in assessment.loose_findings if item.reason is Reason.NOT_WATCHED]
    assert "can be changed by other users" in finding.message
    assert "kube-apiserver.authorization-config.kubeConfigFile" not in {s.seen.name for s in assessment.certificates}


def test_a_kubeconfig_with_paths_of_its_container_is_not_followed(node: Node) -> None:
    """certmond reports a kubeconfig that names files by paths in the container as not watched."""
    world = ReferenceNode(node, LATER)
    fields = pod("cloud-controller-manager")
    fields["spec"]["containers"][0] |= {
        "command": ["cloud-controller-manager", "--kubeconfig=/in/c.conf"],
        "volumeMounts": [{"name": "x", "mountPath": "/in"}],
    }
    fields["spec"]["volumes"] = [{"name": "x", "hostPath": {"path": EXTRA}}]
    world.write(f"/{MANIFESTS}/cloud-controller-manager.yaml", yaml.safe_dump(fields))
    user = {"name": "u", "user": {"client-certificate": "/in/c.crt", "client-key": "/in/c.key"}}
    world.write(f"{EXTRA}/c.conf", yaml.safe_dump({"users": [user], "clusters": []}))
    seen = named(node)["cloud-controller-manager.kubeconfig"]
    assert not seen.is_watched
    assert f"{EXTRA}/c.conf refers to /in/c.crt, which is a path in the container" in seen.faults[0].detail


def second_pod(world: ReferenceNode, name: str, component: str, *words: str, mounted: bool = True) -> None:
    """Write the manifest of a second Pod, which mounts EXTRA or no volume."""
    fields = pod(component)
    fields["spec"]["containers"][0]["command"] += words
    if mounted:
        fields["spec"]["containers"][0]["volumeMounts"] = [{"name": "x", "mountPath": EXTRA}]
        fields["spec"]["volumes"] = [{"name": "x", "hostPath": {"path": EXTRA}}]
    world.write(f"/{MANIFESTS}/{name}.yaml", yaml.safe_dump(fields))


def test_an_unwatched_reference_does_not_hide_another(node: Node) -> None:
    """A file is watched if one reference to it is, whatever file names it first."""
    world = ReferenceNode(node, SOON)
    certificate = world.trust(f"{EXTRA}/shared")
    second_pod(world, "a", "kube-scheduler", f"--client-ca-file={certificate}", mounted=False)
    second_pod(world, "z", "kube-scheduler", f"--client-ca-file={certificate}")
    found = {each.path: each for each in named(node).values()}
    assert found[certificate].named_by == f"--client-ca-file in /{MANIFESTS}/z.yaml"
    assert "nearing_expiry" in reasons(judged(node), found[certificate].name)


def test_each_role_of_a_file_is_checked(node: Node) -> None:
    """The pair of a server that a flag also names as a CA, and another as a client, keeps its key and usages."""
    world = ReferenceNode(node, LATER)
    certificate, key = world.pair(f"{EXTRA}/shared")
    second_pod(world, "a", "etcd", f"--discovery-cacert={certificate}")
    second_pod(world, "b", "etcd", f"--cert-file={certificate}", f"--key-file={key}")
    second_pod(world, "c", "kube-apiserver", f"--etcd-certfile={certificate}", f"--etcd-keyfile={key}")
    (seen,) = [each for each in named(node).values() if each.path == certificate]
    assert (seen.key_path, seen.spec.usages) == (key, ("server auth", "client auth"))


@pytest.mark.long
def test_each_key_of_a_certificate_is_compared(node: Node) -> None:
    """If flags name a certificate with two keys, the key that does not belong to the certificate is critical."""
    world = ReferenceNode(node, LATER)
    certificate, key = world.pair(f"{EXTRA}/shared")
    other = world.pair(f"{EXTRA}/other")[1]
    second_pod(world, "a", "etcd", f"--cert-file={certificate}", f"--key-file={key}")
    second_pod(
        world, "b", "cloud-controller-manager", f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}"
    )
    second_pod(world, "c", "kube-scheduler", f"--tls-cert-file={certificate}", f"--tls-private-key-file={other}")
    seen = [each for each in named(node).values() if each.path == certificate]
    assert {each.key_path: each.name.partition(".")[0] for each in seen} == {key: "etcd", other: "kube-scheduler"}
    assert len(seen) == 2
    found = {each.key_path: reasons(judged(node), each.name) for each in seen}
    assert found == {key: set(), other: {"key_mismatch"}}


@pytest.mark.long
def test_each_ca_that_verifies_a_certificate_is_checked(node: Node) -> None:
    """A client certificate for etcd and for its peers must have a path to the CA of each flag."""
    world = ReferenceNode(node, LATER)
    certificate, key = world.pair(f"{EXTRA}/shared")
    world.write(f"{EXTRA}/etcd-peer-trusted-ca-file.crt", make_ca("another", not_after=LATER).pem)
    words = (f"--{name}client-{part}={path}" for name in ("", "peer-") for part, path in (
        ("cert-file", certificate), ("key-file", key)))  # fmt: skip
    second_pod(world, "a", "etcd", *words)
    seen = {each.spec.ca: each for each in named(node).values() if each.path == certificate}
    assert seen.keys() == {("etcd.trusted-ca-file",), ("etcd.peer-trusted-ca-file",)}
    found = {ca[0]: reasons(judged(node), each.name) for ca, each in seen.items()}
    assert found == {"etcd.trusted-ca-file": set(), "etcd.peer-trusted-ca-file": {"no_path"}}


@pytest.mark.long
def test_another_key_of_a_certificate_of_the_catalogue_is_compared(node: Node) -> None:
    """A flag that combines a certificate of the catalogue with a key outside the entry has an entry."""
    world = ReferenceNode(node, LATER)
    before = set(named(node))
    node.path(f"{EXTRA[1:]}/link.key").symlink_to(f"/{PKI}/apiserver.key")
    other = world.pair(f"{EXTRA}/other")[1]
    world.add_flags("kube-scheduler", f"--tls-sni-cert-key=/{PKI}/apiserver.crt,{EXTRA}/link.key")
    mounted = yaml.safe_load(node.read(f"{MANIFESTS}/kube-scheduler.yaml"))
    mounted["spec"]["containers"][0]["volumeMounts"].append({"name": "pki", "mountPath": f"/{PKI}"})
    mounted["spec"]["volumes"].append({"name": "pki", "hostPath": {"path": f"/{PKI}"}})
    node.replace(f"{MANIFESTS}/kube-scheduler.yaml", yaml.safe_dump(mounted))
    assert set(named(node)) == before
    world.add_flags("kube-scheduler", f"--tls-sni-cert-key=/{PKI}/apiserver.crt,{other}")
    (new,) = set(named(node)) - before
    assert named(node)[new].key_path == other
    assert "key_mismatch" in reasons(judged(node), new)


@pytest.mark.long
def test_a_signer_stays_the_trust_anchor_of_other_certificates(node: Node) -> None:
    """The CA of --client-ca-file with which a controller manager also signs still verifies certificates of clients."""
    world = ReferenceNode(node, LATER)
    ca, second = make_ca("shared", not_after=LATER), make_ca("second", not_after=LATER)
    world.write(f"{EXTRA}/shared.crt", ca.pem + second.pem)
    world.write(f"{EXTRA}/shared.key", ca.key_pem)
    words = (f"--cluster-signing-cert-file={EXTRA}/shared.crt", f"--cluster-signing-key-file={EXTRA}/shared.key")
    second_pod(world, "y", "kube-controller-manager", *words)
    second_pod(world, "z", "etcd", f"--trusted-ca-file={EXTRA}/shared.crt")
    (shared,) = [each for each in named(node).values() if each.path == f"{EXTRA}/shared.crt"]
    assert shared.spec.usages == ("cert sign",)
    client = "kube-apiserver.etcd-certfile"
    assert named(node)[client].spec.ca == (shared.name,)
    assert "no_path" in reasons(judged(node), client)
    for signer in (ca, second):
        leaf = make_leaf(signer, extended_usages=["client auth"], not_after=LATER)
        world.write(f"{EXTRA}/{client.replace('.', '-')}.crt", leaf.pem)
        world.write(f"{EXTRA}/{client.replace('.', '-')}.key", leaf.key_pem)
        assert not reasons(judged(node), client) & {"no_path", "anchor_missing"}


PATHS = st.sampled_from(
    [
        "",
        "/",
        "a.crt",
        "/a.crt",
        "/a.pem/",
        "//x//../a.crt",
        "/[x].crt",
        "/x/\x00.crt",
        "/x/\n.crt",
        "/é.pem",
        "/" + "y" * 5000,
    ]
)
FLAG_NAMES = st.sampled_from(sorted({row.name for row in FLAGS})) | st.text(max_size=70)
CONTAINERS = st.fixed_dictionaries(
    {
        "name": st.sampled_from([*REFERENCE_PROGRAMS, "", "_-.", "é" * 70]) | st.text(max_size=80),
        "command": st.lists(st.builds("--{}={}".format, FLAG_NAMES, PATHS | st.text(max_size=9)), max_size=6),
        "volumeMounts": st.lists(st.fixed_dictionaries({"name": st.just("x"), "mountPath": PATHS}), max_size=3),
    }
)


@pytest.mark.long
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CONTAINERS, max_size=3), PATHS)
def test_any_manifest_gives_valid_entries(tmp_path: Path, listed: list[dict[str, Any]], host: str) -> None:
    """Whatever names, flags and paths a manifest contains, certmond observes it without an error."""
    fields = {"spec": {"containers": listed, "volumes": [{"name": "x", "hostPath": {"path": host}}]}}
    directory = tmp_path / MANIFESTS
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "a.yaml").write_text(json.dumps(fields))
    inventory = Store((), str(tmp_path), references=True).observe()
    assert len({each.identity for each in inventory.observations}) == len(inventory.observations)
    assess(inventory, NOW)


@pytest.mark.long
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(FLAG_NAMES, PATHS | st.text(max_size=9), max_size=6), FLAG_NAMES)
def test_any_configuration_of_a_distribution_gives_valid_entries(
    tmp_path: Path, flags: dict[str, str], other: str
) -> None:
    """Whatever flags files of distributions and processes have, certmond observes them without an error."""
    tree, processes = Tree(tmp_path / "root"), ProcTree(tmp_path / "processes")
    words = [f"{name}={value}" for name, value in flags.items()]
    arguments = {"kube-apiserver-arg": words, "kubelet-arg+": other, "kube-apiserver-extra-mount": ":".join(words)}
    tree.write("/etc/rancher/k3s/config.yaml", json.dumps(flags | arguments))
    tree.write("/etc/rancher/rke2/config.yaml", json.dumps(arguments))
    registries = {"configs": {other: {"tls": dict(zip(("ca_file", "cert_file", "key_file"), words, strict=False))}}}
    tree.write("/etc/rancher/k3s/registries.yaml", json.dumps(registries))
    spec = {"api": {"extraArgs": flags, "rawArgs": words}, "storage": {"etcd": {"externalCluster": {"caFile": other}}}}
    tree.write("/etc/k0s/k0s.yaml", json.dumps({"spec": spec}))
    tree.write("/var/snap/microk8s/current/args/kubelet", "\n".join(f"--{word}" for word in words))
    for user in (0, 5):
        processes.add(str(user + 1), "etcd", *(f"--{word}".replace("\x00", "") for word in words), user=user)
    inventory = Store((), str(tree.root), references=True, proc=str(processes)).observe()
    assert len({each.identity for each in inventory.observations}) == len(inventory.observations)
    assess(inventory, NOW)


def test_a_named_file_that_is_missing_is_critical(node: Node) -> None:
    """The component does not start without a file that its flag names."""
    ReferenceNode(node, LATER)
    node.path(f"{EXTRA[1:]}/kube-scheduler-tls-cert-file.crt").unlink()
    assert "missing" in reasons(judged(node), "kube-scheduler.tls-cert-file")


def test_a_broken_manifest_is_named(node: Node) -> None:
    """A file in the directory of static Pods that is no manifest gives the finding not_watched."""
    node.write(f"{MANIFESTS}/etcd.yaml", "{")
    (finding,) = [item for item in judged(node).loose_findings if item.reason is Reason.NOT_WATCHED]
    assert f"/{MANIFESTS}/etcd.yaml is not the manifest of a Pod" in finding.message


def test_a_component_behind_an_unknown_program_in_a_manifest_is_named(node: Node) -> None:
    """The finding not_watched names the manifest, the container and the component."""
    fields = pod("own")
    fields["spec"]["containers"][0] |= {"name": "own", "command": ["/opt/starter", "etcd", "--x=1"]}
    node.write(f"{MANIFESTS}/own.yaml", yaml.safe_dump(fields))
    (message,) = [each.message for each in judged(node).loose_findings if "any flag of etcd" in each.message]
    assert f"/{MANIFESTS}/own.yaml: certmond cannot determine which words in the command of container own" in message


def test_a_flag_outside_the_table_is_followed_for_its_dates(node: Node) -> None:
    """certmond watches the certificates in the file of an unknown flag, and reports a file without certificates."""
    world = ReferenceNode(node, SOON)
    certificate, key = world.pair(f"{EXTRA}/proxy")
    world.write(f"{EXTRA}/only-key.pem", node.read(key[1:]))
    world.add_flags("load-balancer", f"--frontend-cert={certificate}", f"--frontend-key={key}", "--mode=x.pem")
    world.add_flags("load-balancer", f"--other={EXTRA}/only-key.pem", f"--later={EXTRA}/none.crt")
    world.add_flags("kube-scheduler", f"--new-feature-ca={world.trust(f'{EXTRA}/feature')}")
    assessment = judged(node)
    assert reasons(assessment, "load-balancer.frontend-cert") == {"nearing_expiry"}
    assert reasons(assessment, "kube-scheduler.new-feature-ca") == {"nearing_expiry"}
    assert reasons(assessment, "load-balancer.other") == reasons(assessment, "load-balancer.later") == {"not_watched"}
    assert not reasons(assessment, "load-balancer.frontend-key")


def test_each_value_of_an_unknown_flag_is_followed(node: Node) -> None:
    """certmond watches each path of a repeated flag, and of a list with commas."""
    world = ReferenceNode(node, SOON)
    first, second, third = (world.trust(f"{EXTRA}/list-{number}") for number in (1, 2, 3))
    world.add_flags("load-balancer", f"--ca={first},{second}", f"--ca={third}")
    seen = named(node)
    names = ("load-balancer.ca", "load-balancer.ca.2", "load-balancer.ca.3")
    assert [seen[name].path for name in names] == [first, second, third]


@pytest.mark.long
def test_the_flags_of_an_init_container_are_followed(node: Node) -> None:
    """A Pod does not start without the files of its init containers, so certmond watches these files."""
    world = ReferenceNode(node, SOON)
    certificate = world.trust(f"{EXTRA}/init")
    fields = pod("cloud-controller-manager")
    mounts = [{"name": "x", "mountPath": EXTRA}]
    first = {"name": "wait", "command": ["wait-for-api", f"--ca={certificate}"], "volumeMounts": mounts}
    fields["spec"] |= {"initContainers": [first], "volumes": [{"name": "x", "hostPath": {"path": EXTRA}}]}
    world.write(f"/{MANIFESTS}/init.yaml", yaml.safe_dump(fields))
    assert named(node)["wait.ca"].path == certificate
    assert reasons(judged(node), "wait.ca") == {"nearing_expiry"}


def add_variables(world: ReferenceNode, component: str, *variables: dict[str, Any]) -> str:
    """Add variables to the container of a component. Return the path of its manifest."""
    world.add_flags(component)
    path = f"{MANIFESTS}/{component}.yaml"
    fields = yaml.safe_load(world.node.read(path))
    fields["spec"]["containers"][0]["env"] = [*variables]
    world.node.replace(path, yaml.safe_dump(fields))
    return f"/{path}"


def test_a_file_in_the_environment_of_a_static_pod_is_followed(node: Node) -> None:
    """certmond watches the files of certificates and kubeconfigs that variables of a container name."""
    world = ReferenceNode(node, SOON)
    first, second = world.trust(f"{EXTRA}/first"), world.trust(f"{EXTRA}/second")
    proxy = world.kubeconfig(f"{EXTRA}/proxy")
    manifest = add_variables(
        world, "load-balancer", {"name": "NODE_EXTRA_CA_CERTS", "value": first},
        {"name": "LB_KUBECONFIG", "value": f"{second.removesuffix('.crt')}.conf:{proxy}"},
        {"name": "DIR", "value": EXTRA}, {"name": "CA_FILE", "value": "$(DIR)/second.crt"},
        {"name": "FROM_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "URL", "value": "https://192.0.2.1/ca.crt"}, {"name": "RELATIVE", "value": "ca.crt"},
    )  # fmt: skip
    assessment = judged(node)
    seen = {each.name: each for each in named(node).values() if each.name.startswith("load-balancer.")}
    assert owners(set(seen)) == {f"load-balancer.{name}" for name in (
        "NODE_EXTRA_CA_CERTS", "LB_KUBECONFIG", "LB_KUBECONFIG.2", "CA_FILE")}  # fmt: skip
    assert seen["load-balancer.NODE_EXTRA_CA_CERTS"].named_by == f"the variable NODE_EXTRA_CA_CERTS in {manifest}"
    for name in ("NODE_EXTRA_CA_CERTS", "CA_FILE", "LB_KUBECONFIG"):
        assert reasons(assessment, f"load-balancer.{name}") == {"nearing_expiry"}
    missing = reasons(assessment, "load-balancer.LB_KUBECONFIG.2")
    assert missing == {"not_watched"}


def test_the_bundle_of_the_operating_system_in_a_variable_is_not_watched(node: Node) -> None:
    """A package of the operating system replaces the bundle that SSL_CERT_FILE usually names."""
    bundle = "/etc/ssl/certs/ca-certificates.crt"
    world = ReferenceNode(node, LATER)
    world.write(bundle, node.read(f"{PKI}/ca.crt"))
    before = set(named(node))
    add_variables(world, "kube-apiserver", {"name": "SSL_CERT_FILE", "value": bundle}, {"name": "CA", "value": ""})
    new = {name: each for name, each in named(node).items() if name not in before}
    assert new.keys() == {"kube-apiserver.SSL_CERT_FILE"}
    (detail,) = (fault.detail for fault in new["kube-apiserver.SSL_CERT_FILE"].faults)
    assert "contains the CAs of the operating system" in detail


def kubelet_client(node: Node) -> dict[str, set[str]]:
    """Return the reasons of the kubelet's client certificate, by the name of the entry that has it."""
    wanted = ("kubelet-client", "kubelet.kubeconfig")
    found = {each.seen.name for each in judged(node).statuses if each.seen.name.startswith(wanted)}
    return {name: reasons(judged(node), name) for name in found}


def test_a_certificate_that_kubelet_conf_embeds_is_watched(node: Node) -> None:
    """If kubelet.conf embeds the certificate, the PEM of the kubelet is not missing."""
    leaf, key = node.mint(node.certificate(KUBELET_PEM), start=SOON - timedelta(days=365), end=SOON)
    node.edit_kubeconfig("etc/kubernetes/kubelet.conf", client_certificate=None, client_key=None)
    node.edit_kubeconfig("etc/kubernetes/kubelet.conf", client_certificate_data=pem(leaf), client_key_data=key_pem(key))
    node.path("var/lib/kubelet/pki/kubelet-client-current.pem").unlink()
    found = kubelet_client(node)
    assert found.pop("kubelet.kubeconfig") == {"nearing_expiry"}
    assert list(found.values()) == [{"nonpositive_serial"}]  # the CA in it


def test_a_certificate_that_kubelet_conf_embeds_is_watched_beside_a_pem(node: Node) -> None:
    """If kubelet.conf does not use the PEM of the kubelet, certmond also watches the certificate in kubelet.conf."""
    leaf, key = node.mint(node.certificate(KUBELET_PEM), start=SOON - timedelta(days=365), end=SOON)
    node.edit_kubeconfig("etc/kubernetes/kubelet.conf", client_certificate=None, client_key=None)
    node.edit_kubeconfig("etc/kubernetes/kubelet.conf", client_certificate_data=pem(leaf), client_key_data=key_pem(key))
    found = kubelet_client(node)
    assert found["kubelet.kubeconfig"] == {"nearing_expiry"}
    assert found["kubelet-client"] == {"not_rotating_pem"}


def test_the_pem_of_the_kubelet_is_missing_if_kubelet_conf_refers_to_it(node: Node) -> None:
    """A missing PEM to which kubelet.conf refers is a critical finding, without a second entry."""
    node.path("var/lib/kubelet/pki/kubelet-client-current.pem").unlink()
    assert kubelet_client(node) == {"kubelet-client": {"missing"}}


def test_references_are_never_renewed(node: Node) -> None:
    """An entry of a reference names the operator as the renewer, and the flag."""
    ReferenceNode(node, SOON)
    spec = named(node)["kube-apiserver.oidc-ca-file"].spec
    assert spec.renewed_by == f"its operator (--oidc-ca-file in {API} names it)"


def test_an_external_signer_of_tokens_is_named(node: Node) -> None:
    """The keys of service-account tokens are in the program behind the socket, so certmond cannot watch them."""
    world = ReferenceNode(node, LATER)
    world.add_flags("kube-apiserver", "--service-account-signing-endpoint=/run/signer.sock")
    (finding,) = [item for item in judged(node).loose_findings if item.reason is Reason.NOT_WATCHED]
    assert finding.severity is Severity.INFO
    assert "--service-account-signing-endpoint in /etc/kubernetes/manifests/kube-apiserver.yaml" in finding.message
    assert "the external signer at /run/signer.sock signs service-account tokens" in finding.message


@pytest.mark.parametrize("setting", ["RootDirectory=/x", "RootImage=/x.img"])
def test_a_path_of_the_catalogue_below_another_root_is_not_watched(node: Node, setting: str) -> None:
    """If a unit has another root directory, a path in its flags is a different file than the entry of this path."""
    unit = "etc/systemd/system/etcd.service"
    wanted = node.path("etc/systemd/system/multi-user.target.wants")
    wanted.mkdir(parents=True)
    (wanted / "etcd.service").symlink_to(f"/{unit}")
    node.write(unit, f"[Service]\nExecStart=/usr/bin/etcd --cert-file=/etc/kubernetes/pki/etcd/server.crt\n{setting}\n")
    (finding,) = [item for item in judged(node).loose_findings if item.reason is Reason.NOT_WATCHED]
    assert f"--cert-file in /{unit}: etcd.service sets {setting.partition('=')[0]}=" in finding.message
