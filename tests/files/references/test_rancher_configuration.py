"""The flags of components that the configuration of k3s and RKE2 names."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from certmond.pki.catalog.observation import Observation
from certmond.pki.findings import Reason
from tests.builders import make_ca, make_leaf
from tests.distributions import Tree
from tests.node import NOW

ETC, UNITS = "/etc/rancher/k3s", "/etc/systemd/system"
CONFIG = f"{ETC}/config.yaml"
SOON = NOW + timedelta(days=5)


class Server:
    """The configuration of a node of k3s. Each certificate ends at SOON."""

    def __init__(self, root: Path) -> None:
        self._tree = Tree(root)
        self._ca = make_ca("extra", not_after=SOON, not_before=NOW - timedelta(days=300))

    def write(self, path: str, content: bytes | str, mode: int = 0o600) -> str:
        self._tree.write(path, content, mode)
        return path

    def config(self, path: str = CONFIG, /, **fields: object) -> None:
        self.write(path, yaml.safe_dump({name.replace("_", "-"): value for name, value in fields.items()}))

    def trust(self, name: str) -> str:
        return self.write(f"/etc/extra/{name}.crt", self._ca.pem)

    def pair(self, name: str) -> tuple[str, str]:
        leaf = make_leaf(self._ca, extended_usages=["client auth"], not_after=SOON)
        stem = f"/etc/extra/{name}"
        return self.write(f"{stem}.crt", leaf.pem), self.write(f"{stem}.key", leaf.key_pem)

    def unit(self, name: str, *lines: str) -> str:
        """Write an enabled unit with the lines in [Service]. Return its path."""
        path = self.write(f"{UNITS}/{name}", "\n".join(["[Service]", *lines, ""]))
        link = self._tree.at(f"{UNITS}/multi-user.target.wants/{name}")
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(path)
        return path

    def store(self) -> Store:
        return Store((), str(self._tree.root), references=True)

    def named(self) -> dict[str, Observation]:
        """Return the observations of references, by path."""
        return {each.path: each for each in self.store().observe().observations}

    def unwatched(self) -> list[str]:
        found = assess(self.store().observe(), NOW).loose_findings
        return [each.message for each in found if each.reason is Reason.NOT_WATCHED]


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


@pytest.mark.parametrize(
    ("argument", "flag", "component"),
    [
        ("kube-apiserver-arg", "oidc-ca-file", "kube-apiserver"),
        ("kube-controller-manager-arg", "root-ca-file", "kube-controller-manager"),
        ("kube-scheduler-arg", "client-ca-file", "kube-scheduler"),
        ("kube-cloud-controller-manager-arg", "client-ca-file", "cloud-controller-manager"),
        ("etcd-arg", "peer-trusted-ca-file", "etcd"),
        ("kubelet-arg", "client-ca-file", "kubelet"),
        ("kube-proxy-arg", "new-ca", "kube-proxy"),
    ],
)
@pytest.mark.parametrize("program", ["k3s", "rke2"])
def test_a_flag_of_each_component_is_followed(
    server: Server, program: str, argument: str, flag: str, component: str
) -> None:
    """The entry has the name of the component and the flag, and names the configuration file."""
    path = server.trust("ca")
    file = f"/etc/rancher/{program}/config.yaml"
    server.config(file, **{argument: f"{flag}={path}"})
    (seen,) = server.named().values()
    assert (seen.name, seen.path, seen.named_by) == (f"{component}.{flag}", path, f"--{flag} in {file}")
    assert not server.unwatched()


def test_a_drop_in_replaces_or_extends_the_arguments(server: Server) -> None:
    """certmond merges drop-ins as k3s does, and follows a new one at the next pass."""
    old, added, new = map(server.trust, ("old", "added", "new"))
    server.config(kube_apiserver_arg=[f"oidc-ca-file={old}"], etcd_arg=[f"trusted-ca-file={old}"])
    drop_in = f"{CONFIG}.d/10.yaml"
    server.write(drop_in, yaml.safe_dump({"kube-apiserver-arg+": [f"peer-ca-file={added}"]}))
    store = server.store()
    seen = {each.name: each for each in store.observe().observations}
    assert seen.keys() == {"kube-apiserver.oidc-ca-file", "kube-apiserver.peer-ca-file"}
    assert seen["kube-apiserver.peer-ca-file"].named_by == f"--peer-ca-file in {drop_in}"
    server.config(f"{CONFIG}.d/20.yml", kube_apiserver_arg=f"oidc-ca-file={new}")
    server.write(f"{CONFIG}.d/30.txt", "kube-apiserver-arg: []")
    again = {each.name: each.path for each in store.observe().observations}
    assert again == {"etcd.trusted-ca-file": old, "kube-apiserver.oidc-ca-file": new}


def test_the_flags_of_k3s_itself_are_followed(server: Server) -> None:
    """They name the client certificate for a datastore, and the file with the CAs of registries."""
    (certificate, key), ca, registry = server.pair("db"), server.trust("db-ca"), server.trust("registry")
    server.config(datastore_certfile=certificate, datastore_keyfile=key, datastore_cafile=ca)
    server.write(f"{ETC}/registries.yaml", yaml.safe_dump({"configs": {"a": {"tls": {"ca_file": registry}}}}))
    seen = server.named()
    assert {each.name for each in seen.values()} == {
        "k3s.datastore-certfile", "k3s.datastore-cafile", "k3s.private-registry.ca_file",
    }  # fmt: skip
    assert (seen[certificate].key_path, seen[certificate].spec.usages) == (key, ("client auth",))
    assert seen[registry].named_by == f"ca_file in {ETC}/registries.yaml"


@pytest.mark.parametrize("place", ["config.yaml", "variable", "command"])
def test_the_files_in_the_url_of_a_datastore_are_followed(server: Server, place: str) -> None:
    """The parameters of the URL name the client certificate and the CAs. No message has the password in the URL."""
    (certificate, key), ca = server.pair("db"), server.trust("db-ca")
    url = f"postgres://k3s:hunter2@db/k3s?sslcert={certificate}&sslkey={key}&sslrootcert={ca}"
    if place == "config.yaml":
        server.config(datastore_endpoint=url)
    elif place == "variable":
        server.write("/etc/k3s.env", f"K3S_DATASTORE_ENDPOINT='{url}'\n")
        server.unit("k3s.service", "EnvironmentFile=/etc/k3s.env", "ExecStart=/usr/local/bin/k3s server")
    else:
        server.unit("k3s.service", f"ExecStart=/usr/local/bin/k3s server --datastore-endpoint={url}")
    seen = server.named()
    assert (seen[certificate].key_path, seen[certificate].spec.usages) == (key, ("client auth",))
    named_by = {
        "config.yaml": f"datastore-endpoint in {CONFIG}", "variable": "K3S_DATASTORE_ENDPOINT in /etc/k3s.env",
        "command": f"--datastore-endpoint in {UNITS}/k3s.service",
    }  # fmt: skip
    assert {(each.path, each.named_by) for each in seen.values()} == {
        (certificate, named_by[place]), (ca, named_by[place])
    }  # fmt: skip
    assert "hunter2" not in repr([*seen.values()])


def test_a_missing_file_in_the_url_of_a_datastore_is_a_finding(server: Server) -> None:
    """The finding names the file and no part of the URL."""
    server.config(datastore_endpoint="postgres://k3s:hunter2@db/k3s?sslrootcert=/etc/extra/none.crt&sslcert=db.crt")
    (missing,) = (each for each in server.named().values() if each.path == "/etc/extra/none.crt")
    assert [each.reason for each in missing.faults] == [Reason.MISSING]
    assert server.unwatched()
    assert "hunter2" not in f"{missing}{server.unwatched()}"


_PARTS = st.text("QZXJ,/;:?#&=@%+-.' ", max_size=6)
_PATHS = st.sampled_from(["/etc/db/ca.crt", "db.crt", "", "-----BEGIN%20PRIVATE%20KEY-----%0AQZXJQZXJ", "/a.crt?"])


@st.composite
def _endpoints(draw: st.DrawFn) -> tuple[str, str]:
    """Return the URL of a datastore, and the password in the URL."""
    password = f"{draw(_PARTS)}QZXJ{draw(_PARTS)}ZQJX{draw(_PARTS)}"
    scheme = draw(st.sampled_from(["postgres://", "postgresql://", "mysql://", "http://", "/", "//", ",/", ""]))
    parameters = [f"{name}={draw(_PATHS)}" for name in ("sslcert", "sslkey", "sslrootcert", "sslinline")]
    separator = draw(st.sampled_from(["&", "&", ";"]))
    if draw(st.booleans()):
        given = draw(st.permutations([f"password={password}", *parameters]))
        return f"{scheme}db:5432/k3s?{separator.join(given)}", password
    return f"{scheme}k3s:{password}@db/k3s?{separator.join(draw(st.permutations(parameters)))}", password


@pytest.mark.long
@given(_endpoints(), st.sampled_from(["config.yaml", "variable", "command"]))
@example(("postgres://db/k3s?password=QZ,/XJQZX&sslrootcert=/etc/db/ca.crt", "QZ,/XJQZX"), "config.yaml")
@example(("/k3s:QZXJQZ@db/ca.crt", "QZXJQZ"), "config.yaml")
@example(("postgres://db?sslinline=true&sslcert=-----BEGIN%20PRIVATE%20KEY-----%0AQZXJQZXJ", "QZXJ"), "variable")
@example(("postgres://db?sslcert=/etc/db/a.crt;password=QZXJ", "QZXJ"), "command")
@settings(max_examples=150, deadline=None)
def test_no_part_of_the_password_of_a_datastore_is_in_a_finding(endpoint: tuple[str, str], place: str) -> None:
    """The URL of the datastore can contain a password with any characters, or a private key."""
    url, password = endpoint
    with TemporaryDirectory() as directory:
        server = Server(Path(directory))
        if place == "config.yaml":
            server.config(datastore_endpoint=url)
        elif place == "variable":
            quoted = url.replace("'", "")
            server.write("/etc/k3s.env", f"K3S_DATASTORE_ENDPOINT='{quoted}'\n")
            server.unit("k3s.service", "EnvironmentFile=/etc/k3s.env", "ExecStart=/usr/local/bin/k3s server")
        else:
            quoted = url.replace("'", "").replace("%", "%%")
            server.unit("k3s.service", f"ExecStart=/usr/local/bin/k3s server '--datastore-endpoint={quoted}'")
        inventory = server.store().observe()
        output = f"{inventory!r}{assess(inventory, NOW)!r}".replace(directory, "")
    parts = (password[start : start + 4] for start in range(len(password) - 3))
    assert not [part for part in parts if len({*part} & {*"QZXJ"}) > 1 and part in output]
    assert "PRIVATE KEY" not in output


def test_the_command_line_and_the_environment_of_the_unit_count(server: Server) -> None:
    """The flags of k3s.service take precedence, and K3S_CONFIG_FILE is the path of the configuration file."""
    old, new, ca, extra = map(server.trust, ("old", "new", "db", "extra"))
    server.config(kube_apiserver_arg=f"oidc-ca-file={extra}")
    server.config("/srv/k3s.yaml", kube_apiserver_arg=f"oidc-ca-file={old}", etcd_arg=f"trusted-ca-file={old}")
    server.write(f"{UNITS}/k3s.service.env", f"K3S_DATASTORE_CAFILE={ca}\nK3S_TOKEN=/secret\n")
    command = f"/usr/local/bin/k3s server '--kube-apiserver-arg=oidc-ca-file={new}'"
    lines = ["Environment=K3S_CONFIG_FILE=/srv/k3s.yaml", f"EnvironmentFile=-{UNITS}/k3s.service.env"]
    unit = server.unit("k3s.service", *lines, f"ExecStart={command}")
    assert {each.path: each.named_by for each in server.named().values()} == {
        new: f"--oidc-ca-file in {unit}", old: "--trusted-ca-file in /srv/k3s.yaml",
        ca: f"K3S_DATASTORE_CAFILE in {UNITS}/k3s.service.env",
    }  # fmt: skip
    assert not server.unwatched()


@pytest.mark.parametrize("flag", ["-c ", "-c=", "--config ", "--config="])
def test_the_first_flag_with_a_configuration_file_counts(server: Server, flag: str) -> None:
    """k3s reads the file of the first -c or --config, and ignores -config (pkg/configfilearg/parser.go)."""
    path = server.trust("first")
    server.config("/srv/first.yaml", kube_apiserver_arg=f"oidc-ca-file={path}")
    rest = "-config=/srv/none.yaml --config=/srv/none.yaml"
    server.unit("k3s.service", f"ExecStart=/usr/local/bin/k3s server {flag}/srv/first.yaml {rest}")
    assert {each.path: each.named_by for each in server.named().values()} == {path: "--oidc-ca-file in /srv/first.yaml"}


def test_the_mounts_of_the_unit_count_for_all_flags(server: Server) -> None:
    """k3s runs the components in its own mount namespace, and reads its own flags there."""
    server.trust("datastore")
    server.trust("oidc")
    server.config(datastore_cafile="/etc/in-namespace/datastore.crt")
    server.config(f"{CONFIG}.d/a.yaml", kube_apiserver_arg="oidc-ca-file=/etc/in-namespace/oidc.crt")
    server.unit("k3s.service", "BindPaths=/etc/extra:/etc/in-namespace", "ExecStart=/usr/local/bin/k3s server")
    assert server.named().keys() >= {"/etc/extra/datastore.crt", "/etc/extra/oidc.crt"}
    assert not [path for path in server.named() if "in-namespace" in path]


def test_a_unit_that_runs_another_command_of_k3s_does_not_count(server: Server) -> None:
    """The mounts and the configuration file are those of the server, and not those of a unit for snapshots."""
    server.trust("oidc")
    server.config("/srv/k3s.yaml", kube_apiserver_arg="oidc-ca-file=/etc/in-namespace/oidc.crt")
    snapshot = "/usr/local/bin/k3s etcd-snapshot --config /srv/other.yaml"
    server.unit("a-snapshot.service", "BindPaths=/srv:/etc/in-namespace", f"ExecStart={snapshot}")
    command = "ExecStart=/usr/local/bin/k3s server --config /srv/k3s.yaml"
    server.unit("k3s.service", "BindPaths=/etc/extra:/etc/in-namespace", command)
    server.unit("z-snapshot.service", f"ExecStart={snapshot}")
    assert server.named().keys() == {"/etc/extra/oidc.crt"}


SERVERS = ["/bin/k3s server", "/bin/k3s --debug server", "/bin/sh -c 'sleep 1; exec /bin/k3s server'"]


@pytest.mark.parametrize("command", SERVERS)
@pytest.mark.parametrize("other", ["agent --config=/etc/other.yaml", "etcd-snapshot save --config=/etc/other.yaml"])
def test_each_unit_of_k3s_has_its_own_configuration(server: Server, command: str, other: str) -> None:
    """Beside the unit of the server, another unit does not change the configuration of the server."""
    server.config(kube_apiserver_arg=f"oidc-ca-file={server.trust('oidc')}")
    server.config("/etc/other.yaml", kubelet_arg=f"client-ca-file={server.trust('agent')}")
    server.unit("k3s.service", f"ExecStart={command}")
    server.unit("other.service", f"ExecStart=/bin/k3s {other}")
    names = {"kube-apiserver.oidc-ca-file"}
    found = {each.name for each in server.named().values()}
    assert found == (names | {"kubelet.client-ca-file"} if "agent" in other else names)


def test_two_servers_have_their_own_files_mounts_and_data(server: Server) -> None:
    """certmond follows the configuration and the data directory of each server, in the mount namespace of its unit."""
    for name in "ab":
        server.config(f"/{name}/k3s.yaml", kube_apiserver_arg=f"oidc-ca-file={server.trust(name)}")
        fields = {"kind": "KubeletConfiguration", "tlsCertFile": server.pair(f"{name}-served")[0]}
        server.write(f"/{name}/data/agent/etc/kubelet.conf.d/a.conf", yaml.safe_dump(fields))
        command = "ExecStart=/bin/k3s server --config=/own/k3s.yaml --data-dir=/own/data"
        server.unit(f"k3s-{name}.service", command, f"BindPaths=/{name}:/own")
    paths = {each.path for each in server.named().values()}
    assert paths == {f"/etc/extra/{name}.crt" for name in ("a", "b", "a-served", "b-served")}


def test_a_server_of_another_user_beside_an_agent_has_the_default_file(server: Server) -> None:
    """If another user can change the unit of the server, certmond follows the default configuration file."""
    server.config(kube_apiserver_arg=f"oidc-ca-file={server.trust('oidc')}")
    server.unit("k3s-agent.service", "ExecStart=/bin/k3s agent")
    server.unit("k3s.service", "ExecStart=/bin/k3s server")
    server.write(f"{UNITS}/k3s.service", "[Service]\nExecStart=/bin/k3s server\n", 0o622)
    assert [each.name for each in server.named().values()] == ["kube-apiserver.oidc-ca-file"]


def test_a_flag_of_k3s_can_have_one_dash(server: Server) -> None:
    """k3s parses its flags with Go's package flag, which accepts one dash."""
    path = server.trust("db")
    unit = server.unit("k3s.service", f"ExecStart=/usr/local/bin/k3s server -datastore-cafile {path}")
    assert {each.path: each.named_by for each in server.named().values()} == {path: f"--datastore-cafile in {unit}"}


@pytest.mark.parametrize("name", ["kube_controller_arg", "kube_cloud_controller_arg"])
def test_a_hidden_alias_of_a_flag_is_followed(server: Server, name: str) -> None:
    """The former names of kube-controller-manager-arg and kube-cloud-controller-manager-arg still count."""
    path = server.trust("root")
    server.config(**{name: f"requestheader-client-ca-file={path}"})
    assert {each.path for each in server.named().values()} == {path}


def test_an_agent_has_no_flags_of_the_control_plane(server: Server) -> None:
    """k3s ignores the keys of a server on an agent, so the file that such a key names need not exist."""
    kubelet = server.trust("kubelet")
    server.config(kube_apiserver_arg="oidc-ca-file=/none.crt", datastore_cafile="/none.crt",
                  kubelet_arg=f"client-ca-file={kubelet}")  # fmt: skip
    server.unit("k3s-agent.service", "ExecStart=/usr/local/bin/k3s agent")
    assert server.named().keys() == {kubelet}


def test_an_extra_mount_of_rke2_changes_the_path(server: Server) -> None:
    """The flag has the path in the Pod, and certmond reads the file on the host."""
    path = server.trust("oidc")
    fields = {"kube-apiserver-arg": "oidc-ca-file=/oidc/oidc.crt", "kube-apiserver-extra-mount": "/etc/extra:/oidc:ro"}
    server.config("/etc/rancher/rke2/config.yaml", **fields)
    assert server.named().keys() == {path}


@pytest.mark.parametrize("mount", ["etc=/", "/etc/extra", "extra:/", "/etc/extra:oidc"])
def test_an_extra_mount_without_two_absolute_paths_changes_no_path(server: Server, mount: str) -> None:
    """RKE2 refuses such a value, so certmond reads the file at the path in the flag."""
    path = server.trust("oidc")
    fields = {"kube-apiserver-arg": f"oidc-ca-file={path}", "kube-apiserver-extra-mount": mount}
    server.config("/etc/rancher/rke2/config.yaml", **fields)
    assert server.named().keys() == {path}


def test_a_file_that_another_user_can_change_is_not_followed(server: Server) -> None:
    """certmond names the flag and the file, for a configuration, a drop-in and a unit."""
    path = server.trust("ca")
    server.write(CONFIG, f"kube-apiserver-arg: oidc-ca-file={path}", 0o622)
    server.write(f"{CONFIG}.d/1.yaml", f"kube-scheduler-arg: client-ca-file={path}.2", 0o622)
    unit = server.unit("k3s.service", f"ExecStart=/usr/local/bin/k3s server --etcd-arg=trusted-ca-file={path}.3")
    server.write(unit, f"[Service]\nExecStart=/bin/k3s server --etcd-arg=trusted-ca-file={path}.3", 0o622)
    messages = server.unwatched()
    assert not any(each.is_watched for each in server.named().values())
    for flag, file in (("oidc", CONFIG), ("client", f"{CONFIG}.d/1.yaml"), ("trusted", unit)):
        assert [flag in each and f"{file} can be changed by other users" in each for each in messages].count(True) == 1


def test_the_unit_of_another_user_decides_nothing(server: Server) -> None:
    """certmond ignores the flags and the path of the configuration in a drop-in that another user can change."""
    path = server.trust("ca")
    server.config(kube_apiserver_arg=f"oidc-ca-file={path}")
    server.config("/srv/other.yaml", kube_apiserver_arg=f"peer-ca-file={path}.2")
    server.unit("k3s.service", f"ExecStart=/bin/k3s server $ARGS --etcd-arg=trusted-ca-file={path}.3")
    drop_in = f"{UNITS}/k3s.service.d/a.conf"
    server.write(drop_in, '[Service]\nEnvironment="ARGS=--config=/srv/other.yaml"\n', 0o622)
    assert [each.path for each in server.named().values() if each.is_watched] == [path]
    (message,) = server.unwatched()
    assert "trusted-ca-file" in message
    assert f"{drop_in} can be changed by other users" in message


@pytest.mark.parametrize("path", [CONFIG, f"{CONFIG}.d/1.yaml"])
def test_a_configuration_that_is_not_yaml_is_named(server: Server, path: str) -> None:
    """A broken file is a finding with its path."""
    server.write(path, "{")
    (message,) = server.unwatched()
    assert f"any flag in {path}: {path} is not YAML" in message


def test_a_configuration_that_cannot_be_read_is_named(server: Server) -> None:
    """A directory in the place of the file is a finding."""
    server.write(f"{CONFIG}/x", "")
    (message,) = server.unwatched()
    assert f"{CONFIG} is a directory" in message


def test_a_node_without_k3s_has_no_entry(server: Server) -> None:
    """Without a configuration and a service, certmond reports nothing, also about registries.yaml."""
    assert not server.named()
    server.write(f"{ETC}/k3s.yaml", "")
    assert not server.named()
