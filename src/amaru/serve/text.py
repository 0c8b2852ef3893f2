"""Text while it is being generated: characters appear when all of their bytes have come."""

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
