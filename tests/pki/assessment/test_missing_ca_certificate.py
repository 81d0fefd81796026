"""The remedy for the missing or damaged certificate of a CA."""

from __future__ import annotations

from dataclasses import replace

import pytest

from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.missing_ca_certificate import ca_copy_remedy, lacks_ca_certificate, missing_ca_of
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation, Salvage
from certmond.pki.findings import Fault, Reason
from certmond.pki.services.staleness import Surroundings
from tests.builders import NOW, make_ca

SPEC = CertificateSpec(name="ca", path="/pki/ca.crt", authority=True)
GONE = Observation("ca", SPEC, SPEC.path, faults=(Fault(Reason.MISSING, "/pki/ca.crt does not exist"),))
CUT = replace(GONE, faults=(Fault(Reason.MALFORMED, "/pki/ca.crt is empty"),))
FROM_NODE = "copy the file from another control-plane node: scp NODE:/pki/ca.crt /pki/ca.crt"


@pytest.mark.parametrize("seen", [GONE, CUT])
def test_the_finding_names_the_command_that_restores_the_ca(seen: Observation) -> None:
    """The command restores a copy on this node. Without a copy, the command copies the file from another node."""
    fact = seen.faults[0].detail
    around = Surroundings(salvage={seen.identity: Salvage(copy_command="install -m 644 /a /pki/ca.crt")})
    copied = f"{fact}; restore the CA from a copy on this node: install -m 644 /a /pki/ca.crt"
    for given, message in ((around, copied), (None, f"{fact}; restore the CA from a backup, or {FROM_NODE}")):
        (status,) = assess(Inventory((seen,), {}), NOW, around=given).statuses
        assert [item.message for item in status.findings] == [message]


@pytest.mark.parametrize(
    ("seen", "remedy"),
    [
        (
            replace(GONE, spec=replace(SPEC, authority=False)),
            "restore the file, or issue the certificate",
        ),
        (replace(GONE, faults=(replace(GONE.faults[0], remedy="mount the disk"),)), "mount the disk"),
        (
            replace(CUT, faults=(*CUT.faults, Fault(Reason.MALFORMED, "/pki/ca.key is empty"))),
            "restore the file from a",
        ),
    ],
    ids=["a leaf", "another remedy", "the key"],
)
def test_other_faults_keep_their_remedy(seen: Observation, remedy: str) -> None:
    """A fault of another entry or another file, and a fault with its own remedy, does not name the CA's certificate."""
    (status,) = assess(Inventory((seen,), {}), NOW).statuses
    assert status.findings[-1].message.partition("; ")[2].startswith(remedy)


def test_an_obstacle_names_the_output_that_contains_the_command() -> None:
    """A command that needs the CA names `certmond check`. An undamaged CA and an absent entry are no obstacle."""
    obstacle = (
        "the CA file of the entry ca contains no certificate; restore the CA first, with the command in the output"
    )
    assert missing_ca_of("ca", (GONE,)) == f"{obstacle} of: certmond check"
    whole = replace(GONE, faults=(), certificates=(make_ca().facts,))
    assert not lacks_ca_certificate(whole)
    assert missing_ca_of("ca", (whole,)) is None
    assert missing_ca_of("etcd-ca", (GONE,)) is None


def test_a_path_is_quoted_for_the_shell() -> None:
    """The command for a path with a space is complete."""
    assert ca_copy_remedy("/p i/ca.crt").endswith("scp NODE:'/p i/ca.crt' '/p i/ca.crt'")
