"""What counts as a word, a sentence and a paragraph when instructions speak of them."""

import re

ABBREVIATIONS = frozenset(
    re.split(
        r"\s+",
        "mr mrs ms dr prof st jr sr rev gen col capt sgt hon gov sen rep vs etc inc ltd co corp dept est fig no vol ed approx ca cf al "
        "e.g i.e a.m p.m u.s u.k ph.d b.c a.d p.s p.p.s jan feb mar apr jun jul aug sep sept oct nov dec",
    )
)
END = re.compile(r"[.!?…]+[\"'”’)\]*_]*(?=\s|\Z)")
LAST_WORD = re.compile(r"[^\s(\[\"“‘*_]*\Z")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores: `words("don't") == ["don", "t"]`, as IFEval counts them."""
    return re.findall(r"\w+", text)


def sentences(text: str) -> list[str]:
    """Cut behind `.`, `!` or `?` before a space, unless the word before is an abbreviation, an initial or the number of a list.

    IFEval asks NLTK's trained model, which this follows without its data: line ends alone cut nothing, and a rest counts.
    """
    found, start = [], 0
    for end in END.finditer(text):
        if end[0].startswith(".") and len(end[0].rstrip("\"'”’)]*_")) == 1 and _goes_on(text[start : end.start()]):
            continue
        found.append(text[start : end.end()].strip())
        start = end.end()
    return [sentence for sentence in [*found, text[start:].strip()] if re.search(r"\w", sentence)]


def _goes_on(before: str) -> bool:
    """Whether a full stop behind this belongs to its last word."""
    found = LAST_WORD.search(before)
    word = found[0].lower() if found else ""
    numbered = word.isdigit() and not before.rsplit("\n", 1)[-1].strip()[: -len(word)].strip("*_ ")
    return word in ABBREVIATIONS or numbered or (len(word) == 1 and word.isalpha() and word not in "ai")


def parts(text: str, divider: str) -> list[str] | None:
    """The texts between dividers, blank ones at both ends left out; None where one in the middle is blank."""
    found = [part.strip() for part in text.split(divider)]
    found = found[not found[0] :]
    found = found[: len(found) - (bool(found) and not found[-1])]
    return found if all(found) else None


def capital_words(text: str) -> list[str]:
    """Words all of whose letters are capitals, hyphens and apostrophes inside: `capital_words("A NATO-led, IDEA") == ["A", "IDEA"]`"""
    return [word for word in re.findall(r"\w+(?:[-'’.]\w+)*", text) if word.isupper()]
