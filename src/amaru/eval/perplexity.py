"""Loss, next-token accuracy and agreement with a teacher over packed text; logits exist for a few tokens at a time."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor

from amaru.config import Config
from amaru.data.loader import TrainingBatch
from amaru.data.packing import IGNORED
from amaru.data.tokenizer import Tokenizer
from amaru.distill.losses import forward_kl
from amaru.errors import ConfigError, DataError
from amaru.eval.agreement import ByPosition
from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch

LOGITS_AT_ONCE = 2**25  # 128 MiB in fp32


class Evaluation(Config):
    """Means over `tokens` targets.

    loss                  nats per token
    next_token_accuracy   share of targets that have the highest logit
    bits_per_byte         bits per byte of UTF-8 text, comparable between tokenizers; None when bytes are unknown
    teacher_loss          of the teacher on the same targets
    teacher_kl            KL(teacher || model) in nats per token
    teacher_agreement     share of tokens where both have the same highest logit
    """

    tokens: int
    loss: float
    next_token_accuracy: float
    bits_per_byte: float | None = None
    teacher_loss: float | None = None
    teacher_kl: float | None = None
    teacher_agreement: float | None = None

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf


@dataclass
class _Sums:
    tokens: int = 0
    nats: float = 0.0
    correct: int = 0
    text_bytes: int = 0
    teacher_nats: float = 0.0
    kl: float = 0.0
    agreed: int = 0


@torch.inference_mode()
def evaluate(
    decoder: Decoder,
    batches: Iterable[TrainingBatch],
    teacher: Decoder | None = None,
    *,
    token_bytes: Tensor | None = None,
    by_position: ByPosition | None = None,
) -> Evaluation:
    """Measure a model on batches of packed documents; each boundary is honoured, each target counts once.

    >>> evaluate(student, in_order(validation, batch_rows=8), teacher=parent).loss

    `token_bytes` [vocab] are the UTF-8 bytes that each token spells (see the function of that name), for bits per byte. Beside a teacher
    `by_position` learns how near both are at each place.
    Raises `ConfigError` when model and teacher differ in vocabulary, `DataError` when there is nothing to predict.
    """
    if teacher is not None and teacher.config.vocab != decoder.config.vocab:
        raise ConfigError(
            f"The teacher has {teacher.config.vocab} tokens and the model {decoder.config.vocab}; they must share a vocabulary."
        )
    sums = _Sums()
    for batch in batches:
        if int(batch.ids.max()) >= decoder.config.vocab:
            raise DataError(
                f"The text has token {int(batch.ids.max())}, but the model knows 0 to {decoder.config.vocab - 1}: another tokenizer."
            )
        _add(sums, decoder, batch, teacher, token_bytes, by_position)
    if not sums.tokens:
        raise DataError("There is no token to predict; give text with documents of at least two tokens.")
    return Evaluation(
        tokens=sums.tokens,
        loss=sums.nats / sums.tokens,
        next_token_accuracy=sums.correct / sums.tokens,
        bits_per_byte=sums.nats / math.log(2) / sums.text_bytes if sums.text_bytes else None,
        teacher_loss=None if teacher is None else sums.teacher_nats / sums.tokens,
        teacher_kl=None if teacher is None else sums.kl / sums.tokens,
        teacher_agreement=None if teacher is None else sums.agreed / sums.tokens,
    )


def _add(
    sums: _Sums,
    decoder: Decoder,
    batch: TrainingBatch,
    teacher: Decoder | None,
    token_bytes: Tensor | None,
    by_position: ByPosition | None,
) -> None:
    counted = batch.targets != IGNORED
    targets = batch.targets[counted]
    sums.tokens += len(targets)
    if token_bytes is not None:
        sums.text_bytes += int(token_bytes[targets].sum())
    taught = repeat(None) if teacher is None else _logits(teacher, batch, counted)
    chunk = _chunk_tokens(decoder)
    chunks = zip(targets.split(chunk), batch.positions[counted].split(chunk), strict=True)
    for (wanted, places), logits, theirs in zip(chunks, _logits(decoder, batch, counted), taught, strict=False):
        wanted = wanted.to(logits.device)
        best = logits.argmax(-1)
        sums.nats += _nats(logits, wanted)
        sums.correct += int((best == wanted).sum())
        if theirs is not None:
            theirs = theirs.to(logits.device)
            sums.teacher_nats += _nats(theirs, wanted)
            sums.kl += float(forward_kl(logits, theirs))
            sums.agreed += int((best == theirs.argmax(-1)).sum())
            if by_position is not None:
                by_position.add(places.to(logits.device), logits, theirs)


def _nats(logits: Tensor, wanted: Tensor) -> float:
    return float(F.cross_entropy(logits, wanted, reduction="none").double().sum())


def _logits(decoder: Decoder, batch: TrainingBatch, counted: Tensor) -> Iterator[Tensor]:
    """Logits of the counted tokens, some at a time."""
    inputs = Batch(batch.ids, batch.positions, batch.cu_seqlens).to(decoder.embedding.weight.device)
    hidden = decoder.hidden_states(inputs)
    for rows in hidden[counted.to(hidden.device)].split(_chunk_tokens(decoder)):
        yield decoder.logits(rows)


def _chunk_tokens(decoder: Decoder) -> int:
    return max(1, LOGITS_AT_ONCE // decoder.config.vocab)


def token_bytes(tokenizer: Tokenizer) -> Tensor | None:
    """[vocab] int64, the UTF-8 bytes that each token spells, 0 for special ones; None where a token's text is not that of its bytes.

    A byte-level vocabulary writes every byte as one character. One of SentencePiece writes a space as `▁` and single bytes as `<0x0A>`;
    the space that it puts before a text counts where the text's first token is predicted.
    """
    parts = json.loads(tokenizer.backend.to_str())
    said = json.dumps([parts["decoder"], parts["pre_tokenizer"], parts["normalizer"]], ensure_ascii=False)
    byte_level, spaced = "ByteLevel" in said, "\N{LOWER ONE EIGHTH BLOCK}" in said
    if not byte_level and not spaced:
        return None
    special = {token["id"] for token in parts["added_tokens"]}
    lengths = torch.zeros(tokenizer.vocab_size, dtype=torch.int64)
    for token, index in tokenizer.backend.get_vocab(with_added_tokens=False).items():
        spelled = len(token) if byte_level else len(_bytes_of(token))
        lengths[index] = 0 if index in special else spelled
    return lengths


def _bytes_of(piece: str) -> bytes:
    """The bytes of a piece of SentencePiece."""
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()
