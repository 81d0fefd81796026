"""Guard around library calls on untrusted bytes: each exception becomes a MalformedError with one sentence.

Owns the list of these exceptions. For damaged input, cryptography and OpenSSL raise ValueError, TypeError,
UnsupportedAlgorithm and OverflowError, but also InternalError, RecursionError and pyo3's PanicException, which derives
directly from BaseException.
"""

from __future__ import annotations

from types import TracebackType

from cryptography.exceptions import InternalError

from certmond.errors import MalformedError

_PANIC = "PanicException"  # pyo3 creates the module of this class at run time, so it cannot be imported
_LONGEST = 200  # characters of the library's message


class guarded:  # noqa: N801 - it is read as a statement: with guarded("…"):
    """Run a block, and raise MalformedError with `sentence` for any exception of a library.

    The library's message follows only with `quotable`, because it may quote the bytes. KeyboardInterrupt, SystemExit,
    MemoryError and MalformedError pass through. This is a class, because a generator creates cycles of frames.
    """

    def __init__(self, sentence: str, *, quotable: bool = False) -> None:
        self._sentence, self._quotable = sentence, quotable

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, MalformedError | MemoryError):
            return
        if isinstance(error, Exception):
            message = f" ({_message(error)})" if self._quotable else ""
            raise MalformedError(f"{self._sentence}{message}") from None
        if type(error).__name__ == _PANIC:
            raise MalformedError(self._sentence) from None


def _message(error: Exception) -> str:
    """Return the first line of the library's message, or only the type for an InternalError of OpenSSL."""
    text = str(error).partition("\n")[0][:_LONGEST]
    return text if text and not isinstance(error, InternalError) else type(error).__name__
