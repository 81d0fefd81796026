"""The check of passwords: what it costs, what is remembered, and whose turn it is."""

from __future__ import annotations

import base64
import threading

import bcrypt
import pytest

from certmond.expose.http import basic_auth as passwords
from certmond.expose.http.basic_auth import CheckQueue, Passwords
from certmond.expose.http.routes import Request

CHEAP = "$2b$04$OvYMHI/91PxcZqq3VVbrn.f6w9WnXAZUR0jPghYDkmFpSLFu6ynkq"  # of "secret"


def ask(checker: Passwords, user: str, password: str, origin: str = "192.0.2.1") -> int:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = Request("GET", "/metrics", {"authorization": f"basic {token}"}, keep_alive=True)
    refusal = checker.refusal(request, origin)
    return 200 if refusal is None else int(refusal.status)


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The cost of each check that is made."""
    made: list[int] = []
    check = bcrypt.checkpw

    def noted(password: bytes, hashed: bytes) -> bool:
        made.append(int(hashed.split(b"$")[2]))
        return check(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", noted)
    return made


def test_right_password_is_checked_once(costs: list[int]) -> None:
    """A scrape every few seconds costs one check in all; a wrong password costs one each time."""
    checker = Passwords({"alice": CHEAP})
    assert [ask(checker, "alice", "secret") for _ in range(5)] == [200] * 5
    assert costs == [4]
    assert [ask(checker, "alice", "wrong") for _ in range(3)] == [401] * 3
    assert costs == [4] * 4


def test_unknown_users_cost_the_same(costs: list[int]) -> None:
    """Who asks for a user that is not there causes the same work as for one that is, whatever their hashes cost."""
    dear = bcrypt.hashpw(b"secret", bcrypt.gensalt(5)).decode()
    checker = Passwords({"alice": CHEAP, "bob": dear})
    work = []
    for user in ("alice", "bob", "nobody", ""):
        costs.clear()
        assert ask(checker, user, "wrong") == 401
        work.append(sorted(costs))
    assert work == [[4, 5]] * 4


def test_no_password_is_that_of_nobody() -> None:
    """No password lets in a user who is not there, not even an empty one."""
    checker = Passwords({"alice": CHEAP})
    assert {ask(checker, "nobody", password) for password in ("", ".", "secret", "." * 31)} == {401}


def test_user_and_password_are_told_apart() -> None:
    """Letters cannot wander from the user to the password: what was right for one pair is not for another."""
    checker = Passwords({"alice": CHEAP, "alices": bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()})
    assert ask(checker, "alice", "secret") == 200
    assert ask(checker, "alices", "ecret") == 401


def test_who_knocks_often_waits_behind_himself() -> None:
    """Among those who wait, one from another address than the last comes first."""
    turns, order, lock = CheckQueue(), list[str](), threading.Lock()

    def wait(origin: str) -> None:
        with turns.slot(origin) as came:
            assert came
            with lock:
                order.append(origin)

    with turns.slot("many"):
        threads = []
        for number, origin in enumerate(("many", "many", "many", "one")):
            threads.append(threading.Thread(target=wait, args=(origin,)))
            threads[-1].start()
            with turns._changed:
                assert turns._changed.wait_for(lambda number=number: len(turns._waiting) > number, 60)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == ["one", "many", "many", "many"]


def test_a_crowd_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several from one address wait already, a further one is told 503 at once, and one from another waits."""
    monkeypatch.setattr(passwords, "WAITING", 2)
    checker, answers = Passwords({"alice": CHEAP}), list[int]()
    turns = checker._queue

    def wait(origin: str) -> None:
        answers.append(ask(checker, "alice", "secret", origin))

    threads = []
    with turns.slot("another"):
        for number, origin in enumerate(("192.0.2.1", "192.0.2.1", "192.0.2.2")):
            if number == 2:
                assert ask(checker, "alice", "secret", "192.0.2.1") == 503
            threads.append(threading.Thread(target=wait, args=(origin,)))
            threads[-1].start()
            with turns._changed:
                assert turns._changed.wait_for(lambda number=number: len(turns._waiting) > number, 60)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert answers == [200, 200, 200]


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose turn does not come in time is told 503, and the turn goes on to others."""
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.05)
    checker = Passwords({"alice": CHEAP})
    with checker._queue.slot("another"):
        assert ask(checker, "alice", "secret") == 503
    assert ask(checker, "alice", "secret") == 200
