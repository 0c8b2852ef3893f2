"""Preference optimisation on a model: against a loop over sequences, without leakage, against any reference, in any micro-batches."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.align.small import comparison, model, some, template

from amaru.adapters import LoRA, adapt
from amaru.align import cached
from amaru.align.cached import Cached, fill
from amaru.align.log_probabilities import log_probabilities
from amaru.align.objective import Preference, measured, watched
from amaru.align.reference import Live, Reference, WithoutAdapter, said
from amaru.align.rows import ComparisonRows, pack
from amaru.align.terms import Terms
from amaru.align.watching import WINDOW, Falling
from amaru.data.loader import Loader, collate
from amaru.errors import ArtifactError
from amaru.models.decoder import Decoder
from amaru.nn.batch import Batch
from amaru.train.metrics import StepMetrics
from amaru.train.step import accumulate, micro_batches

TEMPLATE = template()
ROWS = pack(some(9, answers=4), TEMPLATE, 256)


def fresh(seed: int = 0) -> Decoder:
    return model(TEMPLATE.tokenizer.vocab_size, seed)


def of_answers(decoder: Decoder, rows: ComparisonRows, row: int) -> torch.Tensor:
    """log p of every answer of a row, each sequence run by itself."""
    found = []
    for number in rows.answers(row):
        ids = torch.from_numpy(rows.tokens[rows.starts[number] : rows.starts[number + 1]].astype("int64"))
        log_p = decoder(Batch.of([ids[:-1]])).log_softmax(-1)
        found.append(log_p.gather(-1, ids[1:, None])[rows.prompts[number] - 1 :, 0].sum())
    return torch.stack(found)


def test_log_probabilities_have_the_values_and_gradients_of_all_logits() -> None:
    drawn = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(size, generator=drawn, dtype=torch.float64, requires_grad=True) for size in ((7, 5), (11, 5)))
    targets, scale = torch.randint(0, 11, (7,), generator=drawn), torch.randn(7, generator=drawn, dtype=torch.float64)
    whole = F.log_softmax(hidden @ weight.mT, -1).gather(-1, targets[:, None])[:, 0]
    parts = log_probabilities(hidden, weight, targets, chunk_tokens=3)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=0)
    for mine, plain in zip(*(torch.autograd.grad((each * scale).sum().tanh(), (hidden, weight)) for each in (parts, whole)), strict=True):
        torch.testing.assert_close(mine, plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("terms", [Terms(beta=0.3, sft=0.01), Terms(method="rpo", beta=0.3, eta=2.0, by_length=True, sft=0.1)], ids=repr)
def test_loss_gradient_and_what_is_watched_against_a_loop(terms: Terms) -> None:
    looped, reference, batched = fresh().double(), fresh(1).double(), fresh().double()
    chosen, losses, accuracy, margin = (4, 2, 1), [], [], []
    for row in chosen:
        lengths = torch.from_numpy(ROWS.answer_lengths[list(ROWS.answers(row))]) if terms.by_length else 1
        of_model = of_answers(looped, ROWS, row) / lengths
        h = of_model - of_answers(reference, ROWS, row).detach() / lengths
        r = torch.from_numpy(ROWS.rewards[list(ROWS.answers(row))])
        pairs = [h[i] - h[j] for j in range(len(r)) for i in range(j)]
        if terms.method == "dpo":
            loss = torch.stack([-F.logsigmoid(terms.beta * gap) for gap in pairs]).mean()
        else:
            loss = F.kl_div((terms.beta * h).log_softmax(0), (terms.eta * r).softmax(0), reduction="sum")
        losses.append(loss - terms.sft * of_model[0])
        gaps = [gap.item() for gap in pairs]
        accuracy.append(sum(gap > 0 for gap in gaps) / len(gaps))
        margin.append(terms.beta * sum(gaps) / len(gaps))
    expected = torch.stack(losses).mean()
    expected.backward()
    found = Preference(ROWS, terms, Live(reference))(batched, collate(ROWS, chosen))
    found.total.backward()
    torch.testing.assert_close(found.total, expected, atol=1e-10, rtol=0)
    for mine, plain in zip(batched.parameters(), looped.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, plain.grad, atol=1e-10, rtol=0)
    assert found.parts["accuracy"] == pytest.approx(sum(accuracy) / 3)
    assert found.parts["margin"] == pytest.approx(sum(margin) / 3)


def test_nothing_leaks_between_answers_and_comparisons() -> None:
    """Any order and any company gives an answer the same log-probability."""
    decoder = fresh().double()
    alone = {row: of_answers(decoder, ROWS, row) for row in range(len(ROWS))}
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1), (8, 3)):
        batch = collate(ROWS, order)
        lengths = [int(ROWS.answer_lengths[number]) for row in order for number in ROWS.answers(row)]
        sums = torch.stack([part.sum() for part in said(decoder, batch).split(lengths)])
        torch.testing.assert_close(sums, torch.cat([alone[row] for row in order]), atol=1e-10, rtol=0)


def test_the_three_references_say_the_same(tmp_path: Path) -> None:
    """To rounding of fp32, for the cache was filled in other batches; and before anything is learned every log-ratio is nothing."""
    adapted = fresh()
    adapt(adapted, LoRA(rank=2, targets=("mamba", "q_proj")))
    batch, terms = collate(ROWS, (7, 0, 4)), Terms(method="rpo", beta=0.5)
    with torch.no_grad():
        before = Preference(ROWS, terms, Live(fresh()))(adapted, batch)
        assert before.parts["margin"] == before.parts["kl"] == 0 and before.parts["accuracy"] == 0.5
        for parameter in adapted.adapters.parameters():
            parameter.add_(0.3)
    references: list[Reference] = [Live(fresh()), WithoutAdapter(), fill(tmp_path, ROWS, fresh, {"reference": "x"})]
    found = [Preference(ROWS, terms, each)(adapted, batch) for each in references]
    assert torch.equal(found[0].total, found[1].total) and found[0].parts == found[1].parts
    torch.testing.assert_close(found[2].total, found[0].total, atol=1e-6, rtol=1e-6)
    gradients = [torch.autograd.grad(each.total, [p for p in adapted.parameters() if p.requires_grad]) for each in found]
    for live, kept in zip(gradients[0], gradients[2], strict=True):
        torch.testing.assert_close(kept, live, atol=1e-6, rtol=1e-5)
    assert found[0].total.item() != pytest.approx(before.total.item(), abs=1e-3)


def test_a_cache_goes_on_where_it_was_killed_and_repairs_what_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached, "PASS_TOKENS", 150)
    made: list[Decoder] = []

    def reference() -> Decoder:
        made.append(fresh())
        return made[-1]

    def filled(directory: Path, stop_after: int = 10**9) -> Cached:
        def told(tokens: int) -> None:
            if tokens > stop_after:
                raise KeyboardInterrupt

        return fill(tmp_path / directory, ROWS, reference, {"reference": "x"}, seconds=0, progress=told)

    whole = filled(Path("whole"))
    with pytest.raises(KeyboardInterrupt):
        filled(Path("cut"), stop_after=ROWS.targets // 2)
    before = sorted((tmp_path / "cut").glob("said-*"))
    assert 0 < len(before) < len(cached.passes(ROWS))
    times = [path.stat().st_mtime_ns for path in before]
    assert torch.equal(filled(Path("cut")).log_p, whole.log_p) and times == [path.stat().st_mtime_ns for path in before]
    count = len(made)
    assert torch.equal(filled(Path("cut")).log_p, whole.log_p) and len(made) == count  # nothing was to be computed
    data = bytearray(before[0].read_bytes())
    data[-1] ^= 1
    before[0].write_bytes(data)
    before[1].write_bytes(b"short")
    assert torch.equal(filled(Path("cut")).log_p, whole.log_p) and len(made) == count + 1
    with pytest.raises(ArtifactError, match="another reference"):
        fill(tmp_path / "cut", ROWS, reference, {"reference": "y"})


def test_micro_batches_count_by_comparisons() -> None:
    whole, parted, loader = fresh(), fresh(), Loader(ROWS, 6, seed=3)
    objective = Preference(ROWS, Terms(beta=0.5, sft=0.01), Live(fresh(1)))
    expected = accumulate(whole, objective, micro_batches(loader, 1, None))
    batches = micro_batches(loader, 1, 2 * ROWS.row_length)
    assert len(batches) == 3 and len({batch.target_tokens for batch in batches}) > 1
    found = accumulate(parted, objective, batches)
    torch.testing.assert_close(found.total, expected.total, atol=1e-5, rtol=1e-5)
    assert found.tokens == expected.tokens and found.parts == pytest.approx(expected.parts, abs=1e-5)
    for mine, plain in zip(parted.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, plain.grad, atol=1e-5, rtol=1e-4)


def test_what_is_measured_of_held_out_ones_does_not_depend_on_the_batches() -> None:
    objective, decoder = Preference(ROWS, Terms(beta=0.5), Live(fresh(1))), fresh()
    assert measured(decoder, objective, 2) == pytest.approx(measured(decoder, objective, 9), abs=1e-5)
    assert decoder.training


def test_a_length_that_was_learned_shows() -> None:
    """Longer answers are the worse ones, and the implicit rewards like two of three; a comparison without preferences counts half."""
    short_is_better = [comparison(n, ("red", 1.0), ("red and green and blue", 0.0)) for n in range(3)]
    rows = pack([*short_is_better, comparison(3, ("blue", 1.0), ("it is grey", 1.0))], TEMPLATE, 256)
    h = torch.tensor([[-2.0, 1.0], [-1.0, 1.0], [3.0, 1.0], [5.0, 1.0]])
    lengths = torch.from_numpy(rows.answer_lengths).view(4, 2)
    found = watched(2.0, h, h - 50, lengths, rows.groups(range(4)))
    assert rows.longer() == 0 and found["longer"].tolist() == [1, 1, 0, 0.5] and found["accuracy"].tolist() == [0, 0, 1, 0.5]
    assert found["margin"].tolist() == [-6, -4, 4, 0] and found["chosen"].tolist() == [-2, -1, 3, 3]
    assert found["log_p_rejected"].tolist() == [-49, -49, -49, -47]


def metrics(step: int, chosen: float, rejected: float) -> StepMetrics:
    parts = {"chosen": chosen, "rejected": rejected}
    return StepMetrics(step=step, epoch=0, loss=1, lr=1, grad_norm=1, tokens=1, seconds=1, tokens_per_second=1, memory=1, parts=parts)


def test_both_falling_is_told_once() -> None:
    watching = Falling()
    told = [watching.seen(metrics(step, 1.0 - 0.1 * step, -0.2 * step)) for step in range(1, 60)]
    (warning,) = [each for each in told if each]
    assert warning.chosen < -0.5 and warning.rejected < warning.chosen and warning.step > WINDOW
    assert f"step {warning.step}: chosen and rejected answers both became less likely" in str(warning)
    rising = Falling()
    assert not any(rising.seen(metrics(step, 0.1 * step, -0.2 * step)) for step in range(1, 60))
