"""The pictures of the page at `/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generate.pages import VIEWS, draw, shown
from tests.chromium import chromium
from tests.conftest import real_part

IMAGES = Path(__file__).parents[1] / "docs/img"


@pytest.mark.long
@pytest.mark.real("chromium")
def test_pictures(tmp_path: Path) -> None:
    """The pictures show the page in a browser without an error: with findings, a tree, services, a rotation, a plan and
    events, and without a path of the build. docs/img has each of them.
    """
    with shown(tmp_path) as url, chromium(real_part("chromium"), tmp_path) as browser:
        with browser.page() as page:
            page.open(url)
            assert page.run("[...document.querySelectorAll('main .empty')].length") == 0
            assert page.complaints() == []
            said = page.text("#live")
            assert "3 critical findings, 1 warning" in said
            assert "trust all components trust both CAs now" in said
            assert str(tmp_path) not in said
        for name, view in VIEWS.items():
            if not view.new:
                path = tmp_path / f"{name}.png"
                draw(browser, url, view, path)
                assert size(path) == size(IMAGES / path.name) == (view.width, view.height)


@pytest.mark.long
@pytest.mark.real("chromium")
def test_picture_of_a_new_node(tmp_path: Path) -> None:
    """The picture in the tutorial shows the page of a node without a finding, in less than 100 kB."""
    ((name, view),) = [item for item in VIEWS.items() if item[1].new]
    path = tmp_path / f"{name}.webp"
    with shown(tmp_path, new=True) as url, chromium(real_part("chromium"), tmp_path) as browser:
        with browser.page() as page:
            page.open(url)
            assert page.complaints() == []
            said = page.text("#live")
            assert "No findings." in said
            assert "not checked" not in said
            assert str(tmp_path) not in said
        draw(browser, url, view, path)
    assert size(path) == size(IMAGES / path.name) == (view.width, view.height)
    assert (IMAGES / path.name).stat().st_size < 100_000


def size(image: Path) -> tuple[int, int]:
    """Return width and height of an image in PNG, or in the extended format of WebP (RFC 9649, section 2.7)."""
    content = image.read_bytes()
    if image.suffix == ".png":
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    assert content[8:16] == b"WEBPVP8X"
    width, height = (int.from_bytes(content[start : start + 3], "little") + 1 for start in (24, 27))
    return width, height
