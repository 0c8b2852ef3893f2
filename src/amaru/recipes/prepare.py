"""Text to shards of tokens in several processes: `amaru data prepare`. Stopped, the same command goes on after the last whole shard."""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from amaru import __version__
from amaru.config import Artifact, Config, atomic_file, fingerprint_bytes, to_dict
from amaru.config.atomic import storage_errors
from amaru.data import prepare
from amaru.data.corpus import find, python_files
from amaru.data.files import Piece, read
from amaru.data.prepare import NORMAL_FORM, SHARD, Reading, Survey, Unit
from amaru.data.shards import KIND, RECORD, SCHEMA, Prepared
from amaru.data.tokenizer import Tokenizer
from amaru.data.workers import run_all
from amaru.errors import ArtifactError, ConfigError, DataError
from amaru.recipes.run import Progress

PYTHON = "@python"
LEARNED_FROM = 200_000_000  # bytes of text that a new tokenizer is learned from, at most


class PrepareRecipe(Config):
    """`PrepareRecipe(data=("web/*.jsonl",), tokenizer="model/")`.

    data         paths, directories and globs; "@python" is the standard library of the running interpreter
    tokenizer    a directory that holds one, such as a checkpoint; or none, and
    vocab        the size of one that is learned from the text
    reading      the text field, and the share of documents kept for validation
    shard_bytes  about how much text becomes one shard
    """

    data: tuple[str, ...]
    tokenizer: str | None = None
    vocab: int | None = Field(default=None, ge=258)
    reading: Reading = Reading()
    shard_bytes: int = Field(default=64_000_000, ge=1)

    def check(self) -> None:
        if (self.tokenizer is None) == (self.vocab is None):
            raise ConfigError("Give either --tokenizer, a directory with a tokenizer, or --vocab, the size of one to learn from the text.")


def forecast(recipe: PrepareRecipe, out: Path, workers: int) -> dict[str, Any]:
    """What would be read, and in how many shards."""
    found = files(recipe.data)
    units = prepare.units(found, recipe.shard_bytes)
    return {
        "out": str(out),
        "files": len(found),
        "bytes": sum(Path(file.path).stat().st_size for file in found),
        "shards": len(units),
        "workers": min(workers, len(units)),
        "duplicates_by": NORMAL_FORM,
        "recipe": to_dict(recipe),
    }


def prepare_text(recipe: PrepareRecipe, out: Path, workers: int, progress: Progress) -> Prepared:
    """Write a prepared directory, or go on with it; the result does not depend on `workers`, not in one byte.

    Raises `ArtifactError` when `out` holds finished text of other settings or files, `DataError` when no text is left.
    """
    units = prepare.units(files(recipe.data), recipe.shard_bytes)
    identities = fingerprint_bytes(*(prepare.identity(unit, recipe.reading) for unit in units))
    made_from = {"recipe": fingerprint_bytes(repr(recipe)), "files": identities}
    if (out / RECORD).exists():
        found = Prepared.load(out)
        if found.facts["made_from"] != made_from:
            raise ArtifactError(f"{out} holds text prepared from other files or settings; give another --out, or delete it.")
        progress.note(f"{out} is finished; nothing is left to do.")
        return found
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(recipe, units, out, progress)
    workers = min(workers, len(units))
    surveys = _surveyed(units, recipe.reading, out, workers, progress)
    units, stay = prepare.numbered(units, surveys), prepare.choose(surveys)
    work = [(unit, keep, recipe.reading, str(out), out / _shard(index)) for index, (unit, keep) in enumerate(zip(units, stay, strict=True))]
    run_all(prepare.shard, work, workers, lambda done: progress.update(f"tokenised {done} of {len(units)} shards"))
    _finish(out, made_from, tokenizer, surveys, len(units))
    return Prepared.load(out)


def files(data: Sequence[str]) -> list[Piece]:
    """The files that the patterns stand for; Python's own are named from its library on."""
    if not data:
        raise DataError("No text is named; give paths, directories or globs, or @python for Python's standard library.")
    if PYTHON not in data:
        return [Piece(str(file)) for file in find(list(data)).files]
    if len(data) > 1:
        raise DataError(f"{PYTHON} stands alone; it cannot be mixed with other paths.")
    return python_files()


def _tokenizer(recipe: PrepareRecipe, units: list[Unit], out: Path, progress: Progress) -> Tokenizer:
    if recipe.tokenizer is not None:
        tokenizer = Tokenizer.load(recipe.tokenizer)
    elif (out / "tokenizer.json").exists():
        return Tokenizer.load(out)  # learned before an interruption
    else:
        progress.note(f"  learning a tokenizer of {recipe.vocab} tokens")
        tokenizer = Tokenizer.train(_sample(recipe, units), recipe.vocab or 0)
    _ = tokenizer.eos_id  # a tokenizer without one is refused before any work
    tokenizer.save(out)
    return tokenizer


def _sample(recipe: PrepareRecipe, units: list[Unit]) -> Iterator[str]:
    """Texts that are evenly spread over all there are."""
    pieces = [piece for unit in units for piece in unit]
    size = sum((piece.end or Path(piece.path).stat().st_size) - piece.first for piece in pieces)
    every = max(1, -(-size // LEARNED_FROM))
    texts = (record.text for piece in pieces for record in read(piece, recipe.reading.field))
    return (text for number, text in enumerate(texts) if number % every == 0)


def _surveyed(units: list[Unit], reading: Reading, out: Path, workers: int, progress: Progress) -> list[Survey]:
    work = [(unit, reading, out / f".survey-{index:05d}.safetensors") for index, unit in enumerate(units)]
    surveys = run_all(prepare.survey, work, workers, lambda done: progress.update(f"read {done} of {len(units)} shards"))
    if not any(len(survey.digests) for survey in surveys):
        records = [record for unit in units for piece in unit for record in read(piece, reading.field)]
        problem = next((record.problem.sentence for record in records if record.problem), f"{len(records):,} records, all empty.")
        raise DataError(f"There is no text in what was given: {problem}")
    return surveys


def _finish(out: Path, made_from: dict[str, str], tokenizer: Tokenizer, surveys: list[Survey], count: int) -> None:
    """Put the accounts of all shards together, and say last of all that everything is there."""
    shards, reasons, lengths, size = [], Counter[str](), Counter[int](), 0
    with atomic_file(out / "dropped.jsonl") as temporary, temporary.open("wb") as log:
        for index in range(count):
            found = Artifact.load(out / _shard(index), kind=SHARD, schema=prepare.SCHEMA)
            lines = found.arrays["dropped"].tobytes()
            log.write(lines)
            reasons.update(json.loads(line)["reason"] for line in lines.splitlines())
            lengths.update({power: number for power, number in enumerate(found.content["lengths"]) if number})
            size += found.content["bytes"]
            shards.append({"file": _shard(index), "training": found.content["training"], "validation": found.content["validation"]})
    facts = {
        "kind": KIND,
        "schema": SCHEMA,
        "amaru": __version__,
        "made_from": made_from,
        "fingerprint": fingerprint_bytes(*made_from.values(), tokenizer.fingerprint),
        "tokenizer": tokenizer.fingerprint,
        "read": sum(survey.records for survey in surveys),
        "kept": {side: _totals([shard[side] for shard in shards]) for side in ("training", "validation")},
        "bytes": size,
        "dropped": dict(sorted(reasons.items())),
        "duplicates_by": NORMAL_FORM,
        "lengths": {f"{2**power}": lengths[power] for power in sorted(lengths)},
        "shards": shards,
    }
    with atomic_file(out / RECORD) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for leftover in [*out.glob(".survey-*"), *out.glob(".*.partial")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _totals(counts: list[dict[str, int]]) -> dict[str, int]:
    return {of: sum(each[of] for each in counts) for of in ("documents", "tokens")}


def _shard(index: int) -> str:
    return f"shard-{index:05d}.safetensors"
