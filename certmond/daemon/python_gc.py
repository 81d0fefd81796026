"""Exclusion of long-lived objects from Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Exclude the objects that the `with` block creates from garbage collection.

    The collector would otherwise scan the objects of ten thousand certificates in the middle of a pass. Reference
    counting still frees unused objects, except reference cycles, which a pass does not create.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
