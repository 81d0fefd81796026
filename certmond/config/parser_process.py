"""Process that parses the configuration, and ends.

pydantic and the schema of the configuration need more memory than the configuration. Therefore, a process that runs for
long leaves them to a child process: to a fork at its start, and to a new Python process at a reload. During the start,
this process can import its own modules.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from certmond.errors import CertmondError, ConfigError

if TYPE_CHECKING:
    from certmond.config.model import Config

_RESULT, _PROBLEMS = b"+", b"!"
_LENGTH_BYTES = 8  # bytes that encode the length of the content
_TIMEOUT = timedelta(seconds=10)  # of a new Python process; systemd's watchdog permits 30 seconds
_PROGRAM = """
import os, pickle, sys
from certmond.config.parser_process import packed_answer
directory, load = pickle.load(sys.stdin.buffer)
os.chdir(directory)
sys.stdout.buffer.write(packed_answer(load))
"""


def packed_answer(load: Callable[[], Config]) -> bytes:
    """Return the answer of a process that calls `load`: the configuration, or its problems."""
    return _answer(partial(_packed, load))


def _packed(load: Callable[[], Config]) -> bytes:
    import pickle  # noqa: PLC0415 - a command that does not fork needs no pickle

    return pickle.dumps(load(), pickle.HIGHEST_PROTOCOL)


def _answer(parse: Callable[[], bytes]) -> bytes:
    """Return the result of `parse`, or its problems, with a kind and a length."""
    try:
        kind, content = _RESULT, parse()
    except ConfigError as error:
        kind, content = _PROBLEMS, json.dumps(error.problems).encode()
    except CertmondError as error:
        kind, content = _PROBLEMS, json.dumps([str(error)]).encode()
    return kind + len(content).to_bytes(_LENGTH_BYTES) + content


def _result_in(answer: bytes) -> bytes | None:
    """Return the result in `answer`, or None for an incomplete answer. Raises ConfigError if it contains problems."""
    kind, length, content = answer[:1], answer[1 : 1 + _LENGTH_BYTES], answer[1 + _LENGTH_BYTES :]
    if kind not in {_RESULT, _PROBLEMS} or len(length) < _LENGTH_BYTES or int.from_bytes(length) != len(content):
        return None
    if kind == _PROBLEMS:
        raise ConfigError(tuple(json.loads(content)))
    return content


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
        parent = os.getpid()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))  # fork() would print an interrupt
        try:
            self._pid = os.fork()
            if not self._pid:
                self._run(result, parent)
        except OSError:
            os.close(self._pipe)
            os.close(result)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(result)

    def _run(self, result: int, parent: int) -> NoReturn:
        """Write the answer to the pipe, and exit. An interrupt ends only the process that reads the answer."""
        with suppress(BaseException), os.fdopen(result, "wb") as pipe:
            from certmond.parent_process import end_with  # noqa: PLC0415 - only the child process needs it

            end_with(parent)
            pipe.write(_answer(self._parse))
        os._exit(0)

    def result(self) -> bytes:
        """Return the result of `parse`, once. Raises ConfigError with the problems that `parse` raised."""
        if not self._pid:
            return self._parse()
        with os.fdopen(self._pipe, "rb") as pipe:
            answer = pipe.read()
        with suppress(ChildProcessError):  # the caller of certmond ignores SIGCHLD
            os.waitpid(self._pid, 0)
        found = _result_in(answer)
        # Without a result, the child process was killed, or `parse` raised another exception.
        return self._parse() if found is None else found


class ForkedLoad:
    """The function `load`, whose calls return the result of a child process.

    The first call returns the result of a fork. At later calls, this process has several threads, and starts a new
    Python process. If that process gives no answer, or if an upgrade has replaced the files of certmond, this process
    loads the configuration itself. Raises ConfigError if the configuration is invalid, or if this process cannot run
    the parser of an upgrade.
    """

    def __init__(self, load: Callable[[], Config]) -> None:
        from certmond.config import model  # noqa: F401, PLC0415 - both processes need it
        from certmond.config.shipped_profiles import profiles  # noqa: PLC0415 - not for a command without a catalogue

        profiles()  # an upgrade can replace the files of the profiles before a reload
        self._load = load
        models = ("certmond.config.", "certmond.pki.catalog.")
        self._installation = _installation(
            each.__file__ or "" for name, each in sys.modules.items() if name.startswith(models)
        )
        self._first: ParserProcess | None = ParserProcess(partial(_packed, load))

    def __call__(self) -> Config:
        import pickle  # noqa: PLC0415 - a command that does not fork needs no pickle

        if self._first is None:
            if (reloaded := self._in_new_process()) is not None:
                return reloaded
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

    def _in_new_process(self) -> Config | None:
        """Return the configuration from a new Python process, or None if this process must parse by itself.

        Raises ConfigError if the configuration is invalid.
        """
        import pickle  # noqa: PLC0415 - see above

        try:
            from certmond.subprocesses import run_python  # noqa: PLC0415 - only for a reload

            ended = run_python(_PROGRAM, _TIMEOUT, pickle.dumps((os.getcwd(), self._load)))
        except (CertmondError, OSError, pickle.PicklingError, AttributeError, TypeError):
            return None
        if ended.status or not self._installation or self._installation != _installation(self._installation):
            return None  # the process failed, or its classes can be those of another version
        if (content := _result_in(ended.output)) is None:
            return None
        try:
            found: Config = pickle.loads(content)  # noqa: S301 - the bytes are from a child process
        except Exception:  # noqa: BLE001 - pickle raises many exceptions for classes of another version
            return None
        return found


def _installation(files: Iterable[str]) -> dict[str, tuple[int, int, int]]:
    """Return values of each file that differ after an upgrade has replaced the file, or {} if a file is missing."""
    found = dict[str, tuple[int, int, int]]()
    for file in files:
        try:
            status = os.stat(file)
        except OSError:
            return {}
        found[file] = status.st_dev, status.st_ino, status.st_mtime_ns
    return found
