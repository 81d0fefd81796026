"""Files that are expensive, or crash a parser: the reaction of each verb and of the daemon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from certmond.config.parser import parse
from certmond.config.source_merger import Source
from fuzz.looks import CONFIGURATION, look_at, node, run_looks, whole_look
from fuzz.worst import FILES
from tests.builders import integer, make_ca, oid, pem_block, tlv
from tests.cli.test_main import certmond
from tests.daemon_harness import Running, running

DH, DSA, RSA = "1.2.840.113549.1.3.1", "1.2.840.10040.4.1", "1.2.840.113549.1.1.1"
X25519, ED25519, ED448 = "1.3.101.110", "1.3.101.112", "1.3.101.113"
LARGE = (1 << 20_000) + 1


def pkcs8(kind: str, parameters: bytes, key: bytes) -> bytes:
    algorithm = tlv(0x30, oid(kind), parameters)
    return pem_block("PRIVATE KEY", tlv(0x30, integer(0), algorithm, tlv(0x04, key)))


HOSTILE = {
    "an X25519 key of 31 bytes": pkcs8(X25519, b"", tlv(0x04, b"\1" * 31)),
    "an Ed25519 key of 31 bytes": pkcs8(ED25519, b"", tlv(0x04, b"\1" * 31)),
    "an Ed448 key of 32 bytes": pkcs8(ED448, b"", tlv(0x04, b"\1" * 32)),
    "a Diffie-Hellman key": pkcs8(DH, tlv(0x30, integer(LARGE), integer(2)), integer(5)),
    "a DSA modulus of 20,001 bits": pkcs8(DSA, tlv(0x30, integer(LARGE), integer(7), integer(2)), integer(5)),
    "an RSA modulus or exponent of 20,001 bits": pkcs8(
        RSA, tlv(0x05), tlv(0x30, integer(0), integer(LARGE), *(integer(3),) * 7)
    ),
}
WORST = {
    "rsa-16384.pem": "the work of more than 10,000 RSA-2048 signatures",
    "chain.pem": "has more possible issuers than Go tries",
    "names-1.pem": "more than 50,000 names",
    "names-3.pem": "more than 250,000 comparisons",
    "curve-keys.pem": "more than 16 private keys",
    "brainpool-users.conf": "more than 256 private keys",
    "yaml-1.conf": "more than 50,000 lines, keys and items",
}
ENTRY = "certificates: [{name: app, path: /etc/app/*.pem}]\nprofile: none\n"


def application(root: Path, *keys: bytes) -> Path:
    """A directory with a good certificate and one for each hostile key, and the configuration that names them all."""
    directory = root / "etc/app"
    directory.mkdir(parents=True)
    (directory / "good.pem").write_bytes(make_ca("good").pem)
    for number, key in enumerate(keys):
        (directory / f"bad-{number}.pem").write_bytes(make_ca("bad").pem + key)
    config = root / "config.yaml"
    config.write_text(ENTRY)
    return config


@pytest.mark.long
def test_a_hostile_key_is_a_finding_of_its_file_in_every_verb(tmp_path: Path) -> None:
    """`check`, `plan` and `renew` run to their end, and describe the defect of each key."""
    config = application(tmp_path, *HOSTILE.values())
    done = certmond("check", "--root", tmp_path, "-o", "json", "--config", config)
    assert not done.stderr
    entries = {entry["path"]: entry["findings"] for entry in json.loads(done.stdout)["certificates"]}
    assert "malformed" not in {item["reason"] for item in entries["/etc/app/good.pem"]}
    for number, said in enumerate(HOSTILE):
        findings = entries[f"/etc/app/bad-{number}.pem"]
        (message,) = (item["message"] for item in findings if item["reason"] == "malformed")
        assert said in message
    for verb in (("plan",), ("renew", "--all", "--dry-run"), ("renew", "--all")):
        done = certmond(*verb, "--root", tmp_path, "--config", config)
        assert "please report it" not in done.stdout + done.stderr


@pytest.mark.long
def test_no_damaged_file_ends_a_scan_or_takes_a_second() -> None:
    """Two hundred files of `python -m fuzz.looks` pass through the work of `check`, `plan` and `metrics`."""
    broken, _ = run_looks(seed=7, first=0, count=200)
    assert not [each for each in broken if not each.said.endswith(" s")]


@pytest.mark.long
@pytest.mark.parametrize(("name", "said"), WORST.items())
def test_a_file_that_exceeds_a_budget_is_a_finding(name: str, said: str) -> None:
    """The largest files of their kind are handled in bounded time, and the finding names the budget that they
    exceed.
    """
    with node() as root:
        config = parse([Source("config.yaml", CONFIGURATION.encode())])
        look_at(root, config, {name: FILES[name]()})
        messages = [item.message for status in whole_look(root, config).statuses for item in status.findings]
    assert any(said in message for message in messages), messages


def test_the_daemon_continues_beside_hostile_keys(tmp_path: Path) -> None:
    """Each of them is `malformed` while it is there. The finding ends when the file is good again."""
    root = tmp_path / "root"
    config = application(root, b"")
    bad = root / "etc/app/bad-0.pem"
    good = bad.read_bytes()

    def reasons(daemon: Running) -> set[str]:
        entries = daemon.status()["certificates"]
        return {item["reason"] for each in entries if each["path"] == "/etc/app/bad-0.pem" for item in each["findings"]}

    with running(root, tmp_path, "--config", str(config)) as daemon:
        for said, key in HOSTILE.items():
            bad.write_bytes(good + key)
            daemon.until(lambda: "malformed" in reasons(daemon), said)
            bad.write_bytes(good)
            daemon.until(lambda: "malformed" not in reasons(daemon), f"without {said}")
        assert daemon.stop() == 0
