"""Condition of the Node that describes the findings about the certificates of the node."""

from __future__ import annotations

from typing import Literal

from certmond.immutable_class import immutable
from certmond.pki.assessment.assess import Assessment, CertificateStatus
from certmond.pki.findings import Severity, printable

_MOST = 5  # maximum number of findings in the message, which also contains the number of the remaining findings
_NEXT = "run on this node: certmond check"


@immutable
class NodeCondition:
    """Status, reason and message of a condition of a Node (staging/src/k8s.io/api/core/v1/types.go, NodeCondition)."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def node_condition(assessment: Assessment) -> NodeCondition:
    """Return the condition for the assessment.

    The status is "Unknown" if certmond observed no entry of the configuration or the profile. Otherwise, the status is
    "False" if a finding is critical, and "True" if no finding is critical. Findings about objects of the cluster do not
    count.
    """
    if not assessment.catalogued:
        fact = "this node has no certificate of the profile"
        return NodeCondition("Unknown", "NoCertificates", f"{fact}; {_NEXT}")
    own = [each for each in assessment.statuses if not each.seen.of_cluster]
    critical = [each for each in own if each.severity is Severity.CRITICAL]
    warned = [each for each in own if each.severity is Severity.WARNING]
    if critical:
        return NodeCondition("False", "CriticalFindings", f"{_counted(critical, 'critical')}; {_NEXT}")
    if warned:
        return NodeCondition("True", "Warnings", f"{_counted(warned, 'with a warning')}; {_NEXT}")
    count = sum(each.certificate is not None for each in assessment.certificates)
    return NodeCondition("True", "NoFindings", f"{count} certificates without a warning")


def _counted(statuses: list[CertificateStatus], word: str) -> str:
    """Return a text with the number of the entries, and the names and reasons of the first entries."""
    named = [f"{printable(each.seen.name)} ({_reason(each)})" for each in statuses[:_MOST]]
    more = f" and {len(statuses) - _MOST} more" if len(statuses) > _MOST else ""
    return f"{len(statuses)} {word}: {', '.join(named)}{more}"


def _reason(status: CertificateStatus) -> str:
    return max(status.findings, key=lambda item: item.severity.rank).reason
