"""Context manager that excludes long-lived objects from Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Exclude the objects that the `with` block creates from garbage collection.

    Otherwise, the collector would scan the objects of ten thousand certificates in the middle of a pass.
    """
    # A pass creates no reference cycles, so reference counting is enough.
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
