"""Text while it is being generated: characters appear when all of their bytes have come."""

from collections.abc import Sequence

from amaru.data.tokenizer import Tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what decoders put in the place of bytes that are no character yet


class TextStream:
    """`stream.add(token)` returns the text that is certain now; `stream.rest()` what is left at the end.

    Only the tokens since the last certain text are decoded again, in company of those before them, because
    decoders treat the first token of a text specially (a leading space).
    """

    def __init__(self, tokenizer: Tokenizer, prompt: list[int]) -> None:
        self._tokenizer = tokenizer
        self._known = list(prompt)
        self._new: list[int] = []

    def add(self, token: int) -> str:
        self._new.append(token)
        text = self._text()
        return "" if text.endswith(UNFINISHED) else self._accept(text)

    def rest(self) -> str:
        return self._accept(self._text())

    def _text(self) -> str:
        before = self._tokenizer.decode(self._known)
        return self._tokenizer.decode(self._known + self._new)[len(before) :]

    def _accept(self, text: str) -> str:
        if self._new:
            self._known, self._new = self._new, []
        return text


class StopGate:
    """Text on its way out: `gate.add(text)` returns what may be shown, and whether a stop string ended it.

    What may be the beginning of a stop string is held back until the next text decides.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def add(self, text: str, armed: bool = True) -> tuple[str, bool]:
        """A gate that is not `armed` lets everything through."""
        text, self._held = self._held + text, ""
        if not armed or not self._stops:
            return text, False
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            return text[: min(found)], True
        held = max((count for stop in self._stops for count in range(1, len(stop)) if text.endswith(stop[:count])), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def rest(self) -> str:
        """What was held back and came to nothing."""
        text, self._held = self._held, ""
        return text
