"""The exceptions of a library for foreign bytes, and the part of them that a caller gets."""

from __future__ import annotations

import pytest
from cryptography.exceptions import InternalError, UnsupportedAlgorithm

from certmond.errors import LimitError, MalformedError
from certmond.pki.x509.library_guard import guarded

SECRET = "MC4CAQAwBQYDK2VwBCIEIA"
PANIC = type("PanicException", (BaseException,), {})


@pytest.mark.parametrize(
    "raised",
    [
        ValueError(SECRET), TypeError(SECRET), OverflowError(SECRET), RecursionError(SECRET), StopIteration(SECRET),
        UnsupportedAlgorithm(SECRET), InternalError(SECRET, []), PANIC(SECRET),
    ],
    ids=lambda each: type(each).__name__,
)  # fmt: skip
def test_any_exception_of_a_library_is_one_sentence_that_quotes_nothing(raised: BaseException) -> None:
    """The rule covers its own errors and a panic of Rust, which derives from BaseException."""
    with pytest.raises(MalformedError) as found, guarded("is no key"):
        raise raised
    assert str(found.value) == "is no key"


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ValueError("a field is missing\nand more"), "is no request (a field is missing)"),
        (ValueError(), "is no request (ValueError)"),
        (InternalError("Unknown OpenSSL error", []), "is no request (InternalError)"),
        (ValueError("x" * 500), f"is no request ({'x' * 200})"),
    ],
)
def test_of_public_bytes_the_first_line_of_the_error_follows(raised: Exception, said: str) -> None:
    """The line has a limit. An error without an explanation of OpenSSL is named by its class."""
    with pytest.raises(MalformedError) as found, guarded("is no request", quotable=True):
        raise raised
    assert str(found.value) == said


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), SystemExit(1), MemoryError(), LimitError("too large")])
def test_an_exception_about_something_else_passes(raised: BaseException) -> None:
    """An interrupt, an exit, a lack of memory, and an existing error about the bytes pass unchanged."""
    with pytest.raises(type(raised)) as found, guarded("is no key"):
        raise raised
    assert found.value is raised
