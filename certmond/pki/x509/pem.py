"""Reader of the PEM blocks in the bytes of a file (RFC 7468), including the blocks that Go ignores.

`certificate_file_parser` reads the decoded contents. No message quotes bytes of the file.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

from certmond.errors import MalformedError

CERTIFICATE_LABELS = frozenset({"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"})
BLANK = b" \t\r\n"
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----")
_ENCRYPTED = re.compile(rb"^Proc-Type:[ \t]*4,[ \t]*ENCRYPTED", re.MULTILINE)  # RFC 1421, 4.6.1.1
_OWN_LINES = re.compile(rb"-----BEGIN [^\n]*-----[ \t]*\r?\n(?:.*\n)?-----END [^\n]*", re.DOTALL)
_HEADERS = re.compile(rb"[ \t]*\r?\n(?:[^\n]*:[^\n]*(?:\n|\Z))*")
_END_OF_LINE = re.compile(rb"[ \t]*(?:\r?\n|\Z)")


class Block(NamedTuple):
    """PEM block and its position in the file.

    A block without an END line extends to the next block, or to the end of the file.
    """

    label: str
    text: bytes
    start: int
    stop: int

    @property
    def is_private_key(self) -> bool:
        """Whether the block is a private key according to its label, by the rules of Go (tls.X509KeyPair)."""
        return self.label == "PRIVATE KEY" or self.label.endswith(" PRIVATE KEY")

    @property
    def is_encrypted(self) -> bool:
        """Whether the block is a private key that requires a passphrase (PKCS#8 or RFC 1421)."""
        if self.label == "ENCRYPTED PRIVATE KEY":
            return True
        return b"ENCRYPTED" in self.text and _ENCRYPTED.search(self.text) is not None

    def body(self) -> bytes:
        """Return the decoded base64 of the block. Raises MalformedError if the block is cut off, or is not base64."""
        frame = len("-----BEGIN -----") + len(self.label)
        text, end, _ = self.text[frame:].partition(b"-----END " + self.label.encode("ascii") + b"-----")
        if not end:
            raise MalformedError(f"is cut off: its END {self.label} line is missing")
        if b":" in text:  # RFC 1421 headers: for Go, all lines up to the first line without a colon
            text = _HEADERS.sub(b"", text, count=1)
        try:
            return base64.b64decode(text.translate(None, BLANK), validate=True)
        except binascii.Error:
            raise MalformedError("is not base64") from None

    def key_body(self) -> bytes:
        """Return the decoded base64 of a private key.

        Raises MalformedError if the block is cut off, or is not base64. The message omits the label, which a reader
        could mistake for a key.
        """
        try:
            return self.body()
        except MalformedError:
            raise MalformedError("is not a usable private key: it is cut off, or not base64") from None

    def overlooked_in(self, data: bytes) -> str | None:
        """Return why Go, and therefore Kubernetes, ignores this block of the file `data`, or None if Go reads it."""
        begins_line = data[self.start - 1 : self.start] in {b"", b"\n"}
        if not (begins_line and _OWN_LINES.fullmatch(self.text) and _END_OF_LINE.match(data, self.stop)):
            return "the BEGIN and END markers are not on separate lines, so Kubernetes ignores the block"
        if self.label in CERTIFICATE_LABELS and self.label != "CERTIFICATE":
            return f"the label is {self.label}, and Kubernetes reads only blocks with the label CERTIFICATE"
        if self.label in CERTIFICATE_LABELS and b":" in self.text:
            return "the block has headers, so Kubernetes ignores the block"
        return None


def is_pem(data: bytes) -> bool:
    """Return whether `data` contains the BEGIN line of a PEM block."""
    return _BEGIN.search(data) is not None


def blocks_in(data: bytes) -> Iterator[Block]:
    """Yield the PEM blocks in `data`, in the order of the file."""
    begin = _BEGIN.search(data)
    while begin:
        following = _BEGIN.search(data, begin.end())
        limit = following.start() if following else len(data)
        marker = b"-----END " + begin[1] + b"-----"
        end = data.find(marker, begin.end(), limit)
        stop = limit if end < 0 else end + len(marker)
        yield Block(begin[1].decode("ascii"), data[begin.start() : stop], begin.start(), stop)
        begin = following
