"""A logit cache says what its teacher said: all of it to the bit, or the likeliest tokens and the rest, and never something else."""

import shutil

import pytest
import torch
from tests.distill.small import batch, decoder

from amaru.data.loader import TrainingBatch
from amaru.distill import Distillation, Kept, LogitCache, Terms, fill
from amaru.distill.cache import bucketed, pieces
from amaru.distill.losses import Divergence, divergence
from amaru.errors import ArtifactError, ConfigError, DataError
from amaru.nn import Batch

MADE_FROM = {"teacher": "abc"}
BATCHES = [batch([11, 6, 1], seed=1), batch([20], seed=2), batch([3, 14], seed=3)]


def filled(directory, top, stored="fp32", batches=BATCHES, teacher=None, temperature=1.0, seconds=60.0):
    kept = Kept(top=top, stored=stored, temperature=temperature)
    return fill(directory, batches, teacher or (lambda: decoder(0).float()), MADE_FROM, 37, kept, seconds=seconds, chunk_tokens=8)


def loss_and_gradients(teacher, data, terms=None):
    student = decoder(1).float()
    loss = Distillation(teacher, terms, chunk_tokens=8)(student, data)
    loss.total.backward()
    return [loss.total.detach(), *(weight.grad for weight in student.parameters())]


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_a_whole_cache_in_fp32_is_the_live_teacher_to_the_bit(tmp_path, temperature):
    cache, terms = filled(tmp_path, None, temperature=temperature), Terms(temperature=temperature)
    for data in BATCHES:
        expected, found = (loss_and_gradients(teacher, data, terms) for teacher in (decoder(0).float(), cache))
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_as_many_tokens_as_the_vocabulary_has_are_the_whole(tmp_path):
    assert filled(tmp_path, 37).record.kept.top is None
    cache = filled(tmp_path / "more", 36)
    (one, *_), (other, *_) = loss_and_gradients(decoder(0).float(), BATCHES[0]), loss_and_gradients(cache, BATCHES[0])
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)  # all but one token are told apart, and the rest is that one


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_tokens_that_are_taken_together_never_add_divergence(name: Divergence):
    generator = torch.Generator().manual_seed(0)
    p, q = (2 * torch.randn(9, 31, dtype=torch.float64, generator=generator) for _ in range(2))
    log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
    order = log_p.argsort(-1, descending=True)
    found = [divergence(name, bucketed(log_p, order[:, :k]), bucketed(log_q, order[:, :k])).item() for k in range(1, 31)]
    whole = divergence(name, log_p, log_q).item()
    assert found[0] > 0 and all(one <= other + 1e-12 for one, other in zip(found, [*found[1:], whole], strict=True))
    assert found[-1] == pytest.approx(whole, rel=1e-12)


def test_a_cache_of_some_tokens_gives_the_divergence_of_its_buckets(tmp_path):
    data, cache, student = BATCHES[0], filled(tmp_path, 5), decoder(1)
    inputs = Batch(data.ids, data.positions, data.cu_seqlens)
    logits = {seed: decoder(seed)(inputs)[data.counted] for seed in (0, 1)}
    ids = logits[0].topk(5).indices
    told = [each.softmax(-1).gather(-1, ids) for each in logits.values()]
    p, q = (torch.cat([each, 1 - each.sum(-1, keepdim=True)], -1) for each in told)
    expected = (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(Distillation(cache)(student, data).total, expected, rtol=1e-5, atol=1e-7)


def test_gradients_of_buckets_equal_finite_differences():
    generator = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(3, 9, dtype=torch.float64, generator=generator) for _ in range(2))
    log_p = teacher.log_softmax(-1)
    ids = log_p.topk(4).indices

    def loss(logits):
        return divergence("forward_kl", bucketed(log_p, ids), bucketed(logits.log_softmax(-1), ids))

    assert torch.autograd.gradcheck(loss, student.requires_grad_())


def test_the_mass_of_the_rest_does_not_cancel():
    logits = torch.tensor([[40.0, 0.0, -1.0]], dtype=torch.float64)
    expected = logits.log_softmax(-1)[0, 1:].logsumexp(0)
    found = bucketed(logits.float().log_softmax(-1), torch.tensor([[0]]))[0, 1]
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("top", [None, 8])
def test_half_the_bytes_change_the_loss_by_their_rounding(tmp_path, top):
    exact, rounded = (filled(tmp_path / stored, top, stored) for stored in ("fp32", "fp16"))
    (one, *_), (other, *_) = (loss_and_gradients(cache, BATCHES[0]) for cache in (exact, rounded))
    torch.testing.assert_close(one, other, rtol=0, atol=4 * 2.0**-11)  # log-probabilities of some nats, each off by half of 2^-10
    assert rounded.bytes < exact.bytes and rounded.tokens == exact.tokens == sum(data.target_tokens for data in BATCHES)


def test_pieces_are_found_in_any_order_and_batch(tmp_path):
    cache, both = filled(tmp_path, None), batch([11, 6, 1], seed=1)
    ids, targets = (torch.cat([getattr(data, name) for data in (BATCHES[2], both)]) for name in ("ids", "targets"))
    positions = torch.cat([BATCHES[2].positions, both.positions])
    cu_seqlens = torch.cat([BATCHES[2].cu_seqlens, both.cu_seqlens[1:] + len(BATCHES[2].ids)])
    data = TrainingBatch(ids, targets, positions, cu_seqlens, rows=(0, 1), documents=("a", "b"), epoch=0)
    for one, other in zip(*(loss_and_gradients(teacher, data) for teacher in (decoder(0).float(), cache)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_nothing_that_is_there_is_computed_again(tmp_path):
    def refuses():
        raise AssertionError("the teacher is not needed")

    some = filled(tmp_path, 8, batches=BATCHES[:2])
    assert filled(tmp_path, 8, batches=BATCHES[:2], teacher=refuses).record == some.record
    more = filled(tmp_path, 8)
    assert more.record.shards[: len(some.record.shards)] == some.record.shards
    assert more.tokens == some.tokens + BATCHES[2].target_tokens


def test_what_a_kill_left_is_taken_up(tmp_path):
    whole = filled(tmp_path / "whole", 8, seconds=0.0)
    assert len(whole.record.shards) == 3

    def killed():
        yield from BATCHES[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "cut", 8, batches=killed(), seconds=0.0)
    shutil.copy(tmp_path / "whole" / "logits-00002.safetensors", tmp_path / "cut")  # renamed, but not yet in the record
    assert filled(tmp_path / "cut", 8, seconds=0.0).record == whole.record


def test_a_damaged_shard_is_seen_and_made_anew(tmp_path):
    before = filled(tmp_path, 8, seconds=0.0)
    path = tmp_path / before.record.shards[1].file
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(ArtifactError, match=r"logits-00001\.safetensors is missing or damaged"):
        LogitCache.open(tmp_path)
    again = filled(tmp_path, 8, seconds=0.0)
    assert again.tokens == before.tokens
    (one, *_), (other, *_) = loss_and_gradients(again, BATCHES[1]), loss_and_gradients(before, BATCHES[0])
    assert one.isfinite() and other.isfinite()


def test_another_teacher_other_settings_and_other_text_are_refused(tmp_path):
    cache = filled(tmp_path, 8)
    with pytest.raises(ArtifactError, match=r"another teacher \(abc, not xyz\)"):
        fill(tmp_path, BATCHES, lambda: decoder(0), {"teacher": "xyz"}, 37, Kept(top=8, stored="fp32"))
    with pytest.raises(ArtifactError, match=r"another top \(8, not 9\)"):
        filled(tmp_path, 9)
    with pytest.raises(DataError, match="1 of 1 pieces of a batch are not in the logit cache"):
        cache.of(batch([20], seed=9))
    with pytest.raises(ConfigError, match="no hidden states"):
        cache.of(BATCHES[0], [0])
    with pytest.raises(ConfigError, match="37 tokens and the student 40"):
        Distillation(cache)(decoder(1, vocab=40), BATCHES[0])
    with pytest.raises(ArtifactError, match="holds no logit cache"):
        LogitCache.open(tmp_path / "nothing")


def test_pieces_differ_by_their_tokens_and_by_what_is_predicted():
    one, same, other = batch([5], seed=1), batch([5], seed=1), batch([5], seed=1)
    other.targets[1] = -100
    keys = [[piece.key for piece in pieces(data)] for data in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]
    assert [piece.counted for piece in pieces(BATCHES[0])] == [range(10), range(10, 15)], "a piece without targets is none"
