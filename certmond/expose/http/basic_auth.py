"""Basic authentication (RFC 7617) with bcrypt hashes, resistant to a flood of wrong passwords.

This module caches correct passwords only as keyed digests.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus

import bcrypt

from certmond.expose.http.routes import Answer, Request, sentence

CHALLENGE = 'WWW-Authenticate: Basic realm="certmond", charset="UTF-8"'
WAIT_SECONDS = 8.0  # maximum wait for a check; the server closes a connection after 10 s
WAITING = 8  # maximum number of waiting checks from one address
PASSWORD_BYTES = 72  # bcrypt and the programs that create hashes ignore all bytes after the first 72


class CheckQueue:
    """Queue of password checks. The queue permits one check at a time, and alternates between client addresses."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[str, object]] = []
        self._busy, self._last = False, ""

    @contextmanager
    def slot(self, origin: str) -> Iterator[bool]:
        """Wait for the end of other checks, and yield whether the `with` block may run its check.

        Yield False after `WAIT_SECONDS`, or if WAITING checks of the address `origin` already wait.
        """
        ticket = (origin, object())
        with self._changed:
            crowded = sum(each[0] == origin for each in self._waiting) >= WAITING
            granted = not crowded and self._wait(ticket)
            if granted:
                self._busy, self._last = True, origin
            self._changed.notify_all()
        try:
            yield granted
        finally:
            if granted:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _wait(self, ticket: tuple[str, object]) -> bool:
        self._waiting.append(ticket)
        granted = self._changed.wait_for(lambda: not self._busy and self._next() is ticket, WAIT_SECONDS)
        self._waiting.remove(ticket)
        return granted

    def _next(self) -> tuple[str, object]:
        return next((ticket for ticket in self._waiting if ticket[0] != self._last), self._waiting[0])


class Passwords:
    """The users of a web configuration with their bcrypt hashes, and a cache of correct passwords."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._hashes = {name.encode(): text.encode() for name, text in users.items()}
        # For each cost, a hash that matches no password. Each request causes one check for each cost.
        costs = sorted({int(text.split("$")[2]) for text in users.values()})
        self._unknown_user_hashes = {cost: bcrypt.gensalt(cost) + b"." * 31 for cost in costs}
        self._secret = os.urandom(32)
        self._right: set[bytes] = set()  # at most one for each user
        self._queue = CheckQueue()

    def refusal(self, request: Request, origin: str) -> Answer | None:
        """Return the answer that refuses the request, or None to admit it. Without users, admit every request."""
        if not self._hashes:
            return None
        credentials = _credentials(request.headers.get("authorization", ""))
        if credentials is None:
            return sentence(HTTPStatus.UNAUTHORIZED, "a user name and a password are required", CHALLENGE)
        user, password = credentials
        digest = hashlib.blake2b(len(user).to_bytes(4) + user + password, key=self._secret).digest()
        if digest in self._right:
            return None
        with self._queue.slot(origin) as granted:
            if not granted:
                return sentence(HTTPStatus.SERVICE_UNAVAILABLE, "too many passwords are being checked: try again later")
            right = self._check(user, password)
        if not right:
            return sentence(HTTPStatus.UNAUTHORIZED, "user and password do not match", CHALLENGE)
        self._right.add(digest)
        return None

    def _check(self, user: bytes, password: bytes) -> bool:
        own = self._hashes.get(user, b"")
        right = False
        # The check of a wrong password must take as long as the check of an unknown user.
        for cost, placeholder in self._unknown_user_hashes.items():
            is_own = own != b"" and int(own.split(b"$")[2]) == cost
            matches = bcrypt.checkpw(password, own if is_own else placeholder)
            right = right or (is_own and matches)
        return right


def _credentials(header: str) -> tuple[bytes, bytes] | None:
    scheme, _, token = header.partition(" ")
    try:
        user, colon, password = base64.b64decode(token.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    if scheme.lower() != "basic" or not colon or b"\0" in password:
        return None
    return user, password[:PASSWORD_BYTES]
