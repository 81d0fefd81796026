"""`python -m fuzz.run TARGET [libFuzzer's options and directories]`: one target in a process of its own.

Owns the instrumentation: certmond, and PyYAML where it is Python, are imported so that each branch
is seen. Ends with a status other than 0 at the first input that breaks a promise.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["certmond", "yaml"], enable_loader_override=False):
    from fuzz.targets import TARGETS

name, *options = sys.argv[1:]
atheris.Setup([sys.argv[0], *options], TARGETS[name])
atheris.Fuzz()
