"""The garbage collector of this process, and what it need not look at."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the collector from whatever is made in the `with`, then and later.

    It would go through all of ten thousand certificates every now and then, in the middle of a pass. What is needed no
    longer is freed all the same, unless it refers to itself, as nothing that a pass makes does.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
