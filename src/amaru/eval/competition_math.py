r"""MATH: competition problems whose answer is boxed LaTeX.

exact   the answer is the right one in normal form, or the same rational number

A normal form is what is left without spaces, units, degrees, currency and sizes of brackets, with \frac12 as \frac{1}{2}: the comparison of
the set's authors (Hendrycks et al., 2103.03874), and rational numbers on top. No algebra: x+1 is not 1+x, which harnesses with a computer
algebra system count as equal, so their figures are higher by a little.
"""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from amaru.eval.estimate import Score
from amaru.eval.items import Question
from amaru.eval.subject import Request

MATH = ("exact",)
TOKENS = 1024
STOP = ("Problem:",)
FINAL = re.compile(r"final answer is:?\s*(.*?)(?:\.?\s*I hope it is correct|\.?\s*$)", re.IGNORECASE | re.MULTILINE)
DROPPED = re.compile(r"\\left|\\right|\\[!,;: ]|\\\$|\$|\\%|%|\^\{?\\circ\}?|\s")
UNITS = re.compile(r"(?<=\S)\s*\\(?:text|mbox|mathrm)\{ .*?\}.*$")  # with a space inside: what is counted, at the end
WORDS = re.compile(r"\\(?:text|mbox|mathrm|textbf|mathbf)\{(.*?)\}")
THOUSANDS = re.compile(r"-?\d{1,3}(,\d{3})+(\.\d+)?")
NAMED = re.compile(r"^\w{1,2}=(?=[^=]+$)")
RATIO = re.compile(r"(-?)(?:\\frac\{(-?\d{1,50})\}\{(\d{1,50})\}|(\d{1,50})/(\d{1,50}))")


def competition(record: Mapping[str, Any]) -> Question:
    r"""Raises `ValueError` for a solution without \boxed."""
    right = boxed(record["solution"])
    if right is None:
        raise ValueError("the solution has no \\boxed answer")
    prompt = f"Problem:\n{record['problem']}\n\nSolution:"

    def grade(text: str) -> dict[str, Score]:
        said = answer_of(text)
        return {"exact": Score(float(said is not None and same(said, right)))}

    return Question(Request(prompt, TOKENS, STOP), grade, f"{prompt}\n{record['solution']}")


def answer_of(text: str) -> str | None:
    r"""The last \boxed one, or what is called the final answer."""
    found = boxed(text)
    if found is None and (said := FINAL.search(text)):
        found = said[1]
    return found


def boxed(text: str) -> str | None:
    r"""`boxed(r"so \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"`: what the last box holds, with its braces in balance."""
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\fbox{"))
    if start < 0:
        found = re.findall(r"\\boxed\s+([^\s$]+)", text)
        return found[-1].rstrip(".,") if found else None
    first = text.index("{", start) + 1
    depth = 1
    for place in range(first, len(text)):
        depth += (text[place] == "{") - (text[place] == "}")
        if not depth:
            return text[first:place]
    return None


def same(one: str, other: str) -> bool:
    r"""`same(r"\dfrac12", "0.5")`"""
    first, second = normal(one), normal(other)
    numbers = rational(first), rational(second)
    return first == second or (numbers[0] is not None and numbers[0] == numbers[1])


def normal(latex: str) -> str:
    r"""`normal(r"\left( \dfrac12, 3 \right)") == r"(\frac{1}{2},3)"`"""
    text = UNITS.sub("", latex.strip().rstrip("."))
    text = WORDS.sub(r"\1", text).replace("dfrac", "frac").replace("tfrac", "frac").replace("{,}", ",")
    text = DROPPED.sub("", text)
    text = re.sub(r"\\sqrt([^{\[])", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac([^{])", r"\\frac{\1}", text)
    text = re.sub(r"(\\frac\{[^{}]*\})([^{])", r"\1{\2}", text)
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", NAMED.sub("", text))
    return text.replace(",", "") if THOUSANDS.fullmatch(text) else text


def rational(text: str) -> Fraction | None:
    r"""`rational(r"-\frac{1}{2}") == Fraction(-1, 2)`; None for anything but a whole number, a decimal, or a ratio of whole numbers."""
    if re.fullmatch(r"-?\d{1,50}(\.\d{1,50})?", text):
        return Fraction(text)
    if not (found := RATIO.fullmatch(text)):
        return None
    sign, above, below, one, other = found.groups()
    above, below = (above, below) if above is not None else (one, other)
    return Fraction(int(f"{sign}1") * int(above), int(below)) if int(below) else None
