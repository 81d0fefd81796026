"""A derived file, whose source is not what its CA has issued: nothing is made from that, and who asks is told why."""

from __future__ import annotations

from datetime import timedelta

from certmond.pki.assess import Assessment, assess
from certmond.pki.circumstances import Circumstances, Policy
from certmond.pki.forecast import What, forecast
from certmond.pki.holding import Surroundings
from certmond.pki.inventory import Inventory, Provenance
from certmond.pki.plan import plan
from certmond.pki.steps import Held
from tests.builders import DAY, NOW, YEAR, Issued, make_ca, make_leaf, new_key
from tests.pki.test_plan import CA, FACTS, KEY, ROOT, row, see

STRANGER = make_ca(key=new_key(), not_before=NOW - YEAR, not_after=NOW + YEAR)
BESIDE = Circumstances(derived={"copy": ("/etc/copy.pem", "leaf")}, stale={"copy": "/etc/copy.pem is not there"})
BECAUSE = "leaf, which it is made from, is not of its CA: no present or former CA of its entry has signed it"


def looked(issuer: Issued, end: timedelta) -> Assessment:
    issued = make_leaf(issuer, "leaf", key=KEY, not_before=NOW - YEAR, not_after=NOW + end)
    around = Surroundings(provenance={("leaf", "/pki/leaf.crt"): Provenance()})
    return assess(Inventory((CA, see(row(), issued)), FACTS), NOW, around=around)


def test_nothing_is_made_from_a_certificate_that_its_ca_has_not_signed() -> None:
    """Who can write the source's file would have what it says in the other one. The plan says so, of the derived file
    by its own name and path. Made from what the CA has signed, it is there with the next plan.
    """
    made = plan(looked(STRANGER, YEAR), Policy(), {}, BESIDE)
    assert (made.steps, made.held) == ((), (Held("copy", "/etc/copy.pem", BECAUSE),))
    made = plan(looked(ROOT, YEAR), Policy(), {}, BESIDE)
    assert ([each.target for each in made.steps], made.held) == (["copy"], ())


def test_a_forecast_tells_once_that_nothing_is_made_from_it() -> None:
    """Beside what becomes of the source, and though the derived file has no certificate that could end."""
    found = forecast(looked(STRANGER, 40 * DAY), Policy(), NOW + YEAR, BESIDE)
    assert [(each.at, each.what, each.detail) for each in found.events if each.target == "copy"] == [
        (NOW, What.HOLD, BECAUSE)
    ]
