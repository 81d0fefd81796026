"""A derived file whose source is not signed by its CA: certmond does not make it, and reports the reason."""

from __future__ import annotations

from datetime import timedelta

from certmond.pki.assessment.assess import Assessment, assess
from certmond.pki.catalog.observation import Inventory, Provenance
from certmond.pki.planning.forecast import What, forecast
from certmond.pki.planning.planner_inputs import Circumstances, Policy
from certmond.pki.planning.renewals import plan
from certmond.pki.planning.steps import Held
from certmond.pki.services.staleness import Surroundings
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf, new_key
from tests.pki.planning.test_renewals import CA, FACTS, KEY, ROOT, row, see

UNRELATED = make_ca(key=new_key(), not_before=NOW - YEAR, not_after=NOW + YEAR)
BESIDE = Circumstances(derived={"copy": ("/etc/copy.pem", "leaf")}, stale={"copy": "/etc/copy.pem is not there"})
BECAUSE = (
    "the CA has not signed the certificate of the source leaf: no current or old CA of the entry has signed the "
    "certificate"
)


def looked(issuer: Issued, end: timedelta) -> Assessment:
    issued = make_leaf(issuer, "leaf", key=KEY, not_before=NOW - YEAR, not_after=NOW + end)
    around = Surroundings(provenance={("leaf", "/pki/leaf.crt"): Provenance()})
    return assess(Inventory((CA, see(row(), issued)), FACTS), NOW, around=around)


def test_nothing_is_made_from_a_certificate_that_its_ca_has_not_signed() -> None:
    """A user who can write the source's file could otherwise have its content copied. The plan reports it at the
    derived file by its name and path. After the CA signs the source, the next plan makes the derived file.
    """
    made = plan(looked(UNRELATED, YEAR), Policy(), {}, BESIDE)
    assert (made.steps, made.held) == ((), (Held("copy", "/etc/copy.pem", BECAUSE),))
    made = plan(looked(ROOT, YEAR), Policy(), {}, BESIDE)
    assert ([each.target for each in made.steps], made.held) == (["copy"], ())


def test_a_forecast_reports_the_missing_derived_file_once() -> None:
    """The event is beside those of the source, although the derived file has no certificate that could end."""
    found = forecast(looked(UNRELATED, 40 * DAY), Policy(), NOW + YEAR, BESIDE)
    assert [(each.at, each.what, each.detail) for each in found.events if each.target == "copy"] == [
        (NOW, What.HOLD, BECAUSE)
    ]
