"""A model of a few thousand parameters and comparisons small enough that training takes a second."""

import json
from pathlib import Path
from typing import Any

from amaru.align.comparisons import Answer, Comparison
from amaru.data.chat import Template
from amaru.data.templates import CHATML
from amaru.data.tokenizer import Tokenizer
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn import MLP, Attention, Mamba2

LAYERS = (Mamba2(heads=4, channels=4, groups=2, state=8), Attention(query_heads=2, kv_heads=1, channels=8), MLP(ffn=24))
COLOURS = ("red", "green", "blue", "grey")


def tokenizer() -> Tokenizer:
    texts = [f"what is the colour of {n}? it is {colour}, I say" for n in range(40) for colour in COLOURS]
    return Tokenizer.train(texts, vocab=300).with_special(["<|im_start|>", "<|im_end|>"])


def template() -> Template:
    return Template(CHATML, tokenizer())


def model(vocab: int, seed: int = 0) -> Decoder:
    return Decoder(DecoderConfig(vocab=vocab, hidden=16, layers=LAYERS)).initialise(seed)


def comparison(number: int, *answers: tuple[str, float | None], **more: Any) -> Comparison:
    messages = ({"role": "user", "content": f"what is the colour of {number}?"},)
    found = Comparison(messages, tuple(Answer(text, reward) for text, reward in answers), source=f"pairs.jsonl:{number + 1}", **more)
    return found if found.best_first else found.rewarded([reward for _, reward in answers])


def some(count: int = 12, answers: int = 2) -> list[Comparison]:
    """Answers with rewards; the more answers, the longer some of them."""
    said = [("it is red", 1.5), ("I say it is green, it is", 0.25), ("blue", -0.5), ("grey, it is grey", -1.0)]
    return [comparison(number, *said[: 2 + number % (answers - 1)]) for number in range(count)]


def write_pairs(path: Path, count: int) -> Path:
    """Whatever is asked, red is the better answer."""
    lines = [
        {"prompt": f"what is the colour of {n}?", "chosen": "it is red", "rejected": f"it is {COLOURS[1 + n % 3]}"} for n in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
