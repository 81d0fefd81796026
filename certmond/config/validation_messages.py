"""Messages for the errors that pydantic finds in a configuration.

This module also suggests corrections for misspelled keys. The module `rules` checks entries against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from certmond.config.yaml_source import Node, Problem, shown

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SENTENCES = {
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping, with lines such as `KEY: value`",
    "model_type": "must be a mapping, with lines such as `name: apiserver`",
    "dataclass_type": "must be a mapping, with lines such as `name: apiserver`",
    "string_type": "must be text; put a value that YAML parses as another type in quotes",
    "tuple_type": "must be text or a list",
}


def problem_of(error: ErrorDetails, tree: Node, keys: Mapping[str, Sequence[str]]) -> Problem:
    """Return the problem for an error that pydantic found in a configuration, with the place of the error in `tree`.

    `keys` contains the known keys of each section, and the keys of the whole configuration as the section "".
    """
    location, given = error["loc"], error["input"]
    match error["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            known = keys["" if len(location) == 1 else str(location[0])]
            text = "unknown key" + (suggestion(location[-1], known) or f"; the keys are {', '.join(known)}")
        case "missing":
            names = [entry.name for entry in tree.fields[str(location[0])].items if entry.name != given.get("name")]
            text = "must be given" + suggestion(given.get("name"), names, "the entry ")
        case "enum" | "literal_error":
            text = f"must be {error['ctx']['expected']}"
        case "value_error":
            text = str(error["ctx"]["error"])
        case "greater_than_equal":
            text = f"must be {error['ctx']['ge']} or more"
        case "less_than_equal":
            text = f"must be {error['ctx']['le']} or less"
        case kind:
            text = _SENTENCES.get(kind, error["msg"])
    if isinstance(given, str) and text.startswith("must "):
        text += f", not {shown(given)}"
    return Problem(tree.find(location), text)


def suggestion(word: object, known: Iterable[str], kind: str = "") -> str:
    """Return a clause that suggests the most similar word of `known`, or "" if no word is similar to `word`."""
    from difflib import get_close_matches  # noqa: PLC0415 - not needed for a valid configuration

    close = get_close_matches(str(word)[:64], known, n=1)
    return f"; did you mean {kind}{close[0]}?" if close else ""
