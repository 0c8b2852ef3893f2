"""What a recipe made as a data set: JSON lines or parquet, and a card that says where it came from."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from amaru.config import atomic_file
from amaru.data.written import write_records
from amaru.errors import DataError
from amaru.synth.reading import read_rows, results
from amaru.synth.recipe import Bound
from amaru.synth.store import Store
from amaru.synth.summary import summarise


def export(bound: Bound, store: Store, path: str | Path) -> dict[str, Any]:
    """`export(bound, store, "questions.jsonl")`: the rows, a card beside them (`questions.md`), and how many there are.

    Raises `DataError` when nothing is finished yet, `ConfigError` for a name that ends in neither .jsonl nor .parquet.
    """
    path = Path(path)
    found = read_rows(bound, store)
    rows = list(results(bound, found))
    if not rows:
        raise DataError("No row has come to the end of the recipe yet; run it first.")
    write_records(path, rows)
    facts = {
        "rows": len(rows),
        "file": str(path),
        "card": str(path.with_suffix(".md")),
        "unfinished": sum(each.unfinished for each in found),
        "failed": sum(each.failed.total() for each in found),
    }
    with atomic_file(path.with_suffix(".md")) as temporary:
        temporary.write_text(card(summarise(bound, store, found), path.stem), encoding="utf-8")
    return facts


def card(facts: Mapping[str, Any], title: str) -> str:
    """A data card in Markdown, as Hugging Face shows it: what is in it, who wrote it, by which prompts, what it cost, what is missing."""
    sections = (
        _head(facts, title),
        "## Who wrote it\n",
        *_authors(facts),
        "## How it was made\n",
        *_steps(facts),
        *_left_out(facts),
        "## By which models and prompts\n",
        *_table(["model", "name there", "endpoint", "licence"], [[_or_not(value) for value in each.values()] for each in facts["models"]]),
        *_table(["step", "prompt", "version"], [list(each.values()) for each in facts["prompts"]]),
        _cost(facts["usage"]),
    )
    return "\n".join(sections)


def _head(facts: Mapping[str, Any], title: str) -> str:
    licence = f"license: {facts['licence'].lower()}\n" if facts["licence"] else ""
    said = f"{facts['rows']:,} rows. Licence: {_or_not(facts['licence'])}. The `id` of a row leads back through all steps."
    return f"---\n{licence}tags:\n- synthetic\n---\n# {title}\n\n{said}\n"


def _authors(facts: Mapping[str, Any]) -> list[str]:
    """Shares of characters, and the seeds with their licences."""
    counted = facts["characters"]
    total = max(sum(counted.values()), 1)
    said = {"people": "brought by people, as seeds", "models": "written by models", "recipe": "put together by the recipe of both"}
    shares = [[said[name], f"{count:,}", f"{100 * count / total:.1f} %"] for name, count in counted.items()]
    seeds = [[each["step"], f"{each['rows']:,}", _or_not(each["licence"])] for each in facts["seeds"]]
    return [*_table(["text", "characters", "share"], shares), *(_table(["seeds", "rows", "licence"], seeds) if seeds else [])]


def _steps(facts: Mapping[str, Any]) -> list[str]:
    rows = []
    for step in facts["steps"]:
        counts = (step["rows"], sum(step["dropped"].values()), sum(step["failed"].values()), step["unfinished"])
        usage = step["usage"]
        numbers = (*counts, usage["calls"], usage["prompt_tokens"] + usage["completion_tokens"])
        rows.append([step["name"], step["kind"], ", ".join(step["after"]), *(f"{number:,}" for number in numbers)])
    return _table(["step", "kind", "after", "rows", "left out", "failed", "unfinished", "calls", "tokens"], rows)


def _left_out(facts: Mapping[str, Any]) -> list[str]:
    reasons = [
        [step["name"], what, reason, f"{count:,}"]
        for step in facts["steps"]
        for what, of in (("left out", "dropped"), ("failed", "failed"))
        for reason, count in step[of].items()
    ]
    looked = [
        f"Rows were compared with {each['items']:,} items of {', '.join(each['files'])} by runs of {each['run']} words; "
        f"{each['rows_with_them']:,} had one and were left out. {each['too_short']:,} items are too short to be looked for.\n"
        for each in facts["evaluations"]
    ]
    return [*(_table(["step", "", "why", "rows"], reasons) if reasons else []), *looked]


def _cost(usage: Mapping[str, Any]) -> str:
    money = f", {usage['money']:,.4f} of money" if usage["money"] else ""
    asked, answered = usage["prompt_tokens"], usage["completion_tokens"]
    return f"All runs together: {usage['calls']:,} calls, {asked:,} tokens of prompts, {answered:,} of answers{money}.\n"


def _or_not(value: str | None) -> str:
    return value or "not given"


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    """A reason may quote what a server or a model wrote: whatever would end a cell is taken from it."""
    written = ([" ".join(cell.split()).replace("|", "\\|") for cell in cells] for cells in rows)
    return [*(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *written)), ""]
