"""The guard around a library that reads bytes from outside: whatever it raises becomes one sentence about these bytes.

Owns which exceptions that are. cryptography and OpenSSL raise ValueError, TypeError, UnsupportedAlgorithm and
OverflowError for damaged input, but also InternalError, RecursionError and pyo3's PanicException, which derives from
BaseException alone.
"""

from __future__ import annotations

from types import TracebackType

from cryptography.exceptions import InternalError

from certmond.errors import MalformedError

_PANIC = "PanicException"  # of a module that pyo3 makes; it cannot be imported
_LONGEST = 200  # characters of what the library says


class guarded:  # noqa: N801 - it is read as a statement: with guarded("…"):
    """Run a block, and raise MalformedError with `sentence` for whatever a library raises in it.

    What the library says follows only with `quotable`, for it may quote the bytes. KeyboardInterrupt, SystemExit,
    MemoryError and a MalformedError pass. A class, because a generator would leave frames that refer to each other.
    """

    def __init__(self, sentence: str, *, quotable: bool = False) -> None:
        self._sentence, self._quotable = sentence, quotable

    def __enter__(self) -> None:
        """Nothing is to be prepared."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, MalformedError | MemoryError):
            return
        if isinstance(error, Exception):
            said = f" ({_said(error)})" if self._quotable else ""
            raise MalformedError(f"{self._sentence}{said}") from None
        if type(error).__name__ == _PANIC:
            raise MalformedError(self._sentence) from None


def _said(error: Exception) -> str:
    """The first line of what the library says; of an error of OpenSSL that it does not know, only the kind."""
    text = str(error).partition("\n")[0][:_LONGEST]
    return text if text and not isinstance(error, InternalError) else type(error).__name__
