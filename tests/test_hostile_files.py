"""Files that cost much, or end a parser: what each verb, and the daemon, makes of them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.builders import integer, make_ca, oid, pem_block, tlv
from tests.daemon_harness import Running, running
from tests.test_cli import certmond

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


def test_a_hostile_key_is_a_finding_of_its_file_in_every_verb(tmp_path: Path) -> None:
    """`check`, `plan` and `renew` go on to their end, and say what is wrong with each key."""
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
        assert "unexpected" not in done.stdout + done.stderr


def test_the_daemon_goes_on_beside_hostile_keys(tmp_path: Path) -> None:
    """Each of them becomes `malformed` while it lies there, and is gone when the file is good again."""
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
