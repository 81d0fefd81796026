"""Exceptions of certmond, which form this tree.

    CertmondError                the command line prints the message, on which an operator can act, and exits with 3
    ├── ConfigError              the configuration is invalid; the exception has all problems
    ├── MalformedError           bytes that cannot be parsed; certmond reports a finding
    │   └── LimitError               bytes that exceed a limit of size or work
    ├── ListenError              the HTTP listener could not be opened
    ├── RuntimeDirError          the runtime directory could not be written or read
    ├── NotRunningError          a command needs a running daemon
    ├── WriteError               a file could not be written; the old file remains
    │   └── StateError           the state directory cannot be used; certmond reads and writes no file in it
    ├── BusyError                another certmond is writing on this node
    ├── KeyUnusableError         a private key could not be read or used
    ├── RotationError            a rotation cannot begin, continue or be aborted; its phase does not change
    ├── LostError                this node has lost the restart lock; another node may hold it
    ├── OvertakenError           another writer changed the record of the cluster first
    ├── RestartError             certmond could not restart a service
    │   ├── IdleError            the service does not run
    │   └── TriedError           the restart began and failed; the service may have stopped
    └── SigningError             a certificate was not issued, and the old certificate remains
        ├── RefusedError         the signer refuses the request; a repetition does not help
        │   ├── UnknownUserError     the Kubernetes API does not know the user
        │   └── UntrustedError       another user can change a program; certmond does not run it
        ├── UnreachableError     the signer did not answer; a later request may succeed
        │   └── UnknownServerError   the server of the Kubernetes API has a certificate of an untrusted CA
        └── WaitingError         the signer has not decided yet; certmond asks again after a delay

A fact about the node, such as a missing file or a broken certificate, is no exception: certmond reports it as a finding
with a reason. An exception means that certmond could not execute a request.
"""

from __future__ import annotations


class CertmondError(Exception):
    """Base class of the exceptions of certmond. The message is one sentence with the fact and the remedy."""


class ConfigError(CertmondError):
    """The configuration is invalid. `problems` has one message for each problem."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MalformedError(CertmondError):
    """The bytes of a file or of an answer cannot be parsed."""


class LimitError(MalformedError):
    """The bytes exceed a limit of size or work, so certmond does not parse them. The message has the limit."""


class ListenError(CertmondError):
    """certmond could not open the HTTP listener."""


class RuntimeDirError(CertmondError):
    """certmond could not write or lock the runtime directory, or could not read a file in this directory."""


class NotRunningError(CertmondError):
    """The daemon is not running, so the assessment that a command has read may be outdated."""


class WriteError(CertmondError):
    """certmond could not replace files. The old files remain, unless one of the `problems` reports otherwise.

    `problems` has one message for each problem.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StateError(WriteError):
    """The state directory is unusable: another user can change it, or a later version of certmond has written it.

    certmond used no file of the directory, and wrote nothing on the node.
    """


class BusyError(CertmondError):
    """Another process of certmond is writing files on this node. A later attempt may succeed."""


class KeyUnusableError(CertmondError):
    """certmond could not read or use a private key. The message never quotes the key."""


class RotationError(CertmondError):
    """A rotation cannot begin, continue or be aborted. The phase of a rotation in progress does not change."""


class LostError(CertmondError):
    """This node has lost the restart lock, and another node may hold it.

    A restart in progress may finish. certmond begins no other restart.
    """


class OvertakenError(CertmondError):
    """Another writer changed the record of the cluster first, so certmond wrote nothing.

    The caller must read the record again, and must discard decisions that depend on the older record.
    """


class RestartError(CertmondError):
    """certmond could not restart a service. The message has the reason."""


class IdleError(RestartError):
    """The service does not run, so certmond does not restart it. Only an operator starts a stopped service."""


class TriedError(RestartError):
    """The restart of a service began and failed. The service may have stopped or restarted."""


class SigningError(CertmondError):
    """The signer issued no usable certificate, and certmond wrote no file."""


class RefusedError(SigningError):
    """The signer refuses the request, or issued a certificate that does not match the request."""


class UnknownUserError(RefusedError):
    """The API server rejects the user of a kubeconfig, because it does not trust the CA of the client certificate."""


class UntrustedError(RefusedError):
    """Another user can change a program that the configuration names, so certmond does not run this program."""


class UnreachableError(SigningError):
    """The signer was not reachable, or did not answer in time. A later request may succeed."""


class UnknownServerError(UnreachableError):
    """The API server has a certificate of a CA that the kubeconfig does not trust."""


class WaitingError(SigningError):
    """The signer has not decided yet. The caller repeats the request after `seconds`, and sends the same `cookie`."""

    def __init__(self, message: str, seconds: float, cookie: str) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.cookie = cookie


def defect(error: Exception) -> str:
    """Return a message about an unexpected exception, with its type and the line of code that raised it.

    Omit the text of the exception, because the text may quote a private key.
    """
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"an unexpected {type(error).__name__} in {place}; please report it"
