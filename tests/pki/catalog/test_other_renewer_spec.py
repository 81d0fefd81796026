"""The commands and scripts that renew the certificates of kubeadm."""

from __future__ import annotations

import pytest

from certmond.pki.catalog.other_renewer_spec import runs_renewal

RENEWALS = {
    "a command": "kubeadm certs renew all",
    "a command before Kubernetes v1.20": "/usr/bin/kubeadm alpha certs renew all",
    "a condition before the command": "[ -f /etc/x ] && /usr/local/bin/kubeadm certs renew apiserver",
    "a variable for the program": 'KUBEADM_BIN="/usr/local/bin/kubeadm"\n$KUBEADM_BIN certs renew all',
    "a printed text before the command": "echo renew; kubeadm certs renew all",
    "a list of arguments": 'KUBEADM = "/usr/bin/kubeadm"\nrun([KUBEADM, "certs", "renew", "all"])',
    "a list on several lines": "run(\n    'kubeadm',\n    'certs',\n    'renew',\n    'all')",
}
OTHERS = {
    "another command of kubeadm": "kubeadm certs check-expiration",
    "another program": "vault certs renew all",
    "a comment": "# kubeadm certs renew all",
    "a comment at the end of a line": "kubeadm version # certs renew",
    "a hint": "kubeadm certs check-expiration || echo run kubeadm certs renew all",
    "a printed hint": '    print("kubeadm certs renew all")',
    "a longer word": "kubeadm mycerts renew",
    "nothing": "",
}


@pytest.mark.parametrize("text", RENEWALS.values(), ids=RENEWALS)
def test_a_text_that_runs_kubeadm_certs_renew_is_a_renewal(text: str) -> None:
    """A command or a script renews certificates if it runs `certs renew` of kubeadm in any notation."""
    assert runs_renewal(text)


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_a_text_that_only_mentions_the_command_is_no_renewal(text: str) -> None:
    """A comment, a printed text, another program or another subcommand renews no certificate."""
    assert not runs_renewal(text)
