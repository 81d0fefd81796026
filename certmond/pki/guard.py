"""The guard around a library that reads bytes from outside: whatever it raises becomes one sentence about these bytes.

Owns which exceptions that are. cryptography and OpenSSL raise ValueError, TypeError, UnsupportedAlgorithm and
OverflowError for damaged input, but also InternalError, RecursionError and pyo3's PanicException, which derives from
BaseException alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.exceptions import InternalError

from certmond.errors import MalformedError

_PANIC = "PanicException"  # of a module that pyo3 makes; it cannot be imported
_LONGEST = 200  # characters of what the library says


@contextmanager
def guarded(sentence: str, *, quotable: bool = False) -> Iterator[None]:
    """Run the block, and raise MalformedError with `sentence` for whatever a library raises in it.

    What the library says follows only with `quotable`, for it may quote the bytes. KeyboardInterrupt, SystemExit,
    MemoryError and a MalformedError pass.
    """
    try:
        yield
    except (MalformedError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a library may raise any of its own
        said = f" ({_said(error)})" if quotable else ""
        raise MalformedError(f"{sentence}{said}") from None
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise MalformedError(sentence) from None


def _said(error: Exception) -> str:
    """The first line of what the library says; of an error of OpenSSL that it does not know, only the kind."""
    text = str(error).partition("\n")[0][:_LONGEST]
    return text if text and not isinstance(error, InternalError) else type(error).__name__
