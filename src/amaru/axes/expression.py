"""What one dimension of a tensor is made of: an axis, a product of expressions, or named parts one after the other.

    parse("z: group head channel | x: group head channel | dt: group head")
    parse("kv_group (q: query qk_channel | k: qk_channel | v: v_channel)")        # parts inside a product

A product is written outermost first. Every part of a concatenation of several has a name.
"""

import functools
import re
from dataclasses import dataclass

from amaru.axes.axis import Axes


@dataclass(frozen=True)
class Leaf:
    axis: str

    def __str__(self) -> str:
        return self.axis


@dataclass(frozen=True)
class Product:
    factors: tuple["Expression", ...]

    def __str__(self) -> str:
        return " x ".join(f"({f})" if isinstance(f, Concat) else str(f) for f in self.factors)


@dataclass(frozen=True)
class Concat:
    names: tuple[str, ...]
    parts: tuple["Expression", ...]

    def __str__(self) -> str:
        return " | ".join(f"{name}: {part}" for name, part in zip(self.names, self.parts, strict=True))


Expression = Leaf | Product | Concat


@functools.cache
def parse(text: str) -> Expression:
    """Read an expression; raises `ValueError` when the text is not one (a mistake in our own code)."""
    tokens = re.findall(r"\w+|[:|()]", text)
    expression, rest = _concat(tokens)
    if rest or re.sub(r"[\s\w:|()]", "", text):
        raise ValueError(f"'{text}' is not a dimension expression")
    return expression


def _concat(tokens: list[str]) -> tuple[Expression, list[str]]:
    names, parts = [], []
    while True:
        named = tokens[1:2] == [":"]
        names.append(tokens[0] if named else "")
        part, tokens = _product(tokens[2:] if named else tokens)
        parts.append(part)
        if tokens[:1] != ["|"]:
            break
        tokens = tokens[1:]
    if len(parts) == 1 and not names[0]:
        return parts[0], tokens
    if not all(names):
        raise ValueError("every part of a concatenation needs a name")
    return Concat(tuple(names), tuple(parts)), tokens


def _product(tokens: list[str]) -> tuple[Expression, list[str]]:
    factors: list[Expression] = []
    while tokens and tokens[0] not in "|):":
        if tokens[0] == "(":
            factor, tokens = _concat(tokens[1:])
            if tokens[:1] != [")"]:
                raise ValueError("a parenthesis is not closed")
        else:
            factor = Leaf(tokens[0])
        factors.append(factor)
        tokens = tokens[1:]
    if not factors:
        raise ValueError("an expression is empty")
    return (factors[0] if len(factors) == 1 else Product(tuple(factors))), tokens


def size(expression: Expression, axes: Axes) -> int:
    """How many rows the expression has."""
    match expression:
        case Leaf(axis):
            return axes[axis].size
        case Product(factors):
            return functools.reduce(lambda rows, factor: rows * size(factor, axes), factors, 1)
        case Concat(_, parts):
            return sum(size(part, axes) for part in parts)


def names(expression: Expression) -> set[str]:
    """The axes that the expression speaks of."""
    match expression:
        case Leaf(axis):
            return {axis}
        case Product(inner) | Concat(_, inner):
            return set().union(*map(names, inner))


def part(expression: Expression, name: str, axes: Axes) -> tuple[slice, Expression]:
    """The rows of one named part of a concatenation, and what it is made of."""
    assert isinstance(expression, Concat), f"{expression} has no parts"
    start = 0
    for candidate, inner in zip(expression.names, expression.parts, strict=True):
        stop = start + size(inner, axes)
        if candidate == name:
            return slice(start, stop), inner
        start = stop
    raise KeyError(f"{expression} has no part '{name}'")
