"""The flags of components that run as services of systemd."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest

from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Reason
from tests.node import NOW, Node
from tests.reference_node import EXTRA, ReferenceNode

ETC, USR = "/etc/systemd/system", "/usr/lib/systemd/system"
SOON = NOW + timedelta(days=5)
ETCD_ENVIRONMENT = f"""# Environment file for etcd
ETCD_DATA_DIR=/var/lib/etcd
ETCD_TRUSTED_CA_FILE={EXTRA}/e/ca.crt
ETCD_CERT_FILE={EXTRA}/e/member.crt
ETCD_KEY_FILE={EXTRA}/e/member.key
ETCDCTL_CERT={EXTRA}/e/admin.crt
"""


class ServiceNode:
    """A `node` with services. The certificates in the flags of these services end at SOON."""

    def __init__(self, node: Node) -> None:
        self.node, self.world = node, ReferenceNode(node, SOON)
        self.before = {each.name for each in self.observe() if each.named_by}

    def write(self, path: str, content: str) -> str:
        self.world.write(path, content)
        return path

    def service(self, name: str, content: str, directory: str = ETC, *, enabled_in: str = ETC) -> str:
        """Write the section [Service] of a unit, and enable the unit in a directory. Return the path of the unit."""
        path = self.write(f"{directory}/{name}", f"[Unit]\nDescription=x\n\n[Service]\n{content}\n")
        if enabled_in:
            wants = self.node.path(f"{enabled_in[1:]}/multi-user.target.wants")
            wants.mkdir(parents=True, exist_ok=True)
            (wants / name).symlink_to(path)
        return path

    def observe(self) -> tuple[Observation, ...]:
        return Store((), str(self.node.root), references=True).observe().observations

    def new(self) -> dict[str, Observation]:
        """Return the observations of references that the services have added, by name."""
        return {each.name: each for each in self.observe() if each.named_by and each.name not in self.before}

    def judged(self) -> Assessment:
        return assess(Store((), str(self.node.root), references=True).observe(), NOW)

    def unwatched(self) -> list[str]:
        return [each.message for each in self.judged().loose_findings if each.reason is Reason.NOT_WATCHED]


@pytest.fixture
def services(node: Node) -> ServiceNode:
    return ServiceNode(node)


@pytest.mark.long
def test_etcd_of_kubespray_is_followed(services: ServiceNode) -> None:
    """certmond reports each certificate that a variable in the environment file of etcd names."""
    services.world.trust(f"{EXTRA}/e/ca")
    services.world.pair(f"{EXTRA}/e/member")
    services.world.pair(f"{EXTRA}/e/admin")
    services.write("/etc/etcd.env", ETCD_ENVIRONMENT)
    services.service("etcd.service", "Type=notify\nEnvironmentFile=-/etc/etcd.env\nExecStart=/usr/local/bin/etcd")
    seen = {each.path: each for each in services.new().values()}
    assert seen.keys() == {f"{EXTRA}/e/{name}.crt" for name in ("ca", "member", "admin")}
    assert seen[f"{EXTRA}/e/admin.crt"].named_by == "the variable ETCDCTL_CERT in /etc/etcd.env"
    member = seen[f"{EXTRA}/e/member.crt"]
    assert (member.key_path, member.named_by) == (f"{EXTRA}/e/member.key", "ETCD_CERT_FILE in /etc/etcd.env")
    assert member.spec.usages == ("server auth",)
    ending = {each.seen.path for each in services.judged().statuses if each.findings}
    assert seen.keys() <= ending
    assert not services.unwatched()


@pytest.mark.long
def test_the_environment_of_a_service_is_followed(services: ServiceNode) -> None:
    """certmond watches the files of certificates that the environment of a component names, also of the kubelet."""
    for stem in ("unit", "file", "kubelet"):
        services.world.trust(f"{EXTRA}/{stem}")
    services.write("/etc/proxy.env", f"EXTRA_CA={EXTRA}/file.crt\nMISSING={EXTRA}/none.crt\nOPTIONS=--v=2\n")
    unit = services.service(
        "kube-proxy.service",
        f'Environment="SSL_CERT_FILE={EXTRA}/unit.crt"\nEnvironmentFile=/etc/proxy.env\nExecStart=/bin/kube-proxy',
    )
    services.service("kubelet.service", f"Environment=SSL_CERT_FILE={EXTRA}/kubelet.crt\nExecStart=/bin/kubelet")
    seen = {name: each for name, each in services.new().items() if each.is_watched and each.path.endswith(".crt")}
    assert {name: (each.path, each.named_by) for name, each in seen.items()} == {
        "kube-proxy.SSL_CERT_FILE": (f"{EXTRA}/unit.crt", f"the variable SSL_CERT_FILE in {unit}"),
        "kube-proxy.EXTRA_CA": (f"{EXTRA}/file.crt", "the variable EXTRA_CA in /etc/proxy.env"),
        "kubelet.SSL_CERT_FILE": (
            f"{EXTRA}/kubelet.crt", "the variable SSL_CERT_FILE in /etc/systemd/system/kubelet.service"
        ),
    }  # fmt: skip
    (message,) = services.unwatched()
    assert "the variable MISSING in /etc/proxy.env" in message


def test_a_variable_with_the_value_of_a_flag_gives_no_finding(services: ServiceNode) -> None:
    """The kubelet needs its bootstrap kubeconfig only until it has its own, also if a variable has the path."""
    services.service(
        "kubelet.service",
        f"Environment=KUBELET_BOOTSTRAP_KUBECONFIG={EXTRA}/none.conf\n"
        "ExecStart=/bin/kubelet --bootstrap-kubeconfig=${KUBELET_BOOTSTRAP_KUBECONFIG}",
    )
    assert not services.unwatched()


def test_the_command_of_a_drop_in_replaces_that_of_the_unit(services: ServiceNode) -> None:
    """certmond follows the flags in a drop-in, in variables, and outside the table."""
    for stem in ("old", "new", "extra"):
        services.world.trust(f"{EXTRA}/{stem}")
    services.service("kube-apiserver.service", f"ExecStart=/bin/kube-apiserver --oidc-ca-file={EXTRA}/old.crt", USR)
    drop_in = services.write(
        f"{ETC}/kube-apiserver.service.d/10-args.conf",
        f'[Service]\nEnvironment="ARGS=--oidc-ca-file={EXTRA}/new.crt --of-fork {EXTRA}/extra.crt"\n'
        "ExecStart=\nExecStart=/bin/kube-apiserver $ARGS\n",
    )
    seen = services.new()
    assert {each.path for each in seen.values()} == {f"{EXTRA}/new.crt", f"{EXTRA}/extra.crt"}
    assert {each.named_by for each in seen.values()} == {f"--oidc-ca-file in {drop_in}", f"--of-fork in {drop_in}"}


def test_a_drop_in_with_the_name_of_another_hides_it(services: ServiceNode) -> None:
    """Of several drop-ins with one name, systemd reads the drop-in in the first directory of the search path."""
    services.service("kube-scheduler.service", "ExecStart=/bin/kube-scheduler", USR)
    for directory, stem in ((USR, "usr"), (ETC, "etc")):
        command = (
            f"ExecStart=\nExecStart=/bin/kube-scheduler --client-ca-file={services.world.trust(f'{EXTRA}/{stem}')}"
        )
        services.write(f"{directory}/kube-scheduler.service.d/a.conf", f"[Service]\n{command}\n")
    assert {each.path for each in services.new().values()} == {f"{EXTRA}/etc.crt"}


def test_a_unit_with_a_version_in_the_name_of_its_program_is_followed(services: ServiceNode) -> None:
    """The component is known by the name without the version."""
    certificate = services.world.trust(f"{EXTRA}/a")
    services.service("a.service", f"ExecStart=/opt/kube-scheduler-v1.33.2 --client-ca-file={certificate}")
    seen = services.new()
    assert {name: each.path for name, each in seen.items()} == {"kube-scheduler.client-ca-file.2": certificate}


@pytest.mark.long
@pytest.mark.parametrize("directory", [ETC, USR])
def test_only_enabled_services_are_followed(services: ServiceNode, directory: str) -> None:
    """certmond follows the flags of a unit only after the unit is enabled."""
    command = f"ExecStart=/bin/etcd --cert-file={EXTRA}/none.crt --key-file={EXTRA}/none.key"
    services.service("etcd.service", command, USR, enabled_in="")
    assert not services.new()
    services.service("etcd.service", command, USR, enabled_in=directory)
    assert [each.faults[0].reason for each in services.new().values()] == [Reason.MISSING]


def test_a_masked_service_is_not_followed(services: ServiceNode) -> None:
    """`systemctl mask` makes the unit in /etc a symlink to /dev/null, which hides the unit in /usr and its drop-ins."""
    command = f"ExecStart=/bin/etcd --cert-file={EXTRA}/none.crt"
    services.service("etcd.service", command, USR)
    services.write(f"{ETC}/etcd.service.d/a.conf", f"[Service]\n{command}\n")
    services.node.path(f"{ETC[1:]}/etcd.service").symlink_to("/dev/null")
    assert not services.new()


@pytest.mark.long
def test_an_instance_of_a_template_is_followed(services: ServiceNode) -> None:
    """certmond replaces the specifier of the instance, and reports a path with an unknown specifier as not watched."""
    certificate = services.world.trust(f"{EXTRA}/blue")
    unit = services.write(
        f"{ETC}/etcd@.service", f"[Service]\nExecStart=/bin/etcd -trusted-ca-file={EXTRA}/%i.crt --cert-file=/%H.crt\n"
    )
    wants = services.node.path(f"{ETC[1:]}/multi-user.target.wants")
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "etcd@blue.service").symlink_to(unit)
    assert [each.path for each in services.new().values() if each.is_watched] == [certificate]
    (message,) = services.unwatched()
    assert "/%H.crt is not the path of a file on this host" in message


@pytest.mark.long
def test_a_changed_drop_in_is_followed_at_the_next_pass(services: ServiceNode) -> None:
    """The store reads the changed files only, and watches the directories of units and drop-ins."""
    services.service("kube-scheduler.service", "ExecStart=/bin/kube-scheduler")
    drop_in = f"{ETC}/kube-scheduler.service.d/a.conf"
    services.write(drop_in, "[Service]\nExecStart=\nExecStart=/bin/kube-scheduler\n")
    store = Store((), str(services.node.root), references=True)
    before = store.observe().observations
    assert all(one is other for one, other in zip(before, store.observe(frozenset()).observations, strict=True))
    certificate = services.world.trust(f"{EXTRA}/later")
    services.node.replace(
        drop_in[1:], f"[Service]\nExecStart=\nExecStart=/bin/kube-scheduler --client-ca-file={certificate}\n"
    )
    after = store.observe(frozenset({str(services.node.path(drop_in[1:]))})).observations
    assert {each.path for each in after} - {each.path for each in before} == {certificate}
    assert str(services.node.path(ETC[1:])) in store.interest


@pytest.mark.long
def test_a_unit_that_another_user_can_change_is_not_followed(services: ServiceNode) -> None:
    """Another user who can change an environment file never decides which files certmond reads."""
    certificate, key = services.world.pair(f"{EXTRA}/member")
    services.write("/etc/etcd.env", f"ETCD_KEY_FILE={key}\n")
    services.node.path("etc/etcd.env").chmod(0o666)
    services.service("etcd.service", f"EnvironmentFile=/etc/etcd.env\nExecStart=/bin/etcd --cert-file={certificate}")
    assert not [each for each in services.new().values() if each.is_watched]
    assert all("/etc/etcd.env can be changed by other users" in message for message in services.unwatched())
    assert services.unwatched()


@pytest.mark.parametrize(
    ("setting", "fact"),
    [
        ("EnvironmentFile=/etc/none.env", "/etc/none.env does not exist"),
        ("EnvironmentFile=/etc/etcd*.env", "EnvironmentFile=/etc/etcd*.env is not the path of a single file"),
        (
            "RootDirectory=/srv/etcd",
            "etcd.service sets RootDirectory=, so the paths in the unit are not paths on this host",
        ),
    ],
)
def test_a_service_that_certmond_cannot_follow_is_named(services: ServiceNode, setting: str, fact: str) -> None:
    """The finding not_watched names the unit or the flag, and the reason."""
    services.world.trust(f"{EXTRA}/ca")
    unit = services.service("etcd.service", f"{setting}\nExecStart=/bin/etcd --trusted-ca-file={EXTRA}/ca.crt")
    (message,) = services.unwatched()
    assert fact in message
    assert unit in message


@pytest.mark.long
@pytest.mark.parametrize("command", ["/usr/bin/podman run quay.io/coreos/etcd:v3", "/usr/sbin/runuser -u x -- etcd"])
def test_a_component_behind_an_unknown_program_is_named(services: ServiceNode, command: str) -> None:
    """The finding not_watched names the unit, the component and the program, because certmond follows no flag."""
    unit = services.service("db.service", f"ExecStart={command} --trusted-ca-file={EXTRA}/none.crt")
    (message,) = services.unwatched()
    assert f"any flag of etcd in {unit}: " in message
    assert f"the command line of {command.split(maxsplit=1)[0]} are flags of etcd" in message


@pytest.mark.long
def test_a_component_in_a_quadlet_is_named(services: ServiceNode) -> None:
    """The generator of Podman creates an enabled unit with `podman run` for a Quadlet file (podman-systemd.unit(5))."""
    generated = "/run/systemd/generator"
    unit = services.service(
        "db.service",
        "Type=notify\nExecStart=/usr/bin/podman run --name systemd-%N --replace --rm --cgroups=split -d "
        "--sdnotify=conmon -v /srv/pki:/pki quay.io/coreos/etcd:v3.5.21 --trusted-ca-file=/pki/ca.crt",
        generated,
        enabled_in=generated,
    )
    (message,) = services.unwatched()
    assert f"any flag of etcd in {unit}: " in message
    assert "the command line of /usr/bin/podman are flags of etcd" in message


@pytest.mark.parametrize("path", [f"{ETC}/etcd.service", f"{ETC}/etcd.service.d/a.conf"])
def test_an_enabled_unit_that_certmond_cannot_read_is_named(services: ServiceNode, path: str) -> None:
    """certmond reports a unit or a drop-in that is too large, because this file can have the flags of a component."""
    services.service("etcd.service", "ExecStart=/bin/etcd")
    services.write(path, "#" * 1_100_000)
    (message,) = services.unwatched()
    assert f"any flag in {path}" in message
    assert "more than the maximum" in message


def test_other_services_cost_no_reference(services: ServiceNode) -> None:
    """certmond does not follow the flags of a service that runs a different program."""
    services.service("web.service", f"ExecStart=/usr/sbin/web --cert-file={EXTRA}/none.crt\nEnvironmentFile=/none")
    services.service("k3s.service", "ExecStart=/usr/local/bin/k3s server")
    services.service("broken.service", "ExecStart=")
    assert not services.new()


@pytest.mark.long
def test_a_unit_that_another_user_can_change_sets_no_trust_anchor(services: ServiceNode) -> None:
    """Another user who can change an environment file never decides which CA verifies a certificate."""
    spec = {each.name: each for each in services.observe()}["kube-apiserver.etcd-certfile"].spec
    services.write("/etc/etcd.env", f"ETCD_TRUSTED_CA_FILE={services.world.trust(f'{EXTRA}/evil')}\n")
    services.node.path("etc/etcd.env").chmod(0o666)
    services.service("etcd.service", "EnvironmentFile=/etc/etcd.env\nExecStart=/bin/etcd")
    assert {each.name: each for each in services.observe()}["kube-apiserver.etcd-certfile"].spec == spec


def test_a_writable_environment_file_does_not_silence_another_unit(services: ServiceNode) -> None:
    """A user who can change an environment file cannot hide the file of another unit."""
    certificate = services.world.trust(f"{EXTRA}/shared")
    services.write("/etc/a.env", f"ARGS=--client-ca-file={certificate}\n")
    services.node.path("etc/a.env").chmod(0o666)
    services.service("a.service", "EnvironmentFile=/etc/a.env\nExecStart=/bin/cloud-controller-manager $ARGS")
    services.service("z.service", f"ExecStart=/bin/kube-scheduler --client-ca-file={certificate}")
    assert [each.path for each in services.new().values() if each.is_watched] == [certificate]


@pytest.mark.long
@pytest.mark.parametrize("program", ["/bin/kube-scheduler", "/bin/kubelet", "/usr/local/bin/k3s server"])
def test_a_file_of_a_bind_mount_is_watched_at_its_source(services: ServiceNode, program: str) -> None:
    """The path in a flag is a path in the mount namespace of the service. An optional mount needs its source."""
    certificate = services.world.trust(f"{EXTRA}/bound/ca")
    flag = "--datastore-cafile" if "k3s" in program else "--client-ca-file"
    services.service(
        "a.service", f"BindReadOnlyPaths=-{EXTRA}/bound:/etc/in-namespace:rbind\n"
        f"BindPaths=-/srv/none:/etc/in-namespace\nExecStart={program} {flag}=/etc/in-namespace/ca.crt",
    )  # fmt: skip
    (seen,) = (each for each in services.new().values() if each.path.startswith(EXTRA))
    assert (seen.path, bool(seen.certificates), seen.faults) == (certificate, True, ())
    assert not services.unwatched()


@pytest.mark.long
@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ("TemporaryFileSystem=/etc/hidden:ro", "/etc/hidden/ca.crt"),
        ("SetCredential=ca:x", "%d/ca"),
        ("LoadCredentialEncrypted=ca:/etc/ca.cred", "${CREDENTIALS_DIRECTORY}/ca"),
        (f"LoadCredential=ca:{EXTRA}/none.crt\nSetCredential=ca:x", "/run/credentials/a.service/ca"),
    ],
)
def test_a_file_that_only_a_mount_namespace_contains_is_not_watched(
    services: ServiceNode, settings: str, path: str
) -> None:
    """A file in a temporary file system or in an encrypted credential is not missing."""
    unit = services.service("a.service", f"{settings}\nExecStart=/bin/kube-scheduler --client-ca-file={path}")
    (message,) = services.unwatched()
    known = re.sub(r"%d|\$\{.*\}", "/run/credentials/a.service", path)
    assert f"--client-ca-file in {unit}: {known} is not the path of a file on this host" in message
    assert not [each for each in services.new().values() if each.faults[0].reason is Reason.MISSING]


@pytest.mark.long
@pytest.mark.parametrize("path", ["%d/ca", "${CREDENTIALS_DIRECTORY}/ca", "/run/credentials/a.service/ca"])
def test_the_source_of_a_credential_is_watched(services: ServiceNode, path: str) -> None:
    """systemd copies the file in LoadCredential= into the directory of credentials at the start of the service."""
    certificate = services.world.trust(f"{EXTRA}/credential")
    settings = f"LoadCredential=ca:{certificate}\nSetCredential=ca:x"
    services.service("a.service", f"{settings}\nExecStart=/bin/kube-scheduler --client-ca-file={path}")
    assert [each.path for each in services.new().values()] == [certificate]
    assert not services.unwatched()


@pytest.mark.long
@pytest.mark.parametrize(
    ("setting", "path"),
    [
        ("BindPaths=/srv/%H:/etc/hidden", "/etc/hidden/ca.crt"),
        ("BindReadOnlyPaths=-/srv/%H:/etc/hidden", "/etc/hidden/ca.crt"),
        ("BindPaths=/srv/pki:/etc/hidden/%H", "/etc/hidden/node/ca.crt"),
        ("LoadCredential=ca.crt:/srv/%H/ca.crt", "%d/ca.crt"),
    ],
)
def test_a_file_behind_a_mount_with_an_unknown_specifier_is_not_watched(
    services: ServiceNode, setting: str, path: str
) -> None:
    """certmond does not know the host name of systemd, so certmond does not report that the file is missing."""
    services.service("a.service", f"{setting}\nExecStart=/bin/kube-scheduler --client-ca-file={path}")
    (message,) = services.unwatched()
    assert "ca.crt is not the path of a file on this host" in message


@pytest.mark.long
def test_a_kubeconfig_with_a_path_in_the_namespace_is_not_watched(services: ServiceNode) -> None:
    """Clients on the host find no file at this path."""
    kubeconfig = services.write(
        f"{EXTRA}/s.conf",
        json.dumps({"clusters": [{"name": "a", "cluster": {"certificate-authority": "/etc/hidden/ca.crt"}}]}),
    )
    services.service(
        "a.service", f"BindPaths=/srv:/etc/hidden\nExecStart=/bin/kube-scheduler --kubeconfig={kubeconfig}"
    )
    (message,) = services.unwatched()
    assert "refers to /etc/hidden/ca.crt, which is a path in the mount namespace of the service" in message


@pytest.mark.long
@pytest.mark.parametrize("value", ["ETCD_TRUSTED_CA_FILE", "A '%p_TRUSTED_CA_FILE=/none.crt'"])
def test_a_variable_that_systemd_removes_is_not_followed(services: ServiceNode, value: str) -> None:
    """UnsetEnvironment= contains names, or names with values, and counts after all other settings."""
    given = "UnsetEnvironment={}\nEnvironment=ETCD_TRUSTED_CA_FILE=/none.crt ETCD_PEER_TRUSTED_CA_FILE=/other.crt"
    lines = f"{given.format(value)}\nUnsetEnvironment=ETCD_PEER_TRUSTED_CA_FILE=/x\nExecStart=/bin/etcd"
    services.service("ETCD.service", lines)
    assert [each.path for each in services.new().values()] == ["/other.crt"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("unit", "command", "component"),
    [
        ("etcd.service", "/usr/bin/podman kube play --replace /etc/containers/systemd/etcd.yaml", "etcd"),
        ("kube-apiserver@a.service", "/usr/bin/podman start -a my-pod", "kube-apiserver"),
        ("etcd.service", "/bin/mkdir /x\nExecStart=/usr/bin/etcd", ""),
        ("kubelet-monitor.service", "/bin/monitor", ""),
    ],
)
def test_a_unit_with_the_name_of_a_component_is_named(
    services: ServiceNode, unit: str, command: str, component: str
) -> None:
    """If no command of the unit mentions a component, the flags of the component can be in another file."""
    file = services.service(unit, f"ExecStart={command}", "/run/systemd/generator", enabled_in="/run/systemd/generator")
    messages = services.unwatched()
    assert [f"any flag of {component} in {file}" in each for each in messages] == ([True] if component else [])


@pytest.mark.long
def test_a_wrapper_with_the_name_of_the_kubelet_does_not_hide_other_flags(services: ServiceNode) -> None:
    """Without flags in the unit, the flags in the environment file of kubeadm count."""
    path = services.world.trust(f"{EXTRA}/kubelet")
    services.write("/var/lib/kubelet/kubeadm-flags.env", f'KUBELET_KUBEADM_ARGS="--client-ca-file={path}"')
    services.service("kubelet.service", "ExecStart=/usr/local/bin/start-node.sh")
    assert path in [each.path for each in services.new().values() if each.is_watched]
    (message,) = services.unwatched()
    assert "any flag of kubelet in /etc/systemd/system/kubelet.service" in message


@pytest.mark.long
@pytest.mark.parametrize(
    ("directory", "takes_precedence"),
    [
        ("/etc/systemd/system.control", True), ("/run/systemd/system.control", True),
        ("/run/systemd/generator.early", True), ("/run/systemd/generator.late", False),
    ],
)  # fmt: skip
def test_units_in_other_directories_of_systemd_are_read(
    services: ServiceNode, directory: str, *, takes_precedence: bool
) -> None:
    """The directories have the order of precedence in systemd.unit(5)."""
    for name, place in (("new", directory), ("old", ETC)):
        path = services.world.trust(f"{EXTRA}/{name}")
        services.service("a.service", f"ExecStart=/bin/etcd --trusted-ca-file={path}", place, enabled_in=place)
    expected = f"{EXTRA}/{'new' if takes_precedence else 'old'}.crt"
    assert [each.path for each in services.new().values()] == [expected]
    services.node.path(f"{ETC[1:]}/a.service").unlink()
    assert [each.path for each in services.new().values()] == [f"{EXTRA}/new.crt"]


@pytest.mark.long
def test_a_directory_that_systemd_chooses_is_not_watched(services: ServiceNode) -> None:
    """The value of a variable such as STATE_DIRECTORY is unknown, so its file is not missing."""
    services.service("kube-scheduler.service", "ExecStart=/bin/kube-scheduler --client-ca-file=${STATE_DIRECTORY}/ca")
    (message,) = services.unwatched()
    assert "${STATE_DIRECTORY}/ca is not the path of a file on this host" in message
