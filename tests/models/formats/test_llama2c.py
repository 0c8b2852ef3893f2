"""llama2.c checkpoints and tokenizers, against the loops of the C program written out step by step."""

import random
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from amaru.errors import CheckpointError, DataError
from amaru.models.checkpoint import assemble
from amaru.models.formats.llama2c import Llama2c, read_tokenizer
from amaru.nn.batch import Batch

Token = tuple[str, float]
SPECIAL: list[Token] = [("<unk>", 0.0), ("\n<s>\n", 0.0), ("\n</s>\n", 0.0)]
BYTES: list[Token] = [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]


def write_tokenizer(path: Path, tokens: list[Token]) -> Path:
    entries = ((score, text.encode()) for text, score in tokens)
    longest = max(len(text.encode()) for text, _ in tokens)
    path.write_bytes(struct.pack("<i", longest) + b"".join(struct.pack("<fi", score, len(text)) + text for score, text in entries))
    return path


def vocabulary(pieces: list[str], seed: int = 0) -> list[Token]:
    """Special tokens, bytes, then pieces with scores in a drawn order."""
    scores = random.Random(seed).sample(range(len(pieces)), len(pieces))
    return SPECIAL + BYTES + [(piece, -float(score)) for piece, score in zip(pieces, scores, strict=True)]


def encode(tokens: list[Token], text: str) -> list[int]:
    """run.c's `encode` with bos: a space in front, characters or their bytes, then the best neighbours until none is left."""
    ids = {piece: id for id, (piece, _) in enumerate(tokens)}
    found = [1] + ([ids[" "]] if text else [])
    for character in text:
        found += [ids[character]] if character in ids else [byte + 3 for byte in character.encode()]
    while True:
        best, score = None, -1e10
        for place in range(len(found) - 1):
            merged = ids.get(tokens[found[place]][0] + tokens[found[place + 1]][0])
            if merged is not None and tokens[merged][1] > score:
                best, score = (place, merged), tokens[merged][1]
        if best is None:
            return found
        found[best[0] : best[0] + 2] = [best[1]]


def decode(tokens: list[Token], ids: list[int]) -> bytes:
    """run.c's `decode` token by token."""
    out, before = b"", 0
    for id in ids:
        piece = tokens[id][0].encode()
        if before == 1 and piece[:1] == b" ":
            piece = piece[1:]
        byte = re.fullmatch(rb"<0x([0-9A-F]{2})>", piece)
        out += bytes([int(byte[1], 16)]) if byte else piece
        before = id
    return out


PIECES = [" ", "t", "h", "e", "a", "n", "d", "\n", ".", "é", "th", "he", " t", " th", "the", " the", "an", "nd", "and", " and", " a", "  "]
TEXTS = [
    "",
    " ",
    "   ",
    "the and then",
    "\n\n the\tand\r\n",
    "é e\u0301 日本 🦙 añade",
    "<s></s><unk> \n<s>\n the",
    "<0x41><0x0A>",
    "tthhee andandand" * 7,
    "\x07\x7f\u200d\ufffd",
    "the  and   the",
]


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_are_those_of_the_c_program(text: str, tmp_path: Path) -> None:
    tokens = vocabulary(PIECES)
    tokenizer = read_tokenizer(write_tokenizer(tmp_path / "tok.bin", tokens), len(tokens))
    ids = tokenizer.encode(text)
    assert ids == encode(tokens, text)
    assert tokenizer.decode(ids).encode() == decode(tokens, ids) == b"\n<s>\n" + text.encode()
    assert tokenizer.decode(ids[1:]).encode() == decode(tokens, ids[1:])


@pytest.mark.parametrize("seed", range(40))
def test_ids_of_random_vocabularies_on_random_texts(seed: int, tmp_path: Path) -> None:
    """Two letters and few pieces: as many overlapping ways to merge as there can be."""
    draw = random.Random(seed)
    words = {"".join(draw.choices("ab ", k=draw.randint(2, 6))) for _ in range(30)}
    tokens = vocabulary(["a", "b", " ", *sorted(words)], seed)
    tokenizer = read_tokenizer(write_tokenizer(tmp_path / "tok.bin", tokens), len(tokens))
    for _ in range(60):
        text = "".join(draw.choices("ab ", k=draw.randint(1, 40)))
        assert tokenizer.encode(text) == encode(tokens, text), text


def test_what_begins_a_text_ends_it_and_is_never_read_out_of_text(tmp_path: Path) -> None:
    tokens = vocabulary(PIECES)
    read_tokenizer(write_tokenizer(tmp_path / "tok.bin", tokens), len(tokens)).save(tmp_path)
    tokenizer = type(read_tokenizer(tmp_path / "tok.bin", len(tokens))).load(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (1, 1, len(tokens))
    for text in TEXTS:
        assert tokenizer.encode(text) == encode(tokens, text)


def test_a_token_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path / "tok.bin", vocabulary(PIECES))
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xc3\xff"))
    with pytest.raises(DataError, match=r"no llama2\.c tokenizer of 281 tokens: 268 were read"):
        read_tokenizer(path, 281)


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_tokenizer_cut_short_is_refused(cut: int, tmp_path: Path) -> None:
    tokens = vocabulary(PIECES)
    path = write_tokenizer(tmp_path / "tok.bin", tokens)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=r"tok\.bin is no llama2\.c tokenizer of 281 tokens"):
        read_tokenizer(path, len(tokens))


GOOD = vocabulary(PIECES)
REFUSED: dict[str, tuple[list[Token], int, str]] = {
    "another size": (GOOD, len(GOOD) + 1, "no llama2.c tokenizer of 282 tokens: 281 were read"),
    "a smaller size": (GOOD, 9, "no llama2.c tokenizer of 9 tokens"),
    "a score twice": ([*GOOD, ("then", -99.5), ("ant", -99.5)], 283, "gives 'then' and 'ant' the same score"),
    "a token twice": ([*GOOD, ("t", -99.5)], 282, "holds the token 't' twice"),
    "no space": ([token for token in GOOD if token[0] != " "], 280, "lacks the tokens that llama2.c needs"),
    "no bytes": (SPECIAL + GOOD[-22:], 25, "lacks the tokens that llama2.c needs"),
    "no number": ([*GOOD, ("then", float("nan"))], 282, "no llama2.c tokenizer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tokenizer_that_merges_cannot_express_is_refused(case: str, tmp_path: Path) -> None:
    tokens, vocab, sentence = REFUSED[case]
    with pytest.raises(DataError, match=re.escape(sentence)):
        read_tokenizer(write_tokenizer(tmp_path / "tok.bin", tokens), vocab)


def test_no_such_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no llama2\.c tokenizer .*absent\.bin"):
        read_tokenizer(tmp_path / "absent.bin", 9)


Weights = dict[str, np.ndarray]
HEADER = (24, 20, 3, 6, 2, 37, 16)  # dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab, seq_len


def write_model(path: Path, shared: bool = True, seed: int = 0) -> Weights:
    """A random .bin under the names of run.c's `TransformerWeights`."""
    dim, hidden, layers, heads, kv_heads, vocab, seq_len = HEADER
    kv_dim = dim // heads * kv_heads
    shapes = {
        "token_embedding": (vocab, dim),
        "rms_att": (layers, dim),
        "wq": (layers, dim, dim),
        "wk": (layers, kv_dim, dim),
        "wv": (layers, kv_dim, dim),
        "wo": (layers, dim, dim),
        "rms_ffn": (layers, dim),
        "w1": (layers, hidden, dim),
        "w2": (layers, dim, hidden),
        "w3": (layers, hidden, dim),
        "rms_final": (dim,),
        "frequencies": (seq_len, dim // heads),
    } | ({} if shared else {"wcls": (vocab, dim)})
    draw = np.random.default_rng(seed)
    weights = {name: draw.normal(1.0 if "rms" in name else 0.0, 0.3, shape).astype("<f4") for name, shape in shapes.items()}
    words = [*HEADER[:5], vocab if shared else -vocab, seq_len]
    path.write_bytes(struct.pack("<7i", *words) + b"".join(weight.tobytes() for weight in weights.values()))
    return {name: weight.astype(np.float64) for name, weight in weights.items()}


def rmsnorm(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x * x).mean() + 1e-5) * weight


def rotate(row: np.ndarray, position: int, channels: int) -> np.ndarray:
    """run.c's loop: neighbours (i, i + 1) turn by position / 10000^(i mod channels / channels)."""
    out = row.copy()
    for i in range(0, len(row), 2):
        angle = position / 10000 ** ((i % channels) / channels)
        out[i] = row[i] * np.cos(angle) - row[i + 1] * np.sin(angle)
        out[i + 1] = row[i] * np.sin(angle) + row[i + 1] * np.cos(angle)
    return out


def attend(q: np.ndarray, keys: list[np.ndarray], values: list[np.ndarray], heads: int, per_kv: int) -> np.ndarray:
    out = []
    for head, query in enumerate(q.reshape(heads, -1)):
        own = slice(head // per_kv * len(query), (head // per_kv + 1) * len(query))
        scores = np.array([query @ key[own] for key in keys]) / np.sqrt(len(query))
        p = np.exp(scores - scores.max())
        out.append((p / p.sum()) @ np.array([value[own] for value in values]))
    return np.concatenate(out)


def run(w: Weights, ids: list[int]) -> np.ndarray:
    """run.c's `forward`, one token after the other, in float64: logits [T, vocab]."""
    _, _, layers, heads, kv_heads, _, _ = HEADER
    cache: list[tuple[list, list]] = [([], []) for _ in range(layers)]
    logits = []
    for position, id in enumerate(ids):
        x = w["token_embedding"][id]
        for layer, (keys, values) in enumerate(cache):
            u = rmsnorm(x, w["rms_att"][layer])
            channels = len(x) // heads
            keys.append(rotate(w["wk"][layer] @ u, position, channels))
            values.append(w["wv"][layer] @ u)
            q = rotate(w["wq"][layer] @ u, position, channels)
            x = x + w["wo"][layer] @ attend(q, keys, values, heads, heads // kv_heads)
            u = rmsnorm(x, w["rms_ffn"][layer])
            gate = w["w1"][layer] @ u
            x = x + w["w2"][layer] @ (gate / (1 + np.exp(-gate)) * (w["w3"][layer] @ u))
        logits.append(w.get("wcls", w["token_embedding"]) @ rmsnorm(x, w["rms_final"]))
    return np.array(logits)


@pytest.mark.parametrize("shared", [True, False])
def test_logits_are_those_of_the_c_program(shared: bool, tmp_path: Path) -> None:
    weights = write_model(tmp_path / "model.bin", shared)
    source = Llama2c(tmp_path / "model.bin")
    assert source.config.tied == shared and source.config.max_positions == 16
    ids = [1, 36, 0, 17, 17, 5, 30, 2, 9, 11, 23]
    decoder = assemble(source.config, source.read, torch.float64)
    with torch.no_grad():
        logits = decoder(Batch.of([torch.tensor(ids)]))
    np.testing.assert_allclose(logits.numpy(), run(weights, ids), rtol=0, atol=1e-6)  # angles are fp32 in our rope


def test_every_number_of_the_file_is_read_once(tmp_path: Path) -> None:
    weights = write_model(tmp_path / "model.bin", shared=False)
    source = Llama2c(tmp_path / "model.bin")
    read = np.concatenate([source.read(name).flatten().numpy() for name in source.names])
    kept = np.concatenate([weight.flatten() for name, weight in weights.items() if name != "frequencies"])
    assert np.array_equal(np.sort(read), np.sort(kept))
    assert {source.dtype(name) for name in source.names} == {torch.float32}


DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "too short"),
    "short": (struct.pack("<6i", *HEADER[:6]), "too short"),
    "a later version": (struct.pack("<7i", 0x616B3432, 1, 64, 172, 5, 8, 4), "version 1 or later"),
    "huge": (struct.pack("<7i", 2**30, 2**31 - 1, 2**31 - 1, 4, 4, 2**31 - 1, 2**31 - 1), "28 bytes, but"),
    "many layers": (struct.pack("<7i", 4, 1, 2**31 - 1, 1, 1, 1, 1), "28 bytes, but"),
    "no heads": (struct.pack("<7i", 24, 20, 3, 0, 2, 37, 16), "no llama2.c checkpoint"),
    "negative": (struct.pack("<7i", 24, 20, -3, 6, 2, 37, 16), "no llama2.c checkpoint"),
    "odd channels": (struct.pack("<7i", 18, 20, 3, 6, 2, 37, 16), "no llama2.c checkpoint"),
    "heads that do not divide": (struct.pack("<7i", 24, 20, 3, 6, 4, 37, 16), "no llama2.c checkpoint"),
    "text": (b"once upon a time, there was a little girl", "no llama2.c checkpoint"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_another_file_is_refused_in_one_sentence_before_anything_is_allocated(case: str, tmp_path: Path) -> None:
    content, sentence = DAMAGE[case]
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        Llama2c(tmp_path / "model.bin")
    assert "model.bin" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_one_number_short_or_long_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path / "model.bin")
    whole = (tmp_path / "model.bin").read_bytes()
    for content in (whole[:-4], whole + bytes(4)):
        (tmp_path / "model.bin").write_bytes(content)
        with pytest.raises(CheckpointError, match=rf"has {len(content)} bytes, but .* has {len(whole)}"):
            Llama2c(tmp_path / "model.bin")
    with pytest.raises(CheckpointError, match=r"no llama2\.c checkpoint"):
        Llama2c(tmp_path)


def test_transformers_reads_the_tokenizer_as_it_is(tmp_path: Path) -> None:
    tokens = vocabulary(PIECES)
    tokenizer = read_tokenizer(write_tokenizer(tmp_path / "tok.bin", tokens), len(tokens))
    tokenizer.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert [theirs(text, split_special_tokens=True)["input_ids"] for text in TEXTS] == tokenizer.encode_batch(TEXTS)
    assert [theirs.decode(ids) for ids in tokenizer.encode_batch(TEXTS)] == [f"\n<s>\n{text}" for text in TEXTS]
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (1, 1, len(tokens))
