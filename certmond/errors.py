"""Hierarchy of the exceptions of certmond.

    CertmondError
    ├── ConfigError
    ├── MalformedError
    │   └── LimitError
    ├── ListenError
    ├── RuntimeDirError
    ├── NotRunningError
    ├── WriteError
    │   └── StateError
    ├── BusyError
    ├── KeyUnusableError
    ├── RotationError
    ├── LostError
    ├── OvertakenError
    ├── RestartError
    │   ├── IdleError
    │   └── TriedError
    └── SigningError
        ├── RefusedError
        │   ├── UnknownUserError
        │   └── UntrustedError
        ├── UnreachableError
        │   └── UnknownServerError
        └── WaitingError

A fact about the node, such as a missing file or a broken certificate, is a finding, not an exception.
"""

from __future__ import annotations


class CertmondError(Exception):
    """Base class of the exceptions of certmond.

    The command prints the message, which contains the fact and the remedy, and exits with the code 3.
    """


class ConfigError(CertmondError):
    """The configuration is invalid. `problems` contains one message for each problem."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MalformedError(CertmondError):
    """certmond cannot parse the bytes of a file or of a response."""


class LimitError(MalformedError):
    """The bytes exceed a limit on their size, or on the work to parse them."""


class ListenError(CertmondError):
    """certmond could not open the HTTP listener."""


class RuntimeDirError(CertmondError):
    """certmond could not write, lock or read the runtime directory."""


class NotRunningError(CertmondError):
    """The daemon is not running, so the assessment might be outdated."""


class WriteError(CertmondError):
    """certmond could not replace files. The old files remain, unless one of the `problems` reports otherwise."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StateError(WriteError):
    """The state directory is unusable, because an untrusted user can change the directory, or a later version of
    certmond has written to the directory.
    """


class BusyError(CertmondError):
    """Another process of certmond is writing files on this node."""


class KeyUnusableError(CertmondError):
    """certmond could not read or use a private key. The message never quotes the key."""


class RotationError(CertmondError):
    """A rotation cannot begin, continue or be aborted. The phase of a rotation in progress does not change."""


class LostError(CertmondError):
    """This node has lost the restart lock, and another node might hold the lock."""


class OvertakenError(CertmondError):
    """Another writer changed the record of the cluster first, so certmond wrote nothing.

    The caller must read the record again, and discard decisions that depend on the older record.
    """


class RestartError(CertmondError):
    """certmond could not restart a service."""


class IdleError(RestartError):
    """The service does not run. Only an operator starts a stopped service."""


class TriedError(RestartError):
    """The restart of a service began and failed. The service might have stopped or restarted."""


class SigningError(CertmondError):
    """The signer issued no usable certificate, and certmond wrote no file."""


class RefusedError(SigningError):
    """The signer refused the request, or issued a certificate that does not match the request."""


class UnknownUserError(RefusedError):
    """The API server rejects the credentials in a kubeconfig, for example because the server does not trust the CA of
    the client certificate.
    """


class UntrustedError(RefusedError):
    """An untrusted user can change a program that the configuration names, so certmond does not run this program."""


class UnreachableError(SigningError):
    """The signer was not reachable, or did not answer in time."""


class UnknownServerError(UnreachableError):
    """The API server serves a certificate whose CA is not in the kubeconfig."""


class WaitingError(SigningError):
    """The signer has not decided on the request yet. The caller must repeat the request after `seconds`, with the same
    `cookie`.
    """

    def __init__(self, message: str, seconds: float, cookie: str) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.cookie = cookie


def defect(error: Exception) -> str:
    """Return a message about an unexpected exception, with its type and the line of code that raised it.

    The message omits the text of the exception, because this text might quote a private key.
    """
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"an unexpected {type(error).__name__} in {place}; please report it"
