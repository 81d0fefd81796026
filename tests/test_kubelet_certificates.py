"""The certificates of a kubelet: the file that it serves, and files that no process reads."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from certmond.cli.main import cli
from certmond.config.loader import load
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.assessment.repairable_damage import damage
from certmond.pki.catalog.endpoint import Endpoint, Seen, Served, Unserved
from certmond.pki.findings import Finding, Severity
from certmond.pki.services.service_observation import Live, Survey
from certmond.pki.services.serving_request_state import RequestState
from certmond.pki.services.staleness import Surroundings
from tests.builders import make_ca, make_server
from tests.node import NOW, Node
from tests.reference_node import ReferenceNode

CONFIG, DROP_INS = "var/lib/kubelet/config.yaml", "etc/kubernetes/kubelet.conf.d"
PKI = "/var/lib/kubelet/pki"
REQUESTED, SELF_SIGNED = f"{PKI}/kubelet-server-current.pem", f"{PKI}/kubelet.crt"
FLAGS = "var/lib/kubelet/kubeadm-flags.env"
CA = "etc/kubernetes/pki/ca.crt"
VALIDATION = "--enable-kubelet-cert-cn-validation"
AUTHORITY = f"--kubelet-certificate-authority=/{CA}"
APISERVER = "etc/kubernetes/manifests/kube-apiserver.yaml"

COMMAND = "ExecStart=/usr/bin/kubelet --kubeconfig=/etc/kubernetes/kubelet.conf"
"""The command of a kubelet without a configuration file."""
SOON, LATER = NOW + timedelta(days=5), NOW + timedelta(days=300)


class Kubelet:
    """A kubeadm node whose kubelet has its own settings, and the store that observes the node."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.store = Store(load(None).certificates, str(node.root), references=True)

    def configure(self, **fields: Any) -> None:
        document = yaml.safe_load(self.node.read(CONFIG))
        self.node.replace(CONFIG, yaml.safe_dump(document | fields))

    def write_pair(self, stem: str, end: datetime, subject: str = "node") -> None:
        """Write a serving certificate with the CA that has signed it, as the kubelet creates both, and its key."""
        start = end - timedelta(days=365)
        ca = make_ca("ca", not_after=end, not_before=start)
        leaf = make_server(ca, subject, not_after=end, not_before=start)
        self.node.path(stem[1:]).parent.mkdir(parents=True, exist_ok=True)
        self.node.write(f"{stem[1:]}.crt", leaf.pem + ca.pem)
        self.node.write(f"{stem[1:]}.key", leaf.key_pem)
        self.node.path(f"{stem[1:]}.key").chmod(0o600)

    def enable(self, name: str, *lines: str, instances: Sequence[str] = ()) -> None:
        """Write a unit with the lines in [Service], and enable the unit or its instances."""
        unit = f"etc/systemd/system/{name}.service"
        self.node.path(unit).parent.mkdir(parents=True, exist_ok=True)
        self.node.write(unit, "\n".join(["[Service]", *lines, ""]))
        wanted = self.node.path("etc/systemd/system/multi-user.target.wants")
        wanted.mkdir(exist_ok=True)
        for instance in instances or [name]:
            (wanted / f"{instance}.service").unlink(missing_ok=True)
            (wanted / f"{instance}.service").symlink_to(f"/{unit}")

    def write_requested(self, end: datetime, path: str = REQUESTED) -> None:
        """Write a serving certificate with its key, as the kubelet stores the certificate that it has requested."""
        self.write_pair(f"{path}.tmp", end)
        pair = [self.node.path(f"{path[1:]}.tmp{suffix}") for suffix in (".crt", ".key")]
        self.node.write(path[1:], b"".join(each.read_bytes() for each in pair))
        for each in pair:
            each.unlink()

    def judged(self) -> Assessment:
        return assess(self.store.observe(), NOW)

    def findings(self) -> dict[str, dict[str, tuple[Severity, str]]]:
        """Return the findings of each entry above info: reason -> severity and message."""
        return {
            status.seen.name: {item.reason.value: (item.severity, item.message) for item in status.findings}
            for status in self.judged().statuses
            if status.severity and status.severity.rank
        }

    def names(self) -> set[str]:
        return {status.seen.name for status in self.judged().statuses}


@pytest.fixture
def kubelet(node: Node) -> Kubelet:
    fields = {"kind": "KubeletConfiguration", "authentication": {"x509": {"clientCAFile": f"/{CA}"}}}
    node.write(CONFIG, yaml.safe_dump(fields))
    return Kubelet(node)


@pytest.mark.parametrize("how", ["field", "drop-in", "flag"])
def test_an_absent_requested_certificate_is_a_finding(kubelet: Kubelet, how: str) -> None:
    """If the kubelet requests its serving certificate and has none, the finding has the next command, in each place of
    the setting. certmond does not repair the file, because only the kubelet requests its certificate.
    """
    assert kubelet.findings() == {}
    if how == "field":
        kubelet.configure(serverTLSBootstrap=True)
    elif how == "flag":
        kubelet.node.write(FLAGS, 'KUBELET_KUBEADM_ARGS="--rotate-server-certificates"\n')
    else:
        kubelet.node.write(FLAGS, f'KUBELET_KUBEADM_ARGS="--config-dir=/{DROP_INS}"\n')
        kubelet.node.path(DROP_INS).mkdir()
        kubelet.judged()
        drop_in = {"kind": "KubeletConfiguration", "serverTLSBootstrap": True}
        kubelet.node.write(f"{DROP_INS}/10-tls.conf", yaml.safe_dump(drop_in))
    ((reason, (severity, message)),) = kubelet.findings()["kubelet-server"].items()
    assert (reason, severity) == ("missing", Severity.CRITICAL)
    fact = f"{REQUESTED} does not exist, but the kubelet requests this certificate"
    assert (
        message == f"{fact}, and rejects all clients until this certificate exists; find the request of this node "
        "with `kubectl get csr`, then run: kubectl certificate approve NAME"
    )
    assert len(kubelet.findings()) == 1
    (seen,) = (status.seen for status in kubelet.judged().statuses if status.seen.name == "kubelet-server")
    assert damage(seen) is None


KUBELET = Endpoint.parse("127.0.0.1:10250")


@pytest.mark.parametrize("request_state", [None, RequestState("the cluster has no request", "see the log")])
def test_a_kubelet_that_still_serves_requests_its_certificate_after_a_restart(
    kubelet: Kubelet, request_state: RequestState | None
) -> None:
    """If the kubelet completes a handshake without this file, clients can connect, and the kubelet has not yet
    requested the certificate. The finding is a warning that names the restart, and no state of a request.
    """
    kubelet.configure(serverTLSBootstrap=True)

    def finding(seen: Seen) -> Finding:
        survey = Survey(serving={KUBELET: ("kubelet", REQUESTED)})
        around = Surroundings((), survey, Live(NOW, served={KUBELET: seen}), request=request_state)
        statuses = assess(kubelet.store.observe(), NOW, around=around).statuses
        (found,) = (item for status in statuses if status.seen.path == REQUESTED for item in status.findings)
        return found

    served = finding(Served(b"kubelet.crt", "TLSv1.3", NOW))
    assert (served.reason, served.severity) == ("missing", Severity.WARNING)
    assert served.message == (
        f"{REQUESTED} does not exist: the kubelet serves another certificate at 127.0.0.1:10250, and requests this "
        "certificate only after a restart; run `systemctl restart kubelet`, find the new request of this node with "
        "`kubectl get csr`, then run: kubectl certificate approve NAME"
    )
    refused = finding(Unserved("the handshake failed (internal error)", NOW))
    assert refused.severity is Severity.CRITICAL
    assert "rejects all clients" in refused.message


@pytest.mark.parametrize(
    ("fields", "unused"),
    [
        ({"serverTLSBootstrap": True}, "kubelet-server-self"),
        ({"tlsCertFile": "/etc/own.crt", "tlsPrivateKeyFile": "/etc/own.key"}, "kubelet-server-self"),
    ],
    ids=["requested", "own"],
)
def test_a_left_over_certificate_is_neither_reported_nor_renewed(
    kubelet: Kubelet, fields: dict[str, Any], unused: str
) -> None:
    """certmond reports an expired kubelet.crt only while the kubelet serves this file."""
    kubelet.write_pair(f"{PKI}/kubelet", NOW - timedelta(days=1))
    assert "expired" in kubelet.findings()[unused]
    kubelet.write_pair("/etc/own", NOW + timedelta(days=300))
    kubelet.configure(**fields)
    assert unused not in kubelet.names()
    kubelet.configure(**dict.fromkeys(fields))
    assert "expired" in kubelet.findings()[unused]


@pytest.mark.parametrize("path", [f"{PKI}//kubelet.crt", "./pki/kubelet.crt"])
def test_the_path_of_the_served_certificate_can_have_redundant_parts(kubelet: Kubelet, path: str) -> None:
    """`//` and `./` in tlsCertFile name the same file, so certmond watches the file."""
    kubelet.write_pair(f"{PKI}/kubelet", NOW - timedelta(days=1))
    kubelet.configure(tlsCertFile=path, tlsPrivateKeyFile=path.replace(".crt", ".key"))
    assert "expired" in kubelet.findings()["kubelet-server-self"]


@pytest.mark.parametrize(("left", "reason"), [(5, "nearing_expiry"), (-1, "expired")])
def test_the_certificate_of_the_kubelet_has_one_finding_with_the_command(
    kubelet: Kubelet, left: int, reason: str
) -> None:
    """No CA can renew the certificate that the kubelet signed. The finding and the plan have the command with which the
    kubelet creates a new pair. After the removal of both files, the node has no finding about them.
    """
    kubelet.write_pair(f"{PKI}/kubelet", NOW + timedelta(days=left))
    ((found, (severity, message)),) = kubelet.findings()["kubelet-server-self"].items()
    command = f"run: rm {SELF_SIGNED} {PKI}/kubelet.key && certmond restart kubelet"
    remedy = f"the certificate is self-signed, so no CA can renew it; {command}"
    assert (found, severity, message.partition("; ")[2]) == (reason, Severity.WARNING, remedy)
    words = ["--root", str(kubelet.node.root), "plan", "--at", NOW.isoformat()]
    shown = CliRunner().invoke(cli, words).stdout.replace(f"--root {kubelet.node.root} ", "")
    assert f"held     kubelet-server-self: {remedy}\n" in shown.replace(str(kubelet.node.root), "")
    for end in (".crt", ".key"):
        kubelet.node.path(f"{PKI[1:]}/kubelet{end}").unlink()
    assert kubelet.findings() == {}
    assert "held" not in CliRunner().invoke(cli, words).stdout


def test_a_left_over_requested_certificate_is_not_reported(kubelet: Kubelet) -> None:
    """After the kubelet has stopped to request certificates, certmond ignores the last requested one."""
    kubelet.write_pair(f"{PKI}/kubelet-server-current", NOW - timedelta(days=1))
    pair = (kubelet.node.read(f"{PKI[1:]}/kubelet-server-current{end}") for end in (".crt", ".key"))
    kubelet.node.write(REQUESTED[1:], b"".join(pair))
    assert "kubelet-server" not in kubelet.names()
    kubelet.configure(serverTLSBootstrap=True)
    assert "expired" in kubelet.findings()["kubelet-server"]


def test_a_file_of_the_operator_is_watched(kubelet: Kubelet) -> None:
    """certmond watches the file in tlsCertFile, which has no entry in the catalogue."""
    kubelet.write_pair("/etc/own", NOW + timedelta(days=5))
    kubelet.configure(tlsCertFile="/etc/own.crt", tlsPrivateKeyFile="/etc/own.key")
    assert "nearing_expiry" in kubelet.findings()["kubelet.tlsCertFile"]


@pytest.mark.parametrize(
    ("subject", "flags", "wrong"),
    [
        ("other", [VALIDATION, AUTHORITY], True),
        ("NODE", [VALIDATION, AUTHORITY], False),
        ("other", [f"{VALIDATION}=1", AUTHORITY], True),
        ("other", [f"{VALIDATION}=F", AUTHORITY], False),
        ("other", [VALIDATION], False),
        ("other", [AUTHORITY], False),
    ],
    ids=["wrong", "right", "one", "false", "no authority", "no validation"],
)
def test_the_api_server_can_require_a_common_name(
    kubelet: Kubelet, subject: str, flags: list[str], wrong: bool
) -> None:
    """With --enable-kubelet-cert-cn-validation, the kubelet must serve a certificate with the name of its node."""
    facts = kubelet.store.observe().facts
    name = f"system:node:{facts['node_name']}" if subject == "NODE" else subject
    kubelet.write_pair(f"{PKI}/kubelet", NOW + timedelta(days=300), name)
    manifest = yaml.safe_load(kubelet.node.read(APISERVER))
    command = manifest["spec"]["containers"][0]["command"]
    manifest["spec"]["containers"][0]["command"] = [*command, *flags]
    kubelet.node.replace(APISERVER, yaml.safe_dump(manifest))
    found = kubelet.findings().get("kubelet-server-self", {})
    assert ("wrong_subject" in found) == wrong


def test_every_setting_at_once_has_no_false_finding(tmp_path: Path) -> None:
    """On a healthy node whose files name a certificate by every flag, the kubelet has no finding."""
    node = ReferenceNode(Node(tmp_path), NOW + timedelta(days=300)).node
    assert not [name for name in Kubelet(node).findings() if name.startswith("kubelet")]


@pytest.mark.parametrize("option", ["--version", "--help", "-h"])
def test_a_unit_that_prints_the_version_is_not_the_kubelet(kubelet: Kubelet, option: str) -> None:
    """Even with --config and --kubeconfig, a command that prints the version or the help is not the kubelet."""
    kubelet.enable("a-check", f"{COMMAND} --config=/{CONFIG} {option}")
    kubelet.enable("kube-node", f"{COMMAND} --config=/{CONFIG} --rotate-server-certificates")
    kubelet.write_requested(SOON)
    assert "nearing_expiry" in kubelet.findings()["kubelet-server"]


def test_a_unit_that_prints_the_version_hides_no_environment_file(kubelet: Kubelet) -> None:
    """Beside such a unit, the flags of the kubelet are in the environment files of kubeadm."""
    kubelet.enable("kubelet-version", "Type=oneshot", "ExecStart=/usr/bin/kubelet --version")
    pair = "--tls-cert-file=/etc/own.crt --tls-private-key-file=/etc/own.key"
    kubelet.node.write(FLAGS, f'KUBELET_KUBEADM_ARGS="{pair}"\n')
    kubelet.write_pair("/etc/own", SOON)
    assert "nearing_expiry" in kubelet.findings()["kubelet.tls-cert-file"]


@pytest.mark.parametrize("directory", ["/var/lib/kubelet", PKI])
def test_the_certificates_below_a_bind_mount_are_those_of_the_source(kubelet: Kubelet, directory: str) -> None:
    """If the unit mounts another directory at the directory of the kubelet, certmond watches the client certificate and
    the serving certificate in the other directory, and not the files that the mount hides.
    """
    node = kubelet.node
    kubelet.write_pair(f"{PKI}/kubelet", LATER)
    shutil.copytree(node.path(directory[1:]), node.path("data/kubelet"), symlinks=True)
    shutil.rmtree(node.path(PKI[1:]))
    kubelet.enable("kubelet", f"{COMMAND} --config=/{CONFIG}", f"BindPaths=/data/kubelet:{directory}")
    assert kubelet.findings() == {}
    pki = f"/data/kubelet{PKI.removeprefix(directory)}"
    client, served = "kubelet.kubeconfig.client-certificate", "kubelet.cert-dir"
    paths = {status.seen.name: status.seen.path for status in kubelet.judged().statuses}
    target = node.path(f"{pki[1:]}/kubelet-client-current.pem").readlink()
    assert (paths[client], paths[served]) == (f"{pki}/{target.name}", f"{pki}/kubelet.crt")
    kubelet.write_pair(f"{pki}/kubelet", NOW - timedelta(days=1))
    kubelet.write_requested(NOW - timedelta(days=1), paths[client])
    found = kubelet.findings()
    assert "expired" in found[client]
    assert found[served]["expired"][0] is Severity.WARNING


@pytest.mark.parametrize("setting", ["TemporaryFileSystem=/var/lib/kubelet/pki", "RootDirectory=/x"])
def test_certificates_that_only_the_unit_sees_are_not_watched(kubelet: Kubelet, setting: str) -> None:
    """If no file of the host contains the certificates of the kubelet, each of them is `not_watched`."""
    kubelet.enable("kubelet", f"{COMMAND} --config=/{CONFIG} --cert-dir={PKI}", setting)
    assert kubelet.findings() == {}
    statuses = kubelet.judged().statuses
    unwatched = {status.seen.name for status in statuses if not status.seen.is_watched}
    assert {"kubelet.kubeconfig", "kubelet.cert-dir"} <= unwatched


def test_the_default_directory_hidden_by_a_mount_is_not_watched(kubelet: Kubelet) -> None:
    """A certificate in the default directory is `not_watched`, too, if the unit hides this directory."""
    kubelet.write_pair(f"{PKI}/kubelet", NOW - timedelta(days=1))
    kubelet.enable("kubelet", f"{COMMAND} --config=/{CONFIG}", f"TemporaryFileSystem={PKI}")
    assert kubelet.findings() == {}
    faults = {status.seen.name: status.seen.faults for status in kubelet.judged().statuses if status.seen.faults}
    phrase = "the default of --cert-dir in /etc/systemd/system/kubelet.service"
    assert faults["kubelet.cert-dir"][0].detail == (
        f"certmond does not watch the file of {phrase}: {SELF_SIGNED} is not the path of a file on this host"
    )


@pytest.mark.parametrize("requests", [False, True])
def test_a_certificate_of_a_second_kubelet_is_not_left_over(kubelet: Kubelet, *, requests: bool) -> None:
    """certmond assesses a file that only the second of two kubelets with the same directory serves."""
    kubelet.write_pair("/etc/own", LATER)
    kubelet.configure(tlsCertFile="/etc/own.crt", tlsPrivateKeyFile="/etc/own.key")
    kubelet.enable("kubelet", f"{COMMAND} --config=/{CONFIG}")
    kubelet.write_pair(f"{PKI}/kubelet", NOW - timedelta(days=1))
    kubelet.write_requested(SOON)
    assert {"kubelet-server", "kubelet-server-self"}.isdisjoint(kubelet.names())
    kubelet.node.write("etc/second.yaml", yaml.safe_dump({"port": 10350, "serverTLSBootstrap": requests}))
    kubelet.enable("kubelet2", f"{COMMAND} --config=/etc/second.yaml")
    names = {"kubelet-server", "kubelet-server-self"} & {*kubelet.findings()}
    assert names == {"kubelet-server" if requests else "kubelet-server-self"}


def test_each_instance_of_a_template_serves_its_own_file(kubelet: Kubelet) -> None:
    """Of two instances, the first can serve kubelet.crt, and the second the requested certificate."""
    kubelet.enable("kubelet@", f"{COMMAND} --config=/etc/%i.yaml", instances=["kubelet@a", "kubelet@b"])
    for name in "ab":
        kubelet.node.write(f"etc/{name}.yaml", yaml.safe_dump({"serverTLSBootstrap": name == "b"}))
    kubelet.write_requested(SOON)
    assert "nearing_expiry" in kubelet.findings()["kubelet-server"]
    kubelet.node.path(REQUESTED[1:]).unlink()
    assert "kubelet requests this certificate" in kubelet.findings()["kubelet-server"]["missing"][1]


def test_the_default_configuration_file_counts_only_without_a_unit(kubelet: Kubelet) -> None:
    """The kubelet reads no configuration file without --config, so a file of an earlier installation has no effect."""
    kubelet.write_pair("/etc/old", LATER)
    kubelet.write_pair(f"{PKI}/kubelet", NOW - timedelta(days=1))
    kubelet.configure(tlsCertFile="/etc/old.crt", tlsPrivateKeyFile="/etc/old.key")
    assert "kubelet-server-self" not in kubelet.names()
    kubelet.enable("kubelet", f"{COMMAND} --client-ca-file=/{CA}")
    assert "expired" in kubelet.findings()["kubelet-server-self"]
    assert "kubelet.tlsCertFile" not in kubelet.names()


@pytest.mark.parametrize("config", ["--config-dir=/etc/kubelet.d", f"--config=/{CONFIG}"])
def test_a_flag_counts_with_an_empty_configuration(kubelet: Kubelet, config: str) -> None:
    """The flags decide which file the kubelet serves if the configuration file or the directory contains no field."""
    kubelet.node.write(CONFIG, "{}\n")
    kubelet.node.path("etc/kubelet.d").mkdir()
    kubelet.write_pair(f"{PKI}/kubelet", NOW - timedelta(days=1))
    kubelet.enable("kubelet", f"{COMMAND} {config} --rotate-server-certificates")
    assert "kubelet-server-self" not in kubelet.names()
    assert "missing" in kubelet.findings()["kubelet-server"]


@pytest.mark.parametrize("how", ["flag", "field"])
def test_the_default_directory_of_a_kubelet_with_another_directory_is_left_over(kubelet: Kubelet, how: str) -> None:
    """A kubelet with its own --cert-dir, or with a relative tlsCertFile, does not serve kubelet.crt in the default
    directory. A relative path in a field starts at the directory of the configuration file.
    """
    kubelet.write_pair(f"{PKI}/kubelet", NOW - timedelta(days=1))
    kubelet.write_pair("/srv/pki/kubelet", SOON)
    if how == "flag":
        kubelet.enable("kubelet", f"{COMMAND} --config=/{CONFIG} --cert-dir=/srv/pki")
    else:
        fields = {"tlsCertFile": "pki/kubelet.crt", "tlsPrivateKeyFile": "pki/kubelet.key"}
        kubelet.node.write("srv/kubelet.yaml", yaml.safe_dump(fields))
        kubelet.enable("kubelet", f"{COMMAND} --config=/srv/kubelet.yaml")
    name = "kubelet.cert-dir" if how == "flag" else "kubelet.tlsCertFile"
    assert "nearing_expiry" in kubelet.findings()[name]
    assert "kubelet-server-self" not in kubelet.names()
