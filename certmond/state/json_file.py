"""A small JSON document in the state directory. Each read validates the document, and each write replaces the document.

A failed write does not change the document.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Generic, TypeVar

from certmond.errors import MalformedError, StateError
from certmond.pki.findings import printable
from certmond.state.json_decoder import decoded, encoded
from certmond.transaction.dirfd import Place, blaming, opened
from certmond.transaction.state_directory import opened_state, read_state, refuse_record, understood, versioned
from certmond.transaction.temp_file import make_directory, new_file, remove

T = TypeVar("T")


class Memory(Generic[T]):
    """The document `name` below `state_dir`, with a content of a type that `json_decoder` supports."""

    def __init__(self, state_dir: Path, name: str, kind: type[T]) -> None:
        self._state_dir, self._name, self._kind = state_dir, name, kind
        self._draft = f".{name}.new"

    def read(self) -> T | None:
        """Return the content, or None if the file is missing or unusable."""
        with suppress(MalformedError, StateError):
            return self.load()
        return None

    def load(self) -> T | None:
        """Return the content, or None if the file is missing. Raises MalformedError if the file is unusable.

        Raises StateError if an untrusted user can change the file, or if a later version of certmond has written it.
        """
        try:
            content = self._content()
        except FileNotFoundError:
            return None
        except OSError as error:
            detail = error.strerror or "unknown system error"
        except (ValueError, OverflowError, RecursionError):
            detail = "it is not JSON"
        else:
            try:
                return decoded(content, self._kind)
            except ValueError as error:
                detail = str(error)
        # The caller adds the remedy.
        raise MalformedError(f"certmond cannot read {self._state_dir / self._name} ({printable(detail)[:200]})")

    def write(self, value: T) -> None:
        """Replace the content with `value`.

        Raises WriteError if the write fails, and StateError in the cases of `load`.
        """
        document = versioned(encoded(value) if is_dataclass(value) else value)
        content = json.dumps(document, indent=1, default=encoded).encode()
        with suppress(OSError, ValueError, RecursionError), opened_state(self._state_dir) as directory:
            refuse_record(directory, self._state_dir / self._name)  # replace a damaged document
        with blaming(str(self._state_dir / self._name)):
            make_directory(self._state_dir)
            with opened_state(self._state_dir) as directory:
                remove(Place(directory, self._draft))
                with new_file(Place(directory, self._draft), content):
                    pass
                os.rename(self._draft, self._name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)

    def _content(self) -> object:
        """Return the parsed document. Raises StateError, OSError, ValueError or RecursionError."""
        path = self._state_dir / self._name
        with opened_state(self._state_dir) as directory:
            return understood(json.loads(read_state(directory, path)), str(path))

    def tidy(self) -> None:
        """Remove the temporary file of a killed process."""
        with suppress(OSError), opened(self._state_dir) as directory:
            remove(Place(directory, self._draft))
