"""The environment in system.conf of systemd."""

from __future__ import annotations

import pytest

from certmond.files.catalog_observer import Store
from tests.files.references.test_unit_files import ServiceNode
from tests.node import Node
from tests.reference_node import EXTRA

CONF = "/etc/systemd/system.conf"


@pytest.fixture
def services(node: Node) -> ServiceNode:
    found = ServiceNode(node)
    found.service("scheduler.service", "ExecStart=/bin/kube-scheduler $ARGS")
    for stem in ("a", "b", "c"):
        found.world.trust(f"{EXTRA}/{stem}")
    return found


def arguments(stem: str) -> str:
    return f'"ARGS=--client-ca-file={EXTRA}/{stem}.crt --v=2"'


def followed(services: ServiceNode) -> list[str]:
    return sorted(each.path.removeprefix(f"{EXTRA}/") for each in services.new().values() if each.is_watched)


@pytest.mark.long
def test_the_default_environment_reaches_each_service(services: ServiceNode) -> None:
    """A variable can have flags, or can itself name a certificate. The variables of systemd itself do not count."""
    services.write(
        CONF,
        f"DefaultEnvironment=A={EXTRA}/c.crt\n[Manager]\nDefaultEnvironment={arguments('a')} TITLE=50%%\n"
        f"DefaultEnvironment=SSL_CERT_FILE={EXTRA}/b.crt\nManagerEnvironment=A={EXTRA}/c.crt\n",
    )
    seen = {each.path.removeprefix(f"{EXTRA}/"): each.named_by for each in services.new().values()}
    assert seen == {
        "a.crt": f"--client-ca-file in {CONF}", "b.crt": f"the variable SSL_CERT_FILE in {CONF}"
    }  # fmt: skip
    assert not services.unwatched()


def test_the_environment_of_a_unit_takes_precedence(services: ServiceNode) -> None:
    """A unit replaces the value of a variable."""
    services.write(CONF, f"[Manager]\nDefaultEnvironment={arguments('a')}\n")
    services.write("/etc/systemd/system/scheduler.service.d/a.conf", f"[Service]\nEnvironment={arguments('b')}\n")
    assert followed(services) == ["b.crt"]


@pytest.mark.long
@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({CONF: arguments("a"), "/usr/lib/systemd/system.conf": arguments("b")}, ["a.crt"]),
        ({CONF: arguments("a"), "/usr/lib/systemd/system.conf.d/9.conf": arguments("b")}, ["b.crt"]),
        (
            {
                "/usr/lib/systemd/system.conf.d/1.conf": arguments("a"),
                "/run/systemd/system.conf.d/1.conf": arguments("b"),
                "/etc/systemd/system.conf.d/0.conf": arguments("c"),
            },
            ["b.crt"],
        ),
        ({CONF: arguments("a"), "/etc/systemd/system.conf.d/1.conf": ""}, []),
        ({"/etc/systemd/system.conf.d/1.txt": arguments("a")}, []),
    ],
)
def test_a_drop_in_follows_the_main_file(services: ServiceNode, files: dict[str, str], found: list[str]) -> None:
    """systemd reads one main file, and then drop-ins by name. An empty value resets the variables."""
    for path, value in files.items():
        services.write(path, f"[Manager]\nDefaultEnvironment={value}\n")
    assert followed(services) == found


def test_a_new_drop_in_is_followed_at_the_next_pass(services: ServiceNode) -> None:
    """The store watches the directories of system.conf."""
    store = Store((), str(services.node.root), references=True)
    store.observe()
    drop_in = services.write("/etc/systemd/system.conf.d/a.conf", f"[Manager]\nDefaultEnvironment={arguments('a')}\n")
    paths = {str(services.node.path(each[1:])) for each in (drop_in, drop_in.rpartition("/")[0], "/etc/systemd")}
    observed = store.observe(frozenset(paths)).observations
    assert f"{EXTRA}/a.crt" in {each.path for each in observed}


def test_a_file_that_another_user_can_change_is_an_obstacle(services: ServiceNode) -> None:
    """Another user never decides which files certmond reads."""
    services.write(CONF, f"[Manager]\nDefaultEnvironment={arguments('a')}\n")
    services.node.path(CONF[1:]).chmod(0o666)
    (message,) = services.unwatched()
    assert f"{CONF} can be changed by other users" in message


def test_a_file_that_certmond_cannot_read_is_named(services: ServiceNode) -> None:
    """certmond reports a file that is too large, because this file can set the flags of a component."""
    services.write(CONF, "#" * 1_100_000)
    (message,) = services.unwatched()
    assert f"any flag in {CONF}" in message
