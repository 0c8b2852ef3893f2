"""What a recipe made as a data set: JSON lines or parquet, and a card that says where it came from."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from amaru.config import atomic_file
from amaru.errors import BackendError, ConfigError, DataError
from amaru.synth.reading import Finished, read_rows, results
from amaru.synth.recipe import Bound
from amaru.synth.steps import Starting
from amaru.synth.store import Store


def export(bound: Bound, store: Store, path: str | Path) -> dict[str, Any]:
    """`export(bound, store, "questions.jsonl")`: the rows, a card beside them (`questions.md`), and how many there are.

    Raises `DataError` when nothing is finished yet, `ConfigError` for a name that ends in neither .jsonl nor .parquet.
    """
    path = Path(path)
    found = read_rows(bound, store)
    rows = list(results(bound, found))
    if not rows:
        raise DataError("No row has come to the end of the recipe yet; run it first.")
    _write(rows, path)
    facts = {
        "rows": len(rows),
        "file": str(path),
        "card": str(path.with_suffix(".md")),
        "unfinished": sum(each.unfinished for each in found),
        "failed": sum(each.failed for each in found),
    }
    with atomic_file(path.with_suffix(".md")) as temporary:
        temporary.write_text(card(bound, store, found, facts), encoding="utf-8")
    return facts


def card(bound: Bound, store: Store, found: list[Finished], facts: Mapping[str, Any]) -> str:
    """The data set in Markdown: what is in it, by which models and prompts, what it cost, and what is missing."""
    recipe, usage = bound.recipe, store.usage()
    steps = [
        [step.name, step.kind, f"{len(each.rows):,}", f"{each.failed:,}", f"{each.unfinished:,}", f"{store.usage(step.name).calls:,}"]
        for step, each in zip(recipe.steps, found, strict=True)
    ]
    used = sorted({asked.model for step in recipe.steps for asked in step.asks()})
    models = [[name, recipe.models[name].model, recipe.models[name].url] for name in used]
    prompts = [
        [step.name, prompt.name, prompt.version]
        for step, named in zip(recipe.steps, bound.prompts, strict=True)
        for prompt in named.values()
    ]
    people = sum(len(each.rows) for step, each in zip(recipe.steps, found, strict=True) if isinstance(step, Starting))
    return "\n".join(
        [
            f"# {Path(facts['file']).stem}\n",
            f"{facts['rows']:,} rows. Licence: {recipe.licence or 'not given'}.\n",
            f"{people:,} rows were brought by people as seeds; every column that a model step adds is synthetic.\n",
            *_table(["step", "kind", "rows", "failed", "unfinished", "calls"], steps),
            *_table(["model", "name there", "endpoint"], models),
            *_table(["step", "prompt", "version"], prompts),
            f"All runs together: {usage.calls:,} calls, {usage.prompt_tokens:,} tokens of prompts, {usage.completion_tokens:,} of answers"
            + (f", {usage.money:,.4f} of money.\n" if usage.money else ".\n"),
        ]
    )


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [*(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)), ""]


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    if path.suffix == ".jsonl":
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif path.suffix == ".parquet":
        _write_parquet(rows, path)
    else:
        raise ConfigError(f"Rows are written as .jsonl or .parquet; got {path.name}.")


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BackendError("Writing parquet needs pyarrow; install it with: pip install 'amaru[data]'") from None
    names = list(dict.fromkeys(name for row in rows for name in row))  # a column that the first row lacks is not left out
    with atomic_file(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in names}), str(temporary))
