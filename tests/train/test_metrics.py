"""The record of steps and the live line."""

from dataclasses import replace

import pytest

from amaru.errors import ArtifactError
from amaru.train.metrics import MetricsLog, Past, ProgressLine, StepMetrics, read

FIRST = StepMetrics(
    step=1, epoch=0, loss=3.21449, lr=1e-3, grad_norm=0.834, tokens=512, seconds=2.0, tokens_per_second=11802.4, memory=1_410_000_000
)


def steps(count: int) -> list[StepMetrics]:
    return [replace(FIRST, step=n + 1, loss=1 / (n + 3), parts={"kl": 0.1 * n}) for n in range(count)]


def test_lines_come_back_exactly_and_are_cut_back(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, finished=0, past=Past(3)) as log:
        for metrics in steps(5):
            log.write(metrics)
    assert list(read(path)) == steps(5)
    path.write_text(path.read_text() + '{"step": 6, "lo')
    assert list(read(path)) == steps(5)
    with MetricsLog(path, finished=3, past=(past := Past(3))) as log:
        log.write(steps(4)[-1])
    assert list(read(path)) == steps(4)
    assert list(past.losses) == [step.loss for step in steps(4)][-3:]


def test_a_record_with_a_hole_is_refused(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, finished=0, past=Past(3)) as log:
        log.write(FIRST)
    with pytest.raises(ArtifactError, match=r"metrics\.jsonl holds 1 of the 4 steps that are done"):
        MetricsLog(path, finished=4, past=Past(3))
    path.write_bytes(b"\xff\n")
    with pytest.raises(ArtifactError, match="not a record of training steps"):
        read(path)


def test_the_line_says_everything_and_how_long_it_takes() -> None:
    line = ProgressLine(steps=900)
    first = line.text(replace(FIRST, step=119, validation={"loss": 3.305}))
    assert first == "step 119/900  26 min left  loss 3.214  validation loss 3.305  11,802 tokens/s  1.41 GB  gradient 0.83"
    for n in range(120, 900):
        line.text(replace(FIRST, step=n))
    last = line.text(replace(FIRST, step=900, seconds=1.0))
    assert last == "step 900/900  0 s left  loss 3.214  validation loss 3.305  11,802 tokens/s  1.41 GB  gradient 0.83"
