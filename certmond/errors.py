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
    """Error for an invalid configuration. `problems` contains one message for each problem."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MalformedError(CertmondError):
    """Error for a file or a response that certmond cannot parse."""


class LimitError(MalformedError):
    """Error for a file or a response that exceeds a limit on its size, or on the work that its parsing requires."""


class ListenError(CertmondError):
    """Failure to open the HTTP listener."""


class RuntimeDirError(CertmondError):
    """Failure to write, lock or read the runtime directory."""


class NotRunningError(CertmondError):
    """Error for an assessment that might be outdated, because the daemon is not running."""


class WriteError(CertmondError):
    """Failure to replace files. The old files remain, unless one of the `problems` reports otherwise."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StateError(WriteError):
    """Error for a state directory that an untrusted user can change, or that a later version of certmond uses."""


class BusyError(CertmondError):
    """Error while another process of certmond writes files on this node."""


class KeyUnusableError(CertmondError):
    """Failure to read or use a private key. The message never quotes the key."""


class RotationError(CertmondError):
    """Failure to begin, continue or abort a rotation. The phase of a rotation in progress does not change."""


class LostError(CertmondError):
    """Loss of the restart lock. Another node might hold this lock now."""


class OvertakenError(CertmondError):
    """Error because another writer has already changed the record of the cluster. certmond wrote nothing.

    The caller must read the record again, and discard decisions that depend on the older record.
    """


class RestartError(CertmondError):
    """Failure to restart a service."""


class IdleError(RestartError):
    """Error for the restart of a service that does not run. Only an operator starts a stopped service."""


class TriedError(RestartError):
    """Failure of a restart that has begun. The service might have stopped or restarted."""


class SigningError(CertmondError):
    """Failure of a request to a signer or to the API server. certmond has changed no file of the node."""


class RefusedError(SigningError):
    """Error for a request that cannot succeed.

    A signer or the API server refuses the request, a setting or file is unusable, or the certificate is not as
    requested.
    """


class UnknownUserError(RefusedError):
    """Rejection of the credentials in a kubeconfig by the API server.

    For example, the API server does not trust the CA of the client certificate.
    """


class UntrustedError(RefusedError):
    """Error for a configured program that certmond does not run, because an untrusted user can change the program."""


class UnreachableError(SigningError):
    """Failure to reach the signer or the API server, or to receive an answer in time."""


class UnknownServerError(UnreachableError):
    """Error for an API server whose certificate is from a CA that the kubeconfig does not contain."""


class WaitingError(SigningError):
    """Error for a request on which the signer has not decided yet.

    The caller must repeat the request after `seconds`, with the same `cookie`.
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
