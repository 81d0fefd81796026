"""certmond on a node of stand-ins: run like `python -m certmond`, with shorter times for what the stand-ins do at once.

The stand-in kubelets update no Pods, write no file slowly, and start a container in a small part of the time. certmond
has constants for these times, because they are those of Kubernetes and of real programs. Only these differ here. How
long certmond waits for a failure stays the same.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from inspect import isfunction

from certmond.cli.main import main

PROGRAM = (__file__,)
"""The arguments of the Python interpreter that run this file."""
TIMES = {
    "certmond.pki.rotation.pod_trust_gates:SYNCED": 1.0,  # until a kubelet has updated its running Pods
    "certmond.controllers.restart_observation:_REST": 1.0,  # in which no file changes before a restart
    "certmond.pki.services.restart_state_machine:INTERVAL": 0.3,  # between two checks of a restarted service
    "certmond.daemon.reconciler:CHECK_INTERVAL": 0.5,  # between two questions to the API about the other nodes
}
"""Seconds by constant of a module. A test adds constants as JSON in the environment variable HURRY."""


def hurry() -> None:
    """Replace the times."""
    for place, seconds in (TIMES | json.loads(os.environ.get("HURRY", "{}"))).items():
        hurry_one(place, seconds, setattr)


def hurry_one(place: str, seconds: float, assign: Callable[[object, str, object], None]) -> None:
    """Replace the constant `place`, such as "certmond.a.b:NAME", by `assign`. Also replace it in modules that have
    imported it, and as the default of a keyword-only parameter in its own module.
    """
    module, _, name = place.partition(":")
    present = getattr(import_module(module), name)
    made = timedelta(seconds=seconds) if isinstance(present, timedelta) else float(seconds)
    for function in filter(isfunction, vars(import_module(module)).values()):
        defaults = function.__kwdefaults__ or {}
        if any(each is present for each in defaults.values()):
            replaced = {key: made if each is present else each for key, each in defaults.items()}
            assign(function, "__kwdefaults__", replaced)
    for loaded in [each for key, each in sys.modules.items() if key.partition(".")[0] == "certmond"]:
        if getattr(loaded, name, None) is present:
            assign(loaded, name, made)


if __name__ == "__main__":
    hurry()
    main()
