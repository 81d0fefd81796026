"""No output of certmond reveals to a user who can write a watched kubeconfig anything about the files that it names."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path

import pytest

from tests import preloaded_certmond
from tests.conftest import unavailable
from tests.daemon_harness import Running, running
from tests.deadline import DEADLINE
from tests.files.test_catalog_observer import cluster, kubeconfig, user
from tests.node import PKI, Node

USER = 1000
HOME = "home/user"
TARGETS = ("/etc/shadow", f"/{PKI}/apiserver.key", "/etc/kubernetes/none.crt", "/root", "/etc/kubernetes/closed.crt")
"""A closed file that is no certificate, a key, a path that is not there, a closed directory, a closed certificate."""


@pytest.fixture
def watched(node: Node, tmp_path: Path) -> tuple[Node, list[str]]:
    """A node with a kubeconfig of user 1000, watched by a pattern."""
    if os.geteuid() != 0:
        unavailable("only root can give files away")
    node.path(HOME).mkdir(parents=True)
    os.chown(node.path(HOME), USER, USER)
    node.write("etc/shadow", b"root:$6$secret:19000:0:99999:7:::\n")
    node.write("etc/kubernetes/closed.crt", node.read(f"{PKI}/apiserver.crt"))
    for name in ("etc/shadow", "etc/kubernetes/closed.crt", f"{PKI}/apiserver.key"):
        node.path(name).chmod(0o600)
    node.path("root").mkdir(mode=0o700)
    config = tmp_path / "config.yaml"
    entry = "{name: users, path: '/home/*/x.conf', kind: kubeconfig, embedded_ca: ca, optional: true}"
    config.write_text(f"node_name: controller-0\ncertificates: [{entry}]\n")
    return node, ["--config", str(config), "--state-dir", str(tmp_path / "state")]


def name_everywhere(node: Node, target: str) -> None:
    """The kubeconfig names `target` as certificate, key and CA."""
    place = node.path(f"{HOME}/x.conf")
    draft = place.with_name("draft")
    credentials = user("a", client_certificate=target, client_key=target)
    draft.write_bytes(kubeconfig([credentials], [cluster("c", certificate_authority=target)], ("a", "c")))
    draft.chmod(0o600)
    os.chown(draft, USER, USER)
    draft.rename(place)


def printed(node: Node, options: list[str], *verb: str) -> str:
    done = preloaded_certmond.run(["--root", str(node.root), *options, *verb], DEADLINE)
    return f"{done.returncode}\n{done.stdout}\n{done.stderr}"


def cleared(text: str, target: str) -> str:
    """Return the text without the path that the user wrote, and without the differences between any two runs."""
    text = re.sub(r'"(taken_at|timestamp)": "[^"]*"', "", text.replace(target, "TARGET"))
    return re.sub(r"(?m)^certmond_(?!certificate|finding).*\n", "", text)


def says(daemon: Running, sentence: str) -> str:
    """Return the line of the journal with that sentence when `status.json` has it as well, and "" before."""
    lines = [line for line in daemon.log.read_text().splitlines() if sentence in line]
    return lines[0] if lines and sentence in json.dumps(daemon.entry("users")) else ""


def has_gone(daemon: Running) -> bool:
    return daemon.entry("users") is None


@pytest.mark.long
def test_every_command_prints_the_same_whatever_is_named(watched: tuple[Node, list[str]]) -> None:
    """`check`, `metrics` and `plan` print the same bytes for a closed file, a key, a missing path, a closed
    directory and a closed certificate, apart from the path that the user wrote.
    """
    node, options = watched
    at = ("--at", "2026-12-01T00:00:00Z")
    verbs = (("check", "-o", "json", *at), ("metrics", *at), ("plan", "-o", "json"))
    seen = dict[tuple[str, ...], set[str]]()
    for target in TARGETS:
        name_everywhere(node, target)
        for verb in verbs:
            seen.setdefault(verb, set()).add(cleared(printed(node, options, *verb).replace(str(node.root), ""), target))
    assert {verb[0]: len(texts) for verb, texts in seen.items()} == {"check": 1, "metrics": 1, "plan": 1}
    (shown,) = seen[verbs[0]]
    assert "TARGET is named in /home/user/x.conf, which user 1000 can change" in shown


@pytest.mark.long
def test_the_daemon_renders_the_same_for_any_reference(watched: tuple[Node, list[str]], tmp_path: Path) -> None:
    """The entry in `status.json`, its lines in `metrics.prom` and the journal are the same for each."""
    node, options = watched
    seen = set[tuple[str, ...]]()
    for number, target in enumerate(TARGETS):  # one daemon for each: the journal limits frequent changes
        work = tmp_path / f"work-{number}"
        work.mkdir()
        name_everywhere(node, "/home/user/first")
        with running(node.root, work, *options) as daemon:
            node.path(f"{HOME}/x.conf").unlink()
            daemon.until(partial(has_gone, daemon), "the entry is removed")
            name_everywhere(node, target)
            raised = partial(says, daemon, f"{target} is named in /home/user/x.conf")
            reported = daemon.until(raised, f"{target} is reported")
            lines = [line for line in daemon.metrics().splitlines() if "/home/user/x.conf" in line]
            texts = (json.dumps(daemon.entry("users")), "\n".join(lines), reported)
            seen.add(tuple(cleared(text, target) for text in texts))
    assert len(seen) == 1
