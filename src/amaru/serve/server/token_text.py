"""How one token is written in a list of log-probabilities: its text, or its bytes where they are no text alone."""

import re
from functools import cache, lru_cache

from amaru.data.tokenizer import Tokenizer
from amaru.serve.text import UNFINISHED

WRITTEN_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenText:
    """`written = TokenText(tokenizer)`; `written(5) == " the"`, `written(200) == "bytes:\\xe2"`, `written.bytes(200) == b"\\xe2"`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # Decoders treat the first token of a text specially (a leading space), so each is decoded behind another.
        self._anchor = tokenizer.backend.encode("a", add_special_tokens=False).ids[-1:]
        self._before = len(tokenizer.decode(self._anchor))
        self._text = lru_cache(maxsize=65536)(self._decode)

    def __call__(self, token: int) -> str:
        text = self._text(token)
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in self.bytes(token)) if UNFINISHED in text else text

    def bytes(self, token: int) -> bytes:
        text = self._text(token)
        if UNFINISHED not in text:
            return text.encode()
        name = self._tokenizer.backend.id_to_token(token) or ""
        if found := WRITTEN_BYTE.fullmatch(name):
            return bytes([int(found[1], 16)])
        return bytes(_byte_of()[letter] for letter in name) if set(name) <= _byte_of().keys() else text.encode()

    def _decode(self, token: int) -> str:
        return self._tokenizer.decode([*self._anchor, token])[self._before :]


@cache
def _byte_of() -> dict[str, int]:
    """GPT-2's letters for bytes: those that can be printed stand for themselves, the others follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
