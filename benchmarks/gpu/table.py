"""The records as one Markdown table: `python benchmarks/gpu/table.py OUT/records.json`. A piece without a result says why."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RATIOS = (  # of two rows, with what is asked of it
    ("throughput_nemotron_h_8b", "throughput_llama_3_1_8b", 2.4),
    ("throughput_nemotron_h_8b", "throughput_qwen2_5_7b", 1.6),
    ("throughput_nemotron_h_47b", "throughput_nemotron_h_56b", 1.2),
)


def table(records: dict[str, Any], names: Sequence[str]) -> str:
    lines = [machine(records), "", "| | measured | of what it can | asked | |", "| --- | --- | --- | --- | --- |"]
    for name in names:
        lines += rows(name, records.get(name))
    return "\n".join([*lines, *(line for pair in RATIOS if (line := ratio(records, *pair)))])


def machine(records: dict[str, Any]) -> str:
    if not records:
        return "Nothing was measured yet."
    last = max(records.values(), key=lambda record: record["ceilings"]["copy"])
    facts, limits = last["machine"], last["ceilings"]
    versions = ", ".join(f"{name} {facts[name]}" for name in ("amaru", "torch", "triton", "transformers", "torchao"))
    rates = f"copy {limits['copy'] / 1e12:.2f} TB/s, bf16 {limits['product'] / 1e12:.0f} TFLOP/s"
    return f"{facts['gpu']}, {facts['day']}; {versions}; {rates}."


def rows(name: str, record: dict[str, Any] | None) -> list[str]:
    if record is None:
        return [f"| {name} | | | | not run yet |"]
    if record["status"] != "done":
        return [f"| {name} | | | | {record['status']}: {record['said']} |"]
    return [line(**each) for each in record["rows"]]


def line(what: str, value: float, unit: str, share: float | None, target: float | None) -> str:
    ratio = unit in ("x", "all passed")
    shares = ["" if each is None else f"{each:.2f}" if ratio else f"{each:.0%}" for each in (share, target)]
    met = "" if share is None or target is None else "met" if share >= target else "missed"
    return f"| {what} | {value:,.4g} {unit} | {shares[0]} | {shares[1]} | {met} |"


def ratio(records: dict[str, Any], one: str, other: str, target: float) -> str | None:
    if any(records.get(name, {}).get("status") != "done" for name in (one, other)):
        return None
    first, second = (records[name]["rows"][0] for name in (one, other))
    times = first["value"] / second["value"]
    return line(f"{first['what']} against {second['what']}", times, "x", times, target)


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")) if Path(sys.argv[1]).exists() else {}
    print(table(found, sys.argv[2:] or list(found)))
