"""llama2.c: the .bin checkpoints of Andrej Karpathy's small C program (its version 0) and their tokenizers, read."""

import itertools
import json
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tokenizers import Regex, decoders, models, normalizers, processors
from tokenizers import Tokenizer as Backend
from torch import Tensor

from amaru.axes import Axis, parse, repack
from amaru.data.tokenizer import Tokenizer
from amaru.errors import CheckpointError, DataError
from amaru.models.decoder import DecoderConfig
from amaru.nn.attention import Attention
from amaru.nn.mlp import MLP
from amaru.nn.rope import Rope

FLOAT = 4  # bytes; every tensor is little-endian fp32
LATER_VERSIONS = 0x616B3432  # "ak42": where version 0 has dim, the others have this

# The order of the file, which holds one kind of tensor for all blocks, then the next; a block is two of our layers.
BLOCK = (
    (0, "norm.weight"),
    (0, "mixer.q_proj.weight"),
    (0, "mixer.k_proj.weight"),
    (0, "mixer.v_proj.weight"),
    (0, "mixer.o_proj.weight"),
    (1, "norm.weight"),
    (1, "mixer.gate_proj.weight"),
    (1, "mixer.down_proj.weight"),
    (1, "mixer.up_proj.weight"),
)


class Header(NamedTuple):
    """The seven int32 at the start of a .bin; a negative `vocab` means that the classifier is not the embedding."""

    dim: int
    hidden_dim: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    seq_len: int


class Llama2c:
    """`Llama2c("stories15M.bin").read("layers.0.mixer.q_proj.weight")`: a source of tensors under our names and in our layout.

    Opening checks that the file is as long as its header says, before anything is allocated. Raises `CheckpointError`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        header = _header(self.path)
        self.config = _config(header, header.layers)
        self._shapes = {name: spec.layout.shape(axes) for name, (spec, axes) in self.config.tensors().items()}
        self._starts = _starts(header, self._shapes)

    @property
    def names(self) -> list[str]:
        return list(self.config.tensors())

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def read(self, name: str) -> Tensor:
        """One tensor, fp32."""
        shape = self._shapes[name]
        stored = np.fromfile(self.path, "<f4", math.prod(shape), offset=self._starts[name])
        tensor = torch.from_numpy(stored.astype(np.float32, copy=False)).view(shape)
        return tensor[self._rotary_rows(shape[0])] if name.endswith(("q_proj.weight", "k_proj.weight")) else tensor

    def _rotary_rows(self, rows: int) -> np.ndarray:
        """Theirs are pairs of neighbours, (2i, 2i + 1), ours (i, i + half)."""
        channels = self.config.layers[0].channels  # type: ignore[union-attr]
        sizes = {"head": rows // channels, "pair": channels // 2, "half": 2}
        axes = {name: Axis(name=name, size=size) for name, size in sizes.items()}
        return repack(parse("head pair half"), parse("head half pair"), axes)


def _header(path: Path) -> Header:
    try:
        with open(path, "rb") as file:
            head = file.read(struct.calcsize("<7i"))
    except (FileNotFoundError, IsADirectoryError):
        raise CheckpointError(f"There is no llama2.c checkpoint {path}; a .bin file is needed.") from None
    if len(head) < struct.calcsize("<7i"):
        raise CheckpointError(f"{path} is too short for a llama2.c checkpoint, which begins with seven 32-bit integers.")
    header = Header(*struct.unpack("<7i", head))
    if header.dim == LATER_VERSIONS:
        raise CheckpointError(f"{path} is a llama2.c checkpoint of version 1 or later; amaru reads version 0 (export.py --version 0).")
    _check(path, header)
    return header


def _check(path: Path, header: Header) -> None:
    """Sizes that make a model, and exactly the bytes that they need."""
    if min(header._replace(vocab=abs(header.vocab))) < 1 or header.dim % (2 * header.heads) or header.heads % header.kv_heads:
        raise CheckpointError(f"{path} is no llama2.c checkpoint: its first seven integers would be {header}.")
    sizes = {name: spec.layout.numel(axes) for name, (spec, axes) in _config(header, 1).tensors().items()}
    block = sum(size for name, size in sizes.items() if name.startswith("layers."))
    floats = sum(sizes.values()) + (header.layers - 1) * block + _frequencies(header)
    expected, found = struct.calcsize("<7i") + FLOAT * floats, path.stat().st_size
    if found != expected:
        raise CheckpointError(f"{path} has {found} bytes, but a llama2.c checkpoint that begins with {header} has {expected}.")


def _config(header: Header, blocks: int) -> DecoderConfig:
    attention = Attention(
        query_heads=header.heads, kv_heads=header.kv_heads, channels=header.dim // header.heads, rope=Rope(base=10000.0)
    )
    mlp = MLP(ffn=header.hidden_dim, gated=True, activation="silu")
    return DecoderConfig(
        vocab=abs(header.vocab),
        hidden=header.dim,
        layers=(attention, mlp) * blocks,
        norm_eps=1e-5,
        tied=header.vocab > 0,
        max_positions=header.seq_len,
    )


def _frequencies(header: Header) -> int:
    """Cosines and sines of the rotary angles, which stand before the classifier; they follow from the config."""
    return header.seq_len * header.dim // header.heads


def _starts(header: Header, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Where each tensor begins, in bytes."""
    starts, position = {}, struct.calcsize("<7i")
    for name in _order(header.layers):
        starts[name] = position
        position += FLOAT * math.prod(shapes[name])
    return starts if header.vocab > 0 else starts | {"head.weight": position + FLOAT * _frequencies(header)}


def _order(blocks: int) -> Iterator[str]:
    yield "embedding.weight"
    for layer, name in BLOCK:
        yield from (f"layers.{2 * block + layer}.{name}" for block in range(blocks))
    yield "norm.weight"


BEGIN, END, FIRST_BYTE = 1, 2, 3  # ids that run.c has built in
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def read_tokenizer(path: str | Path, vocab: int) -> Tokenizer:
    """`read_tokenizer("tok512.bin", 512)`: the ids that llama2.c's `encode` gives, with the first id in front, and its text.

    The token that begins a text is also named as the one that ends it: models of this kind saw texts parted by it alone, and run.c
    stops there. Raises `DataError` for a file that is cut short or holds what merges by rank cannot express.
    """
    path = Path(path)
    tokens = _tokens(path, vocab)
    ids = {token: id for id, (token, _) in enumerate(tokens)}
    backend = Backend(models.BPE(vocab=ids, merges=_merges(path, tokens), byte_fallback=True))
    begin = tokens[BEGIN][0]
    backend.normalizer = normalizers.Prepend(" ")
    backend.post_processor = processors.TemplateProcessing(single=[begin, "$A"], special_tokens=[(begin, BEGIN)])
    # run.c leaves out the space in front of the first word after the beginning of a text, and of no other.
    first = decoders.Replace(Regex(rf"\A{re.escape(begin)} "), begin)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), first])
    backend.encode_special_tokens = True
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": begin, "eos_token": begin, "clean_up_tokenization_spaces": False}
    return Tokenizer(backend, {"tokenizer_config.json": json.dumps(names, indent=2)})


def _tokens(path: Path, vocab: int) -> list[tuple[str, float]]:
    """Text and score of every token: after the length of the longest, a float32, an int32 and so many bytes each."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"There is no llama2.c tokenizer {path}; a .bin file is needed.") from None
    tokens: list[tuple[str, float]] = []
    position = 4
    while position < len(data) and len(tokens) < vocab:
        entry = data[position : position + 8]
        score, length = struct.unpack("<fi", entry) if len(entry) == 8 else (0.0, -1)
        text = data[position + 8 : position + 8 + max(length, 0)]
        position += 8 + length
        if length < 0 or len(text) < length or not math.isfinite(score) or not _is_text(text):
            break
        tokens.append((text.decode(), score))
    if len(tokens) != vocab or position != len(data):
        raise DataError(f"{path} is no llama2.c tokenizer of {vocab} tokens: {len(tokens)} were read from its {len(data)} bytes.")
    _check_tokens(path, [text for text, _ in tokens])
    return tokens


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _check_tokens(path: Path, texts: list[str]) -> None:
    if texts[FIRST_BYTE : FIRST_BYTE + 256] != BYTE_TOKENS or " " not in texts:
        raise DataError(f"{path} lacks the tokens that llama2.c needs: a space, and <0x00> to <0xFF> from id {FIRST_BYTE} on.")
    if len(set(texts)) != len(texts):
        twice = next(text for place, text in enumerate(texts) if text in texts[:place])
        raise DataError(f"{path} holds the token {twice!r} twice; each text must have one id.")


def _merges(path: Path, tokens: list[tuple[str, float]]) -> list[tuple[str, str]]:
    """Every way to put a token together from two, best score first: what run.c finds by trying neighbours."""
    known = {text for text, _ in tokens}
    halves = {text: [(text[:cut], text[cut:]) for cut in range(1, len(text)) if {text[:cut], text[cut:]} <= known] for text, _ in tokens}
    merged = sorted((token for token in tokens if halves[token[0]]), key=lambda token: -token[1])
    for (one, score), (other, next_score) in itertools.pairwise(merged):
        if score == next_score:
            raise DataError(f"{path} gives {one!r} and {other!r} the same score, so their order cannot be written as merges.")
    return [pair for text, _ in merged for pair in halves[text]]
