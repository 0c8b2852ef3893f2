"""Spikes and numbers that are not finite: the rule by hand, what each action does, and that a resumed run judges alike."""

import json
import math
from dataclasses import replace
from statistics import median

import pytest
import torch
from tests.train.small import RECIPE, fresh_model, run
from tests.train.test_checkpoint import at_step, untimed

from amaru.data.loader import Loader
from amaru.errors import TrainingError
from amaru.train.checkpoint import fingerprint_weights
from amaru.train.guard import Guard
from amaru.train.metrics import Past, StepMetrics, read
from amaru.train.objective import CrossEntropy

GUARD = Guard(window=4, deviations=3.0, spike="skip")
BAD = 6  # the step whose batch is poisoned, counted from 0


def past(steps: list[StepMetrics], window: int = GUARD.window) -> Past:
    """What is remembered after these steps."""
    found = Past(window)
    for step in steps:
        found.add(step)
    return found


def record(losses, phase: str = "all", skipped: bool = False) -> list[StepMetrics]:
    step = StepMetrics(step=1, epoch=0, loss=0, lr=1, grad_norm=1, tokens=1, seconds=1, tokens_per_second=1, memory=1)
    return [replace(step, loss=loss, phase=phase, skipped=skipped) for loss in losses]


def test_the_rule_by_hand() -> None:
    losses = [9.0, 3.0, 3.2, 3.1, 2.8]
    middle = median(losses[1:])
    limit = middle + 3 * 1.4826 * median(abs(loss - middle) for loss in losses[1:])
    assert GUARD.limit("all", past(record(losses))) == pytest.approx(limit)
    assert GUARD.judge(limit - 1e-6, 1.0, "all", past(record(losses))) is None
    assert GUARD.judge(limit + 1e-6, 1.0, "all", past(record(losses))).event == "spike"


def test_only_learned_steps_of_the_same_phase_count() -> None:
    losses = record([3.0, 3.2, 3.1, 2.8])
    assert GUARD.limit("all", past(losses[1:])) == math.inf
    assert GUARD.limit("late", past(losses)) == math.inf
    assert GUARD.limit("all", past(losses + record([99.0], skipped=True))) == GUARD.limit("all", past(losses))
    assert GUARD.limit("all", past(record([3.0, 3.2, 3.1, 2.8]) + record([1.0], phase="late"))) == math.inf


def test_too_many_in_a_row_stop() -> None:
    before = record([3.0, 3.2, 3.1, 2.8]) + record([99.0] * GUARD.most_skipped, skipped=True)
    verdict = GUARD.judge(99.0, 1.0, "all", past(before))
    assert verdict.action == "stop" and "after 10 skipped steps in a row" in verdict.reason
    assert GUARD.judge(99.0, 1.0, "all", past(before[:-1])).action == "skip"
    assert GUARD.judge(math.nan, 1.0, "all", past(before)).action == "stop"


class Poisoned:
    """Cross-entropy, but for one batch: times a factor."""

    def __init__(self, rows, factor: float) -> None:
        self.ids = Loader(rows, RECIPE.batch_rows, RECIPE.seed).batch(BAD).ids
        self.factor = factor

    def __call__(self, model, batch):
        loss = CrossEntropy()(model, batch)
        return replace(loss, total=loss.total * self.factor) if torch.equal(batch.ids, self.ids) else loss


def poisoned(out, rows, factor: float, guard: Guard, **options):
    model = fresh_model()
    return run(out, model, replace(RECIPE, guard=guard), rows, objective=Poisoned(rows, factor), **options), model


@pytest.mark.parametrize("factor", [5.0, math.nan, math.inf])
def test_a_skipped_step_leaves_weights_and_optimizer_alone(tmp_path, rows, factor: float) -> None:
    guard = replace(GUARD, not_finite="skip")
    prints: dict[int, str] = {}
    model = fresh_model()
    keep = {"report": lambda metrics: prints.update({metrics.step: fingerprint_weights(model)})}
    history = run(tmp_path, model, replace(RECIPE, guard=guard), rows, objective=Poisoned(rows, factor), **keep)
    bad = history.steps[BAD]
    assert (bad.event, bad.skipped) == ("spike" if factor == 5 else "not finite", True)
    assert bad.documents == Loader(rows, RECIPE.batch_rows, RECIPE.seed).batch(BAD).documents
    assert prints[BAD + 1] == prints[BAD] != prints[BAD + 2]
    assert [step.event for step in history.steps if step.step != BAD + 1] == [""] * (RECIPE.steps - 1)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["skipped"] for line in lines] == [n == BAD for n in range(RECIPE.steps)]


def test_a_noted_spike_is_learned_from(tmp_path, rows) -> None:
    history, _ = poisoned(tmp_path / "noted", rows, 5.0, replace(GUARD, spike="note"))
    assert (history.steps[BAD].event, history.steps[BAD].skipped) == ("spike", False)
    unguarded, _ = poisoned(tmp_path / "calm", rows, 5.0, Guard())
    assert [step.loss for step in history.steps] == [step.loss for step in unguarded.steps]


@pytest.mark.parametrize("at", [3, BAD + 1, BAD + 2])
def test_a_resumed_run_skips_the_same_steps(tmp_path, rows, at: int) -> None:
    whole, expected = poisoned(tmp_path / "whole", rows, 5.0, GUARD)

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        poisoned(tmp_path / "cut", rows, 5.0, GUARD, report=at_step(at, stop))
    again, model = poisoned(tmp_path / "cut", rows, 5.0, GUARD)
    assert again.resumed_from == at - 1
    assert untimed(again.steps) == untimed(whole.steps) == untimed(read(tmp_path / "cut/metrics.jsonl"))
    assert fingerprint_weights(model) == fingerprint_weights(expected)


def test_a_run_that_stopped_goes_on_by_skipping(tmp_path, rows) -> None:
    _, expected = poisoned(tmp_path / "whole", rows, 5.0, GUARD)
    with pytest.raises(TrainingError, match=r"At step 7 the loss .* is a spike, above .*, on documents f\d+\.py, "):
        poisoned(tmp_path / "cut", rows, 5.0, replace(GUARD, spike="stop"))
    again, model = poisoned(tmp_path / "cut", rows, 5.0, GUARD)
    assert again.resumed_from == BAD and fingerprint_weights(model) == fingerprint_weights(expected)
