"""Context manager that excludes long-lived objects from Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Exclude the objects that the `with` block creates from garbage collection.

    Otherwise the collector would scan the objects of ten thousand certificates in the middle of a pass. Reference
    counting still frees unused objects. It does not free reference cycles, but a pass creates no cycles.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
