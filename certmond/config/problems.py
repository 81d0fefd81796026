"""What pydantic finds wrong with a configuration, in our words, at the line where somebody wrote it.

Owns the sentences for single values and the guesses at misspelt keys; rules between values are told by those who know
them. Knows no schema: the models are handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from certmond.config.yaml_source import Node, Problem, shown

_SENTENCES = {
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping, with lines such as `KEY: value`",
    "model_type": "must be a mapping, with lines such as `name: apiserver`",
    "string_pattern_mismatch": "must be a name of letters, digits, '.', '_' and '-', 63 at most",
    "string_type": "must be text; put it in quotes if it reads as something else",
    "tuple_type": "must be text or a list",
}


def told(error: ErrorDetails, tree: Node, whole: type[BaseModel], parts: Mapping[str, type[BaseModel]]) -> Problem:
    """What pydantic found wrong with `whole`, of which `parts` are the models by their key, in its place in `tree`."""
    location, given = error["loc"], error["input"]
    match error["type"]:
        case "extra_forbidden":
            model = whole if len(location) == 1 else parts[str(location[0])]
            known = model.model_fields
            text = "unknown key" + (meant(location[-1], known) or f"; this version knows {', '.join(known)}")
        case "missing":
            names = [entry.name for entry in tree.fields[str(location[0])].items if entry.name != given.get("name")]
            text = "must be given" + meant(given.get("name"), names, "the entry ")
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


def meant(word: object, known: Iterable[str], kind: str = "") -> str:
    """What was meant by a word that is not known, if that can be guessed; else nothing."""
    from difflib import get_close_matches  # noqa: PLC0415 - whose configuration is good has no need of it

    close = get_close_matches(str(word)[:64], known, n=1)
    return f"; did you mean {kind}{close[0]}?" if close else ""
