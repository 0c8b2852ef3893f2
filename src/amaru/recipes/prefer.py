"""Learning from comparisons of answers: `amaru prefer`, and one stage of a run that has several:

    with Run(directory, "align", recipe, progress, device) as run:
        trained = stage(run, "dpo", PreferRecipe(start="runs/sft/model", terms=Terms(method="dpo", beta=0.1)), comparisons)
        trained.checkpoint, trained.figures["after"]["accuracy"]

`comparisons` are those of `amaru.align.read` (None: the files of `recipe.data`); `scorer=` gives their answers rewards. Everything a
stage keeps begins with its name; a stage that is finished is not done again, one that was killed goes on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from amaru.adapters import adapt, files, fold
from amaru.align.cached import fill
from amaru.align.comparisons import Comparisons, Scorer
from amaru.align.objective import Preference, measured
from amaru.align.reference import Live, Reference, WithoutAdapter
from amaru.align.rows import ComparisonRows, pack
from amaru.align.watching import Falling, fallen
from amaru.config import fingerprint_bytes, to_dict
from amaru.data.templates import template_of
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError
from amaru.models.checkpoint import Checkpoint, fingerprint, load, save
from amaru.models.decoder import Decoder
from amaru.recipes.adapt import Adapting
from amaru.recipes.comparisons import Prepared, divided, gathered, prepare
from amaru.recipes.fit import VALIDATED_ROWS, fit
from amaru.recipes.preference import PreferRecipe
from amaru.recipes.run import Run
from amaru.recipes.text import tokenizer_of
from amaru.train.loop import COMPUTE_DTYPES
from amaru.train.metrics import StepMetrics
from amaru.train.metrics import read as read_metrics
from amaru.train.settings import TrainConfig

NAME = "model"  # of the only stage
SHOWN = 30  # rows that are dropped, in a dry run


@dataclass(frozen=True)
class Trained:
    """`checkpoint`: the whole model; None where only an adapter was asked for, over codes or without `merge`. `figures` is what
    `NAME.json` holds."""

    checkpoint: Path | None
    adapter: Path | None
    figures: dict[str, Any]


def stage(
    run: Run,
    name: str,
    recipe: PreferRecipe,
    comparisons: Comparisons | None = None,
    *,
    scorer: Scorer | None = None,
    merge: bool = False,
) -> Trained:
    """Train on comparisons under `name` in a run directory; with `merge` an adapter is made part of the weights as well.

    Raises `DataError` where nothing can be learned from the comparisons, `ConfigError` for settings that contradict, and as `fit` does.
    """
    if merge and recipe.method is not None and Checkpoint(recipe.start).encodings:
        raise ConfigError(f"{recipe.start} holds codes, into which no adapter can be merged; leave merging out.")
    prepared = prepare(recipe, run, name, gathered(recipe, comparisons, scorer))
    rows, lengths = prepared.training, prepared.training.answer_lengths
    run.progress.note(f"  {recipe.terms.implied(rows.gap(), lengths.mean())}")
    run.progress.note(f"  the better answer is the longer one in {rows.longer():.0%} of preferences")
    references = _references(recipe, run, name, prepared)
    result = _trained(recipe, run, name, prepared, references)
    figures = _figures(recipe, run, name, prepared, references, result)
    run.write(f"{name}.json", figures)
    if recipe.method is None:
        return Trained(result, None, figures)
    return Trained(merged(recipe, run, name, prepared.tokenizer) if merge else None, result, figures)


def prefer(recipe: PreferRecipe, run: Run, *, merge: bool = False) -> dict[str, Any]:
    """The only stage of `amaru prefer`."""
    trained = stage(run, NAME, recipe, merge=merge)
    return {name: str(path) for name, path in (("checkpoint", trained.checkpoint), ("adapter", trained.adapter)) if path} | trained.figures


def settings(recipe: PreferRecipe, rows: ComparisonRows) -> TrainConfig:
    """The loop's settings: epochs over the comparisons, in whole steps."""
    steps = max(1, -(-round(recipe.epochs * len(rows)) // recipe.learning.batch_rows))
    tokens = steps * recipe.learning.batch_rows * rows.row_length
    return replace(recipe.learning, tokens=tokens).training(rows.row_length, recipe.seed)


def forecast(recipe: PreferRecipe, directory: Path) -> dict[str, Any]:
    """What the run would do: comparisons, what is dropped and why, steps, and where the optimum lies."""
    found = gathered(recipe)
    template = template_of(recipe.template, tokenizer_of(recipe.start))
    training, held_out, dropped = divided(recipe, found)
    rows, others = (pack(some, template, recipe.longest, too_long=recipe.too_long) for some in (training, held_out))
    every = [*dropped, *rows.dropped, *others.dropped]
    return {
        "out": str(directory),
        "data": str(found),
        "training": str(rows),
        "held_out": str(others),
        "dropped": [each.sentence for each in every[:SHOWN]] + [f"and {len(every) - SHOWN:,} more"] * (len(every) > SHOWN),
        "steps": settings(recipe, rows).steps,
        "loss": recipe.terms.implied(rows.gap(), float(rows.answer_lengths.mean())),
        "examples": [template.tokenizer.decode(rows.row(0).ids.tolist())],
        "recipe": to_dict(recipe),
    }


def merged(recipe: PreferRecipe, run: Run, name: str, tokenizer: Tokenizer) -> Path:
    """The adapter made part of the weights, in `NAME-merged`: a checkpoint like any other."""
    adapter, path = run.path(name), run.path(f"{name}-merged")

    def make(path: Path) -> None:
        decoder = load(recipe.start, torch.float32)
        files.load(decoder, adapter)
        fold(decoder)
        save(decoder, path, tokenizer)

    return run.keep(path.name, {"adapter": _identity(recipe, adapter)}, make, lambda path: path, title=path.name)


@dataclass(frozen=True)
class References:
    """The reference for the rows of training, and for those held out."""

    training: Callable[[], Reference]
    held_out: Callable[[], Reference]


def _references(recipe: PreferRecipe, run: Run, name: str, prepared: Prepared) -> References:
    """Cached ones are computed here, before anything else is in memory; a live one is loaded when it is asked for, once."""
    if recipe.reference.by == "adapter":
        return References(WithoutAdapter, WithoutAdapter)
    if recipe.reference.by == "live":
        live: list[Live] = []

        def loaded() -> Live:
            live[:] = live or [Live(_reference(recipe, run))]
            return live[0]

        return References(loaded, loaded)
    sides = [_cached(recipe, run, name, side, rows) for side, rows in (("training", prepared.training), ("held-out", prepared.held_out))]
    return References(lambda: sides[0], lambda: sides[1])


def _cached(recipe: PreferRecipe, run: Run, name: str, side: str, rows: ComparisonRows) -> Reference:
    origin = {"reference": fingerprint(recipe.held_to), "arithmetic": recipe.learning.dtype}
    shared = recipe.reference.directory
    own = fingerprint_bytes(*origin.values(), rows.fingerprint)
    directory = Path(shared) / own if shared else run.path(f"{name}-{side}-reference")
    computed = 0

    def told(tokens: int) -> None:
        nonlocal computed
        computed = tokens
        run.progress.update(f"the reference: {tokens:,} of {rows.targets:,} tokens of answers")

    seconds = recipe.learning.saving.seconds
    found = fill(directory, rows, lambda: _reference(recipe, run), origin, seconds=seconds, progress=told)
    run.progress.note(f"  reference, {side}: log p of {rows.targets:,} tokens in {directory}; {computed:,} of them computed now")
    return found


def _reference(recipe: PreferRecipe, run: Run) -> Decoder:
    """In the arithmetic of the training, so that at the start every log-ratio is 0 to the bit."""
    vocabularies = {(Checkpoint(each).config.vocab, tokenizer_of(each).backend.to_str()) for each in (recipe.start, recipe.held_to)}
    if len(vocabularies) > 1:
        raise ConfigError(f"{recipe.held_to} has another tokenizer than {recipe.start}; log-probabilities of their tokens do not compare.")
    return _computing(load(recipe.held_to, torch.float32, run.device), recipe)


def _computing(decoder: Decoder, recipe: PreferRecipe) -> Decoder:
    decoder.compute_dtype = COMPUTE_DTYPES[recipe.learning.dtype]
    return decoder


def _trained(recipe: PreferRecipe, run: Run, name: str, prepared: Prepared, references: References) -> Path:
    config, origin = settings(recipe, prepared.training), _origin(recipe)
    held_out, watching = None, Falling()

    def validate(model: Decoder) -> dict[str, float]:
        nonlocal held_out
        held_out = held_out or Preference(prepared.held_out, recipe.terms, references.held_out())
        return measured(model, held_out, config.batch_rows, VALIDATED_ROWS)

    def watch(metrics: StepMetrics) -> None:
        if (found := watching.seen(metrics)) is not None:
            run.progress.note(f"  {found}")

    def objective() -> Preference:
        return Preference(prepared.training, recipe.terms, references.training())

    before, run.team = run.team, run.team if recipe.method is None else Adapting()
    try:
        return fit(run, name, prepared.text, config, lambda: _begin(recipe), objective, origin, validate=validate, watch=watch)
    finally:
        run.team = before


def _begin(recipe: PreferRecipe) -> Decoder:
    decoder = load(recipe.start, torch.float32)
    decoder.recompute_every = recipe.learning.recompute_every
    if recipe.method is not None:
        adapt(decoder, recipe.method)
    return decoder


def _origin(recipe: PreferRecipe) -> dict[str, str]:
    """Hashes of what decides the result, besides comparisons and training."""
    return {
        "start": fingerprint(recipe.start),
        "reference": fingerprint(recipe.held_to),
        "terms": repr(recipe.terms),
        "method": repr(recipe.method),
    }


def _figures(recipe: PreferRecipe, run: Run, name: str, prepared: Prepared, references: References, result: Path) -> dict[str, Any]:
    """What the held-out comparisons tell of the start and of the result, and what the run showed on the way."""
    rows = prepared.training
    steps = read_metrics(run.path(f"{name}-training") / "metrics.jsonl")
    warning = fallen(steps)
    return {
        "name": name,
        "terms": to_dict(recipe.terms),
        "implied": recipe.terms.implied(rows.gap(), float(rows.answer_lengths.mean())),
        "method": "full fine-tuning" if recipe.method is None else recipe.method.called,
        "comparisons": len(rows),
        "held_out": len(prepared.held_out),
        "dropped": run.path(f"{name}-dropped.jsonl").read_bytes().count(b"\n"),
        "answer_tokens": float(rows.answer_lengths.mean()),
        "longer": rows.longer(),
        "steps": len(steps),
        "before": _measured(recipe, run, name, "before", prepared, references, None),
        "after": _measured(recipe, run, name, "after", prepared, references, result),
        "warning": None if warning is None else str(warning),
    }


def _measured(
    recipe: PreferRecipe, run: Run, name: str, when: str, prepared: Prepared, references: References, result: Path | None
) -> dict[str, float]:
    def make() -> dict[str, float]:
        decoder = _computing(_with(recipe, result), recipe).to(run.device)
        objective = Preference(prepared.held_out, recipe.terms, references.held_out())
        return measured(decoder, objective, recipe.learning.batch_rows)

    origin = _origin(recipe) | {"rows": prepared.held_out.fingerprint, "result": "" if result is None else _identity(recipe, result)}
    return run.result(f"{name}-{when}", origin, make, title=f"held-out comparisons, {when}")


def _with(recipe: PreferRecipe, result: Path | None) -> Decoder:
    """The model as it was, or with what was learned; an adapter that is to be switched off is put on even before."""
    if recipe.method is None:
        return load(result or recipe.start, torch.float32)
    decoder = _begin(recipe) if result is None else load(recipe.start, torch.float32)
    if result is not None:
        files.load(decoder, result)
    return decoder


def _identity(recipe: PreferRecipe, result: Path) -> str:
    return fingerprint(result) if recipe.method is None else fingerprint_bytes((result / files.TENSORS).read_bytes())
