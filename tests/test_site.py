"""The documentation as a site: every link resolves, and a reader's browser contacts no other host."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FETCHED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    made = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/site/mkdocs.yml", "-d", str(made)]
    done = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, check=False, env={"NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return made


def pages_of(nav: Any) -> Iterator[str]:
    """Yield the files and directories in the navigation of the site."""
    if isinstance(nav, str):
        yield nav
        return
    for each in nav.values() if isinstance(nav, dict) else nav:
        yield from pages_of(each)


class Addresses(HTMLParser):
    """The addresses that a browser loads when it opens a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("rel") != "canonical" and (address := given.get(FETCHED.get(tag, ""))):
            self.found.append(address)


def test_the_navigation_has_each_page_once() -> None:
    """Each page and directory that the navigation names exists, and the navigation names it once. The build drops a
    missing page without a message.
    """
    named = list(pages_of(yaml.safe_load((ROOT / "docs/site/mkdocs.yml").read_bytes())["nav"]))
    assert len(named) == len(set(named)) > 30
    assert [name for name in named if not (ROOT / "docs" / name).exists()] == []


@pytest.mark.long
def test_the_site_is_built_and_contacts_no_other_host(site: Path) -> None:
    """The site builds in strict mode, and no page, style sheet or manifest loads anything from another host."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert not [address for page in pages for address in Addresses(page.read_text()).found if "//" in address]
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//", sheet.read_text())


@pytest.mark.long
def test_every_page_can_be_reached(site: Path) -> None:
    """Each page of docs/ is in the navigation of the first one, or linked from a page that is."""
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        page = waiting.pop()
        if page in reached or not page.is_file():
            continue
        reached.add(page)
        links = re.findall(r'<a [^>]*href="([^"#:]+\.html)', page.read_text())
        waiting += [(page.parent / link).resolve() for link in links]
    assert set(site.rglob("*.html")) - reached == {site / "404.html"}


@pytest.mark.long
def test_a_file_that_a_page_leads_to_comes_along(site: Path) -> None:
    """Files next to docs/ in the repository, such as alerts and the security policy, are below source/."""
    assert (site / "source/config/alerts.yaml").read_bytes() == (ROOT / "config/alerts.yaml").read_bytes()
    assert "Guarantees about keys" in (site / "source/SECURITY.html").read_text()
