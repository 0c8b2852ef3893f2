"""A round of preferences: answers are drawn from the model as it is, judged, compared and gated, and learned from."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from amaru.align import Comparisons, read, write
from amaru.align.reward import rewards_by
from amaru.align.rounds import Judged, Judges, Speaker, compared, judge
from amaru.align.rounds.duel import JudgeModel
from amaru.align.rounds.prompts import fingerprint_of
from amaru.config import atomic_file, fingerprint_bytes, fingerprint_file
from amaru.config.functions import function_named
from amaru.config.records import read_lines
from amaru.errors import DataError
from amaru.models.checkpoint import fingerprint, load
from amaru.models.reward import scorer
from amaru.recipes.alignment.one import Drawn, One
from amaru.recipes.alignment.settings import Judging, Preferences
from amaru.recipes.prefer import stage
from amaru.recipes.preference import PreferRecipe
from amaru.recipes.text import tokenizer_of


def preferred(one: One[Preferences]) -> Path:
    """The checkpoint that the round leaves; whatever of it is whole is not made again."""
    comparisons = gated(one, judged(one, one.drawn(one.how.others)))
    trained = stage(one.run, one.name, recipe_of(one), comparisons, merge=True)
    assert trained.checkpoint is not None
    return trained.checkpoint


def recipe_of(one: One[Preferences]) -> PreferRecipe:
    """What `amaru prefer` would be told; start and reference are the model before."""
    return PreferRecipe(
        start=str(one.start.checkpoint),
        template=one.start.template,
        terms=one.how.loss,
        reference=one.how.reference,
        lora=one.how.lora,
        longest=one.recipe.row_length,
        too_long=one.recipe.too_long,
        validation_share=one.recipe.validation_share,
        epochs=one.how.epochs,
        learning=one.how.learning,
        seed=one.recipe.seed,
    )


def judged(one: One[Preferences], drawn: Drawn) -> list[list[Judged]]:
    """What every answer is worth, kept as `NAME-judged.jsonl`, a line for each prompt."""
    asked, judging = one.asked, one.how.judging
    made_from = {"prompts": fingerprint_of(asked), "answers": fingerprint_bytes(repr(drawn)), "judging": identity(judging)}

    def make(path: Path) -> None:
        found = judge(asked, drawn, judges(judging, one.run.device))
        pairs = zip(asked, found, strict=True)
        lines = [{"messages": prompt.messages, "answers": [each._asdict() for each in some]} for prompt, some in pairs]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")

    def load(path: Path) -> list[list[Judged]]:
        return [[Judged(**each) for each in line["answers"]] for line in read_lines(path)]

    return one.run.keep(f"{one.name}-judged.jsonl", made_from, make, load, title="judged", describe=described)


def gated(one: One[Preferences], some: Sequence[Sequence[Judged]]) -> Comparisons:
    """The comparisons that pass, kept as `NAME-comparisons.jsonl`, and beside them what became of every prompt."""
    made_from = {"judged": fingerprint_file(one.run.path(f"{one.name}-judged.jsonl")), "gate": f"{one.how.gate} {one.how.answers}"}

    def make(path: Path) -> None:
        found, tally = compared(zip(one.asked, some, strict=True), one.how.gate, one.how.answers)
        if not found:
            raise DataError(f"Round {one.name} has nothing to learn from: {tally}. A looser gate, more samples or more prompts help.")
        one.run.write(f"{one.name}-tally.json", vars(tally) | {"sentence": str(tally)})
        one.run.progress.note(f"  {tally}")
        write(path, found)

    name = f"{one.name}-comparisons.jsonl"
    return one.run.keep(name, made_from, make, lambda path: read([str(path)]), title="compared", describe=lambda found: len(found.found))


def judges(judging: Judging, device: torch.device) -> Judges:
    """Those that a recipe names, loaded."""
    duel = None
    if judging.judge_model is not None:
        decoder = load(judging.judge_model, torch.float32, device)
        duel = JudgeModel(Speaker.of(decoder, tokenizer_of(judging.judge_model), judging.judge_template))
    function = None if judging.verifier is None else function_named(judging.verifier)
    reward = None if judging.reward_model is None else rewards_by(scorer(judging.reward_model, device=device))
    return Judges(verify=judging.verify, function=function, scorer=reward, duel=duel)


def identity(judging: Judging) -> str:
    """A hash of what decides a judgement: models by their weights, a verifier of one's own by its text."""
    models = [fingerprint(each) if each else "" for each in (judging.reward_model, judging.judge_model)]
    file = (judging.verifier or "").partition(":")[0]
    code = fingerprint_file(file) if file.endswith(".py") and Path(file).exists() else ""
    return fingerprint_bytes(str(judging.verify), str(judging.verifier), code, *models, str(judging.judge_template))


def described(some: Sequence[Sequence[Judged]]) -> str:
    """`1,140 different whole answers; 61 % do all that is asked`"""
    shares = [each.verified for answers in some for each in answers if each.verified is not None]
    passing = f"; {sum(share == 1 for share in shares) / len(shares):.0%} do all that is asked" if shares else ""
    return f"{sum(map(len, some)):,} different whole answers{passing}"
