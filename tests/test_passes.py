"""The objects that passes of the loop leave behind."""

from __future__ import annotations

import gc
import subprocess
import sys
from itertools import count
from pathlib import Path
from weakref import ReferenceType, ref

import pytest

from certmond.config.parser import parse
from certmond.expose.metrics.exposition import Renderer
from certmond.files.catalog_observer import Store
from certmond.notify.change_log import ChangeLog
from certmond.notify.event_log import Journal
from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.x509.certificate import Certificate
from tests.builders import make_ca
from tests.node import NOW, PKI, Node


@pytest.mark.long
def test_a_pass_makes_nothing_that_only_the_collector_could_free(node: Node, tmp_path: Path) -> None:
    """The objects of a scan, a judgment and a rendering are freed without the garbage collector: none is in a cycle, on
    a valid node and on one that breaks. The daemon relies on it, because its collector ignores the objects of the
    start.
    """
    config, renderer = parse([]), Renderer()
    store = Store(config.certificates, str(node.root))

    def one_pass() -> None:
        assessment = assess(store.observe(), NOW, None, config.renew_before)
        renderer.write_metrics(tmp_path / "metrics.prom", assessment)
        renderer.write_status(tmp_path / "status.json", assessment, "observe", None)

    one_pass()  # caches of the first pass do not count
    gc.disable()
    try:
        for content in (node.read(f"{PKI}/apiserver-kubelet-client.crt"), b"broken"):
            node.write(f"{PKI}/apiserver.crt", content)
            gc.collect()
            one_pass()
            assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.long
def test_the_collector_is_off_while_the_daemon_is_loaded(tmp_path: Path) -> None:
    """It would repeatedly traverse modules, which exist as long as the daemon."""
    (tmp_path / "file").touch()
    code = """if True:
        import gc, sys
        from certmond.cli.main import cli
        from certmond.errors import RuntimeDirError
        loading = []
        gc.callbacks.append(lambda *_: loading.append("certmond.daemon.enforcer" in sys.modules))
        try:
            cli.main(["run", *sys.argv[1:]], standalone_mode=False)
        except RuntimeDirError:
            print("certmond.daemon.loop" in sys.modules, any(loading))
    """
    options = ("--root", tmp_path, "--runtime-dir", tmp_path / "file" / "run")
    run = subprocess.run([sys.executable, "-c", code, *map(str, options)], capture_output=True, text=True, check=True)
    assert run.stdout == "True False\n"


@pytest.mark.long
def test_a_command_that_ends_soon_collects_no_garbage(node: Node) -> None:
    """A collection would traverse all modules and values, also at the end of the command."""
    code = """if True:
        import gc, sys
        from certmond.cli.main import cli
        collections = []
        gc.callbacks.append(lambda phase, _: collections.append("certmond.daemon.enforcer" in sys.modules))
        try:
            cli.main(["check", *sys.argv[1:]], standalone_mode=False)
        except SystemExit:
            values = [[] for _ in range(1000)]
            print("certmond.daemon.enforcer" in sys.modules, any(collections), gc.isenabled(), file=sys.stderr)
    """
    run = subprocess.run(
        [sys.executable, "-c", code, "--root", str(node.root)], capture_output=True, text=True, check=True
    )
    assert run.stderr == "True False True\n"


def test_an_unused_certificate_is_freed(node: Node, tmp_path: Path) -> None:
    """A replaced certificate takes no memory after its report. The last valid one of a broken file takes none after a
    new one exists. So the memory of the daemon does not depend on the number of past certificates.
    """
    config, renderer, written, hours = parse([]), Renderer(), ChangeLog(Journal("none")), count()
    store, path = Store(config.certificates, str(node.root)), f"{PKI}/apiserver-kubelet-client"
    before: Assessment | None = None

    def one_pass() -> ReferenceType[Certificate]:
        nonlocal before
        assessment = assess(store.observe(), NOW, before, config.renew_before)
        renderer.write_metrics(tmp_path / "metrics.prom", assessment)
        renderer.write_status(tmp_path / "status.json", assessment, "observe", None)
        written.compare(before, assessment, next(hours) * 3600.0)
        before = assessment
        shown = next(each.certificate for each in assessment.statuses if each.seen.path == f"/{path}.crt")
        assert shown
        return ref(shown)

    node.reissue(path, f"{PKI}/ca")  # other tests hold the certificate of the data
    first, content = one_pass(), node.read(f"{path}.crt")
    node.reissue(path, f"{PKI}/ca")
    second = one_pass()
    assert first() is None
    node.write(f"{path}.crt", b"broken")
    assert one_pass()() is second()
    node.write(f"{path}.crt", content)
    one_pass()
    assert second() is None


def test_an_unused_ca_is_freed(node: Node, tmp_path: Path) -> None:
    """A replaced CA certificate takes no memory after its report."""
    store, renderer, path = Store(parse([]).certificates, str(node.root)), Renderer(), f"{PKI}/front-proxy-ca.crt"
    before: Assessment | None = None

    def one_pass() -> ReferenceType[Certificate]:
        nonlocal before
        node.write(path, make_ca("front-proxy").pem)
        before = assess(store.observe(), NOW, before)
        renderer.write_status(tmp_path / "status.json", before, "observe", None)
        (anchor,) = (each for each in before.trust_anchors if each.seen.path == f"/{path}")
        assert anchor.certificate
        return ref(anchor.certificate)

    first = one_pass()
    assert first() is not None
    one_pass()
    assert first() is None
