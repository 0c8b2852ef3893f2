"""Where all claims stand: every run directory that holds records is judged, and the page of all claims is written from that alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amaru.config.records import read_record
from amaru.errors import AmaruError
from amaru.recipes.reproduce.claims import CLAIMS, Claim
from amaru.recipes.reproduce.judging import NOT, UNDECIDED, UNFINISHED

NOT_BEGUN = "not begun"
PREFIX = "reproduce-"  # of a run's kind
DEPTH = 3  # of the directories in which runs are looked for
WORDS = {NOT: "does not hold here", UNDECIDED: "undecided here", UNFINISHED: "not finished"}


def standings(places: Sequence[Path]) -> list[dict[str, Any]]:
    """`standings([Path("runs")])`: each claim with its verdict and findings, from the newest run of it below those directories."""
    runs = runs_below(places)
    return [{"name": name, "says": claim.sentence, **_standing(claim, runs.get(name))} for name, claim in CLAIMS.items()]


def runs_below(places: Sequence[Path]) -> dict[str, Path]:
    """The newest run of each claim, by its name."""
    found: dict[str, tuple[str, Path]] = {}
    for place in places:
        for depth in range(DEPTH + 1):
            for path in place.glob("/".join(["*"] * depth + ["run.json"])):
                record = read_record(path)
                kind, started = str(record.get("kind", "")), str(record.get("started", ""))
                name = kind.removeprefix(PREFIX)
                if kind != name and name in CLAIMS and started >= found.get(name, ("", path))[0]:
                    found[name] = started, path.parent
    return {name: path for name, (_, path) in found.items()}


def _standing(claim: Claim, directory: Path | None) -> dict[str, Any]:
    if directory is None:
        return {"verdict": NOT_BEGUN, "findings": [], "missing": [], "run": None}
    facts = read_record(directory / "run.json")
    where = {"run": str(directory), "started": facts.get("started", ""), "amaru": facts.get("amaru", "")}
    try:
        found = claim.judge(directory)
    except AmaruError as error:  # records that another version left
        return {"verdict": UNFINISHED, "findings": [], "missing": [], "problem": str(error), **where}
    return {"verdict": found["verdict"], "findings": findings(claim, found), "missing": found["missing"], **where}


def findings(claim: Claim, found: Mapping[str, Any]) -> list[dict[str, str]]:
    """The lines of a claim: what is said, how it was tried, our figure as a sentence, the verdict."""
    parts = found.get("claims") or [{"claim": claim.sentence, **found}]
    return [
        {
            "claim": part["claim"],
            "setting": part.get("setting") or claim.setting,
            "sentence": part["sentence"],
            "verdict": part["verdict"],
        }
        for part in parts
    ]


def page(found: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: one table of all findings, and below it what each was made from."""
    lines = [
        "# The papers' claims, tried here",
        "",
        "Written by `amaru reproduce --page` from the records of the runs named below, and by no hand. A verdict follows from records,",
        "with a 95 % interval over seeds or rounds where something was measured. Where hardware is missing, the setting says what was",
        "computed instead, and how.",
        "",
        "| | claim | setting | our figure | verdict |",
        "| --- | --- | --- | --- | --- |",
    ]
    for standing in found:
        lines += _rows(standing)
    lines += ["", "## The runs", "", "| name | what the paper says | command | records |", "| --- | --- | --- | --- |"]
    lines += [_row(each["name"], each["says"], f"`amaru reproduce {each['name']}`", _records(each)) for each in found]
    return "\n".join(lines) + "\n"


def _rows(standing: Mapping[str, Any]) -> list[str]:
    """A row for each finding; the first bears the claim's name."""
    alone = {"claim": standing["says"], "setting": "", "sentence": standing.get("problem", ""), "verdict": standing["verdict"]}
    return [
        _row("" if number else standing["name"], *(each[part] for part in ("claim", "setting", "sentence")), _word(each["verdict"]))
        for number, each in enumerate(standing["findings"] or [alone])
    ]


def _row(*cells: str) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _records(standing: Mapping[str, Any]) -> str:
    if standing["run"] is None:
        return "none yet"
    missing = f"; {len(standing['missing'])} cells are not there yet" if standing["missing"] else ""
    return f"`{standing['run']}`, begun {standing['started']}, amaru {standing['amaru']}{missing}"


def _word(verdict: str) -> str:
    return WORDS.get(verdict, verdict)


def _cell(text: str) -> str:
    """Text as a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")
