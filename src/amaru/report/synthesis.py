"""The page of a run that made synthetic data: what came to the end, who wrote it, what each step did with its rows, what it cost."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amaru.config.records import read_record
from amaru.report.numbers import count, percent
from amaru.report.page import Block, Card, Cards, Cell, Commands, Drawing, Facts, Page, Preformatted, Prose, Section, Table
from amaru.report.shares import share_bars

SHOWN = 4000  # characters of a column of a row
BECAME = ("went on", "left out", "failed", "unfinished")
AUTHORS = {"people": "brought as seeds", "models": "written by models", "recipe": "put together by the recipe"}


def synthesis_page(directory: Path) -> Page:
    """`synthesis_page(Path("runs/questions")).save("report.html")`; raises `ArtifactError` when the run has not ended once."""
    run, facts = read_record(directory / "run.json"), read_record(directory / "summary.json")
    sections = [
        Section("In short", [_cards(facts)]),
        Section("Step by step", _steps(facts)),
        Section("Who wrote it", _authors(facts)),
        Section("The first rows", [*(_row(row) for row in facts["first_rows"])] or [Prose("No row has come to the end yet.")]),
        Section("What exactly was asked", _asked(facts)),
        Section("Look further", [Commands([f"amaru synth browse {directory}"])]),
    ]
    return Page(f"Synthetic data: {directory.name}", f"started {run['started']}", sections)


def _cards(facts: Mapping[str, Any]) -> Cards:
    usage, steps = facts["usage"], facts["steps"]
    lost = sum(sum(step["failed"].values()) for step in steps), sum(step["unfinished"] for step in steps)
    tokens = usage["prompt_tokens"] + usage["completion_tokens"]
    cards = [
        Card("Rows at the end", f"{facts['rows']:,}", f"licence {facts['licence'] or 'not given'}"),
        Card("Calls", f"{usage['calls']:,}", f"{sum(facts['failed_attempts'].values()):,} attempts came to nothing"),
        Card("Tokens", count(tokens), f"{usage['completion_tokens'] / max(tokens, 1):.0%} of them in answers"),
        Card("Failed or unfinished", f"{sum(lost):,}", f"{lost[0]:,} failed, {lost[1]:,} not finished"),
    ]
    return Cards([*cards, *([Card("Cost", f"{usage['money']:,.4f}", "of all runs here")] if usage["money"] else [])])


def _steps(facts: Mapping[str, Any]) -> list[Block]:
    rows: list[list[Cell]] = []
    reasons: list[list[Cell]] = []
    for step in facts["steps"]:
        became, usage = _became(step), step["usage"]
        tokens = usage["prompt_tokens"] + usage["completion_tokens"]
        rows.append([step["name"], step["kind"], step["taken"], *became.values(), step["rows"], usage["calls"], tokens])
        reasons += [[step["name"], what, why, n] for what in ("dropped", "failed") for why, n in step[what].items()]
    bars = {step["name"]: _became(step) for step in facts["steps"] if step["taken"]}
    blocks: list[Block] = [Drawing(share_bars(bars, BECAME), "What became of the rows that each step took.")] if bars else []
    blocks.append(Table(["step", "kind", "takes", *BECAME, "makes", "calls", "tokens"], rows, {"tokens": count}))
    if reasons:
        blocks.append(Table(["step", "", "why", "rows"], reasons, caption="Why rows did not go on."))
    if attempts := facts["failed_attempts"]:
        attempted = [[why, n] for why, n in attempts.items()]
        blocks.append(Table(["why an attempt came to nothing", "attempts"], attempted, caption="Most of them were tried again."))
    return blocks


def _became(step: Mapping[str, Any]) -> dict[str, int]:
    """Of the rows that it takes, how many went on, were left out, failed, are not finished."""
    dropped, failed, unfinished = sum(step["dropped"].values()), sum(step["failed"].values()), step["unfinished"]
    return dict(zip(BECAME, (step["taken"] - dropped - failed - unfinished, dropped, failed, unfinished), strict=True))


def _authors(facts: Mapping[str, Any]) -> list[Block]:
    total = max(sum(facts["characters"].values()), 1)
    shares: list[list[Cell]] = [[AUTHORS[name], number, percent(number / total)] for name, number in facts["characters"].items()]
    caption = "Of the text in the rows at the end; a text is by whoever had it first."
    blocks: list[Block] = [Table(["text", "characters", "share"], shares, caption=caption)]
    if facts["seeds"]:
        seeds: list[list[Cell]] = [[each["step"], each["rows"], each["licence"] or "not given"] for each in facts["seeds"]]
        blocks.append(Table(["seeds", "rows", "licence"], seeds))
    for each in facts["evaluations"]:
        looked = f"{each['items']:,} items of {', '.join(each['files'])} were looked for by runs of {each['run']} words"
        short = f"{each['too_short']:,} items are too short to be looked for"
        blocks.append(Prose(f"{looked}: {each['rows_with_them']:,} rows had one and were left out; {short}."))
    return blocks


def _row(row: Mapping[str, Any]) -> Preformatted:
    lines = [f"{name}: {_shown(value)}" for name, value in row.items() if name != "id"]
    return Preformatted("\n".join(lines), title=str(row["id"]))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ... ({len(text):,} characters)"


def _asked(facts: Mapping[str, Any]) -> list[Block]:
    models: list[list[Cell]] = [[each["name"], each["model"], each["url"], each["licence"] or "not given"] for each in facts["models"]]
    prompts: dict[str, Cell] = {each["step"]: f"{each['prompt']}, version {each['version']}" for each in facts["prompts"]}
    blocks: list[Block] = [Table(["model", "name there", "endpoint", "licence"], models)] if models else []
    return [*blocks, *([Facts(prompts)] if prompts else [])]
