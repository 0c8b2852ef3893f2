"""Evaluation against plain arithmetic on all logits, document by document."""

import math
from dataclasses import replace

import pytest
import torch
from tests.models.random_models import random_config, random_model
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from amaru.data.corpus import Document
from amaru.data.loader import TrainingBatch, in_order
from amaru.data.packing import PackedRows, pack
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError
from amaru.eval import perplexity
from amaru.eval.perplexity import evaluate, token_bytes
from amaru.models import Decoder
from amaru.nn import Batch

TEXTS = ["def f(x):\n    return añade(x)\n", "one", "漢字 and more words, words, words", "if x:\n    pass\n" * 3]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, vocab=280)


@pytest.fixture(scope="module")
def rows(tokenizer: Tokenizer) -> PackedRows:
    return pack([Document(f"d{index}", text) for index, text in enumerate(TEXTS)], tokenizer, row_length=1000)


def model(tokenizer: Tokenizer, seed: int = 0, vocab: int | None = None) -> Decoder:
    return random_model(replace(random_config(seed, "M-*-M"), vocab=vocab or tokenizer.vocab_size), seed)


@torch.no_grad()
def each_document(decoder: Decoder, tokenizer: Tokenizer) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [n, vocab] in fp64 and targets [n]: every document run by itself."""
    logs, targets = [], []
    for text in TEXTS:
        ids = torch.tensor([*tokenizer.encode(text), tokenizer.eos_id])
        logs.append(decoder(Batch.of([ids[:-1]])).double().log_softmax(-1))
        targets.append(ids[1:])
    return torch.cat(logs), torch.cat(targets)


@pytest.mark.parametrize("logits_at_once", [2**25, 280 * 7, 1])
def test_loss_and_accuracy_are_the_means_over_documents_run_alone(
    tokenizer: Tokenizer, rows: PackedRows, monkeypatch: pytest.MonkeyPatch, logits_at_once: int
) -> None:
    monkeypatch.setattr(perplexity, "LOGITS_AT_ONCE", logits_at_once)  # chunks of any size, down to single tokens
    decoder, teacher = model(tokenizer), model(tokenizer, seed=2)
    found = evaluate(decoder, in_order(rows, 2), teacher, token_bytes=token_bytes(tokenizer))
    q, targets = each_document(decoder, tokenizer)
    p, _ = each_document(teacher, tokenizer)
    nats = -q[torch.arange(len(targets)), targets]
    assert found.tokens == len(targets) == rows.targets
    assert found.loss == pytest.approx(float(nats.mean()), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.loss))
    assert found.next_token_accuracy == pytest.approx(float((q.argmax(-1) == targets).double().mean()))
    assert found.teacher_kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert found.teacher_agreement == pytest.approx(float((p.argmax(-1) == q.argmax(-1)).double().mean()))


def test_bits_per_byte_count_every_byte_but_those_of_the_tokens_that_nobody_predicts(tokenizer: Tokenizer, rows: PackedRows) -> None:
    found = evaluate(model(tokenizer), in_order(rows, 1), token_bytes=token_bytes(tokenizer))
    first = [tokenizer.decode(tokenizer.encode(text)[:1]) for text in TEXTS[:2] + TEXTS[3:]]  # ASCII; 漢 begins with one byte of three
    counted = sum(len(text.encode()) for text in TEXTS) - sum(len(text.encode()) for text in first) - len("漢".encode()[:1])
    assert found.bits_per_byte == pytest.approx(found.loss * found.tokens / math.log(2) / counted)


def test_bytes_of_tokens_are_those_of_the_text(tokenizer: Tokenizer) -> None:
    lengths = token_bytes(tokenizer)
    assert lengths is not None and lengths[tokenizer.eos_id] == 0
    for text in TEXTS:
        assert int(lengths[tokenizer.encode(text)].sum()) == len(text.encode())


def test_pieces_of_sentencepiece_spell_bytes_too() -> None:
    """Pieces with `▁` for a space, single bytes where no piece fits; the space before the text is one byte more."""
    bytes_alone = [f"<0x{value:02X}>" for value in range(256)]
    pieces = ["<unk>", "</s>", *bytes_alone, "▁", "▁one", "▁añ", "ade", *"aden"]
    model_of = models.BPE({piece: index for index, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    backend = Backend(model_of)
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    backend.add_special_tokens(["</s>"])
    lengths = token_bytes(Tokenizer.of(backend, {}))
    assert lengths is not None
    assert lengths[[1, pieces.index("▁añ"), pieces.index("<0xE6>"), pieces.index("▁one")]].tolist() == [0, 4, 1, 4]
    text = "a dé 漢 n"
    assert int(lengths[backend.encode(text).ids].sum()) == len(f" {text}".encode())


def test_a_vocabulary_of_another_kind_has_no_bytes() -> None:
    backend = Backend(models.WordLevel({"one": 0, "[UNK]": 1}, unk_token="[UNK]"))
    assert token_bytes(Tokenizer.of(backend, {})) is None


def test_a_uniform_model_knows_nothing(tokenizer: Tokenizer, rows: PackedRows) -> None:
    decoder = model(tokenizer)
    with torch.no_grad():
        decoder.head.weight.zero_()
    assert evaluate(decoder, in_order(rows, 1)).loss == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-6)


def test_a_model_is_its_own_best_student(tokenizer: Tokenizer, rows: PackedRows) -> None:
    decoder = model(tokenizer)
    found = evaluate(decoder, in_order(rows, 1), decoder)
    assert found.teacher_kl == pytest.approx(0, abs=1e-6) and found.teacher_agreement == 1
    assert evaluate(decoder, in_order(rows, 1)).teacher_kl is None


def test_batches_of_other_sizes_give_the_same_means(tokenizer: Tokenizer) -> None:
    documents = [Document(f"d{index}", text) for index, text in enumerate(TEXTS)]
    short = pack(documents, tokenizer, row_length=9)
    one, many = (evaluate(model(tokenizer), in_order(short, batch_rows)) for batch_rows in (1, 5))
    assert one.tokens == many.tokens == short.targets
    assert one.loss == pytest.approx(many.loss, rel=1e-6) and one.next_token_accuracy == many.next_token_accuracy


def test_another_vocabulary_is_a_sentence(tokenizer: Tokenizer, rows: PackedRows) -> None:
    small = model(tokenizer, vocab=50)
    with pytest.raises(ConfigError, match="50"):
        evaluate(model(tokenizer), in_order(rows, 1), small)
    with pytest.raises(DataError, match="another tokenizer"):
        evaluate(small, in_order(rows, 1))


def test_nothing_to_predict_is_a_sentence(tokenizer: Tokenizer) -> None:
    ids = torch.tensor([5])
    empty = TrainingBatch(ids, torch.tensor([-100]), torch.tensor([0]), torch.tensor([0, 1]), (0,), ("d",), 0)
    with pytest.raises(DataError, match="no token to predict"):
        evaluate(model(tokenizer), [empty])
