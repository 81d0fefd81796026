"""The commands and scripts that renew the certificates of kubeadm."""

from __future__ import annotations

import pytest

from certmond.pki.catalog.renewal_commands import runs_renewal, started_programs

RENEWALS = {
    "a command": "kubeadm certs renew all",
    "a command before Kubernetes v1.20": "/usr/bin/kubeadm alpha certs renew all",
    "a condition before the command": "[ -f /etc/x ] && /usr/local/bin/kubeadm certs renew apiserver",
    "a variable for the program": 'KUBEADM_BIN="/usr/local/bin/kubeadm"\n$KUBEADM_BIN certs renew all',
    "a printed text before the command": "echo renew; kubeadm certs renew all",
    "the script of KubeKey": "kubeadmCerts='/usr/local/bin/kubeadm certs'\n  ${kubeadmCerts} renew all",
    "a variable without a value": '"${KUBEADM}" certs renew all',
    "a line continuation": "kubeadm certs \\\n  renew all",
    "an option with a value": "kubeadm certs --rootfs /x renew all",
    "a substitution in a text": 'echo "$(date): $(kubeadm certs renew all 2>&1)" >> /var/log/x',
    "a program that starts kubeadm": "timeout 60 kubeadm certs renew all",
    "an argument of a shell": "/bin/sh -c '[ -x /usr/bin/kubeadm ] && kubeadm certs renew all'",
    "an argument of eval": "eval 'kubeadm certs' renew all",
    "a loop": "for name in a b; do kubeadm certs renew $name; done",
    "a here-document for a shell": "nsenter -t 1 -m bash <<EOF\nkubeadm certs renew all\nEOF",
    "a list of arguments": '#!/usr/bin/python3\nKUBEADM = "/usr/bin/kubeadm"\nrun([KUBEADM, "certs", "renew", "all"])',
    "a list on several lines": "#!/usr/bin/env python3\nrun(\n    'kubeadm',\n    'certs',\n    'renew',\n    'all')",
}
OTHERS = {
    "another command of kubeadm": "kubeadm certs check-expiration",
    "another program": "vault certs renew all",
    "a comment": "# kubeadm certs renew all",
    "a comment at the end of a line": "kubeadm version # certs renew",
    "a hint": "kubeadm certs check-expiration || echo run kubeadm certs renew all",
    "a printed hint": '#!/usr/bin/python3\n    print("kubeadm certs renew all")',
    "a printed text with a semicolon": 'echo "expired; run kubeadm certs renew all"',
    "a printed text on two lines": "echo 'expired.\nRun kubeadm certs renew all'",
    "a list of texts": 'TEXTS=(\n  "run kubeadm certs renew all"\n)',
    "an empty program": 'NONE=""\n$NONE # kubeadm certs renew all',
    "a mail": 'mail -s "please run kubeadm certs renew all" root',
    "a message": 'MESSAGE="run kubeadm certs renew all"\necho $MESSAGE',
    "a here-document": "cat <<EOF\n  kubeadm certs renew all\nEOF",
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


STARTS = {
    "a path": ("/opt/renew.sh all", ("/opt/renew.sh",)),
    "a script of a shell": ("bash -x /opt/renew.sh /etc/x", ("bash", "/opt/renew.sh")),
    "a shell without a script": ("sh -s", ("sh",)),
    "a sourced file": (". /opt/functions", (".", "/opt/functions")),
    "a program that starts a script": ("flock -n /run/x /opt/renew.sh", ("flock", "/run/x", "/opt/renew.sh")),
    "a variable for the directory": ("DIR=/opt\n$DIR/renew.sh", ("/opt/renew.sh",)),
    "an argument": ("cat /opt/renew.sh > /opt/copy", ("cat",)),
    "another language": ("#!/usr/bin/python3\nprint()", ()),
}


@pytest.mark.parametrize(("text", "started"), STARTS.values(), ids=STARTS)
def test_a_started_program_is_in_the_position_of_a_command(text: str, started: tuple[str, ...]) -> None:
    """A script starts the programs in the positions of commands, and the scripts that shells and wrappers start."""
    assert started_programs(text) == started
