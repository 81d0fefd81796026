"""The fields of a KubeletConfiguration."""

from __future__ import annotations

from certmond.formats.kubelet.fields import patched, resolved


def test_a_merge_patch_replaces_lists_and_removes_null() -> None:
    """A mapping is merged, null removes a field, and other values are replaced (RFC 7396)."""
    target = {"a": {"b": 1, "c": 2}, "d": [1], "e": 1}
    assert patched(target, {"a": {"b": None}, "d": [2], "e": {"f": None}}) == {"a": {"c": 2}, "d": [2], "e": {}}


def test_relative_paths_start_at_the_directory() -> None:
    """The relative paths of the certificates, the static Pods and the client CA become absolute."""
    fields = {"tlsCertFile": "a.crt", "staticPodPath": "/pods", "authentication": {"x509": {"clientCAFile": "ca.crt"}}}
    assert resolved(fields, "/etc") == {
        "tlsCertFile": "/etc/a.crt",
        "staticPodPath": "/pods",
        "authentication": {"x509": {"clientCAFile": "/etc/ca.crt"}},
    }
