"""A model of a few thousand numbers with a chat template, and prompts whose answers can be checked."""

import json
from pathlib import Path

from amaru.align.rounds import Speaker
from amaru.data.templates import BUILT_IN, for_others, template_of
from amaru.data.tokenizer import Tokenizer
from amaru.models.checkpoint import save
from amaru.models.decoder import Decoder, DecoderConfig
from amaru.nn import MLP, Attention, Mamba2

LAYERS = (Mamba2(heads=4, channels=4, groups=2, state=8), Attention(query_heads=2, kv_heads=1, channels=8), MLP(ffn=24))
WORDS = ["sun", "sea", "hill", "tree", "bird", "wind"]


def tokenizer() -> Tokenizer:
    found = Tokenizer.train([f"say {one} then {other}" for one in WORDS for other in WORDS] * 4, vocab=270)
    template = template_of("chatml", found)
    template = template_of("chatml", found.with_special(template.unknown))
    return template.tokenizer.with_chat(for_others(BUILT_IN["chatml"]), template.ending())


def decoder(vocab: int, seed: int = 0) -> Decoder:
    return Decoder(DecoderConfig(vocab=vocab, hidden=16, layers=LAYERS)).initialise(seed)


def speaker(seed: int = 0) -> Speaker:
    words = tokenizer()
    return Speaker.of(decoder(words.vocab_size, seed), words, None)


def write_model(path: Path, seed: int = 0) -> Path:
    words = tokenizer()
    save(decoder(words.vocab_size, seed), path, words)
    return path


def row(*words: str) -> dict:
    """A prompt that asks for words, and how its answer is checked."""
    checks = [{"first_word": words[0]}, {"last_word": words[-1]}]
    kinds = ["startend:first_word", "startend:last_word"]
    return {"prompt": f"say {' then '.join(words)}", "instruction_id_list": kinds, "kwargs": checks}


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path
