"""The picture of the output of `certmond check`."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree as ET

from docs.generate.terminal import check_document, picture


def test_picture(tmp_path: Path) -> None:
    """It shows every certificate and every finding of the node, has no path of the build, and loads nothing."""
    document = check_document(tmp_path)
    made = picture(document)
    ET.fromstring(made)  # noqa: S314 - made here
    words = unescape(re.sub(r"<[^>]*>", " ", made)).replace("\xa0", " ")
    assert all(entry["name"] in words for entry in document["certificates"])
    reasons = {item["reason"] for entry in document["certificates"] for item in entry["findings"]}
    assert reasons == {"malformed", "key_mismatch", "nearing_expiry"}
    assert all(reason in words for reason in reasons)
    assert str(tmp_path) not in words
    assert set(re.findall(r"https?://[^\"' )]+", made)) == {"http://www.w3.org/2000/svg"}
