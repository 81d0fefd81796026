"""Run of one target in a separate process: `python -m fuzz.run TARGET [options and directories of libFuzzer]`.

This module instruments the branches of certmond and of the Python part of PyYAML. At the first input that violates an
invariant, the process exits with a status other than 0.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["certmond", "yaml"], enable_loader_override=False):
    from fuzz.targets import TARGETS

name, *options = sys.argv[1:]
atheris.Setup([sys.argv[0], *options], TARGETS[name])
atheris.Fuzz()
