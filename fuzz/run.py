"""`python -m fuzz.run TARGET [libFuzzer's options and directories]`: one target in a separate process.

Owns the instrumentation of the branches of certmond and of the Python part of PyYAML. Exits with a status other than 0
at the first input that violates an invariant.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["certmond", "yaml"], enable_loader_override=False):
    from fuzz.targets import TARGETS

name, *options = sys.argv[1:]
atheris.Setup([sys.argv[0], *options], TARGETS[name])
atheris.Fuzz()
