"""The documentation matches the code."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

from click.testing import CliRunner

from certmond.cli.deferred_commands import DeferredCommands
from certmond.cli.main import cli
from certmond.config.parser import parse as parse_config
from certmond.config.source_merger import Source
from certmond.expose.documents.activity import activity_document
from certmond.expose.http.web_config import (
    CURVES,
    HEADERS,
    VERSIONS,
    HttpServerConfig,
    RateLimit,
    TlsServerConfig,
    WebConfig,
    parse,
)
from certmond.expose.metrics.exposition import Renderer
from certmond.expose.metrics.own_metrics import Telemetry
from certmond.files.catalog_observer import Store
from certmond.notify.event_log import MESSAGE_IDS
from certmond.pki.assessment.assess import assess
from certmond.pki.planning.steps import Plan
from certmond.pki.rotation.phases import Mode, Phase, Rotation
from certmond.pki.rotation.worker_batches import Workers
from tests import builders
from tests.node import NOW, Node

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()


def test_the_architecture_lists_every_verb() -> None:
    """The section about the processes names each verb of the program, and its list of commands names nothing else."""
    section = (ROOT / "ARCHITECTURE.md").read_text().partition("## Two processes\n")[2].partition("\n## ")[0]
    commands = section[section.index("The commands ") :]
    assert set(re.findall(r"`(?:certmond )?([a-z-]+)`", section)) >= cli.every_command().keys()
    assert set(re.findall(r"`([a-z-]+)`", commands)) <= cli.every_command().keys()


def test_the_changelog_begins_with_this_version() -> None:
    """Each version has a heading with its date, the newest first. Only the first, this one, may be unreleased."""
    found = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    matches = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) \((unreleased|\d{4}-\d\d-\d\d)\)", heading) for heading in found]
    versions = [tuple(map(int, match.groups()[:3])) for match in matches if match]
    assert len(versions) == len(found)
    assert versions == sorted(set(versions), reverse=True)
    assert ".".join(map(str, versions[0])) == version("certmond")
    assert not [heading for heading in found[1:] if "unreleased" in heading]


def test_the_changelog_has_entries_below_headings() -> None:
    """A version consists of distinct headings with entries below each. An entry is a list item that ends with a full
    stop.
    """
    for text in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        _, *parts = re.split(r"^### ", text, flags=re.MULTILINE)
        headings = [part.partition("\n")[0] for part in parts]
        assert headings
        assert len(headings) == len(set(headings))
        for part in parts:
            body = part.partition("\n")[2].strip("\n")
            assert all(re.match(r"- \S|  \S", line) for line in body.split("\n")), part[:60]
            entries = re.split(r"^- ", body, flags=re.MULTILINE)[1:]
            assert entries, part[:60]
            assert not [entry for entry in entries if not entry.rstrip().endswith(".")]


def test_every_metric_is_documented(node: Node) -> None:
    """docs/monitoring.md describes each exported metric family."""
    from certmond.config.loader import load

    assessment = assess(Store(load().certificates, str(node.root)).observe(), NOW)
    text = Renderer().metrics(assessment, Telemetry("observe").text())
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    documented = (DOCS / "monitoring.md").read_text()
    missing = [name for name in families if name not in documented and not name.startswith("certmond_process_")]
    assert not missing


def test_every_message_id_is_documented() -> None:
    """docs/monitoring.md has each kind of journal entry with its MESSAGE_ID, and no two share one."""
    documented = (DOCS / "monitoring.md").read_text()
    assert not [kind for kind, identifier in MESSAGE_IDS.items() if identifier not in documented]
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)


def test_every_field_of_the_activity_is_documented() -> None:
    """docs/monitoring.md describes each field of activity.json."""
    documented = (DOCS / "monitoring.md").read_text()
    old, new = (builders.make_ca().facts for _ in range(2))
    rotation = Rotation("r1", "ca", Mode.OVERLAP, (old,), new, Phase.TRUST, NOW)
    events, counted = [{"at": "", "event": "", "level": "", "message": ""}], Workers(3, 2, 1)
    document = activity_document(Plan(), rotation, (), None, events, workers=counted)
    workers = document["rotation"]["workers"]
    fields = {*document, *document["plan"], *document["rotation"], *workers, *document["events"][0]} - {"schema"}
    assert not [field for field in fields if f"`{field}`" not in documented]


def test_every_option_of_a_root_ca_is_documented() -> None:
    """docs/rotation.md has each verb of `root-ca` with each of its options, and README has each verb."""
    documented, readme = (DOCS / "rotation.md").read_text(), (DOCS.parent / "README.md").read_text()
    shared = {option for parameter in cli.params for option in parameter.opts}
    group = cli.every_command()["root-ca"]
    assert isinstance(group, DeferredCommands)
    for name, verb in group.every_command().items():
        assert f"certmond root-ca {name}" in documented
        assert f"certmond root-ca {name}" in readme
        own = {option for parameter in verb.params for option in parameter.opts if option.startswith("--")} - shared
        assert not [option for option in own - {"--output"} if option not in documented]


def test_every_command_of_the_rotation_is_one() -> None:
    """Each command line in docs/rotation.md has a verb and options that there are."""
    lines = re.findall(r"^ +certmond (root-ca .*?)(?: +#.*)?$", (DOCS / "rotation.md").read_text(), re.MULTILINE)
    assert lines
    for line in lines:
        _, verb, *arguments = line.split()
        group = cli.every_command()["root-ca"]
        assert isinstance(group, DeferredCommands)
        group.commands[verb].make_context(verb, arguments)  # raises for an option that there is not


def test_every_field_of_a_root_ca_is_documented(node: Node) -> None:
    """docs/rotation.md has each field in the JSON of `root-ca show` and `verify`."""
    documented = (DOCS / "rotation.md").read_text()
    runner = CliRunner()
    runner.invoke(cli, ["root-ca", "stage", "--generate", "--key-algorithm", "Ed25519", "--root", str(node.root)])
    for verb in (["show"], ["verify", str(node.path("etc/kubernetes/pki/ca.crt"))]):
        done = runner.invoke(cli, ["root-ca", *verb, "--root", str(node.root), "-o", "json"])
        assert not [
            field for field in re.findall(r'"(\w+)":', done.stdout) if not re.search(rf"`{field}(\[\])?`", documented)
        ]


def test_every_key_of_a_web_configuration_is_documented() -> None:
    """docs/web.md has each key of a web configuration and each header that can be set."""
    documented = (DOCS / "web.md").read_text()
    models = (WebConfig, TlsServerConfig, HttpServerConfig, RateLimit)
    inline = {"client_ca", "tls_server_config", "http_server_config"}
    names = {*HEADERS, *VERSIONS, *CURVES, *(key for model in models for key in model.model_fields)} - inline
    assert not [name for name in names if f"`{name}`" not in documented]


def test_the_examples_of_a_web_configuration_are_ones() -> None:
    """The examples in docs/web.md have no mistake, and set what the page describes."""
    configuration, example, _, entry = re.findall(r"```yaml\n(.*?)```", (DOCS / "web.md").read_text(), re.DOTALL)
    [listed] = [each for each in parse_config([Source("web.md", entry)]).certificates if each.name == "certmond-web"]
    assert (listed.path, listed.mode, listed.key_mode) == ("/etc/certmond/web/tls.crt", 0o640, 0o640)
    assert parse_config([Source("web.md", configuration)]).web_config == "/etc/certmond/web/web.yaml"
    config = parse("web.md", example, DOCS).config
    assert config.tls
    assert config.tls_server_config.client_auth_type == "RequireAndVerifyClientCert"
    assert config.basic_auth_users.keys() == {"prometheus"}
