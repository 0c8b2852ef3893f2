"""What FP8 did to the tensors of a training run: scales and underflow, from the lines of its fp8.jsonl."""

from collections.abc import Iterator, Mapping, Sequence
from math import frexp
from pathlib import Path
from statistics import mean
from typing import Any

from amaru.config.records import read_lines
from amaru.report.figures import loss_curves
from amaru.report.page import Block, Drawing, Section, Table
from amaru.report.svg import INK, SERIES, canvas

ROLES = {"input": "activations", "weight": "weights", "gradient": "gradients"}  # in E4M3, E4M3 and E5M2
Looks = Sequence[Mapping[str, Any]]


def scale_sections(folder: Path) -> list[Section]:
    """The section about a training folder, if its run was in FP8."""
    path = folder / "fp8.jsonl"
    return [Section("Scales and underflow in FP8", scale_blocks(read_lines(path)))] if path.exists() else []


def scale_blocks(looks: Looks) -> list[Block]:
    """Underflow over training, a histogram of scales, and every tensor at the last look."""
    return [
        Drawing(
            underflow_curves(looks),
            "Activations and weights in E4M3, gradients in E5M2: the mean over tensors, and the tensor that lost most, at every look.",
        ),
        Drawing(
            scale_histogram(looks),
            "Scales of all tensors at all looks, in powers of two: what a number is multiplied with before it becomes a code.",
        ),
        _last_look(looks[-1]),
    ]


def underflow_curves(looks: Looks) -> str:
    """Shares of numbers that became 0 against steps."""
    return loss_curves(dict(_underflow(looks)), x_label="step", y_label="share of numbers that became 0, %")


def _underflow(looks: Looks) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    for role, name in ROLES.items():
        for what, summary in (("mean", mean), ("worst", max)):
            yield f"{name}, {what}", [(look["step"], 100 * summary(each["underflow"] for each in _of(look, role))) for look in looks]


def scale_histogram(looks: Looks) -> str:
    """Per kind of tensor, how many looks at a tensor found a scale in each power of two."""
    with canvas(2.9) as c:
        for (role, name), colour in zip(ROLES.items(), SERIES, strict=False):
            powers = [frexp(each["scale"])[1] - 1 for look in looks for each in _of(look, role) if each["scale"] is not None]
            counts = {power: powers.count(power) for power in range(min(powers), max(powers) + 1)} if powers else {}
            bars = c.axes.bar(list(counts), list(counts.values()), width=0.9, alpha=0.75, color=INK[colour], label=name)
            for bar, (power, count) in zip(bars, counts.items(), strict=True):
                c.mark(bar, f"{name}: {count} with a scale from 2^{power} to 2^{power + 1}")
        c.axes.grid(visible=False, axis="x")
        c.axes.set(xlabel="scale, log2", ylabel="tensors looked at")
        c.legend(columns=3)
    return c.text


def _of(look: Mapping[str, Any], role: str) -> list[Mapping[str, Any]]:
    return [tensors[role] for tensors in look["tensors"].values() if role in tensors]


def _last_look(look: Mapping[str, Any]) -> Table:
    columns = [(role, what) for role in ROLES for what in ("scale", "underflow")]
    headers = ["layer", *(f"{role} {what}" for role, what in columns)]
    rows = [[name, *(tensors[role][what] for role, what in columns)] for name, tensors in look["tensors"].items()]
    formats = {header: (_percent if header.endswith("underflow") else _short) for header in headers[1:]}
    return Table(headers, rows, formats=formats, caption=f"Every layer that ran in FP8, at step {look['step']}.")


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _short(value: float) -> str:
    return f"{value:.3g}"
