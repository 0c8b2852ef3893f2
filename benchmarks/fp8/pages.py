"""The figures and tables of docs/results/fp8.md, from the records of `amaru reproduce fp8`.

    python benchmarks/fp8/pages.py benchmarks/fp8/records docs/results

judges the records anew, writes fp8-gap.svg, fp8-underflow.svg and fp8-scales.svg, and prints the tables as Markdown.
"""

import sys
from pathlib import Path
from statistics import mean
from typing import Any

from amaru.config.records import read_lines
from amaru.recipes.reproduce.claims import CLAIMS, verdict
from amaru.report.fp8 import gap_curves, signed_percent
from amaru.report.fp8_scales import ROLES, scale_histogram, underflow_curves


def main(records: Path, out: Path) -> None:
    found = verdict(CLAIMS["fp8"], records)
    paths = {name: records / f"{name}-fp8-training" / "fp8.jsonl" for name in ("small-seed0", "large-seed0")}
    looks = {name: read_lines(path) for name, path in paths.items() if path.exists()}
    (out / "fp8-gap.svg").write_text(gap_curves(found) + "\n", encoding="utf-8")
    (out / "fp8-underflow.svg").write_text(underflow_curves(looks["small-seed0"]) + "\n", encoding="utf-8")
    (out / "fp8-scales.svg").write_text(scale_histogram(looks["small-seed0"]) + "\n", encoding="utf-8")
    print(found["sentence"], f"Missing: {', '.join(found['missing']) or 'nothing'}.", "", *pairs(found), "", sep="\n")
    for name, lines in looks.items():
        print(name, *scales(lines), "", sep="\n")


def pairs(found: dict[str, Any]) -> list[str]:
    rows = ["| parameters | seed | BF16 | BF16 run in FP8 | FP8 | FP8 run in BF16 | gap | control's gap |", "| --- " * 8 + "|"]
    for pair in found["pairs"]:
        losses = " | ".join(f"{pair[name]:.4f}" for name in ("bf16", "bf16_in_fp8", "fp8", "fp8_in_bf16"))
        control = "none" if pair["control_gap"] is None else signed_percent(pair["control_gap"])
        rows.append(f"| {pair['parameters'] / 1e6:.2f} M | {pair['seed']} | {losses} | {signed_percent(pair['gap'])} | {control} |")
    return rows


def scales(looks: list[dict[str, Any]]) -> list[str]:
    """Scales over all tensors and looks, and underflow at the first, the middle and the last look."""
    places = (looks[0], looks[len(looks) // 2], looks[-1])
    steps = " | ".join(f"underflow at step {look['step']}: mean, worst" for look in places)
    rows = [f"| tensors | scales, smallest to largest | {steps} |", "| --- " * 5 + "|"]
    for role, name in ROLES.items():
        found = [tensors[role]["scale"] for look in looks for tensors in look["tensors"].values()]
        lost = [[tensors[role]["underflow"] for tensors in look["tensors"].values()] for look in places]
        told = " | ".join(f"{mean(each):.3%}, {max(each):.3%}" for each in lost)
        rows.append(f"| {name} | {min(found):.3g} to {max(found):.3g} | {told} |")
    return rows


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
