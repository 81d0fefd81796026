"""Kinds of objects that contain CA bundles, and the places of the bundles in these objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lightkube.generic_resource import GenericGlobalResource, create_global_resource

from certmond.immutable_class import immutable

_WEBHOOKS, _CONVERSION = ("webhooks", "*", "clientConfig"), ("spec", "conversion", "webhook", "clientConfig")
BUNDLE = "caBundle"


@immutable
class Kind:
    """A kind of objects with CA bundles.

    `place` is the path, within an object, to the mappings that contain the field `caBundle`.
    """

    resource: type[GenericGlobalResource]
    group: str
    plural: str
    place: tuple[str, ...]  # a star matches each item of a list


def _kind(group: str, kind: str, plural: str, place: tuple[str, ...]) -> Kind:
    return Kind(create_global_resource(group, "v1", kind, plural), group, plural, place)


_ADMISSION = "admissionregistration.k8s.io"
KINDS = (
    _kind(_ADMISSION, "ValidatingWebhookConfiguration", "validatingwebhookconfigurations", _WEBHOOKS),
    _kind(_ADMISSION, "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", _WEBHOOKS),
    _kind("apiregistration.k8s.io", "APIService", "apiservices", ("spec",)),
    _kind("apiextensions.k8s.io", "CustomResourceDefinition", "customresourcedefinitions", _CONVERSION),
)  # fmt: skip


def places(value: Any, place: tuple[str, ...], pointer: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield each mapping at the path `place` below `value`, with its JSON pointer. A star matches each list item."""
    if not place:
        if isinstance(value, Mapping):
            yield pointer, value
    elif place[0] == "*":
        for number, each in enumerate(value if isinstance(value, list) else ()):
            yield from places(each, place[1:], f"{pointer}/{number}")
    elif isinstance(value, Mapping):
        yield from places(value.get(place[0]), place[1:], f"{pointer}/{place[0]}")
