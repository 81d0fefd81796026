"""The references, the manual pages and the schema are generated from the code, and committed in their present form."""

from __future__ import annotations

import re
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from certmond.cli.deferred_commands import DeferredCommands
from certmond.cli.main import cli
from certmond.config.loader import load
from certmond.config.model import Config
from certmond.config.parser import parse, schema
from certmond.config.rules import PARTS
from certmond.config.shipped_profiles import profiles
from certmond.config.source_merger import Source
from certmond.errors import ConfigError
from certmond.expose.metrics.exposition import COUNT, FAMILIES, Renderer
from certmond.files.catalog_observer import Store
from certmond.pki.assessment.assess import assess
from docs.generate import OUTPUTS
from docs.generate.commands import verbs
from tests.conftest import real_part
from tests.node import NOW, Node

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", OUTPUTS)
def test_what_is_made_from_the_code_is_committed_as_it_is_now(name: str) -> None:
    """`make reference` changes nothing."""
    assert (ROOT / name).read_text() == OUTPUTS[name](), "run `make reference` and commit what it writes"


@pytest.mark.parametrize("model", [Config, *PARTS.values()])
def test_every_key_has_a_description(model: type[Any]) -> None:
    """Each key of the configuration has a sentence, which schema, reference and manual print."""
    assert not [field.name for field in fields(model) if not field.metadata["description"]]


@pytest.mark.parametrize("part", PARTS)
def test_an_unknown_key_in_a_part_is_an_error(part: str) -> None:
    """Each part of the file with its own keys reports an unknown one."""
    is_list = "items" in schema()["properties"][part]
    text = f"{part}: [{{name: x, nonsense: 1}}]" if is_list else f"{part}: {{nonsense: 1}}"
    with pytest.raises(ConfigError, match=r"nonsense: unknown key; the keys are "):
        parse([Source("config.yaml", text)])


@pytest.mark.long
def test_the_schema_is_one() -> None:
    """The schema is valid by the rules of JSON Schema 2020-12, has a name, and each default is a value that it
    permits.
    """
    whole = schema()
    jsonschema.Draft202012Validator.check_schema(whole)
    assert whole["$id"].startswith("urn:")
    for part in (whole, *whole["$defs"].values()):
        for key in part.get("properties", {}).values():
            if "default" in key:
                # Without `jsonschema.validate`, which checks the whole schema again for each value.
                jsonschema.Draft202012Validator({**key, "$defs": whole["$defs"]}).validate(key["default"])


@pytest.mark.parametrize("name", profiles())
def test_every_profile_is_what_the_schema_permits(name: str) -> None:
    """A shipped profile is a configuration file like any other."""
    jsonschema.validate(yaml.safe_load(profiles()[name]), schema())


def test_the_shipped_file_is_what_the_schema_permits() -> None:
    """config/certmond.yaml without its comment signs is valid, and its first line tells an editor of the schema."""
    text = (ROOT / "config/certmond.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=/usr/share/certmond/config.schema.json\n")
    jsonschema.validate(yaml.safe_load(re.sub(r"(?m)^#(?=\S|  )", "", text)), schema())


def test_every_family_has_its_documented_labels(node: Node) -> None:
    """The labels of each rendered series are those of the table of families, in their order."""
    node.path("etc/kubernetes/pki/apiserver.key").chmod(0o644)
    text = Renderer().metrics(assess(Store(load().certificates, str(node.root)).observe(), NOW))
    reported = {family.name: family.labels for family in (*FAMILIES, COUNT)}
    series = re.findall(r"^(\w+)\{(.*)\} \S+$", text, re.MULTILINE)
    assert {name for name, _ in series} >= set(reported) - {"certmond_certificate_served_matches"}
    assert all(tuple(re.findall(r'(?:^|,)(\w+)="', labels)) == reported[name] for name, labels in series)


def test_every_verb_is_documented() -> None:
    """The reference and the manual have each verb of the program, also those of groups."""

    def leaves(group: click.Group, path: str) -> set[str]:
        found = set()
        commands = group.every_command() if isinstance(group, DeferredCommands) else group.commands
        for name, command in commands.items():
            found |= leaves(command, f"{path}{name} ") if isinstance(command, click.Group) else {f"{path}{name}"}
        return found

    assert {verb.name for verb in verbs()} == leaves(cli, "")
    assert all(verb.meaning.endswith(".") for verb in verbs())


def test_every_verb_has_a_page() -> None:
    """`man certmond renew` shows a page, and so does each other first word after `certmond`. There is no other page."""
    pages = {page.name for page in (ROOT / "docs/man").iterdir()}
    assert pages == {"certmond.8", "certmond.yaml.5", *(f"certmond-{name}.8" for name in cli.every_command())}
    for verb in verbs():
        text = (ROOT / f"docs/man/certmond-{verb.name.partition(' ')[0]}.8").read_text().replace("\\-", "-")
        assert f"certmond {verb.name}" in text
        assert all(option.written.replace("…", "...") in text for option in verb.options)


@pytest.mark.real("man")
@pytest.mark.parametrize("page", sorted((ROOT / "docs/man").iterdir()), ids=lambda page: page.name)
def test_a_manual_page_is_good_roff(page: Path) -> None:
    """man(1) formats each page and has nothing to warn of."""
    done = subprocess.run(
        [real_part("man"), "--warnings", "--encoding=UTF-8", "--local-file", str(page)],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert not done.stderr
    assert "\nNAME\n" in done.stdout
