"""The loop: it learns, it repeats bit for bit, and its refusals are sentences."""

import math
import signal
from dataclasses import replace

import pytest
import torch
from tests.train.small import RECIPE, fresh_model, run

from amaru.config import from_dict, to_dict
from amaru.data.loader import Loader
from amaru.errors import ConfigError, TrainingError
from amaru.train.checkpoint import fingerprint_weights
from amaru.train.loop import TrainConfig, train
from amaru.train.objective import CrossEntropy


def test_the_loss_falls(tmp_path, model, rows) -> None:
    history = run(tmp_path, model, replace(RECIPE, steps=40, lr=1e-2), rows)
    assert history.steps[0].loss == pytest.approx(math.log(290) + 0.8 / 2, abs=0.15)  # logits drawn with variance 0.8
    assert history.steps[-1].loss < history.steps[0].loss / 2
    assert [step.step for step in history.steps] == list(range(1, 41))
    assert history.steps[-1].epoch == 39 * 2 // len(rows)


def test_a_run_is_the_steps_written_out(tmp_path, rows) -> None:
    history = run(tmp_path, trained := fresh_model(), replace(RECIPE, clip=0.5), rows)
    twin, loader = fresh_model(), Loader(rows, RECIPE.batch_rows, RECIPE.seed)
    matrices, vectors = ([p for p in twin.parameters() if (p.dim() > 1) == is_matrix] for is_matrix in (True, False))
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(RECIPE.steps):
        loss = CrossEntropy()(twin, loader.batch(step)).total
        optimizer.zero_grad()
        loss.backward()
        norm = torch.sqrt(sum((p.grad**2).sum() for p in twin.parameters()))
        for p in twin.parameters():
            p.grad *= min(1.0, 0.5 / norm.item())
        for group in optimizer.param_groups:
            group["lr"] = RECIPE.lr_at(step)
        optimizer.step()
        assert history.steps[step].loss == pytest.approx(loss.item(), rel=1e-4)
        assert history.steps[step].grad_norm == pytest.approx(norm.item(), rel=1e-3)
    for mine, theirs in zip(trained.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_the_same_run_twice_is_the_same_bit_for_bit(tmp_path, rows) -> None:
    prints = []
    for name in ("one", "two"):
        run(tmp_path / name, model := fresh_model(), replace(RECIPE, dtype="bf16"), rows)
        prints.append(fingerprint_weights(model))
    assert prints[0] == prints[1]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_what_is_run_again_may_change_when_a_run_goes_on(tmp_path, rows) -> None:
    def stop(metrics) -> None:
        if metrics.step == 4:
            signal.raise_signal(signal.SIGINT)

    recipe = replace(RECIPE, dtype="bf16")
    run(tmp_path / "whole", whole := fresh_model(), recipe, rows)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", fresh_model(), replace(recipe, recompute_every=1), rows, report=stop)
    history = run(tmp_path / "parts", model := fresh_model(), replace(recipe, recompute_every=2), rows)
    assert history.resumed_from == 4 and fingerprint_weights(model) == fingerprint_weights(whole)


def test_validation_runs_when_asked_and_at_the_end(tmp_path, model, rows) -> None:
    seen = []

    def validate(validated) -> dict[str, float]:
        seen.append(torch.is_grad_enabled())
        return {"loss": float(len(seen))}

    history = run(tmp_path, model, replace(RECIPE, validate_every=4), rows, validate=validate)
    assert {step.step: step.validation for step in history.steps if step.validation} == {
        4: {"loss": 1.0},
        8: {"loss": 2.0},
        9: {"loss": 3.0},
    }
    assert not any(seen)


def test_a_loss_that_is_not_finite_names_step_and_documents(tmp_path, model, rows) -> None:
    def poison(metrics) -> None:
        if metrics.step == 4:
            model.norm.weight.data.fill_(float("nan"))

    first = Loader(rows, RECIPE.batch_rows, RECIPE.seed).batch(4).documents[0]
    with pytest.raises(TrainingError, match=rf"At step 5 the loss became nan, on documents {first}, "):
        run(tmp_path, model, RECIPE, rows, report=poison)


def test_a_gradient_that_is_not_finite_is_found_before_the_step(tmp_path, model, rows) -> None:
    model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = fingerprint_weights(model)
    with pytest.raises(TrainingError, match="the gradient norm became"):
        run(tmp_path, model, RECIPE, rows)
    assert fingerprint_weights(model) == before


def test_settings_that_contradict(tmp_path, model, rows) -> None:
    with pytest.raises(ConfigError, match="loader has batch_rows 5 and seed 3, the recipe 2 and 3"):
        train(model, CrossEntropy(), Loader(rows, 5, 3), RECIPE, tmp_path)
    with pytest.raises(ConfigError, match="validate_every is 4, but there is nothing to validate with"):
        run(tmp_path, model, replace(RECIPE, validate_every=4), rows)
    with pytest.raises(ConfigError, match="warmup must be less than steps; got 9 and 9"):
        replace(RECIPE, warmup=9)
    with pytest.raises(ConfigError, match="betas must lie in"):
        replace(RECIPE, betas=(0.9, 1.0))
    with pytest.raises(ConfigError, match="Did you mean 'warmup'"):
        from_dict(TrainConfig, to_dict(RECIPE) | {"warm_up": 3})
    assert from_dict(TrainConfig, to_dict(RECIPE)) == RECIPE


def test_schedules_that_contradict() -> None:
    with pytest.raises(ConfigError, match="decay and decay_share belong to schedule wsd"):
        replace(RECIPE, decay="sqrt")
    with pytest.raises(ConfigError, match="above 0 for an exponential decay"):
        replace(RECIPE, schedule="wsd", decay="exponential", final_lr_share=0.0)
