"""Guard that turns an exception of a library call on untrusted bytes, except MemoryError, into a MalformedError.

For damaged input, cryptography raises many types of exceptions. pyo3's PanicException is derived directly from
BaseException.
"""

from __future__ import annotations

from types import TracebackType

from cryptography.exceptions import InternalError

from certmond.errors import MalformedError

_PANIC = "PanicException"  # pyo3 creates the module of this class at run time, so certmond cannot import the class
_LONGEST = 200  # characters of the library's message


# A class, because a context manager from a generator would create reference cycles of frames.
class guarded:  # noqa: N801 - it is read as a statement: with guarded("…"):
    """Context manager that turns an exception of a library, except MemoryError, into a MalformedError.

    The text of the MalformedError is `sentence`. If `quotable` is True, the text also contains the start of the
    library's message, which can quote the bytes. For a PanicException, the text is only `sentence`.
    """

    def __init__(self, sentence: str, *, quotable: bool = False) -> None:
        self._sentence, self._quotable = sentence, quotable

    def __enter__(self) -> None:
        """Do nothing: only `__exit__` acts."""

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
    """Return the start of the library's message, or the name of the exception's type.

    The name replaces an empty message, and the message of cryptography's InternalError.
    """
    text = str(error).partition("\n")[0][:_LONGEST]
    return text if text and not isinstance(error, InternalError) else type(error).__name__
