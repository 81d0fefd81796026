"""`python -m docs.generate`: write every generated reference."""

from __future__ import annotations

from docs.generate import OUTPUTS, ROOT

for name, make in OUTPUTS.items():
    (ROOT / name).parent.mkdir(exist_ok=True)
    (ROOT / name).write_text(make(), encoding="utf-8")
