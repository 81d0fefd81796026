"""Releases: verified, installed, upgraded and downgraded as docs/releases.md describes, by real gpg, apt and dnf."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from certmond.transaction.state_directory import VERSION
from tests.conftest import real_part
from tests.node import Node
from tests.packaging.altered_package import altered
from tests.packaging.conftest import BUILD_DEADLINE, REPOSITORY, Built
from tests.system.machine import HIDDEN, PREFIX, Machine, booted

pytestmark = [pytest.mark.long, pytest.mark.timeout(3 * BUILD_DEADLINE)]

EARLIER, LATER = "0.0.9-1", "9.0.0-1"
CODENAME = "trixie"
"""The suite of the packages in these tests, whatever this machine is: the name that the documentation has."""
PACKAGE = "apt/pool/trixie/certmond_"


class Gpg:
    """A home directory of gpg with one new key."""

    def __init__(self, home: Path, algorithm: str = "rsa3072") -> None:
        home.mkdir(mode=0o700)
        self.environment = {**os.environ, "GNUPGHOME": str(home)}
        self.run("--quick-gen-key", f"Release <{algorithm}@example.org>", algorithm, "sign", "never")
        listed = self.run("--with-colons", "--list-secret-keys")
        (self.key,) = re.findall(r"^fpr:+([0-9A-F]{40}):", listed, re.MULTILINE)

    def run(self, *arguments: str) -> str:
        return subprocess.run(
            [real_part("gpg"), "--batch", "--pinentry-mode", "loopback", "--passphrase", "", *arguments],
            env=self.environment, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip


@pytest.fixture(scope="module")
def gpg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpg]:
    home = tmp_path_factory.mktemp("gpg")
    made = Gpg(home / "home")  # a short path: the socket of the agent is below it
    yield made
    subprocess.run(["gpgconf", "--kill", "all"], env=made.environment, check=True)


def index(directory: Path, gpg: Gpg | None, date: int = 1796000000) -> None:
    for part in ("apt-ftparchive", "dpkg-scanpackages", "createrepo_c", "rpmsign"):
        real_part(part)
    environment = {
        **(gpg.environment if gpg else os.environ),
        "KEY": gpg.key if gpg else "",
        "SOURCE_DATE_EPOCH": str(date),
    }
    done = subprocess.run(
        [REPOSITORY / "packaging/repository", directory], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def packages(built: Built, directory: Path, *others: Path) -> Path:
    for place, file in (("apt/pool/trixie", built[".deb"]), ("dnf/el9", built[".rpm"]), (".", built[".whl"])):
        (directory / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, directory / place)
    for file in others:
        shutil.copy(file, directory / "apt/pool/trixie")
    return directory


@pytest.fixture(scope="module")
def signed(built: Built, gpg: Gpg, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed release with an earlier package, and one of a later version with a later format of the state."""
    work = tmp_path_factory.mktemp("signed")
    others = (
        altered(built[".deb"], work, EARLIER),
        altered(built[".deb"], work, LATER, state_format=VERSION + 1),
    )
    release = packages(built, work / "release", *others)
    index(release, gpg, int(time.time()))  # later than the commit, and not in the future
    return release


@pytest.fixture
def release(signed: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(signed, tmp_path / "release"))


def documented(title: str | None) -> list[str]:
    """Return the blocks of commands in a section of docs/releases.md, or before the first section."""
    text = (REPOSITORY / "docs/releases.md").read_text()
    sections = dict(re.findall(r"(?ms)^## ([^\n]+)\n(.*?)(?=^## |\Z)", text))
    body = sections[title] if title else text.partition("\n## ")[0]
    return [re.sub(r"(?m)^    ", "", block).strip() for block in re.findall(r"(?m)(?:^    .*\n)+", body)]


# --- Verification -----------------------------------------------------------------------------------------------------


def verify(release: Path, home: Path) -> subprocess.CompletedProcess[str]:
    """Run the first commands of the page in a release, as a user who has no other key."""
    home.mkdir(mode=0o700, exist_ok=True)
    return subprocess.run(
        ["sh", "-ec", documented(None)[0]],
        cwd=release, env={**os.environ, "GNUPGHOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def change(file: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.real("gpg")
def test_the_documented_commands_verify_a_release(release: Path, tmp_path: Path) -> None:
    """The documented commands accept a signed release, whose sums name every other file."""
    done = verify(release, tmp_path / "home")
    assert (done.returncode, "Good signature" in done.stderr) == (0, True), done.stderr
    named = {line.split(maxsplit=1)[1] for line in (release / "SHA256SUMS").read_text().splitlines()}
    files = {str(path.relative_to(release)) for path in release.rglob("*") if path.is_file()}
    assert files - named == {"SHA256SUMS", "SHA256SUMS.asc"}
    assert named <= files


@pytest.mark.real("gpg")
@pytest.mark.parametrize("pattern", [f"{PACKAGE}*.deb", "certmond-*.whl", "dnf/el9/*.rpm", "SHA256SUMS"])
def test_the_documented_commands_refuse_a_changed_byte(release: Path, tmp_path: Path, pattern: str) -> None:
    """With one changed byte in a package or in the sums, the documented commands fail."""
    change(min(release.glob(pattern)))
    assert verify(release, tmp_path / "home").returncode != 0


@pytest.mark.real("rpm")
def test_rpm_refuses_a_changed_byte(release: Path, tmp_path: Path) -> None:
    """rpmkeys accepts the signature of the RPM with the key of the release, and refuses a changed RPM."""
    (package,) = release.glob("dnf/el9/*.rpm")
    database = ["--dbpath", str(tmp_path / "db")]
    subprocess.run(["rpmkeys", *database, "--import", release / "certmond.asc"], check=True)
    check = ["rpmkeys", *database, "--define", "_pkgverify_level all", "--checksig", str(package)]
    assert "signatures OK" in subprocess.run(check, check=True, capture_output=True, text=True).stdout
    change(package)
    assert subprocess.run(check, check=False, capture_output=True).returncode != 0


@pytest.mark.real("rpm")
def test_a_signed_rpm_without_its_signature_is_the_one_that_was_built(release: Path, built: Built) -> None:
    """`rpmsign --delsign` restores the bytes of the unsigned package, so that a user can compare it with a build."""
    (package,) = release.glob("dnf/el9/*.rpm")
    assert package.read_bytes() != built[".rpm"].read_bytes()
    subprocess.run([real_part("rpmsign"), "--delsign", package], check=True, capture_output=True)
    assert package.read_bytes() == built[".rpm"].read_bytes()


def dnf_repository() -> str:
    """Return the documented file of a repository of dnf."""
    (text,) = re.findall(r"(?s)```ini\n(.*?)```", (REPOSITORY / "docs/releases.md").read_text())
    assert isinstance(text, str)
    return text


@pytest.mark.real("dnf")
def test_dnf_refuses_a_changed_index(release: Path, tmp_path: Path) -> None:
    """dnf accepts the documented repository with `repo_gpgcheck`, and refuses it after a change of one byte."""
    (tmp_path / "repos").mkdir()
    (tmp_path / "repos/certmond.repo").write_text(dnf_repository().replace("/srv/certmond", str(release)))

    def ask() -> subprocess.CompletedProcess[str]:
        options = {
            "reposdir": tmp_path / "repos",
            "cachedir": tmp_path / "cache",
            "logdir": tmp_path,
            "varsdir": tmp_path,
        }
        return subprocess.run(
            [real_part("dnf"), "--assumeyes", "--refresh", f"--installroot={tmp_path / 'root'}", "--releasever=9",
             *(f"--setopt={name}={value}" for name, value in options.items()), "repoquery", "--requires", "certmond"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    done = ask()
    assert (done.returncode, "/usr/bin/python3." in done.stdout) == (0, True), done.stderr
    change(release / "dnf/el9/repodata/repomd.xml")
    done = ask()
    assert "/usr/bin/python3." not in done.stdout, done.stderr


@pytest.mark.real("apt")
def test_an_unsigned_release_has_the_same_bytes_each_time(built: Built, gpg: Gpg, tmp_path: Path) -> None:
    """Two unsigned releases with the same packages are equal, and contain no signature, also if one was signed
    before.
    """
    one, other = packages(built, tmp_path / "one"), packages(built, tmp_path / "other/place")
    index(one, None)
    (unsigned,) = one.glob("dnf/el9/*.rpm")
    untouched = unsigned.read_bytes()
    index(other, gpg)
    shutil.copy(unsigned, other / "dnf/el9")
    index(other, None)
    assert {str(path.relative_to(one)): path.read_bytes() for path in one.rglob("*") if path.is_file()} == {
        str(path.relative_to(other)): path.read_bytes() for path in other.rglob("*") if path.is_file()
    }
    assert unsigned.read_bytes() == untouched
    assert not [*one.rglob("*.asc"), *one.rglob("InRelease"), *one.rglob("Release.gpg")]


@pytest.mark.real("gpg")
def test_a_release_for_el_9_refuses_a_key_that_its_rpm_does_not_read(tmp_path: Path) -> None:
    """rpm on version 9 of Enterprise Linux reads no Ed25519 key, so a release for el-9 needs an RSA key."""
    gpg = Gpg(tmp_path / "home", "ed25519")
    done = subprocess.run(
        [REPOSITORY / "packaging/release"],
        env={**gpg.environment, "KEY": gpg.key, "OUT": str(tmp_path / "out")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    subprocess.run(["gpgconf", "--kill", "all"], env=gpg.environment, check=True)
    assert (done.returncode, "is not an RSA key" in done.stderr) == (64, True), done.stderr


# --- A release that this machine cannot build completely --------------------------------------------------------------


@pytest.fixture(scope="module")
def incomplete(
    commit: str, signed: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A release whose only target needs a mirror that does not exist, with the packages of an earlier release."""
    out = tmp_path_factory.mktemp("incomplete") / "release"
    real_part("mmdebstrap")
    environment = {**os.environ, "OUT": str(out), "COMMIT": commit, "TARGETS": "ubuntu-24.04", "EARLIER": str(signed)}
    return out, subprocess.run(
        [REPOSITORY / "packaging/release"],
        env={**environment, "UBUNTU_MIRROR": "file:///nonexistent"}, capture_output=True, text=True,
        timeout=BUILD_DEADLINE, check=False,
    )  # fmt: skip


@pytest.mark.sampled("package")
@pytest.mark.real("mmdebstrap")
def test_a_target_that_cannot_be_built_is_named(incomplete: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """If a target cannot be built here, the last line names the target, and the exit status is 2. The release contains
    everything else.
    """
    out, done = incomplete
    assert done.returncode == 2, done.stdout + done.stderr
    assert "NOT BUILT: ubuntu-24.04: " in done.stderr.splitlines()[-1]
    assert "NOT SIGNED" in done.stdout
    assert {f"not requested: {name}" for name in ("debian-12", "debian-13", "el-9", "el-10")} <= set(
        done.stdout.splitlines()
    )
    assert subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=False).returncode == 0
    assert {path.name.partition("-")[2].partition("-")[2] or path.suffix for path in out.glob("certmond-*")} == {
        "py3-none-any.whl", "offline.tar", ".gz",
    }  # fmt: skip


@pytest.mark.real("mmdebstrap")
def test_a_release_names_each_step_when_it_starts(incomplete: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """The command prints a line for each step, because a step takes minutes. The latest line of a step is indented."""
    lines = [line for line in incomplete[1].stdout.splitlines() if not line.startswith(" ")]
    steps = [line.split()[0] for line in lines if line.endswith(" ...")]
    assert steps == ["Building", "Downloading", "Building", "Writing"]


@pytest.mark.real("mmdebstrap")
def test_a_release_contains_the_packages_of_an_earlier_release(
    incomplete: tuple[Path, subprocess.CompletedProcess[str]], signed: Path
) -> None:
    """With EARLIER, the repositories of a release contain the earlier packages, with the same bytes."""
    out, _ = incomplete
    earlier = [path.relative_to(signed) for pattern in ("apt/pool/*/*", "dnf/*/*.rpm") for path in signed.glob(pattern)]
    assert len(earlier) == 4
    assert [path for path in earlier if (out / path).read_bytes() != (signed / path).read_bytes()] == []
    assert f"Version: {EARLIER}" in (out / "apt/dists/trixie/main/binary-amd64/Packages").read_text()
    assert list(out.glob("dnf/el9/repodata/repomd.xml"))


@pytest.mark.real("mmdebstrap")
def test_an_index_is_not_older_than_that_of_the_earlier_release(
    incomplete: tuple[Path, subprocess.CompletedProcess[str]], signed: Path
) -> None:
    """apt ignores an index that is older than the index that it has. The index of the earlier release is later than the
    commit here, so the new index has the time of the earlier one.
    """
    dates = [
        re.findall(r"(?m)^Date: (.*)$", (release / "apt/dists/trixie/Release").read_text())
        for release in (signed, incomplete[0])
    ]
    assert dates[0] == dates[1]


@pytest.mark.sampled("package")
@pytest.mark.real("mmdebstrap")
def test_the_bundle_installs_without_an_index(
    incomplete: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """With the documented commands, pip installs certmond from the bundle alone, and verifies each file."""
    (bundle,) = incomplete[0].glob("certmond-*-offline.tar")
    with tarfile.open(bundle) as archive:
        members = archive.getmembers()
    assert [each.name for each in members] == sorted(each.name for each in members)
    assert {(each.uid, each.gid, each.uname, each.gname) for each in members} == {(0, 0, "", "")}
    assert len({each.mtime for each in members}) == 1
    venv.create(tmp_path / "opt/certmond", with_pip=True)
    block = documented("Install without a network")[1]
    block = re.sub(r"certmond-[\d.]+-offline(?!\.tar)", bundle.name.removesuffix(".tar"), block).replace(
        "/opt/", f"{tmp_path}/opt/"
    )
    subprocess.run(["tar", "-xf", bundle], cwd=tmp_path, check=True)
    nowhere = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "PIP_COMPILE": "0"}
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PYTHONPATH"):
        nowhere.pop(name, None)
    done = subprocess.run(["sh", "-ec", block], cwd=tmp_path, env=nowhere, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    printed = subprocess.run(
        [tmp_path / "opt/certmond/bin/certmond", "version"], env=nowhere, check=True, capture_output=True, text=True
    )
    assert re.fullmatch(r"certmond \S+ \(commit [0-9a-f]{12}\)\n", printed.stdout)


@pytest.mark.real("mmdebstrap")
def test_the_bill_of_materials_names_each_file_of_the_bundle(
    incomplete: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    """The SBOM of the bundle contains each file with its hash, and each hash is in a lock file."""
    (bill,) = incomplete[0].glob("sbom/*-offline.cdx.json")
    components = json.loads(bill.read_text())["components"]
    locks = "".join((REPOSITORY / f"requirements-{name}.txt").read_text() for name in ("build", "kubernetes"))
    assert all(f"sha256:{each['hashes'][0]['content']}" in locks for each in components)
    (bundle,) = incomplete[0].glob("certmond-*-offline.tar")
    with tarfile.open(bundle) as archive:
        files = {Path(each.name).name for each in archive.getmembers() if each.isfile()}
    assert {each["purl"].partition("file_name=")[2] for each in components} == {
        name for name in files if not name.startswith(("certmond-", "requirements"))
    }


# --- On a machine -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(signed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a node's certificates, with the release in /srv/certmond, and without other repositories."""
    hidden = tuple(path for path in HIDDEN if path not in (PREFIX, "/etc/certmond"))
    with booted(tmp_path_factory.mktemp("machine"), hidden) as machine:
        machine.run("rm", "-rf", "/usr/sbin/policy-rc.d", PREFIX, "/etc/certmond", "/var/lib/certmond", "/srv/certmond")
        machine.run("sh", "-c", "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*")
        shutil.copytree(signed, machine.path("/srv/certmond"))
        Node(machine.root)
        yield machine


def carry_out(machine: Machine, commands: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        machine.command("sh", "-ec", commands),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=BUILD_DEADLINE, check=False,
    )  # fmt: skip


def done(machine: Machine, commands: str) -> None:
    result = carry_out(machine, commands)
    assert result.returncode == 0, f"{commands}\n{result.stdout}{result.stderr}\n{machine.tail()}"


def installed(machine: Machine) -> str:
    return machine.run("dpkg-query", "-W", "-f", "${Version}", "certmond")


def state(machine: Machine) -> dict[str, bytes]:
    """Return the content of each file in the archive, and of the record of renewals."""
    base = machine.path("/var/lib/certmond")
    files = [base / "renewals.json", *(path for path in sorted(base.glob("archive/**/*")) if path.is_file())]
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


def downgrade(version: str) -> str:
    return documented("Downgrade")[0].replace("VERSION", version)


@pytest.mark.real("apt")
def test_apt_refuses_a_changed_release(machine: Machine) -> None:
    """apt refuses an index with a changed byte, and a package with a changed byte behind an intact index."""
    install = documented("Install from the repository")[0]
    place = machine.path("/srv/certmond/apt")
    for pattern, reason in (("dists/trixie/InRelease", "is not signed"), ("pool/trixie/*.deb", "Hash Sum mismatch")):
        for file in place.glob(pattern):
            original = file.read_bytes()
            file.with_name(f"{file.name}.kept").write_bytes(original)
            change(file)
        place.joinpath("dists/trixie/Release.gpg").rename(place / "kept.gpg")  # apt must not use it instead
        refused = carry_out(machine, install)
        assert (refused.returncode, reason in refused.stderr) == (100, True), refused.stdout + refused.stderr
        assert machine.attempt("dpkg-query", "-W", "certmond").returncode != 0
        for kept in place.rglob("*.kept"):
            kept.rename(kept.with_name(kept.name.removesuffix(".kept")))
        (place / "kept.gpg").rename(place / "dists/trixie/Release.gpg")


@pytest.mark.real("apt")
def test_an_upgrade_and_a_downgrade_keep_the_state(machine: Machine, built: Built) -> None:
    """The documented commands install certmond from the signed repository. An upgrade and a downgrade by one version
    keep every byte of the archive and of the record of renewals. A version that does not know the format of a record
    names the record, and changes neither the record nor the node.
    """
    present = subprocess.run(
        ["dpkg-deb", "--field", built[".deb"], "Version"], check=True, capture_output=True, text=True
    ).stdout.strip()
    repository, install = documented("Install from the repository")[0].rsplit("\n", 1)
    done(machine, f"{repository}\n{install}={EARLIER}")
    assert installed(machine) == EARLIER
    done(machine, "systemctl stop certmond; certmond renew --no-restart apiserver-kubelet-client || [ $? = 1 ]")
    before = state(machine)
    assert any(name.endswith("/description.json") for name in before)
    generations = machine.run("certmond", "archive", "list")

    for step, version in (
        (f"{install}={present}", present),
        (downgrade(EARLIER), EARLIER),
        (downgrade(present), present),
    ):
        done(machine, step)
        assert installed(machine) == version
        assert state(machine) == before, version
        assert machine.run("certmond", "archive", "list") == generations
        assert machine.property("certmond-web.service", "ActiveState") == "active"

    # The latest version of the repository writes a later format. The present version refuses this format.
    done(machine, documented("Upgrade")[0])
    assert installed(machine) == LATER
    done(machine, "systemctl stop certmond; certmond renew --no-restart front-proxy-client || [ $? = 1 ]")
    after = state(machine)
    assert after != before
    done(machine, f"{downgrade(present)}; systemctl stop certmond")
    certificate = machine.path("/etc/kubernetes/pki/front-proxy-client.crt").read_bytes()
    refused = machine.attempt("certmond", "renew", "--no-restart", "front-proxy-client")
    assert refused.returncode == 3, refused.stdout + refused.stderr
    assert re.search(r"/var/lib/certmond/\S+ has the format version 2 of a later version of certmond", refused.stderr)
    assert state(machine) == after
    assert machine.path("/etc/kubernetes/pki/front-proxy-client.crt").read_bytes() == certificate
