"""A small JSON document of the state directory, read with suspicion and replaced as a whole.

Owns the two ends of such a memory: what cannot be read is as if it were not there, unless the caller asks to be told,
and what is written is on the disk, readable by its owner only, or the old one stays. A document of a later version
stays as it is. What is in it is the caller's.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from certmond.errors import MalformedError, StateError
from certmond.pki.findings import printable
from certmond.transaction.dirfd import Place, blaming, opened
from certmond.transaction.state_directory import opened_state, read_state, refuse_record, understood, versioned
from certmond.transaction.temp_file import make_directory, new_file, remove

T = TypeVar("T")


class Memory(Generic[T]):
    """The document `name` below `state_dir`, of the shape that `adapter` knows."""

    def __init__(self, state_dir: Path, name: str, adapter: TypeAdapter[T]) -> None:
        self._state_dir, self._name, self._adapter = state_dir, name, adapter
        self._draft = f".{name}.new"

    def read(self) -> T | None:
        """What is remembered; None where there is nothing that can be used."""
        with suppress(MalformedError, StateError):
            return self.load()
        return None

    def load(self) -> T | None:
        """What is remembered; None where nothing is. Raises MalformedError, with the fact alone, where something is
        there that cannot be used, StateError where another user can change it or a later certmond has written it.
        """
        try:
            return self._adapter.validate_python(self._content())
        except FileNotFoundError:
            return None
        except OSError as error:
            detail = error.strerror or "the system does not say why"
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False, include_context=False)[0]
            detail = " ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        except (ValueError, OverflowError, RecursionError):
            detail = "it is no JSON"
        raise MalformedError(f"{self._state_dir / self._name} cannot be read ({printable(detail)[:200]})")

    def write(self, value: T) -> None:
        """Remember `value` in the place of what was remembered. Raises WriteError, and StateError as `load` does."""
        # By hand, because pydantic's own JSON has no place for a path that is no UTF-8.
        content = json.dumps(versioned(self._adapter.dump_python(value)), indent=1, default=datetime.isoformat).encode()
        with suppress(OSError, ValueError, RecursionError), opened_state(self._state_dir) as directory:
            refuse_record(directory, self._state_dir / self._name)  # a damaged one is replaced
        with blaming(str(self._state_dir / self._name)):
            make_directory(self._state_dir)
            with opened_state(self._state_dir) as directory:
                remove(Place(directory, self._draft))
                with new_file(Place(directory, self._draft), content):
                    pass
                os.rename(self._draft, self._name, src_dir_fd=directory, dst_dir_fd=directory)
                os.fsync(directory)

    def _content(self) -> object:
        """Raises StateError, OSError, ValueError or RecursionError."""
        path = self._state_dir / self._name
        with opened_state(self._state_dir) as directory:
            return understood(json.loads(read_state(directory, path)), str(path))

    def tidy(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        with suppress(OSError), opened(self._state_dir) as directory:
            remove(Place(directory, self._draft))
