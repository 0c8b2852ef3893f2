"""Rows and losses of reward models: against least squares in closed form, a cross-entropy of two, and by what must not matter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.random_models import random_model
from tests.models.reward.small import CONFIG, TOKENIZER, said, with_head

from amaru.align import Answer, Comparison, read
from amaru.align.comparisons import scored
from amaru.align.reward import BradleyTerry, Regression, RewardLoader, RewardRows, compared, rated, rewards_by
from amaru.align.reward.labels import check_labels, counted
from amaru.align.reward.objectives import predicted
from amaru.align.reward.rows import RewardBatch
from amaru.errors import ConfigError, DataError
from amaru.models.reward import Attributes, Scorer
from amaru.models.reward.attributes import HELPSTEER
from amaru.models.reward.checkpoint import RewardModel, Said
from amaru.models.reward.head import head_bias, head_of
from amaru.models.reward.prompts import Prompts
from amaru.nn.batch import Batch
from amaru.train.step import accumulate, micro_batches

PROMPTS = Prompts(TOKENIZER, "label-prefix")
NAMES = HELPSTEER[:3]


def rating(number: int, missing: bool = True) -> dict[str, float]:
    """Labels of 0 to 4, of which some are missing."""
    draw = np.random.default_rng(number)
    return {name: float(draw.integers(5)) for name in NAMES if not missing or name == NAMES[number % 3] or draw.random() < 0.6}


def ratings(count: int = 40, missing: bool = True) -> list[Comparison]:
    asked = ({"role": "user", "content": "two"},)
    answers = [Answer(f"{'it is ' * (number % 7)}{number}", attributes=rating(number, missing)) for number in range(count)]
    return [Comparison(asked, (answer,), source=f"rows:{number}") for number, answer in enumerate(answers, start=1)]


def pairs(count: int = 12) -> list[Comparison]:
    asked = ({"role": "user", "content": "two"},)
    return [Comparison(asked, (Answer("five. " * (1 + n % 4)), Answer(f"it is {n}")), True, f"pairs:{n + 1}") for n in range(count)]


def test_rows_are_conversations_with_their_labels(tmp_path: Path) -> None:
    rows, dropped = rated(ratings(), PROMPTS, NAMES, longest=300)
    assert not dropped and len(rows) == 40 and rows.positions == sum(rows.lengths(np.arange(40)))
    ids = PROMPTS.ids(said("two", f"{'it is ' * 5}12"))
    assert rows.row(12).ids.tolist() == ids and rows.documents_of(12) == ("rows:13",)
    assert rows.labels[12].tolist() == pytest.approx([rating(12).get(name, np.nan) for name in NAMES], nan_ok=True)
    rows.save(tmp_path / "rows")
    back = RewardRows.load(tmp_path / "rows", rows.made_from)
    assert back.fingerprint == rows.fingerprint and back.row(7).ids.tolist() == rows.row(7).ids.tolist()
    both, _ = compared(pairs(), PROMPTS, longest=300)
    better, worse = (PROMPTS.ids(said("two", text)) for text in ("five. five. five. ", "it is 2"))
    assert both.row(2).ids.tolist() == [*better, *worse] and both.row(2).starts.tolist() == [0, len(better)]
    assert [sum(len(batch.rows) for batch in both.in_order(tokens)) for tokens in (1, 900, 10**6)] == [12] * 3


def test_the_optimum_of_a_frozen_decoder_is_least_squares() -> None:
    """Each attribute by itself, on the answers that have it; also when a step is put together of small passes."""
    rows, _ = rated(ratings(), PROMPTS, NAMES, longest=300)
    decoder = with_head(random_model(CONFIG, 2), names=3).double()
    head = head_of(decoder)
    (everything,) = rows.in_order(10**6)
    hidden = decoder.hidden_states(_batch(everything))[everything.cu_seqlens[1:] - 1].detach()
    features = torch.cat([hidden, torch.ones(len(hidden), 1, dtype=hidden.dtype)], 1)
    residual, count = 0.0, 0
    with torch.no_grad():
        for index in range(3):
            given = everything.labels[:, index].isfinite()
            found = torch.linalg.lstsq(features[given], everything.labels[given, index, None]).solution[:, 0]
            head.weight[index], head_bias(head)[index] = found[:-1], found[-1]
            residual += (features[given] @ found - everything.labels[given, index]).square().sum().item()
            count += int(given.sum())
    decoder.requires_grad_(False)
    head.requires_grad_(True)
    loss = accumulate(decoder, Regression(), micro_batches(RewardLoader(rows, 40, 0), 0, 900))
    assert loss.tokens == count == rows.targets < 120 and loss.total.item() == pytest.approx(residual / count, rel=1e-9) and residual > 1
    assert max(each.grad.abs().max().item() for each in head.parameters()) < 1e-9
    with torch.no_grad():
        head_bias(head).add_(0.1)
    assert accumulate(decoder, Regression(), micro_batches(RewardLoader(rows, 40, 0), 0, None)).total.item() > loss.total.item()


def test_a_missing_label_has_no_gradient() -> None:
    one = [Comparison(({"role": "user", "content": "two"},), (Answer("five", attributes={"correctness": 3.0}),))]
    rows, _ = rated(one, PROMPTS, NAMES, longest=300)
    decoder = with_head(random_model(CONFIG, 2), names=3)
    (batch,) = rows.in_order(10**6)
    loss = Regression()(decoder, batch)
    loss.total.backward()
    head = head_of(decoder)
    assert head.weight.grad.any(1).tolist() == [False, True, False] and head_bias(head).grad.bool().tolist() == [False, True, False]
    assert loss.tokens == 1 and loss.total.item() == pytest.approx((predicted(decoder, batch)[0, 1].item() - 3) ** 2, rel=1e-6)
    assert all(parameter.grad.isfinite().all() for name, parameter in decoder.named_parameters() if name != "head.weight")


def test_a_pair_is_the_surprise_at_who_is_better() -> None:
    """As the cross-entropy of two logits, of which the first is right; the bias cannot be told from it."""
    rows, _ = compared(pairs(), PROMPTS, longest=300)
    decoder = with_head(random_model(CONFIG, 2), names=1).double()
    loss = accumulate(decoder, BradleyTerry(), micro_batches(RewardLoader(rows, 12, 0), 0, 700))
    model = RewardModel(decoder, Said(attributes=Attributes(names=("reward",), weights={"reward": 1.0})), PROMPTS)
    scores = [[each.score for each in Scorer(model)([said("two", answer.text) for answer in pair.answers])] for pair in pairs()]
    for each, both in zip(scored(pairs(), rewards_by(Scorer(model))), scores, strict=True):
        assert each.rewards == pytest.approx(sorted(both, reverse=True), abs=1e-9)
    logits = torch.tensor(scores, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(12, dtype=torch.int64)).item()
    assert loss.total.item() == pytest.approx(expected, rel=1e-9) and loss.tokens == 12
    assert loss.parts["accuracy"] == pytest.approx(sum(better > worse for better, worse in scores) / 12)
    assert abs(head_bias(head_of(decoder)).grad.item()) < 1e-12 < head_of(decoder).weight.grad.abs().max().item()


def test_what_is_not_used_is_told() -> None:
    tools = Comparison(({"role": "user", "content": "two"},), (Answer("five"), Answer("six")), True, "t:1", {"tools": [{}]})
    even = Comparison(({"role": "user", "content": "two"},), (Answer("five", 1.0), Answer("six", 1.0)), False, "t:2")
    longest = len(PROMPTS.ids(said("two", "five. " * 3)))
    rows, dropped = compared([*pairs(4), tools, even], PROMPTS, longest)
    reasons = [(each.source, each.reason) for each in dropped]
    assert reasons == [("pairs:4", "too long"), ("t:1", "it has tools"), ("t:2", "no answer is better")]
    assert len(rows) == 3 and f"--longest allows {longest}" in dropped[0].sentence
    with pytest.raises(DataError, match=r"There is no comparison to learn from in 4 comparisons; 4 dropped: too long"):
        compared(pairs(4), PROMPTS, longest=20)


def test_layouts_of_ratings(tmp_path: Path) -> None:
    """HelpSteer2 with earlier turns in its prompt, and amaru's own."""
    five = dict(zip(HELPSTEER, [3, 4, 4, 1, 2], strict=True))
    prompt = "two?\n<extra_id_1>Assistant\nit is\n<extra_id_1>User\nthree?"
    own = {"messages": said("two?", "five."), "attributes": {"correctness": 2.5, "humor": None, "charm": 1}}
    lines = [{"prompt": prompt, "response": text, **five} for text in ("five", "six")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, own]))
    found = read([str(tmp_path / "rows.jsonl")], least=1).found
    assert [len(each.answers) for each in found] == [2, 1]
    assert counted(found) == {**dict.fromkeys(HELPSTEER, 2), "correctness": 3, "charm": 1}
    rows, _ = rated(found[:1], PROMPTS, HELPSTEER, longest=500)
    assert f"User\n{prompt}\n<extra_id_1>Assistant\nfive\n<extra_id_2>" in TOKENIZER.decode(rows.row(0).ids.tolist())
    assert found[1].answers[0] == Answer("five.", None, {"correctness": 2.5, "charm": 1.0})


@pytest.mark.parametrize(
    "change, error, sentence",
    [
        ({"names": (*NAMES, "charm")}, ConfigError, "No answer has a label of charm; the data has labels of helpfulness, "),
        ({"names": NAMES, "unused": ("coherence",)}, ConfigError, r"coherence is said to be unused, but \d+ answers have a label of it"),
        ({"names": NAMES, "highest": 3.0}, DataError, r"rows:\d+, rows:\d+, rows:\d+ and \d+ more: .* a label that is not between 0 and 3"),
        ({"names": NAMES[:1]}, DataError, r"rows:5, rows:6, rows:8 and 8 more: an answer has no label of helpfulness\. Leave"),
    ],
)
def test_labels_that_do_not_fit(change: dict, error: type[Exception], sentence: str) -> None:
    values = {"weights": {NAMES[0]: 1.0}, "lowest": 0.0, "highest": 4.0} | change
    with pytest.raises(error, match=sentence):
        check_labels(ratings(), Attributes(**values))


def test_labels_that_fit_are_told() -> None:
    wide = Attributes(names=(*NAMES, "charm"), weights={NAMES[0]: 1.0}, unused=("charm",))
    assert check_labels(ratings(6, missing=False), wide) == "6 labels of helpfulness, 6 labels of correctness, 6 labels of coherence"
    narrow = Attributes(names=NAMES[:2], weights={NAMES[0]: 1.0})
    assert check_labels(ratings(6, missing=False), narrow).endswith("6 labels of correctness; not learned: coherence")


def _batch(batch: RewardBatch) -> Batch:
    return Batch(batch.ids, batch.positions, batch.cu_seqlens)
