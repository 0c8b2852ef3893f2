"""The figures and tables of docs/results/tied_lora.md, from the records of `amaru reproduce tied-lora`.

    python benchmarks/tied_lora/pages.py benchmarks/tied_lora/records docs/results

judges the records anew, writes tied-lora-transformer.svg and tied-lora-hybrid.svg, and prints the sentences and tables as Markdown.
"""

import sys
from pathlib import Path

from amaru.config.records import read_record
from amaru.recipes.reproduce.claims import CLAIMS, verdict
from amaru.report.page import Table
from amaru.report.tied_lora import score_curves, scores_table


def main(records: Path, out: Path) -> None:
    found, tasks = verdict(CLAIMS["tied-lora"], records), [*read_record(records / "run.json")["recipe"]["tasks"]]
    for claim in found["claims"]:
        print(f"- {claim['claim']}: **{claim['verdict']}**. {claim['sentence']}")
    print(f"\nMissing: {', '.join(found['missing']) or 'nothing'}.\n")
    for base in ("transformer", "hybrid"):
        (out / f"tied-lora-{base}.svg").write_text(score_curves(found, base, tasks[0]) + "\n", encoding="utf-8")
        print(f"{base}:\n", *markdown(scores_table(found, base)), "", sep="\n")


def markdown(table: Table) -> list[str]:
    rows = ["| " + " | ".join(table.headers) + " |", "| --- " * len(table.headers) + "|"]
    for row in table.rows:
        cells = ["" if cell is None else table.formats.get(header, str)(cell) for header, cell in zip(table.headers, row, strict=True)]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
