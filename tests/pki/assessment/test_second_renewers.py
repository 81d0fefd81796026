"""The finding about another program that renews the certificates that certmond renews."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.entries import CertificateSpec
from certmond.pki.catalog.observation import Inventory, Observation
from certmond.pki.catalog.other_renewer_spec import KUBEADM_FILES, Renewer
from certmond.pki.findings import Finding, Reason, Severity
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Plan
from tests.assessments import status_in
from tests.builders import NOW, make_ca, make_leaf

TIMER = "/etc/systemd/system/k8s-certs-renew.timer"
SCRIPT = "/usr/local/bin/k8s-certs-renew.sh"
STOP = "run: systemctl disable --now k8s-certs-renew.timer"
RENEWER = Renewer("k8s-certs-renew.timer", TIMER, 0, SCRIPT, STOP)
SPEC = CertificateSpec(name="apiserver", path="/etc/kubernetes/pki/apiserver.crt")
CA = make_ca()
LEAF = make_leaf(CA, "kube-apiserver").facts


def seen(**fields: Any) -> Observation:
    spec = replace(SPEC, **fields)
    return Observation(spec.name, spec, spec.path, certificates=(LEAF,))


def judged(*observations: Observation, renewers: tuple[Renewer, ...] = (RENEWER,)) -> Assessment:
    return assess(Inventory(observations, renewers=renewers), NOW)


def found(*observations: Observation, renewers: tuple[Renewer, ...] = (RENEWER,)) -> list[Finding]:
    return list(judged(*observations, renewers=renewers).loose_findings)


def test_a_second_renewer_is_a_warning() -> None:
    """The finding names the unit, the script, the certificates, and the command that stops the program."""
    fact = f"{TIMER} starts {SCRIPT}, which runs `kubeadm certs renew`"
    shared = "but certmond also renews these certificates (apiserver)"
    expected = [Finding(Reason.SECOND_RENEWER, Severity.WARNING, f"{fact}, {shared}; {STOP}")]
    assert found(seen()) == expected


def test_the_finding_names_the_line_of_a_crontab() -> None:
    """For a command in a crontab, the finding names the line, and the number of further certificates."""
    renewer = Renewer("renew", "/etc/cron.d/renew", 3, "", "remove this line")
    files = [seen(), seen(name="admin.conf", path="/etc/kubernetes/admin.conf")]
    fact = "line 3 of /etc/cron.d/renew runs `kubeadm certs renew`, but certmond also renews these certificates"
    assert [each.message for each in found(*files, renewers=(renewer,))] == [
        f"{fact} (apiserver and 1 more); remove this line"
    ]


@pytest.mark.parametrize("path", KUBEADM_FILES)
def test_each_file_of_kubeadm_is_shared(path: str) -> None:
    """certmond reports the program if certmond renews any file that `kubeadm certs renew all` writes."""
    assert found(seen(name="one", path=f"/etc/kubernetes/{path}"))


@pytest.mark.parametrize(
    "fields",
    [
        {"renewed_by": "k0s, at its start"},
        {"signer": "none"},
        {"path": "/etc/kubernetes/pki/ca.crt"},
        {"path": "/etc/ssl/other.crt"},
    ],
    ids=["another program renews it", "no signer", "a CA", "another file"],
)
def test_a_program_is_no_second_renewer_of_other_certificates(fields: dict[str, object]) -> None:
    """certmond reports no program on a node on which certmond renews none of the files of kubeadm."""
    assert found(seen(**fields)) == []


def test_a_missing_certificate_is_not_shared() -> None:
    """certmond reports no program if the node has none of the certificates."""
    assert found(replace(seen(), certificates=())) == []


def test_without_another_program_there_is_no_finding() -> None:
    """A node without another program has no finding."""
    assert found(seen(), renewers=()) == []


def test_a_second_renewer_is_no_certificate() -> None:
    """The entry of the program is no certificate of the catalogue, and the plan contains neither a step nor a hold."""
    assessment = judged(seen(renewed_by="its operator"), seen())
    entry = status_in(assessment, RENEWER.name, RENEWER.path)
    assert (entry.seen.has_certificates, entry.seen.is_catalogued) == (False, False)
    assert plan(assessment, Policy(), {}, Circumstances(), frozenset({RENEWER.name})) == Plan()
