"""The files that the kubelets of a node serve and read."""

from __future__ import annotations

from certmond.files.references.kubelet_view import KubeletView, ServedFiles
from certmond.formats.kubelet.serving import KubeletServing
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.validator import validated

SERVING = KubeletServing("/pki/served.crt", True, frozenset({"/pki/a.crt", "/pki/b.crt"}))


def entry(path: str, **fields: str) -> CertificateSpec:
    return validated(CertificateSpec, {"name": "x", "path": path} | fields)


def test_a_file_that_another_kubelet_serves_is_used() -> None:
    """A file is unused only if the kubelet of the node does not serve it, and no other kubelet does."""
    view = KubeletView(SERVING, ServedFiles(frozenset({"/pki/b.crt"})))
    unused = {path for path in ("/pki/served.crt", "/pki/a.crt", "/pki/b.crt") if view.is_unused(entry(path), path)}
    assert unused == {"/pki/a.crt"}
    assert not KubeletView().is_unused(entry("/pki/a.crt"), "/pki/a.crt")


def test_a_file_below_a_mount_is_unused() -> None:
    """If a mount hides the kubeconfig or the client certificate of the kubelet, no kubelet reads the file."""
    client = entry("/pki/client.pem", kind="kubelet", kubeconfig="/etc/kubelet.conf")
    mounts: list[tuple[dict[str, str | None], bool]] = [
        ({}, False), ({"/srv": None}, False), ({"/pki": "/pki"}, False), ({"/pki": None}, True), ({"/etc": "/x"}, True),
    ]  # fmt: skip
    for mount, is_unused in mounts:
        assert KubeletView(mounts=mount).is_unused(client, client.path) is is_unused


def test_each_kubelet_can_request_a_certificate() -> None:
    """The requested certificates are those of the kubelet of the node and of the other kubelets."""
    view = KubeletView(SERVING, ServedFiles(requested=frozenset({"/pki/b.crt"})))
    assert [view.is_requested(path) for path in ("/pki/served.crt", "/pki/b.crt", "/pki/a.crt")] == [True, True, False]
    assert not KubeletView().is_requested("/pki/served.crt")
