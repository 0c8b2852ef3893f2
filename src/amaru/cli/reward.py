"""`amaru reward train|eval|score`: models that tell how good an answer is."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from amaru.cli.output import Finding, JsonFlag, LiveLine, emit

Model = Annotated[Path, typer.Argument(help="A reward model: the directory that `amaru reward train` wrote.")]
Kept = Annotated[str, typer.Option(help="Where scores are kept, so that none is computed twice; 'none' keeps nothing.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
Longest = Annotated[int | None, typer.Option(help="Tokens of a prompt with its answer; longer ones are left out and told.")]
Better = Annotated[str | None, typer.Option(help="NAME=NUMBER,...: weights of the labels whose sum says which rated answer is better.")]
Weights = Annotated[str | None, typer.Option(help="NAME=NUMBER,...: of the sum of the attributes; left out: the model's own.")]


def train(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint that is trained, a language model or a reward model.")],
    data: Annotated[list[str] | None, typer.Option(help="Rated or compared answers: .jsonl, .json or .parquet.")] = None,
    objective: Annotated[str | None, typer.Option(help="regression on ratings, or bradley-terry: which of two answers is better.")] = None,
    attributes: Annotated[str | None, typer.Option(help="NAME,NAME,...: what is told; left out: all that the data has labels of.")] = None,
    unused: Annotated[str | None, typer.Option(help="NAME,...: attributes with a place and without labels.")] = None,
    weights: Annotated[str | None, typer.Option(help="NAME=NUMBER,...: of the sum; left out: those published for HelpSteer.")] = None,
    range_: Annotated[str | None, typer.Option("--range", help="LOW,HIGH: what labels lie between, or any. Default 0,4.")] = None,
    better_by: Better = None,
    pool: Annotated[str | None, typer.Option(help="Where the score is read: label-prefix (Nemotron-4), or end-of-turn.")] = None,
    system: Annotated[str | None, typer.Option(help="The system sentence at the label prefix; left out: the published one.")] = None,
    template: Annotated[str | None, typer.Option(help="For end-of-turn: chatml, nemotron4, or a file with a jinja template.")] = None,
    add_special_tokens: Annotated[
        bool | None, typer.Option("--add-special-tokens", help="Give the model rows for control tokens that it lacks.")
    ] = None,
    longest: Longest = None,
    only_head: Annotated[bool | None, typer.Option("--only-head", help="Leave the decoder as it is.")] = None,
    limit: Annotated[int | None, typer.Option(help="Learn from so many prompts, chosen by a hash.")] = None,
    epochs: Annotated[float | None, typer.Option(help="How often each answer is seen.")] = None,
    batch: Annotated[int | None, typer.Option(help="Answers, or pairs, of a step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the data order and of what validates.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="A YAML recipe to begin with; flags win over it.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="Any other setting, e.g. validation_share=0.1.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; the default is named after the settings.")] = None,
    device: Device = "cpu",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and an answer as the model reads it.")] = False,
    json: JsonFlag = False,
) -> None:
    """Train a reward model on rated or compared answers. The same command continues an interrupted run."""
    from amaru.cli.settings import build_recipe, print_forecast
    from amaru.recipes.reward.recipe import RewardRecipe
    from amaru.recipes.reward.train import forecast, train_reward
    from amaru.recipes.run import Run, default_directory
    from amaru.report.runs import write_report

    given = {"start": checkpoint, "data": data, "objective": objective, "attributes": _names(attributes), "unused": _names(unused)}
    given |= {"weights": _weights("--weights", weights), "better_by": _weights("--better-by", better_by)}
    given |= {"pool": pool, "system": system, "template": template, "add_special_tokens": add_special_tokens, "longest": longest}
    given |= {"only_head": only_head, "limit": limit, "epochs": epochs}
    given |= {"learning.batch_rows": batch, "learning.lr": lr, "seed": seed}
    resolved = build_recipe(RewardRecipe, recipe, given, [*_range(range_), *(settings or [])])
    directory = out or default_directory("reward", resolved)
    if dry_run:
        emit(forecast(resolved, directory), json=json, people=print_forecast)
        return
    with LiveLine() as progress, Run(directory, "reward", resolved, progress, device) as run:
        progress.note(f"Training a reward model from {checkpoint} in {directory}")
        result = train_reward(resolved, run)
    following = [shlex.join(["amaru", "reward", "eval", result["checkpoint"], "--data", "PAIRS.jsonl"])]
    following.append(shlex.join(["amaru", "serve", result["checkpoint"]]))
    emit({**result, "report": write_report(directory), "next": following}, json=json, people=_print_training)


def evaluate(
    model: Model,
    data: Annotated[list[str], typer.Option(help="Answers of which one is better: RewardBench, LLMBar, HelpSteer2, or other comparisons.")],
    against: Annotated[Path | None, typer.Option(help="Rank them with this reward model too, and test whether the two differ.")] = None,
    weights: Weights = None,
    better_by: Better = None,
    longest: Longest = None,
    kept: Kept = "runs/rewards.sqlite",
    device: Device = "cpu",
    json: JsonFlag = False,
) -> None:
    """Measure how often a reward model ranks two answers right, by subset and category, each with a 95 % interval."""
    from amaru.recipes.reward.accuracy import evaluate as measured
    from amaru.recipes.reward.scoring import KeptScorer

    sums = _weights("--weights", weights)
    with LiveLine() as live:
        first, *second = (
            KeptScorer(path, _kept(kept), longest, device, live.update, sums) for path in (model, *([against] if against else []))
        )
        result = measured(data, first, second[0] if second else None, _weights("--better-by", better_by))
    emit({"model": model, "against_model": against, **result}, json=json, people=_print_accuracy)


def score(
    model: Model,
    data: Annotated[list[str], typer.Option(help="Conversations that end with an answer, or comparisons: .jsonl, .json, .parquet.")],
    out: Annotated[Path, typer.Option(help="The file to write, .jsonl or .parquet: the same rows, with attributes and score.")],
    weights: Weights = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace fields of the rows that have the names of the scores.")] = False,
    longest: Longest = None,
    kept: Kept = "runs/rewards.sqlite",
    device: Device = "cpu",
    json: JsonFlag = False,
) -> None:
    """Score the answers of a file; numbers are written as computed. The same command continues where it was stopped."""
    from amaru.recipes.reward.files import score_files
    from amaru.recipes.reward.scoring import KeptScorer

    with LiveLine() as live:
        scorer = KeptScorer(model, _kept(kept), longest, device, live.update, _weights("--weights", weights))
        result = score_files(data, out, scorer, overwrite)
    emit({"model": model, **result}, json=json, people=_print_scores)
    if result["dropped"]:
        raise Finding(f"{result['dropped']:,} rows were not scored; {result['dropped_file']} says which and why.")


commands = {"train": train, "eval": evaluate, "score": score}


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def _weights(flag: str, text: str | None) -> dict[str, float] | None:
    from amaru.errors import ConfigError

    if text is None:
        return None
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        return {name.strip(): float(number) for name, _, number in pairs}
    except ValueError:
        raise ConfigError(f"{flag} is NAME=NUMBER,NAME=NUMBER,...; got '{text}'.") from None


def _range(text: str | None) -> list[str]:
    if text is None:
        return []
    return ["range=null"] if text == "any" else [f"range=[{text}]"]


def _kept(text: str) -> str | None:
    return None if text == "none" else text


def _print_training(result: Mapping[str, Any], console: Console) -> None:
    console.print(f"checkpoint  {result['checkpoint']}\n{result['rows']['validation']}, held out:\n")
    before, after = result["quality"]["start"], result["quality"]["model"]
    if "pairs" in after:
        told = (f"{found['right'] / found['pairs']:.1%} of {found['pairs']:,} pairs ranked right" for found in (before, after))
        console.print("before      {}\nafter       {}".format(*told))
    else:
        console.print(ratings_table(result["attributes"]["names"], after["attributes"]))
        if worse := result["worse_than_mean"]:
            console.print(f"\n{', '.join(worse)}: further from held-out labels than their mean is; fewer epochs, a lower --lr or more data")
    console.print(f"\nloss        {after['loss']:.4f}, before {before['loss']:.4f}\nreport      {result['report']}\n\nNext:")
    for line in result["next"]:
        console.print(f"  {line}")


def ratings_table(names: list[str], rows: list[Mapping[str, Any]]) -> Table:
    """Of each attribute how far predictions are from labels, beside the mean label that is said always."""
    table = Table("attribute", "labels", "squared error", "of the mean", "correlation", box=None, pad_edge=False)
    for name, row in zip(names, rows, strict=True):
        told = ("" if row[key] is None else f"{row[key]:.3f}" for key in ("error", "error_of_mean", "correlation"))
        table.add_row(name, f"{row['labels']:,}", *told)
    return table


def _print_accuracy(result: Mapping[str, Any], console: Console) -> None:
    console.print(result["data"])
    for sentence in (*result["dropped"], *result["unscored"]):
        console.print(f"  not used: {sentence}")
    if result["even"]:
        console.print(f"  {result['even']:,} comparisons say of no answer that it is better")
    if found := result["accuracy"]:
        console.print(accuracy_table(found))
    if "against" in result:
        other, gap = result["against"]["accuracy"]["whole"], result["against"]["difference"]
        console.print(f"{result['against_model']}: {other['mean']:.1%}; difference {gap['mean']:+.1%}, p = {gap['p']:.3g} ({gap['test']})")
    if result["not_told"]:
        console.print(f"answers are also rated by {', '.join(result['not_told'])}, which this reward model does not tell")
    for name, row in result["ratings"].items():
        correlation = "none" if row["correlation"] is None else f"{row['correlation']:.3f}"
        console.print(f"{name}: squared error {row['error']:.3f}, correlation {correlation} with {row['labels']:,} labels")


def accuracy_table(found: Mapping[str, Any]) -> Table:
    """Subsets, then categories, then the whole."""
    table = Table("", "right", "95 % interval", "pairs", "ties", "", box=None, pad_edge=False)

    def add(name: str, row: Mapping[str, Any], ties: str = "", note: str = "") -> None:
        table.add_row(name, f"{row['mean']:.1%}", f"{row['low']:.1%} to {row['high']:.1%}", f"{row['count']:,}", ties, note)

    for name, row in found["subsets"].items():
        add(name, row, str(row["ties"] or ""))
    for name, row in found["categories"].items():
        add(name, row, note=f"{row['of_subsets']} subsets")
    add("all", found["whole"], str(found["ties"] or ""), found["whole"]["is"])
    return table


def _print_scores(result: Mapping[str, Any], console: Console) -> None:
    console.print(f"{result['rows']:,} rows with {result['answers']:,} scored answers in {result['file']}", soft_wrap=True)
    console.print(f"score {result['lowest']:.3f} to {result['highest']:.3f}, {result['mean']:.3f} on average", soft_wrap=True)
