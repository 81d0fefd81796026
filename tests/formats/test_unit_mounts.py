"""The mounts in the mount namespace of a service."""

from __future__ import annotations

import pytest

from certmond.formats.unit_file import Word, parse_unit, settings
from certmond.formats.unit_mounts import UnitMount, unit_mounts

CREDENTIALS = "/run/credentials/etcd@a.service"


def mounts(*files: str) -> list[UnitMount]:
    """Return the mounts of a unit with drop-ins, except the directory of credentials itself."""
    parts = [(f"/{number}", parse_unit(f"[Service]\n{text}\n".encode(), "")) for number, text in enumerate(files)]
    found = [*unit_mounts(settings(parts), "etcd@a.service")]
    assert UnitMount(CREDENTIALS, None) in found
    return [each for each in found if each.point != CREDENTIALS]


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("BindPaths=/srv/pki:/etc/pki", [UnitMount("/etc/pki", "/srv/pki")]),
        ("BindReadOnlyPaths=/srv/pki/:/etc//pki/:norbind", [UnitMount("/etc/pki", "/srv/pki")]),
        (
            "BindPaths=/a:/b:rbind '/c d' /e",
            [UnitMount(*each) for each in (("/b", "/a"), ("/c d", "/c d"), ("/e", "/e"))],
        ),
        ("BindPaths=-/a:/b -/c", [UnitMount("/b", "/a", optional=True), UnitMount("/c", "/c", optional=True)]),
        ("BindPaths=/srv:/", [UnitMount("", "/srv")]),
        ("BindPaths=/srv/%i:%E/etcd", [UnitMount("/etc/etcd", "/srv/a")]),
        ("BindPaths=a:/b /c:d -e: :", []),
        (r"BindPaths=/a\:b:/c\x2d '/d:e'", [UnitMount("/cx2d", "/a:b"), UnitMount("/d:e", "/d:e")]),
        ("BindPaths=-/srv/%H:/etc/pki", [UnitMount("/etc/pki", None, optional=True)]),
        ("BindPaths=/srv:/etc/pki/a-%H/b /c:/%m", [UnitMount("/etc/pki", None), UnitMount("", None)]),
        ("TemporaryFileSystem=/srv/%H", [UnitMount("/srv", None)]),
        ("LoadCredential=ca:/srv/%H/ca", [UnitMount(f"{CREDENTIALS}/ca", None)]),
        ("TemporaryFileSystem=/var:ro,mode=700 /srv", [UnitMount("/var", None), UnitMount("/srv", None)]),
        ("MountImages=-/a.raw:/etc/pki:root:ro /b.raw", [UnitMount("/etc/pki", None)]),
        ("LoadCredential=ca:/etc/ca b.crt", [UnitMount(f"{CREDENTIALS}/ca", "/etc/ca b.crt")]),
        ("LoadCredential=ca\nLoadCredential=ca:relative\nLoadCredential=a/b:/c", []),
        ("LoadCredentialEncrypted=ca:/etc/ca.cred\nSetCredential=b:secret", []),
        ("LoadCredential=%p:/x/%i\nSetCredential=%p:secret", [UnitMount(f"{CREDENTIALS}/etcd", "/x/a", optional=True)]),
    ],
)
def test_the_mounts_of_a_setting_are_found(setting: str, found: list[UnitMount]) -> None:
    """A definition has a source, a path in the namespace and options. systemd skips relative paths."""
    assert mounts(setting) == found


def test_a_bind_mount_covers_a_temporary_file_system() -> None:
    """At the same path, the bind mount is the last mount."""
    found = mounts("BindPaths=/a\nTemporaryFileSystem=/a /b")
    assert found == [UnitMount("/a", None), UnitMount("/b", None), UnitMount("/a", "/a")]


@pytest.mark.parametrize(
    ("unit", "reset", "added"),
    [
        ("BindPaths=/a\nBindReadOnlyPaths=/b", "BindPaths=", "BindPaths=/c"),
        ("BindPaths=/a\nBindReadOnlyPaths=/b", "BindReadOnlyPaths=", "BindPaths=/c"),
        ("TemporaryFileSystem=/a", "TemporaryFileSystem=", "TemporaryFileSystem=/c"),
        ("LoadCredential=ca:/a", "LoadCredentialEncrypted=", "LoadCredential=ca:/c"),
    ],
)
def test_an_empty_value_resets_both_settings_of_a_list(unit: str, reset: str, added: str) -> None:
    """The settings for writable and for read-only bind mounts have one list, as have those for credentials."""
    assert mounts(unit, f"{reset}\n{added}") == mounts(added)
    assert sorted(mounts(unit, added)) == sorted([*mounts(unit), *mounts(added)])


@pytest.mark.parametrize("name", ["SetCredential", "SetCredentialEncrypted"])
def test_the_value_of_a_credential_is_not_kept(name: str) -> None:
    """The value can be a private key, and certmond needs only the name of the credential."""
    parts = [("/u", parse_unit(f"[Service]\n{name}=key:-----BEGIN PRIVATE KEY-----".encode(), ""))]
    assert settings(parts) == {name: [Word("key", "/u")]}
