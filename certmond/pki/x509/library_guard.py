"""Guard for library calls on untrusted bytes: it replaces each exception of the library by a MalformedError.

For damaged input, cryptography and OpenSSL raise ValueError, TypeError, UnsupportedAlgorithm and OverflowError. They
also raise InternalError, RecursionError and pyo3's PanicException, which is derived directly from BaseException.
"""

from __future__ import annotations

from types import TracebackType

from cryptography.exceptions import InternalError

from certmond.errors import MalformedError

_PANIC = "PanicException"  # pyo3 creates the module of this class at run time, so it cannot be imported
_LONGEST = 200  # characters of the library's message


class guarded:  # noqa: N801 - it is read as a statement: with guarded("…"):
    """Context manager that replaces each exception of a library by a MalformedError with the text `sentence`.

    The library's message may quote the bytes, so it follows only if `quotable` is True. The exceptions
    KeyboardInterrupt, SystemExit, MemoryError and MalformedError stay unchanged. This is a class, because a generator
    would create reference cycles of frames.
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
    """Return the start of the first line of the library's message.

    Return the name of the exception's type for an InternalError, and for an exception without a message.
    """
    text = str(error).partition("\n")[0][:_LONGEST]
    return text if text and not isinstance(error, InternalError) else type(error).__name__
