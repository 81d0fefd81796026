"""Mutants of a module. Each mutant is the text of the module with one defect, which the tests must detect.

A defect is a different comparison, boolean, number, operator or returned value, or a missing statement. No defect
changes a string, because most strings are in messages, and no defect changes an annotation or a decorator. For the same
text, the mutants and their order are the same.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from copy import deepcopy
from typing import NamedTuple

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_NOT_RUN = {"annotation", "returns", "decorator_list", "type_params"}


class Mutant(NamedTuple):
    """One defect: its line, its description, and the text of the module with the defect.

    The statement that contains the defect begins in the line `begin`.
    """

    begin: int
    line: int
    what: str
    text: str


def mutants(source: str) -> Iterator[Mutant]:
    """Yield every mutant of the module with the text `source`."""
    tree = ast.parse(source)
    for parent, field, place, begin in list(_places(tree, 0)):
        held = getattr(parent, field)
        before = held if place is None else held[place]
        for after in _mistakes(before, within=parent):
            _put(parent, field, place, after)
            text = ast.unparse(ast.fix_missing_locations(tree))
            yield Mutant(begin, before.lineno, f"{_short(before)}  ->  {_short(after)}", text)
        _put(parent, field, place, before)


def _places(node: ast.AST, begin: int) -> Iterator[tuple[ast.AST, str, int | None, int]]:
    """Yield each executed node below `node` as its parent, field, index in a list, and first line of its statement."""
    for field, value in ast.iter_fields(node):
        if field in _NOT_RUN:
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _is_silent(child):
                continue
            line = child.lineno if isinstance(child, ast.stmt) else begin
            if isinstance(child, (ast.expr, ast.stmt)):
                yield node, field, place, line
            yield from _places(child, line)


def _is_silent(node: ast.AST) -> bool:
    """Return whether the node is a docstring, is only for a type checker, or is proven to be unreachable."""
    match node:
        case ast.Expr(ast.Constant()) | ast.Expr(ast.Call(ast.Name("assert_never"))):
            return True
        case ast.If(ast.Name("TYPE_CHECKING")):
            return True
        case _:
            return False


def _put(parent: ast.AST, field: str, place: int | None, node: ast.AST) -> None:
    if place is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[place] = node


def _mistakes(node: ast.AST, within: ast.AST) -> Iterator[ast.AST]:
    match node:
        case ast.Compare():
            for number, operator in enumerate(node.ops):
                after = deepcopy(node)
                after.ops[number] = _COMPARISONS[type(operator)]()
                yield after
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
        case ast.BinOp(left, operator, right) if type(operator) in _OPERATORS:
            yield ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.Return(ast.expr() as value) if not _is_none(value):
            yield ast.Return(ast.Constant(None))
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case _:
            pass
    if isinstance(within, (ast.If, ast.IfExp, ast.While)) and node is within.test and _is_plain(node):
        yield ast.UnaryOp(ast.Not(), node)


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_plain(node: ast.AST) -> bool:
    """Return whether the negation is the only possible defect of a condition."""
    return isinstance(node, (ast.Name, ast.Attribute, ast.Call, ast.NamedExpr, ast.Subscript))


def _short(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(deepcopy(node))).split())
    return text if len(text) <= 90 else f"{text[:80]} … {text[-8:]}"
