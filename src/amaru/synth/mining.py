"""Which words of a corpus say what it is about: terms of texts, and what programs import, call and are built of."""

import ast
import builtins
import math
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable

LONGEST = 3  # words of a term
WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[.,;:!?()\[\]\"\n]")  # marks end a term
STOP = frozenset(
    re.split(
        r"\s+",
        "a about above after again all also although an and any are as at be because been before being below between both but by "
        "can cannot could did do does doing down during each either every few find first for from further get give given gives "
        "had has have having he her here him his how however i if in into is it its itself just know known last least less let "
        "like made make makes many may me might more most much must my need neither new no nor not now of off often on "
        "once one only or other our out over own part per put same say see set several shall she should show since so some such "
        "take than that the their them then there therefore these they this those though three through thus to too two under "
        "until up upon us use used using very was way we well were what when where whether which while who whole whom whose why "
        "will with within without would yet you your",
    )
)
BUILT = {
    ast.ListComp: "list comprehensions",
    ast.DictComp: "dictionary comprehensions",
    ast.SetComp: "set comprehensions",
    ast.GeneratorExp: "generator expressions",
    ast.Lambda: "lambda functions",
    ast.Yield: "generators",
    ast.With: "context managers",
    ast.Try: "exceptions",
    ast.AsyncFunctionDef: "coroutines",
    ast.ClassDef: "classes",
    ast.Match: "pattern matching",
    ast.JoinedStr: "f-strings",
    ast.Starred: "unpacking",
    ast.Slice: "slices",
    ast.NamedExpr: "assignment expressions",
    ast.While: "while loops",
    ast.Assert: "assertions",
}
IMPORTED = re.compile(r"^\s*(?:from\s+([\w.]+)\s+import|import\s+([\w.]+))", re.MULTILINE)


def mined(here: Iterable[str], there: Iterable[str], find: Callable[[str], set[str]], count: int, least: int) -> list[tuple[str, int]]:
    """`mined(texts, (), terms, 100, 2)`: keywords and how many documents each is in, the best first.

    With texts to hold them against they are weighed by how much likelier they are here (each document counted once, one added to all), so
    that what is common everywhere comes last. A term that is nearly always part of a longer one is left out.
    """
    counts, size = _counted(here, find)
    other, other_size = _counted(there, find)
    frequent = {term: number for term, number in counts.items() if number >= least}
    inside = {part for term, number in frequent.items() for part in _parts(term) if number >= 0.8 * frequent.get(part, 0)}

    def worth(term: str) -> float:
        share, elsewhere = (frequent[term] + 1) / (size + 1), (other[term] + 1) / (other_size + 1)
        return frequent[term] * (math.log(share / elsewhere) if other_size else 1.0)

    best = sorted(frequent.keys() - inside, key=lambda term: (-worth(term), term))
    return [(term, frequent[term]) for term in best[:count]]


def terms(text: str) -> set[str]:
    """`terms("the area of a right triangle")` has `area`, `right triangle` and its parts: runs of words that stop nowhere."""
    found, run = set[str](), list[str]()
    for match in [*WORD.findall(text.lower()), "."]:
        if match not in STOP and match[0].isalpha():
            run.append(match)
            continue
        found |= {" ".join(run[start:end]) for start in range(len(run)) for end in range(start + 1, min(start + LONGEST, len(run)) + 1)}
        run = []
    return {term for term in found if len(term) > 2}


def python(program: str) -> set[str]:
    """Modules and what is used of them, builtin functions that are called, and kinds of expressions and statements.

    Of a text that is no program of this version of Python only the imports.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what other people wrote
            tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {name for pair in IMPORTED.findall(program) for name in pair if name}
    names = _imported(tree)
    found = set(names.values()) | {name.split(".")[0] for name in names.values()}
    for node in ast.walk(tree):
        if words := BUILT.get(type(node)):
            found.add(words)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in names:
            found.add(f"{names[node.value.id]}.{node.attr}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and hasattr(builtins, node.func.id):
            found.add(node.func.id)
    return found


FINDERS: dict[str, Callable[[str], set[str]]] = {"terms": terms, "python": python}


def _imported(tree: ast.AST) -> dict[str, str]:
    """What names of a program stand for: `{"np": "numpy", "chain": "itertools.chain"}`."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {each.asname or each.name.split(".")[0]: each.name if each.asname else each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names if each.name != "*"}
    return names


def _counted(texts: Iterable[str], find: Callable[[str], set[str]]) -> tuple[Counter[str], int]:
    counts, size = Counter[str](), 0
    for text in texts:
        counts.update(find(text))
        size += 1
    return counts, size


def _parts(term: str) -> list[str]:
    """The terms inside a term, which are runs of its words."""
    words = term.split(" ")
    every = (" ".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1))
    return [part for part in every if part != term]
