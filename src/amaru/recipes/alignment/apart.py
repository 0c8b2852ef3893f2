"""Prompts of fine-tuning, of rounds, and those that are held out: kept apart, or the run is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from amaru.align.reading import prompts_in
from amaru.align.rounds import Prompt, read_prompts
from amaru.data.conversations import read
from amaru.errors import DataError
from amaru.recipes.alignment.settings import AlignRecipe

NAMED = 3


@dataclass(frozen=True)
class Prompts:
    """Those of each round by its name, and those held out; `dropped` says how many each round lost, and why."""

    of: Mapping[str, tuple[Prompt, ...]]
    held_out: tuple[Prompt, ...]
    dropped: Mapping[str, str]


def prompts_of(recipe: AlignRecipe) -> Prompts:
    """Read all, and keep them apart: raises `DataError` with rows where a prompt is on two sides and the recipe says refuse, and always
    where one that is held out is learned from in fine-tuning."""
    held_out = read_prompts(recipe.held_out) if recipe.held_out else ()
    learned = {key: each.source for stage in recipe.sft for each in read(stage.data).found for key in prompts_in(each.messages)}
    if both := [each for each in held_out if each.asked in learned]:
        raise DataError(_sentence("held out", both, learned, "fine-tuning learns the answers to them; take them out of one side."))
    if unknown := [each.source for each in held_out if not each.verifiable]:
        raise DataError(f"{len(unknown)} prompts that are held out cannot be verified, such as {unknown[0]}: no instructions, no answer.")
    known = learned | {each.asked: f"{each.source}, held out" for each in held_out}
    of, dropped = {}, {}
    for each in recipe.rounds:
        found = read_prompts(each.prompts)
        both = [prompt for prompt in found if prompt.asked in known]
        if both and recipe.overlap == "refuse":
            raise DataError(_sentence(f"of round {each.name}", both, known, "take them out of one side, or set overlap=drop."))
        of[each.name] = tuple(prompt for prompt in found if prompt.asked not in known)
        if not of[each.name]:
            raise DataError(f"All {len(found)} prompts of round {each.name} are seen in fine-tuning or held out.")
        if both:
            dropped[each.name] = f"{len(both):,} of {len(found):,} dropped, which fine-tuning has seen or which are held out"
    return Prompts(of, held_out, dropped)


def _sentence(which: str, both: Sequence[Prompt], known: Mapping[str, str], advice: str) -> str:
    named = ", ".join(f"{each.source} ({known[each.asked]})" for each in both[:NAMED])
    return f"{len(both):,} prompts {which} are on another side too: {named}{' and others' if len(both) > NAMED else ''}; {advice}"
