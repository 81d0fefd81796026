"""The pictures of the page at `/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.generate.pages import VIEWS, draw, shown
from tests.chromium import chromium
from tests.conftest import real_part

IMAGES = Path(__file__).parents[1] / "docs/img"


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
            path = tmp_path / f"{name}.png"
            draw(browser, url, view, path)
            size = path.read_bytes()[16:24]
            assert size == view.width.to_bytes(4) + view.height.to_bytes(4)
            assert (IMAGES / f"{name}.png").read_bytes()[16:24] == size
