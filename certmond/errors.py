"""The exceptions of certmond, drawn as the tree that they are.

    CertmondError                what a person can act on; the command line prints it and exits with 3
    ├── ConfigError              the configuration: carries every problem at once
    ├── MalformedError           bytes that are not what they claim to be; becomes a Reason, never a crash
    │   └── LimitError               they may be, but exceed a limit of what certmond reads
    ├── ListenError              the HTTP listener could not be opened
    ├── RuntimeDirError          what the daemon rendered could not be written or read
    ├── NotRunningError          a verb needs a running daemon, and there is none
    ├── WriteError               a file could not be written; the old one is still in place
    │   └── StateError           the state directory is not fit for use: nothing was read from it or written
    ├── BusyError                another certmond is writing on this node
    ├── KeyUnusableError         a private key could not be read or used
    ├── RotationError            a rotation cannot be begun, go on or be aborted as asked; it stays as it is
    ├── LostError                the turn to restart was lost; another node may have it by now
    ├── OvertakenError           somebody else changed the cluster's record first: it is to be read again
    ├── RestartError             a service could not be restarted, or be told apart from others: nothing was done to it
    │   ├── IdleError            it does not run, so that there is nothing to restart
    │   └── TriedError           it was tried, and something may have come of it
    └── SigningError             a certificate was not issued, and the old one is still in place
        ├── RefusedError         the signer will not; the same question gets the same answer
        │   ├── UnknownUserError     the Kubernetes API does not know who asks
        │   └── UntrustedError       another user can change the program that was to be run: it is not run
        ├── UnreachableError     the signer could not be asked; later it may answer
        │   └── UnknownServerError   what serves the Kubernetes API is of a CA that is not trusted here
        └── WaitingError         the signer has not decided yet; carries what to ask it with, and when

A fact about the world (a missing file, a broken certificate) is a value with a Reason. Only our own failure to do
what we were asked is an exception.
"""

from __future__ import annotations


class CertmondError(Exception):
    """A failure with one sentence that names the fact and the remedy."""


class ConfigError(CertmondError):
    """The configuration cannot be used. `problems` has one sentence for each thing that is wrong, none left out."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MalformedError(CertmondError):
    """Bytes that cannot be parsed as what they claim to be."""


class LimitError(MalformedError):
    """Bytes that exceed a limit of size or work, and are given to no library. The message has the number."""


class ListenError(CertmondError):
    """The HTTP listener could not be opened."""


class RuntimeDirError(CertmondError):
    """The runtime directory could not be written, or does not hold what it should."""


class NotRunningError(CertmondError):
    """There is no running daemon whose assessment could be shown."""


class WriteError(CertmondError):
    """Files could not be replaced, and the old ones are in place, unless a sentence says otherwise.

    `problems` has one sentence for each thing that stood in the way.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class StateError(WriteError):
    """What certmond keeps in its state directory can be changed by another user, or is a later version's.

    Nothing of it was used or changed, and nothing was written on the node.
    """


class BusyError(CertmondError):
    """Another process of certmond is writing on this node; later it will be done."""


class KeyUnusableError(CertmondError):
    """A private key could not be read or used. The message never quotes it."""


class RotationError(CertmondError):
    """A rotation of a trust anchor cannot do what it was asked to. It stays where it is."""


class LostError(CertmondError):
    """The turn to restart was lost. What was begun may be finished; nothing more is begun."""


class OvertakenError(CertmondError):
    """Somebody else wrote first, and nothing was written here: what was decided from the older state is void."""


class RestartError(CertmondError):
    """A service was not restarted: it cannot be reached, is not the one that was meant, or its manager refused."""


class IdleError(RestartError):
    """A service does not run, so that there is nothing to restart: whoever stopped it is who starts it."""


class TriedError(RestartError):
    """What was to restart a service was begun and did not end well: something may have come of it, or nothing."""


class SigningError(CertmondError):
    """A certificate was not issued. Nothing was written."""


class RefusedError(SigningError):
    """The signer will not issue this certificate, or what it issued is not what was asked for."""


class UnknownUserError(RefusedError):
    """The Kubernetes API does not know the user of a kubeconfig: its certificate is of no CA that counts there."""


class UntrustedError(RefusedError):
    """Another user can change a program that certmond was to run. It is not run."""


class UnreachableError(SigningError):
    """The signer could not be asked, or did not answer in time."""


class UnknownServerError(UnreachableError):
    """The certificate that the Kubernetes API serves is of no CA that a kubeconfig trusts."""


class WaitingError(SigningError):
    """The signer has not decided yet: ask again after `seconds`, with its `cookie`."""

    def __init__(self, message: str, seconds: float, cookie: str) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.cookie = cookie


def defect(error: Exception) -> str:
    """What is told of an exception that nobody foresaw: its kind and its place, not its words: they may quote a key."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"an unexpected {type(error).__name__} in {place}; please report it"
