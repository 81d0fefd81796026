"""Exceptions of certmond, as a tree.

    CertmondError                an operator can act on it; the command line prints it and exits with 3
    ├── ConfigError              the configuration is invalid: carries all problems
    ├── MalformedError           bytes that cannot be parsed; becomes a Reason, never a crash
    │   └── LimitError               bytes that exceed a limit of size or work
    ├── ListenError              the HTTP listener could not be opened
    ├── RuntimeDirError          the runtime directory could not be written or read
    ├── NotRunningError          a command needs a running daemon
    ├── WriteError               a file could not be written; the old file remains
    │   └── StateError           the state directory cannot be used: certmond reads and writes no file in it
    ├── BusyError                another certmond is writing on this node
    ├── KeyUnusableError         a private key could not be read or used
    ├── RotationError            a rotation cannot begin, continue or be aborted; it stays in its phase
    ├── LostError                this node has lost the restart lock; another node may hold it
    ├── OvertakenError           another writer changed the cluster's record first; read it again
    ├── RestartError             certmond could not identify a service, or has not restarted it
    │   ├── IdleError            the service does not run
    │   └── TriedError           the restart began and failed, and may have had an effect
    └── SigningError             a certificate was not issued, and the old certificate remains
        ├── RefusedError         the signer refuses; the same request gets the same answer
        │   ├── UnknownUserError     the Kubernetes API does not know the user
        │   └── UntrustedError       another user can change the program: certmond does not run it
        ├── UnreachableError     the signer did not answer; a later request may succeed
        │   └── UnknownServerError   the server of the Kubernetes API has a certificate of an untrusted CA
        └── WaitingError         the signer has not decided yet; carries its cookie and the delay

A fact about the node (a missing file, a broken certificate) is a value with a Reason. An exception means that certmond
could not do what was requested.
"""

from __future__ import annotations


class CertmondError(Exception):
    """A failure with one sentence that names the fact and the remedy."""


class ConfigError(CertmondError):
    """The configuration is invalid. `problems` has one sentence for each problem."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MalformedError(CertmondError):
    """Bytes that cannot be parsed."""


class LimitError(MalformedError):
    """Bytes that exceed a limit of size or work. certmond passes them to no library. The message has the limit."""


class ListenError(CertmondError):
    """The HTTP listener could not be opened."""


class RuntimeDirError(CertmondError):
    """The runtime directory could not be written, or has unexpected contents."""


class NotRunningError(CertmondError):
    """No daemon with an assessment is running."""


class WriteError(CertmondError):
    """Files could not be replaced. The old files remain, unless a sentence of `problems` reports otherwise.

    `problems` has one sentence for each obstacle.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StateError(WriteError):
    """Another user can change the state directory, or a later version of certmond wrote it.

    certmond used and changed nothing in it, and wrote nothing on the node.
    """


class BusyError(CertmondError):
    """Another process of certmond is writing on this node. A later attempt may succeed."""


class KeyUnusableError(CertmondError):
    """A private key could not be read or used. The message never quotes the key."""


class RotationError(CertmondError):
    """A rotation of a trust anchor cannot begin, continue or be aborted. It stays in its phase."""


class LostError(CertmondError):
    """This node has lost the restart lock. A restart in progress may finish. certmond begins no other restart."""


class OvertakenError(CertmondError):
    """Another writer changed the record first, and certmond wrote nothing. Decisions from the older record are void."""


class RestartError(CertmondError):
    """certmond has not restarted a service: it is not reachable, it is another service, or its manager refused."""


class IdleError(RestartError):
    """A service does not run, so certmond does not restart it. The operator who stopped the service must start it."""


class TriedError(RestartError):
    """The restart of a service began and failed. It may have had an effect."""


class SigningError(CertmondError):
    """A certificate was not issued. Nothing was written."""


class RefusedError(SigningError):
    """The signer refuses this certificate, or issued another one than requested."""


class UnknownUserError(RefusedError):
    """The Kubernetes API does not know the user of a kubeconfig: the API does not trust the CA of the user."""


class UntrustedError(RefusedError):
    """Another user can change a program that the configuration names. certmond does not run the program."""


class UnreachableError(SigningError):
    """The signer was not reachable, or did not answer in time."""


class UnknownServerError(UnreachableError):
    """No CA that a kubeconfig trusts has signed the certificate of the Kubernetes API."""


class WaitingError(SigningError):
    """The signer has not decided yet. The caller repeats the request after `seconds`, with the signer's `cookie`."""

    def __init__(self, message: str, seconds: float, cookie: str) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.cookie = cookie


def defect(error: Exception) -> str:
    """Return a message for an unexpected exception: its type and place, without its text, which may quote a key."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"an unexpected {type(error).__name__} in {place}; please report it"
