"""mkdocs hooks: what the pages link to in the repository comes along, and the navigation has what there is.

A page of docs/ may link to a file beside docs/, such as ../config/alerts.yaml, as it does where the repository is
read. The site then has that file below source/, and the link leads there. A link that leads to no file is left as it
is, and mkdocs tells of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"^(?: {4}|\t).*$|`[^`\n]*`", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: without pages that are not there, with all of a directory that ends in a slash; the rest last."""
    nav = list(_present(config.nav or []))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    if rest := sorted(pages - set(_named(nav))):
        nav.append({"More": rest})
    config.nav = nav
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """The pages, and every file of the repository that they lead to, through as many pages as it takes."""
    waiting = [DOCS / file.src_uri for file in files if file.is_documentation_page()]
    for page in waiting:
        for _, target, _ in _links(page):
            if target.is_file() and not target.is_relative_to(DOCS) and not files.get_file_from_path(_uri(target)):
                files.append(File.generated(config, _uri(target), abs_src_path=str(target)))
                waiting += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001  # theirs
    """Each link and image of the page, to where its file is on the site; to a directory it becomes mere text."""
    here = _of(page.file.src_uri)

    def lead(link: re.Match[str]) -> str:
        if "://" in link[2] or link[2].startswith("mailto:"):
            return link[0]
        target = _resolved(here, link[2])
        if target.is_dir():
            target /= "README.md"
            if not target.is_file():
                return link[1]
        uri = os.path.relpath(_uri(target), Path(page.file.src_uri).parent)
        return f"[{link[1]}]({uri}{link[3] or ''})"

    return _LINK.sub(lead, markdown)


def _present(nav: list[Any]) -> Iterator[Any]:
    for item in nav:
        if isinstance(item, dict):
            for title, inner in item.items():
                if isinstance(inner, str):
                    yield from [item] if (DOCS / inner).is_file() else []
                elif found := list(_present(inner)):
                    yield {title: found}
        elif item.endswith("/"):
            pages = sorted(
                (DOCS / item).glob("*.md"), key=lambda page: (page.name not in {"README.md", "index.md"}, page)
            )
            found = [page.relative_to(DOCS).as_posix() for page in pages]
            if found:
                yield {item.rstrip("/").capitalize(): found}
        elif (DOCS / item).is_file():
            yield item


def _named(nav: list[Any]) -> Iterator[str]:
    for item in nav:
        if isinstance(item, str):
            yield item
        else:
            for inner in item.values():
                yield from _named(inner if isinstance(inner, list) else [inner])


def _links(page: Path) -> Iterator[tuple[str, Path, str | None]]:
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.finditer(text):
        if "://" not in link[2]:
            yield link[1], _resolved(page, link[2]), link[3]


def _resolved(page: Path, link: str) -> Path:
    return Path(os.path.normpath(page.parent / link))


def _of(uri: str) -> Path:
    return ROOT / uri.removeprefix("source/") if uri.startswith("source/") else DOCS / uri


def _uri(target: Path) -> str:
    """Where a file of the repository is on the site."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    return f"source/{os.path.relpath(target, ROOT)}"
