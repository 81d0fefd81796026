"""The findings about a configuration that the daemon refused."""

from __future__ import annotations

from certmond.pki.assessment.assess import assess
from certmond.pki.assessment.refused_configuration import RESTART
from certmond.pki.catalog.observation import Inventory
from certmond.pki.findings import Severity
from tests.builders import NOW

PROBLEM = "/etc/certmond/config.yaml: line 3: modus: unknown key"


def test_each_problem_is_a_warning() -> None:
    """The finding contains the problem, the configuration in force, and the next command."""
    assessment = assess(Inventory((), refused_configuration=(PROBLEM, "second")), NOW)
    first, second = assessment.loose_findings
    assert (first.reason, first.severity) == ("configuration_refused", Severity.WARNING)
    assert first.message == (
        f"{PROBLEM}; the daemon uses the previous configuration; correct the file, then run: systemctl reload certmond"
    )
    assert second.message.startswith("second; ")
    assert assessment.severity is Severity.WARNING


def test_a_problem_that_needs_a_restart_has_no_other_remedy() -> None:
    """If no file is wrong, the finding contains only the command that restarts certmond."""
    (found,) = assess(Inventory((), refused_configuration=(f"a fact; {RESTART}",)), NOW).loose_findings
    assert found.message == (
        "a fact; the daemon uses the previous configuration; restart certmond: systemctl restart certmond"
    )


def test_a_valid_configuration_has_no_finding() -> None:
    """Without a problem, there is no finding and no further observation."""
    assert assess(Inventory(()), NOW).statuses == ()
