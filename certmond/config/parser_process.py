"""Process that parses the configuration, and ends.

pydantic and the schema of the configuration need more memory than the configuration. Therefore, a process that runs for
long leaves them to a child process. Meanwhile, this process can import its own modules.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from certmond.errors import CertmondError, ConfigError

if TYPE_CHECKING:
    from certmond.config.model import Config

_RESULT, _PROBLEMS = b"+", b"!"
_LENGTH_BYTES = 8  # bytes that encode the length of the content


class ParserProcess:
    """A child process that runs `parse`.

    If the child process cannot start, or sends no complete answer, the method `result` calls `parse` in this process.
    """

    def __init__(self, parse: Callable[[], bytes]) -> None:
        self._parse = parse
        self._pid = self._pipe = 0
        # With several threads, locks of other threads would stay locked in the child process.
        if threading.active_count() == 1:
            with suppress(OSError):
                self._start()

    def _start(self) -> None:
        """Start the child process. Raises OSError if no process or descriptor is available."""
        self._pipe, result = os.pipe()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))  # fork() would print an interrupt
        try:
            self._pid = os.fork()
            if not self._pid:
                self._run(result)
        except OSError:
            os.close(self._pipe)
            os.close(result)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(result)

    def _run(self, result: int) -> NoReturn:
        """Write the answer to the pipe, and exit. An interrupt ends only the process that reads the answer."""
        with suppress(BaseException), os.fdopen(result, "wb") as pipe:
            kind, content = self._answer()
            pipe.write(kind + len(content).to_bytes(_LENGTH_BYTES) + content)
        os._exit(0)

    def _answer(self) -> tuple[bytes, bytes]:
        try:
            return _RESULT, self._parse()
        except ConfigError as error:
            return _PROBLEMS, json.dumps(error.problems).encode()
        except CertmondError as error:
            return _PROBLEMS, json.dumps([str(error)]).encode()

    def result(self) -> bytes:
        """Return the result of `parse`, once. Raises ConfigError with the problems that `parse` raised."""
        if not self._pid:
            return self._parse()
        with os.fdopen(self._pipe, "rb") as pipe:
            answer = pipe.read()
        with suppress(ChildProcessError):  # the caller of certmond ignores SIGCHLD
            os.waitpid(self._pid, 0)
        kind, length, content = answer[:1], answer[1 : 1 + _LENGTH_BYTES], answer[1 + _LENGTH_BYTES :]
        if not kind or int.from_bytes(length) != len(content):
            return self._parse()  # the child process was killed, or `parse` raised another exception
        if kind == _PROBLEMS:
            raise ConfigError(tuple(json.loads(content)))
        return content


class ForkedLoad:
    """The function `load`, whose first call returns the result of a child process.

    Later calls load the configuration in this process, which then has several threads. Raises ConfigError if the
    configuration is invalid, or if an upgrade has replaced modules of the parser.
    """

    def __init__(self, load: Callable[[], Config]) -> None:
        from certmond.config import model  # noqa: F401, PLC0415 - both processes need it
        from certmond.config.shipped_profiles import profiles  # noqa: PLC0415 - not for a command without a catalogue

        profiles()  # an upgrade can replace the files of the profiles before a reload
        self._load = load
        self._first: ParserProcess | None = ParserProcess(self._packed)

    def __call__(self) -> Config:
        import pickle  # noqa: PLC0415 - a command that does not fork needs no pickle

        if self._first is None:
            try:
                return self._load()
            except CertmondError:
                raise
            except Exception as error:  # an upgrade has replaced a module of the parser, or no descriptor is available
                from certmond.pki.assessment.refused_configuration import RESTART  # noqa: PLC0415 - rarely needed
                from certmond.pki.findings import printable  # noqa: PLC0415 - as above

                fact = f"certmond cannot run its parser of the configuration ({type(error).__name__}: {error})"
                raise ConfigError((f"{printable(fact)}; {RESTART}",)) from error
        first, self._first = self._first, None
        found: Config = pickle.loads(first.result())  # noqa: S301 - the bytes are from the child process
        return found

    def _packed(self) -> bytes:
        import pickle  # noqa: PLC0415 - see above

        return pickle.dumps(self._load(), pickle.HIGHEST_PROTOCOL)
