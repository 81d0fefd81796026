"""The check of passwords: its cost, its cache, and the order of waiting clients."""

from __future__ import annotations

import base64
import threading

import bcrypt
import pytest

from certmond.expose.http import basic_auth as passwords
from certmond.expose.http.basic_auth import CheckQueue, Passwords
from certmond.expose.http.routes import Request
from tests.deadline import DEADLINE

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
    """A request for an unknown user costs the same work as for a known one, whatever the costs of their hashes are."""
    dear = bcrypt.hashpw(b"secret", bcrypt.gensalt(5)).decode()
    checker = Passwords({"alice": CHEAP, "bob": dear})
    work = []
    for user in ("alice", "bob", "unknown", ""):
        costs.clear()
        assert ask(checker, user, "wrong") == 401
        work.append(sorted(costs))
    assert work == [[4, 5]] * 4


def test_no_password_is_valid_for_an_unknown_user() -> None:
    """No password admits an unknown user, not even an empty one."""
    checker = Passwords({"alice": CHEAP})
    assert {ask(checker, "unknown", password) for password in ("", ".", "secret", "." * 31)} == {401}


def test_user_and_password_are_separate() -> None:
    """Letters cannot move from the user to the password: a valid pair does not validate another."""
    checker = Passwords({"alice": CHEAP, "alices": bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()})
    assert ask(checker, "alice", "secret") == 200
    assert ask(checker, "alices", "ecret") == 401


def test_a_frequent_client_waits_behind_others() -> None:
    """Among the waiting clients, one from another address than the last comes first."""
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
                assert turns._changed.wait_for(lambda number=number: len(turns._waiting) > number, DEADLINE)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert order == ["one", "many", "many", "many"]


def test_a_client_beyond_the_queue_gets_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """If several clients from one address wait already, a further one gets 503 at once, and one from another waits."""
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
                assert turns._changed.wait_for(lambda number=number: len(turns._waiting) > number, DEADLINE)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert answers == [200, 200, 200]


def test_no_client_waits_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that waits longer than the limit gets 503, and the others continue."""
    monkeypatch.setattr(passwords, "WAIT_SECONDS", 0.05)
    checker = Passwords({"alice": CHEAP})
    with checker._queue.slot("another"):
        assert ask(checker, "alice", "secret") == 503
    assert ask(checker, "alice", "secret") == 200
