"""The CA bundles of webhooks, APIServices and conversions: those with the cluster's CA are reported, annotated ones are
updated.
"""

from __future__ import annotations

import base64
import re
from datetime import timedelta
from typing import Any

import pytest

from certmond.cluster.api_access import Access
from certmond.cluster.rotation_checks.check import CheckResult
from certmond.cluster.rotation_checks.webhook_ca_bundles import ca_bundles
from tests.builders import Issued, bundle, make_ca, reissue
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.conftest import Silence
from tests.deadline import DEADLINE

OLD, NEW, STRANGE = make_ca(), make_ca(), make_ca("elsewhere")
BOTH = (OLD.facts, NEW.facts)
ANNOTATED = {"annotations": {"certmond.io/ca-bundle": "ca"}}
RESOURCES = ("validatingwebhookconfigurations", "mutatingwebhookconfigurations", "apiservices",
             "customresourcedefinitions")  # fmt: skip


def b64(*certificates: Issued) -> str:
    return base64.b64encode(bundle(*certificates)).decode()


def add(cluster: ApiServer, resource: str, name: str, *bundles: str | None, **metadata: Any) -> dict[str, Any]:
    """Add an object of that kind with these bundles; None is a client configuration without one."""
    configs = [{"caBundle": each, "later": 1} if each is not None else {"url": "https://it"} for each in bundles]
    match resource:
        case "apiservices":
            content: dict[str, Any] = {"spec": {"group": "x", **configs[0]}}
        case "customresourcedefinitions":
            content = {"spec": {"conversion": {"strategy": "Webhook", "webhook": {"clientConfig": configs[0]}}}}
        case _:
            content = {"webhooks": [{"name": f"w{i}", "clientConfig": each} for i, each in enumerate(configs)]}
    return cluster.store.add(resource, name, metadata=metadata, **content)


def bundles(made: dict[str, Any]) -> list[str | None]:
    spec = made.get("spec", {})
    webhook = spec.get("conversion", {}).get("webhook", {}).get("clientConfig")
    found = [each["clientConfig"] for each in made.get("webhooks", [])] or [webhook or spec]
    return [each.get("caBundle") for each in found]


def look(access: Access, wanted: Any = BOTH, **more: Any) -> CheckResult:
    return ca_bundles(access, "ca", [OLD.facts, NEW.facts], wanted, **more)


@pytest.mark.parametrize("resource", RESOURCES)
def test_a_bundle_with_the_old_ca_is_reported_until_it_is_current(
    cluster: ApiServer, access: Access, resource: str
) -> None:
    """Of each kind, an object that has the old CA and not the new one is reported with the remedy. Nothing is
    written.
    """
    made = add(cluster, resource, "it", b64(OLD, STRANGE))
    canary = look(access, update=True)
    assert not canary.ok
    assert canary.fact == f"the CA bundle of {made['kind']} it lacks {NEW.facts.sha256[:12]}"
    assert canary.remedy == "replace the CA in the bundle, or run: kubectl annotate KIND NAME certmond.io/ca-bundle=ca"
    add(cluster, resource, "right", b64(NEW, STRANGE, OLD))
    cluster.store.remove(resource, "it")
    assert look(access) == CheckResult("ca_bundles", True, "each CA bundle contains the expected CAs")
    canary = look(access, [NEW.facts])
    assert canary.fact == f"the CA bundle of {made['kind']} right still contains {OLD.facts.sha256[:12]}"


@pytest.mark.parametrize("resource", RESOURCES)
def test_other_bundles_are_not_reported(cluster: ApiServer, access: Access, resource: str) -> None:
    """certmond ignores a bundle with another CA, an empty one, and one without a certificate."""
    for number, each in enumerate((b64(STRANGE), None, "", base64.b64encode(b"x").decode(), "%", "abcde")):
        add(cluster, resource, f"it-{number}", each)
    assert look(access).ok


@pytest.mark.parametrize("resource", RESOURCES)
def test_an_annotated_bundle_is_updated(cluster: ApiServer, access: Access, resource: str) -> None:
    """With the annotation, the bundle becomes exactly the required one in that order. Other fields stay."""
    assert cluster.rbac
    cluster.rbac.bind("certmond-rotation-ca-bundles", "certmond")
    made = add(cluster, resource, "it", b64(OLD, STRANGE), **ANNOTATED)
    canary = look(access)
    assert (canary.ok, canary.remedy) == (False, "certmond updates the bundle during a rotation")
    canary = look(access, update=True)
    assert canary.ok
    assert canary.fact == f"each CA bundle contains the expected CAs; updated: {made['kind']} it"
    after = cluster.store.get(resource, "it")
    assert bundles(after) == [b64(OLD, NEW)]
    assert "later" in str(after)
    version = after["metadata"]["resourceVersion"]
    assert look(access, update=True).fact == "each CA bundle contains the expected CAs"
    assert cluster.store.get(resource, "it")["metadata"]["resourceVersion"] == version


def test_each_webhook_of_a_configuration_is_checked(cluster: ApiServer, access: Access) -> None:
    """In an annotated one every outdated bundle is written, also an empty one, and no other is."""
    assert cluster.rbac
    cluster.rbac.bind("certmond-rotation-ca-bundles", "certmond")
    resource = "validatingwebhookconfigurations"
    add(cluster, resource, "it", b64(NEW, OLD), b64(OLD), "", **ANNOTATED)
    assert look(access, update=True).ok
    assert bundles(cluster.store.get(resource, "it")) == [b64(NEW, OLD), b64(OLD, NEW), b64(OLD, NEW)]


@pytest.mark.parametrize("family", ["front-proxy-ca", ""])
def test_the_annotation_of_another_family_gives_no_right(cluster: ApiServer, access: Access, family: str) -> None:
    """Only an object with the annotation of this family is written."""
    assert cluster.rbac
    cluster.rbac.bind("certmond-rotation-ca-bundles", "certmond")
    add(cluster, "apiservices", "it", b64(OLD), annotations={"certmond.io/ca-bundle": family})
    assert not look(access, update=True).ok
    assert bundles(cluster.store.get("apiservices", "it")) == [b64(OLD)]


def test_a_reissued_ca_is_recognized_by_its_key(cluster: ApiServer, access: Access) -> None:
    """An older certificate of the same key is reported, and is not foreign."""
    older = reissue(OLD)
    add(cluster, "apiservices", "it", b64(older))
    assert look(access, [OLD.facts]).fact == (
        f"the CA bundle of APIService it lacks {OLD.facts.sha256[:12]} and still contains {older.facts.sha256[:12]}"
    )


@pytest.mark.parametrize("what", ["changed", "deleted"])
def test_a_concurrent_change_stops_the_update(cluster: ApiServer, access: Access, what: str) -> None:
    """The indices of webhooks may have changed: nothing is written, and the check fails until the next pass."""
    assert cluster.rbac
    cluster.rbac.bind("certmond-rotation-ca-bundles", "certmond")
    resource = "mutatingwebhookconfigurations"
    add(cluster, resource, "it", b64(STRANGE), b64(OLD), **ANNOTATED)

    def other() -> None:
        if what == "deleted":
            cluster.store.remove(resource, "it")
            return
        held = cluster.store.get(resource, "it")
        held["webhooks"].reverse()
        cluster.store.change(held)

    cluster.store.before_write = other
    assert not look(access, update=True).ok
    if what == "changed":
        assert bundles(cluster.store.get(resource, "it")) == [b64(OLD), b64(STRANGE)]


def test_a_missing_right_to_update_is_reported(cluster: ApiServer, access: Access) -> None:
    """config/rbac.yaml binds that right to no user. The message names the missing right, preferably for this object
    only.
    """
    add(cluster, "apiservices", "it", b64(OLD), **ANNOTATED)
    canary = look(access, update=True)
    assert not canary.ok
    assert "may not patch the APIService it" in canary.fact
    assert "resources [apiservices], verbs [patch], and preferably resourceNames [it]" in canary.fact


def test_a_cluster_without_such_a_kind_is_refused(cluster: ApiServer, access: Access) -> None:
    """If the API has no such kind, the check fails, and the answer does not count as an empty list."""
    cluster.store.missing = {"apiservices"}
    canary = look(access)
    assert not canary.ok
    assert re.search("cannot list the apiservices: .* does not support this kind of object", canary.fact)


def test_all_pages_are_looked_at(cluster: ApiServer, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of many is found."""
    monkeypatch.setattr("certmond.cluster.rotation_checks.webhook_ca_bundles.PAGE", 2)
    for number in range(4):
        add(cluster, "apiservices", f"it-{number}", b64(STRANGE))
    add(cluster, "apiservices", "last", b64(OLD))
    assert "APIService last" in look(access).fact


def test_a_failure_is_not_ok(cluster: ApiServer, access: Access) -> None:
    """An object that could not be listed may have any bundle."""
    cluster.faults = [Fault(500)]
    assert not look(access).ok


@pytest.mark.parametrize(
    ("whose", "said"), [("check", "within 7 s"), ("call", f"no answer within {12 * DEADLINE:g} s")]
)
def test_silence_is_not_ok(access: Access, silence: Silence, whose: str, said: str) -> None:
    """The limit of a call and the limit of the check both apply."""
    silence(whose)
    canary = look(access, limit=timedelta(seconds=7))
    assert not canary.ok
    assert said in canary.fact
