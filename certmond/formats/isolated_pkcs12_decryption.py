"""Decryption of PKCS#12 files in a separate process with limited CPU time.

The author of a PKCS#12 file chooses the cost of the decryption. In its own process, certmond cannot interrupt OpenSSL.
"""

from __future__ import annotations

import signal
from base64 import b64decode
from datetime import timedelta

from certmond.errors import LimitError, MalformedError, SigningError, UnreachableError
from certmond.pki.x509.certificate_file_parser import Document, Opened, decode
from certmond.subprocesses import run_python

CPU_SECONDS = 1
"""Maximum CPU time of the separate process, in seconds. The start of Python takes one tenth of this time."""
_TIMEOUT = timedelta(seconds=10)  # elapsed time, which exceeds the CPU time on a busy host
_EXIT_NOT_OPENED = 3
_UNOPENED = "is a PKCS#12 file, and certmond cannot run the process that opens it"
_PROGRAM = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({CPU_SECONDS}, {CPU_SECONDS + 1}))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from base64 import b64encode
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs12
given = sys.stdin.buffer.read()
size = int.from_bytes(given[:8], signed=True)
password = None if size < 0 else given[8 : 8 + size]
try:
    store = pkcs12.load_pkcs12(given[8 + max(size, 0) :], password)
    key = store.key and store.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    found = [each.certificate.public_bytes(Encoding.DER) for each in (store.cert, *store.additional_certs) if each]
except BaseException:
    sys.exit({_EXIT_NOT_OPENED})
print(*(b64encode(each or b"").decode() for each in (key, *found)), sep="\\n")
"""


def decode_isolated(data: bytes, path: str, password: bytes | None = None) -> Document:
    """Return the parsed content `data` of the file `path`. A separate process decrypts PKCS#12."""
    return decode(data, path, password, open_isolated)


def open_isolated(data: bytes, password: bytes | None) -> Opened:
    """Return the certificates and the public key of a PKCS#12 file.

    Raises MalformedError if the file is damaged or `password` does not decrypt the file. Raises LimitError if the
    decryption takes too much CPU time. Raises UnreachableError if the separate process cannot run, does not end in
    time, or is killed, for example because of a lack of memory.
    """
    size = (-1 if password is None else len(password)).to_bytes(8, signed=True)
    try:
        ended = run_python(_PROGRAM, _TIMEOUT, size + (password or b"") + data)
    except (SigningError, OSError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        why = cause.strerror if isinstance(cause, OSError) else f"no result after {_TIMEOUT.seconds} seconds"
        raise UnreachableError(f"{_UNOPENED} ({why})") from None
    if ended.status == -signal.SIGXCPU:
        raise LimitError(f"is a PKCS#12 file that takes more than {CPU_SECONDS} second of processor time to open")
    if ended.status < 0:
        raise UnreachableError(f"{_UNOPENED} (killed by {signal.Signals(-ended.status).name})")
    if ended.status != 0:
        raise MalformedError(
            "is a PKCS#12 file that certmond cannot decrypt with the password of its entry (`password_file`)"
        )
    key, *found = map(b64decode, ended.output.split(b"\n")[:-1])
    return Opened(tuple(found), key or None)
