"""The modules that the two processes load: each module uses memory on every node, during the whole run."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import certmond
from tests.node import Node

ROOT = Path(certmond.__file__).parents[1]
PARSER = {"ast", "tokenize"} if sys.version_info >= (3, 13) else set[str]()
"""The parser of Python. Before Python 3.13, the import of `inspect` needs it."""


def loaded(*modules: str) -> set[str]:
    """Return the modules that a process has after these imports, packages by their name and with their content."""
    return loaded_by(f"import {', '.join(modules)}")


def loaded_by(*lines: str) -> set[str]:
    """Return the modules that a process has at its end, after it has run this code."""
    names = "(name for name, module in sys.modules.items() if type(module).__name__ != '_DeferredModule')"
    code = "\n".join(("import atexit, sys", f"atexit.register(lambda: print('', *{names}))", *lines))
    own = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it loads many
    run = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=False, cwd=ROOT)
    return set(run.stdout.split("\n")[-2].split())


def test_the_command_line_that_serves_is_small() -> None:
    """`certmond serve` loads click and the standard library: nothing that reads a configuration or a certificate, no
    event loop, no terminal, no parser of Python, and not OpenSSL.
    """
    found = loaded("certmond.cli.main", "certmond.expose.http.server", "certmond.notify.library_log")
    assert "certmond.expose.http.server" in found
    assert not found & {"asyncio", "cryptography", "hashlib", "jeepney", "pydantic", "rich", "ssl", "watchdog", "yaml"}
    assert not found & (PARSER | {"click.shell_completion"})


def test_the_status_command_reads_no_certificate() -> None:
    """`certmond status` loads nothing that reads a configuration or a certificate."""
    found = loaded(
        "certmond.cli.main", "certmond.expose.documents.status_reader", "certmond.expose.http.heartbeat_check"
    )
    assert not found & {"certmond.pki.assessment", "cryptography", "pydantic", "yaml"}


def test_documents_of_the_state_are_read_without_pydantic() -> None:
    """certmond checks the documents that it writes itself, and the record of a rotation, with its own decoder."""
    found = loaded(
        "certmond.cluster.record_rules",
        "certmond.notify.hook_worker",
        "certmond.restart.history",
        "certmond.rotation.distribution_ca_files",
        "certmond.services.content_times",
        "certmond.state.archive",
        "certmond.state.last_subjects",
        "certmond.state.renewals",
        "certmond.state.rotation_record",
    )
    assert {"certmond.cluster.record", "certmond.state.json_decoder"} <= found
    assert not found & {"pydantic", "pydantic_core"}


ACTING = {
    "certmond.controllers.executor",
    "certmond.controllers.host_holds",
    "certmond.controllers.restart",
    "certmond.controllers.rotation",
    "certmond.controllers.signer_choice",
    "certmond.renewal.derived_files",
    "certmond.restart.act",
    "certmond.restart.rollback",
    "certmond.rotation.distribution_ca_files",
    "certmond.rotation.step_files",
    "certmond.signers.local_ca",
}
"""Modules that change the node, or sign."""
NEEDED_LATER = {
    "certmond.renewal.certificate_origin",
    "certmond.renewal.repair_sources",
}
"""Modules for damaged files, and for due certificates."""


@pytest.mark.long
@pytest.mark.parametrize("command", ["check", "plan", "metrics", "discover"])
def test_a_command_that_reads_loads_nothing_that_acts(node: Node, command: str) -> None:
    """`certmond check`, `plan`, `metrics` and `discover` load no controller that changes the node, no signer, no
    watch of a directory, no TLS and no names of emojis.
    """
    argv = ["certmond", command, "--root", str(node.root)]
    found = loaded_by(f"sys.argv = {argv}", "from certmond.cli.main import main", "main()")
    assert "certmond.files.catalog_observer" in found
    assert not found & (ACTING - ({"certmond.renewal.derived_files"} if command == "plan" else set()))
    assert not found & {"bcrypt", "cryptography.hazmat.primitives.serialization.ssh", "ssl", "watchdog"}
    assert "rich._emoji_codes" not in found


@pytest.mark.long
def test_the_daemon_in_observe_mode_loads_nothing_that_acts(node: Node, tmp_path: Path) -> None:
    """In observe mode, a pass of the daemon loads no controller that changes the node, no signer, no search for other
    programs that renew, no worker of hooks, no e-mail messages, no metadata of packages, no observer of directory
    trees, no parser of Python, no transaction, and not pydantic. A child process parses the configuration, as
    `certmond run` does.
    """
    places = f"root='{node.root}', runtime_dir=Path('{tmp_path}'), state_dir=Path('{tmp_path}/state')"
    found = loaded_by(
        "from pathlib import Path",
        "from certmond.cli.options import Globals",
        "load = Globals().start_loading()",
        "from certmond.daemon.loop import Daemon",
        "from certmond.notify.event_log import Journal",
        f"daemon = Daemon(load, {places}, journal=Journal('none'))",
        "daemon.stop()",  # ends the loop after the first pass
        "daemon.run()",
    )
    assert (tmp_path / "metrics.prom").exists()
    assert not found & {"certmond.config.parser", "email.message", "pydantic", "pydantic_core"}
    assert not found & {"importlib.metadata", "watchdog.events", "watchdog.observers.inotify", "zipfile"}
    assert not found & (PARSER | {"bcrypt", "cryptography.hazmat.primitives.serialization.ssh"})
    assert not found & {"bz2", "certmond.transaction.commit", "ctypes.util", "lzma", "random", "shutil", "tempfile"}
    assert not found & (ACTING | {"certmond.files.other_renewers", "certmond.notify.hook_worker"})


@pytest.mark.long
def test_the_daemon_of_an_intact_node_loads_nothing_for_repairs_and_renewals(node: Node, tmp_path: Path) -> None:
    """While no file is damaged and no certificate is due, a pass in observe mode loads no lookup of repairs or of
    evidence about certificates, no editor of kubeconfigs, no objects of the cluster, no rules of restarts, no client of
    D-Bus, which only the observation of the services after the first pass needs, and not OpenSSL's libcrypto.
    """
    places = f"root='{node.root}', runtime_dir=Path('{tmp_path}'), state_dir=Path('{tmp_path}/state')"
    found = loaded_by(
        "from pathlib import Path",
        "from certmond.cli.options import Globals",
        "from certmond.daemon.loop import Daemon",
        "from certmond.notify.event_log import Journal",
        f"daemon = Daemon(Globals().load, {places}, journal=Journal('none'))",
        "daemon.stop()",
        "daemon.run()",
        f"Path('{tmp_path}/maps').write_text(Path('/proc/self/maps').read_text())",
    )
    assert (tmp_path / "metrics.prom").exists()
    assert "libcrypto" not in (tmp_path / "maps").read_text() or not find_spec("_sha3")
    others = {
        "certmond.cluster.api_access",
        "certmond.formats.kubeconfig_edit",
        "certmond.pki.services.cluster_objects",
        "certmond.pki.services.restart_state_machine",
        "certmond.services.service_observer",
        "jeepney",
    }
    assert not found & (NEEDED_LATER | others)


def test_keys_are_serialized_without_the_formats_of_ssh() -> None:
    """In a process of certmond, cryptography reads and writes keys and PKCS #12 files without its module for SSH keys.
    A caller that asks for this module gets it.
    """
    code = """
import sys
import certmond.pki.x509.certificate
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PrivateFormat, PublicFormat, pkcs12

key = ec.generate_private_key(ec.SECP256R1())
protection = serialization.BestAvailableEncryption(b"secret")
pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection)
assert serialization.load_pem_private_key(pem, b"secret").private_numbers() == key.private_numbers()
der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
assert serialization.load_der_public_key(der) == key.public_key()
store = pkcs12.serialize_key_and_certificates(b"name", key, None, None, protection)
assert pkcs12.load_pkcs12(store, b"secret").key.private_numbers() == key.private_numbers()
assert "cryptography.hazmat.primitives.serialization.ssh" not in sys.modules
line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
assert serialization.load_ssh_public_key(line) == key.public_key()
assert serialization.Encoding is Encoding
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_a_process_that_acts_loads_its_controllers_at_its_start(node: Node, tmp_path: Path) -> None:
    """In enforce mode, the daemon imports all controllers before its first pass. Later, a lack of descriptors or an
    upgrade could prevent the import in the middle of the work.
    """
    found = loaded_by(
        "from datetime import UTC, datetime",
        "from pathlib import Path",
        "from certmond.cli.options import Globals",
        "from certmond.daemon.enforcer import Enforcer",
        "from certmond.notify.audit import Audit",
        "from certmond.notify.event_log import Journal",
        f"state = Path('{tmp_path}/state')",
        "audit = Audit(Journal('none'), state, 'test')",
        f"Enforcer(Globals(profile='kubeadm').start_loading()(), root='{node.root}', state_dir=state, audit=audit,"
        " clock=lambda: datetime.now(UTC), acting=True)",
    )
    assert {"certmond.controllers.executor", "certmond.controllers.rotation", "certmond.controllers.restart"} <= found
    assert found >= NEEDED_LATER
    assert "pydantic" not in found


@pytest.mark.long
def test_the_daemon_loads_no_terminal_library() -> None:
    """`certmond run` as a unit loads nothing for terminals or for the Kubernetes API, no HTTP server or client, and no
    event loop before it probes an endpoint.
    """
    found = loaded("certmond.cli.main", "certmond.daemon.loop", "certmond.notify.event_log")
    assert {"certmond.daemon.loop", "structlog"} <= found
    assert not found & {
        "asyncio",
        "attr",
        "http",
        "httpx",
        "lightkube",
        "pygments",
        "rich",
        "structlog.dev",
        "urllib.request",
    }
