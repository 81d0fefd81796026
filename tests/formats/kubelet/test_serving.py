"""The file that the kubelet serves, for each combination of its settings."""

from __future__ import annotations

from typing import Any

import pytest

from certmond.formats.kubelet.serving import KubeletServing, kubelet_serving

PKI = "/var/lib/kubelet/pki"
REQUESTED, SELF_SIGNED = f"{PKI}/kubelet-server-current.pem", f"{PKI}/kubelet.crt"
BOOTSTRAP = {"serverTLSBootstrap": True}


@pytest.mark.parametrize(
    ("fields", "flags", "expected"),
    [
        ({}, {}, KubeletServing(SELF_SIGNED, False, frozenset({REQUESTED}))),
        (BOOTSTRAP, {}, KubeletServing(REQUESTED, True, frozenset({SELF_SIGNED}))),
        ({}, {"rotate-server-certificates": "true"}, KubeletServing(REQUESTED, True, frozenset({SELF_SIGNED}))),
        (
            BOOTSTRAP,
            {"rotate-server-certificates": "false"},
            KubeletServing(SELF_SIGNED, False, frozenset({REQUESTED})),
        ),
        ({}, {"cert-dir": "/k"}, KubeletServing("/k/kubelet.crt", False, frozenset({"/k/kubelet-server-current.pem"}))),
        ({"tlsCertFile": "/own.crt"}, {}, KubeletServing("/own.crt", False, frozenset({REQUESTED, SELF_SIGNED}))),
        ({"tlsCertFile": SELF_SIGNED}, {}, KubeletServing(SELF_SIGNED, False, frozenset({REQUESTED}))),
        (
            {"tlsCertFile": "/own.crt"},
            {"tls-cert-file": "/flag.crt"},
            KubeletServing("/flag.crt", False, frozenset({REQUESTED, SELF_SIGNED})),
        ),
        (
            {"tlsCertFile": "/own.crt"},
            {"tls-cert-file": ""},
            KubeletServing(SELF_SIGNED, False, frozenset({REQUESTED})),
        ),
        *(
            ({}, {"rotate-server-certificates": each}, KubeletServing(REQUESTED, True, frozenset({SELF_SIGNED})))
            for each in ("1", "t", "T", "TRUE", "True")
        ),
        *(
            (
                BOOTSTRAP,
                {"rotate-server-certificates": each},
                KubeletServing(SELF_SIGNED, False, frozenset({REQUESTED})),
            )
            for each in ("0", "f", "F", "FALSE", "False")
        ),
        (BOOTSTRAP | {"tlsCertFile": "/own.crt"}, {}, KubeletServing("/own.crt", False, frozenset({SELF_SIGNED}))),
        *(
            ({}, {"tls-cert-file": each}, KubeletServing(SELF_SIGNED, False, frozenset({REQUESTED})))
            for each in (f"{PKI}//kubelet.crt", f"/{SELF_SIGNED}", "./pki/kubelet.crt", "../kubelet/pki/kubelet.crt")
        ),
        ({"tlsCertFile": f"{PKI}/./kubelet.crt"}, {}, KubeletServing(SELF_SIGNED, False, frozenset({REQUESTED}))),
        *(
            (BOOTSTRAP, {"cert-dir": each}, KubeletServing(REQUESTED, True, frozenset({SELF_SIGNED})))
            for each in (f"{PKI}/", "/var/lib/kubelet//pki", "/var/lib/./kubelet/pki/.", f"/{PKI}")
        ),
        ({}, {"cert-dir": "./k/"}, KubeletServing("k/kubelet.crt", False, frozenset({"k/kubelet-server-current.pem"}))),
    ],
)
def test_the_settings_decide_which_file_the_kubelet_serves(
    fields: dict[str, Any], flags: dict[str, str], expected: KubeletServing
) -> None:
    """The kubelet serves a file of the operator, else a requested certificate, else a self-signed one."""
    assert kubelet_serving(fields, flags) == expected
