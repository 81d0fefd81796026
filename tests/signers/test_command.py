"""A helper with certmonger's contract signs, refuses, waits or is unreachable, and never blocks certmond."""

from __future__ import annotations

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from certmond import subprocesses
from certmond.errors import RefusedError, SigningError, UnreachableError, WaitingError
from certmond.formats.private_key import key_pem, make_key
from certmond.pki.catalog.entries import CertificateSpec, KeyAlgorithm
from certmond.pki.signing.policy import Grant
from certmond.pki.signing.template import Template, Terms, first, general_name
from certmond.signers.command import ASK_AGAIN, CommandSigner
from certmond.signers.protocol import Request
from certmond.subprocesses import MAX_OUTPUT
from tests.builders import NOW, YEAR, Issued, bundle, make_ca, make_intermediate, make_leaf
from tests.conftest import real_part
from tests.deadline import DEADLINE

SPEC = CertificateSpec(name="front", path="/front.crt", key="/front.key", usages=("server auth",))
NAMES = ("DNS:front", "DNS:front.example", "IP:10.0.0.1", "IP:fd00::1")
Ask = Callable[..., Any]
FOREVER = 10 * DEADLINE
"""Seconds that a process sleeps which never ends by itself during a test."""


def template() -> Template:
    terms = Terms(now=NOW, issuer_end=NOW + 10 * YEAR, facts={}, key=KeyAlgorithm.ECDSA_P256)
    made = first(SPEC, "CN=front,O=shop", NAMES, terms)
    return replace(made, names=(*made.names, x509.RFC822Name("web@front.example")))


def request(**changes: Any) -> Request:
    made = template()
    return replace(Request("front", Grant(made), make_key(made.key), "node-1"), **changes)


@pytest.fixture
def helper(tmp_path: Path) -> Callable[..., tuple[str, ...]]:
    """Makes a helper of a Python script; answers its argument list."""

    def make(script: str, *arguments: str) -> tuple[str, ...]:
        path = tmp_path / "helper"
        path.write_text(f"#!{sys.executable} -IS\nimport os, sys, time\n{textwrap.dedent(script)}")
        path.chmod(0o700)
        return (str(path), *arguments)

    return make


def signer(command: tuple[str, ...], seconds: float = DEADLINE, profile: str | None = None) -> CommandSigner:
    return CommandSigner("shop-ca", command, time_limit=timedelta(seconds=seconds), ca_profile=profile)


def answer(output: bytes, status: int = 0, said: str = "") -> str:
    """A script that answers so."""
    return f"sys.stdout.buffer.write({output!r}); sys.stderr.write({said!r}); sys.exit({status})"


def certificates(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


# --- the input of the helper ------------------------------------------------------------------------------------------


def reported(helper: Ask, asked: Request, profile: str | None = None) -> dict[str, str]:
    """Return the environment of the helper, as the helper reports it."""
    command = helper("import json; print(1); print(json.dumps(dict(os.environ))); sys.exit(5)")
    with pytest.raises(WaitingError) as raised:
        signer(command, profile=profile).sign(asked)
    return dict(json.loads(raised.value.cookie))


def test_a_first_request_is_submitted(helper: Ask) -> None:
    """The first time the operation is SUBMIT, with the request in PEM and its parts, names one to a line."""
    asked = request()
    words = reported(helper, asked)
    csr = x509.load_pem_x509_csr(words.pop("CERTMONGER_CSR").encode())
    assert csr.is_signature_valid
    assert csr.public_key() == asked.key.public_key()
    assert {word: value for word, value in words.items() if word.startswith("CERTMONGER")} == {
        "CERTMONGER_OPERATION": "SUBMIT",
        "CERTMONGER_REQ_SUBJECT": "CN=front,O=shop",
        "CERTMONGER_REQ_HOSTNAME": "front\nfront.example",
        "CERTMONGER_REQ_IP_ADDRESS": "10.0.0.1\nfd00::1",
        "CERTMONGER_REQ_EMAIL": "web@front.example",
        "CERTMONGER_CA_NICKNAME": "shop-ca",
    }


def test_a_waiting_request_is_polled(helper: Ask) -> None:
    """With a cookie the operation is POLL, with the cookie and everything else as before."""
    old = make_leaf(make_ca())
    words = reported(helper, request(cookie="step 2\nof 3", old=old.facts), profile="servers")
    assert words["CERTMONGER_OPERATION"] == "POLL"
    assert words["CERTMONGER_CA_COOKIE"] == "step 2\nof 3"
    assert words["CERTMONGER_CA_PROFILE"] == "servers"
    assert words["CERTMONGER_CERTIFICATE"] == old.pem.decode()
    assert "CERTMONGER_CSR" in words


def test_an_empty_value_is_not_passed(helper: Ask) -> None:
    """A request without names, old certificate, profile or cookie has no variables for them."""
    words = reported(helper, request(grant=Grant(replace(template(), names=()))))
    assert {word for word in words if word.startswith("CERTMONGER")} == {
        "CERTMONGER_OPERATION", "CERTMONGER_CSR", "CERTMONGER_REQ_SUBJECT", "CERTMONGER_CA_NICKNAME",
    }  # fmt: skip


def test_no_variable_of_certmond_is_passed(helper: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the contract a helper gets PATH, HOME and LANG, and no variable of certmond's environment."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/secret")
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    words = reported(helper, request())
    rest = {word for word in words if not word.startswith("CERTMONGER")} - {"LC_CTYPE"}  # Python's own
    assert rest == {"PATH", "HOME", "LANG"}


def test_a_helper_is_isolated(helper: Ask) -> None:
    """A helper has a separate session, no input, no descriptor of certmond, and a private umask."""
    inherited, writing = os.pipe()
    os.write(writing, b"not for helpers")
    os.close(writing)
    own = os.dup(0)
    os.dup2(inherited, 0)
    os.set_inheritable(inherited, True)
    script = f"""
        print(1)
        fds = sorted(map(int, os.listdir("/proc/self/fd")))
        mask = os.umask(0)
        print(os.getsid(0) == os.getpid(), repr(sys.stdin.read()), {inherited} in fds, oct(mask), os.getcwd())
        sys.exit(5)
    """
    try:
        with pytest.raises(WaitingError) as raised:
            signer(helper(script)).sign(request())
    finally:
        os.dup2(own, 0)
        os.close(own)
        os.close(inherited)
    assert raised.value.cookie == "True '' False 0o77 /"


def test_arguments_are_passed_as_they_are(helper: Ask) -> None:
    """The arguments reach the helper word by word: there is no shell to read them."""
    command = helper("print(1); print(repr(sys.argv[1:])); sys.exit(5)", "--url", "$HOME; rm *", "")
    with pytest.raises(WaitingError) as raised:
        signer(command).sign(request())
    assert raised.value.cookie == "['--url', '$HOME; rm *', '']"


# --- the meaning of its answer ----------------------------------------------------------------------------------------


def issue(asked: Request, ca: Issued) -> Issued:
    return make_leaf(ca, "front", key=asked.key)


@pytest.mark.parametrize("form", ["pem", "chain first", "json", "pkcs7", "der"])
def test_an_issued_certificate_comes_first(helper: Ask, form: str) -> None:
    """Status 0: the certificate, as PEM, JSON, PKCS#7 or DER; it comes first, its chain after it, and nothing twice."""
    asked = request()
    root = make_ca("root")
    ca = make_intermediate(root)
    leaf = issue(asked, ca)
    chain = [] if form == "der" else [ca.cert]
    objects = {"certificate": leaf.pem.decode(), "chain": [{"nickname": "ca", "certificate": ca.pem.decode()}]}
    output = {
        "pem": b"issued:\n" + bundle(leaf, ca, leaf),
        "chain first": bundle(ca, leaf).replace(b"\n", b"\r\n"),
        "json": json.dumps(objects).encode(),
        "pkcs7": pkcs7.serialize_certificates([ca.cert, leaf.cert], Encoding.PEM),
        "der": leaf.der,
    }[form]
    issued = signer(helper(answer(output, said="a word of warning"))).sign(asked)
    assert certificates(issued.pem) == [leaf.cert, *chain]
    assert issued.key is None


def test_only_certificates_are_taken(helper: Ask) -> None:
    """What a helper writes beside certificates, even a key, is left behind."""
    asked = request()
    leaf = issue(asked, make_ca())
    issued = signer(helper(answer(make_ca().key_pem + leaf.pem))).sign(asked)
    assert issued.pem == leaf.pem


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (b"", "no certificate; the helper must write PEM"),
        (b"Signature ok\n", "no certificate"),
        (b'{"certificate": 1}', "no certificate"),
        (b'{"chain": ["x"]}', "no certificate"),
        (b'{"pem": ""}', "no certificate"),
        (b"{", "no certificate"),
        (b"[" * 100000, "no certificate"),
        (b'{"a":' * 100000, "no certificate"),
        (b"-----BEGIN PKCS7-----\nMAA=\n-----END PKCS7-----\n", "no certificate"),
        (make_leaf(make_ca()).pem, "no certificate for the key of front; correct the helper"),
    ],
)
def test_what_is_no_certificate_of_ours_is_refused(helper: Ask, output: bytes, reason: str) -> None:
    """Status 0 with anything but a certificate for our key is a refusal that names helper, fact and remedy."""
    command = helper(answer(output))
    with pytest.raises(RefusedError, match=f"^the helper {command[0]} of signer shop-ca wrote {reason}"):
        signer(command).sign(request())


@pytest.mark.parametrize(
    ("status", "output", "error", "expected"),
    [
        (2, b"policy says no\n", RefusedError, "reports that its CA refused front: policy says no"),
        (2, b"", RefusedError, "reports that its CA refused front"),
        (3, b"no route to ca.example\nat all\n", UnreachableError, "cannot reach its CA: no route to ca.example"),
        (
            4,
            b"no token\n",
            RefusedError,
            "is not configured: no token; configure the helper, and then run it manually as a test",
        ),
        (6, b"", RefusedError, "does not support SUBMIT; use another helper"),
        (16, b"", RefusedError, "requires SCEP, which certmond does not support; use another helper"),
        (17, b"", RefusedError, "requires a new key; set `keep_key: false` in the entry front"),
        (7, b"Secret output\n", UnreachableError, "ended with status 7; run the helper manually to see the cause"),
        (127, b"", UnreachableError, "ended with status 127; run the helper manually to see the cause"),
    ],
)
def test_every_other_status_has_its_meaning(
    helper: Ask, status: int, output: bytes, error: type[SigningError], expected: str
) -> None:
    """Status 2, 4, 6, 16 and 17 are refusals, 3 and all that the contract does not know may be better later."""
    command = helper(answer(output, status))
    with pytest.raises(error) as raised:
        signer(command).sign(request())
    assert str(raised.value) == f"the helper {command[0]} of signer shop-ca {expected}"


def test_its_stderr_speaks_where_its_output_is_silent(helper: Ask) -> None:
    """The first line of stderr is in the error: one line, printable, 200 characters at most."""
    with pytest.raises(RefusedError) as raised:
        signer(helper(answer(b"", 2, said="\n  \x1b[31mno\x07 " + "x" * 500 + "\nsecond"))).sign(request())
    reason = str(raised.value).partition("refused front: ")[2]
    assert reason.startswith("\\x1b[31mno\\x07 xxx")
    assert len(reason) == 200
    with pytest.raises(UnreachableError, match=r"ended with status 9 \(Traceback\); run the helper manually"):
        signer(helper(answer(b"", 9, said="Traceback\n"))).sign(request())


def test_a_helper_that_dies_may_do_better_later(helper: Ask) -> None:
    """A helper that a signal ends has not decided anything."""
    with pytest.raises(UnreachableError, match="was ended by signal 9; run the helper manually"):
        signer(helper("os.kill(os.getpid(), 9)")).sign(request())


@pytest.mark.parametrize(
    ("status", "output", "seconds", "cookie"),
    [
        (1, b"request-17\n", ASK_AGAIN, "request-17"),
        (1, b"two\nlines\r\n", ASK_AGAIN, "two\nlines"),
        (5, b"30\nrequest-17\n", 30, "request-17"),
        (5, b"30\r\ntwo\nlines", 30, "two\nlines"),
        (5, b"0\nx", 1, "x"),
        (5, b"99999999999\nx", 7 * 86400, "x"),
    ],
)
def test_waiting_carries_cookie_and_seconds(
    helper: Ask, status: int, output: bytes, seconds: float, cookie: str
) -> None:
    """Status 1 waits with a cookie, status 5 as many seconds as its first line says, within a second and a week."""
    with pytest.raises(WaitingError, match="waits for the decision of its CA") as raised:
        signer(helper(answer(output, status))).sign(request())
    assert (raised.value.seconds, raised.value.cookie) == (seconds, cookie)


@pytest.mark.parametrize(
    ("status", "output", "reason"),
    [
        (1, b"", "without a valid cookie; the helper must write a cookie"),
        (1, b"\n", "without a valid cookie"),
        (1, b"a\0b", "without a valid cookie"),
        (1, b"\xff\xfe", "without a valid cookie"),
        (1, b"x" * 70000, "without a valid cookie"),
        (5, b"30", "without a valid cookie"),
        (5, b"soon\nx", "without the number of seconds; the helper must write this number in its first line"),
        (5, b"-1\nx", "without the number of seconds"),
        (5, b"", "without the number of seconds"),
    ],
)
def test_waiting_without_a_cookie_is_refused(helper: Ask, status: int, output: bytes, reason: str) -> None:
    """A helper that waits without a cookie, or without saying how long, cannot be asked again."""
    with pytest.raises(RefusedError, match=reason):
        signer(helper(answer(output, status))).sign(request())


# --- isolation --------------------------------------------------------------------------------------------------------


def test_a_missing_program_is_reported(tmp_path: Path) -> None:
    """If a program is missing or not executable, the call failed. The error names it, with the remedy."""
    path = tmp_path / "helper"
    said = rf"^certmond cannot run {path} \(No such file.*; install the program, and make it executable"
    with pytest.raises(UnreachableError, match=said):
        signer((str(path), "--token", "hunter2")).sign(request())
    path.write_text("#!/bin/sh\n")
    with pytest.raises(UnreachableError, match=rf"^certmond cannot run {path} \(Permission denied\); .*executable"):
        signer((str(path),)).sign(request())


def test_no_error_quotes_arguments_or_the_key(helper: Ask) -> None:
    """Arguments may hold a token: they are in no error, and the key is in no word that the helper gets."""
    asked = request()
    secret = key_pem(asked.key).decode().splitlines()[1]
    assert secret not in str(reported(helper, asked))
    for script in (answer(b"", 9), answer(b"", 2), f"time.sleep({FOREVER})", answer(b"x" * (MAX_OUTPUT + 1))):
        with pytest.raises(SigningError) as raised:
            signer(helper(script, "--token=hunter2"), seconds=0.3).sign(asked)
        assert "hunter2" not in str(raised.value)


def alive_processes(marker: str) -> list[str]:
    found = subprocess.run(["pgrep", "-f", marker], capture_output=True, text=True, check=False)
    return found.stdout.split()


def wait_for(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


class Waited:
    """A clock that counts the seconds for which certmond has waited without an event, after `begun`."""

    def __init__(self, begun: Callable[[], bool]) -> None:
        self.seconds, self._begun = 0.0, begun

    def selector(self) -> selectors.BaseSelector:
        """Return a selector whose waits this clock counts."""
        return CountingSelector(self)

    def count(self, seconds: float) -> None:
        self.seconds += seconds if self._begun() else 0.0


class CountingSelector(selectors.DefaultSelector):
    def __init__(self, clock: Waited) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        if timeout and not ready:
            self._clock.count(timeout)
        return ready


@pytest.mark.long
@pytest.mark.parametrize("deaf", [False, True])
def test_a_helper_that_hangs_is_ended_with_all_it_started(
    helper: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    """After the time limit the whole group gets SIGTERM, then SIGKILL; none of it is left. A helper has time to end by
    itself after SIGTERM.
    """
    marker = f"sleep-{os.getpid()}-{deaf}"
    script = f"""
        import signal, subprocess
        def end(*_):
            open({str(tmp_path / "ended")!r}, "w").close()
            sys.exit()
        signal.signal(signal.SIGTERM, signal.SIG_IGN if {deaf} else end)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep({FOREVER})", "{marker}"])
        open({str(tmp_path / "started")!r}, "w").close()
        time.sleep({FOREVER})
    """
    clock, sent, kill = Waited((tmp_path / "started").exists), list[tuple[int, float]](), os.killpg
    monkeypatch.setattr(subprocesses, "time", SimpleNamespace(monotonic=lambda: clock.seconds))
    monkeypatch.setattr(
        subprocesses, "selectors", SimpleNamespace(DefaultSelector=clock.selector, EVENT_READ=selectors.EVENT_READ)
    )
    if not deaf:
        monkeypatch.setattr(subprocesses, "_GRACE", DEADLINE)

    def send(group: int, number: int) -> None:
        sent.append((number, clock.seconds))
        kill(group, number)

    monkeypatch.setattr(os, "killpg", send)
    with pytest.raises(UnreachableError, match=re.escape("did not end within 1.5 s; find what the program waits for")):
        signer(helper(script), 1.5).sign(request())
    assert [number for number, _ in sent] == [signal.SIGTERM, signal.SIGKILL]
    (_, first_at), (_, second_at) = sent
    end = 1.5 + subprocesses._GRACE
    assert first_at == 1.5
    assert second_at == end if deaf else second_at < end
    assert (tmp_path / "ended").exists() != deaf
    assert wait_for(lambda: not alive_processes(marker))


def test_what_a_helper_leaves_behind_is_not_waited_for(helper: Ask) -> None:
    """A process that a helper leaves in its group, with its pipes, neither delays the answer nor lives on."""
    marker = f"left-{os.getpid()}"
    script = f"""
        import subprocess
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep({FOREVER})", "{marker}"])
        print("request-17")
        sys.exit(1)
    """
    with pytest.raises(WaitingError):
        signer(helper(script)).sign(request())
    assert wait_for(lambda: not alive_processes(marker))


def test_alive_is_called_every_second(helper: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a helper works, certmond waits a second at most, and calls `alive` after each wait."""
    calls = list[float | None]()  # the limit of each wait in seconds, and None for `alive`
    events = list[int]()  # the number of events after each wait

    class Noting(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            calls.append(timeout)
            ready = super().select(timeout)
            events.append(len(ready))
            return ready

    def alive() -> None:
        calls.append(None)
        if calls.count(None) == 3:
            (tmp_path / "over").touch()

    noting = SimpleNamespace(DefaultSelector=Noting, EVENT_READ=selectors.EVENT_READ)
    monkeypatch.setattr(subprocesses, "selectors", noting)
    script = f"while not os.path.exists({str(tmp_path / 'over')!r}): time.sleep(0.01)\nprint('x'); sys.exit(1)"
    with pytest.raises(WaitingError):
        signer(helper(script)).sign(request(alive=alive))
    waits = calls[::2]
    assert len(waits) >= 3
    assert all(wait is not None and 0.1 < wait <= 1 for wait in waits)
    assert calls[1::2] == [None] * len(waits)
    assert len(list(filter(None, events))) <= 4  # the output, the ends of two pipes, and the end of the helper


def test_a_stopping_daemon_ends_the_helper(helper: Ask) -> None:
    """If `alive` raises because the daemon is stopping, the helper is killed and the error propagates."""
    marker = f"stop-{os.getpid()}"

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        signer(helper(f"time.sleep({FOREVER}) # {marker}")).sign(request(alive=stop))
    assert wait_for(lambda: not alive_processes(marker))


@pytest.mark.long
def test_too_much_output_ends_it(helper: Ask) -> None:
    """More than 1 MiB of output is no certificate: the helper is ended at once. Of stderr the rest is dropped."""
    with pytest.raises(RefusedError, match="wrote more than 1048576 bytes to standard output; reduce this output"):
        signer(helper("while True: sys.stdout.write('x' * 65536)")).sign(request())
    with pytest.raises(RefusedError, match="refused front: x"):
        signer(helper("for _ in range(99): sys.stderr.write('x' * 65536)\nsys.exit(2)")).sign(request())
    with pytest.raises(UnreachableError, match="did not end within 1 s"):
        signer(helper("while True: sys.stderr.write('x' * 65536)"), seconds=1).sign(request())


def test_a_large_answer_arrives_whole(helper: Ask) -> None:
    """An answer that is larger than a pipe arrives whole, also where the helper ends right after it."""
    asked = request()
    leaf = issue(asked, make_ca())
    padding = b"# " + b"x" * 900_000 + b"\n"
    assert signer(helper(answer(padding + leaf.pem))).sign(asked).pem == leaf.pem


@pytest.mark.real("openssl")
def test_a_helper_in_shell_signs_with_openssl(tmp_path: Path) -> None:
    """A real CA behind a real helper: what OpenSSL signed from the request carries its subject and its names."""
    openssl = real_part("openssl")
    ca = make_ca()
    (tmp_path / "ca.crt").write_bytes(ca.pem)
    (tmp_path / "ca.key").write_bytes(ca.key_pem)
    script = tmp_path / "helper"
    script.write_text(
        f"#!/bin/sh -eu\nprintf '%s\\n' \"$CERTMONGER_CSR\" | {openssl} x509 -req -CA {tmp_path}/ca.crt "
        f"-CAkey {tmp_path}/ca.key -copy_extensions copy -days 30\n"
    )
    script.chmod(0o700)
    asked = request(grant=Grant(replace(template(), names=(general_name("DNS:front"),))))
    issued = certificates(signer((str(script),)).sign(asked).pem)
    assert issued[0].subject == asked.template.subject
    assert issued[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    ) == ["front"]
