"""From files of comparisons to rows: read, rewarded, divided by prompt, packed; and every row that is not used told with its reason."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from amaru.align.comparisons import Comparison, Comparisons, Dropped, Scorer, checked, required, scored, write_dropped
from amaru.align.reading import overlap, read, unlike
from amaru.align.rows import ComparisonRows, made_from, pack
from amaru.config import fingerprint_bytes
from amaru.data.chat import Template
from amaru.data.conversations import read as read_conversations
from amaru.data.templates import BUILT_IN, for_others, template_of
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError
from amaru.recipes.preference import PreferRecipe
from amaru.recipes.run import Run
from amaru.recipes.text import Text, tokenizer_of


@dataclass(frozen=True)
class Prepared:
    """A stage's comparisons as rows, and its tokenizer, which the trained model gets."""

    tokenizer: Tokenizer
    training: ComparisonRows
    held_out: ComparisonRows

    @property
    def text(self) -> Text:
        return Text(self.tokenizer, {"comparisons": self.training}, self.held_out)


def gathered(recipe: PreferRecipe, comparisons: Comparisons | None = None, scorer: Scorer | None = None) -> Comparisons:
    """What is learned from, with its rewards; what the loss can make nothing of is among the dropped."""
    if comparisons is None and not recipe.data:
        raise ConfigError("No comparisons are named; give --data FILES.")
    found = _read(recipe) if comparisons is None else placed(comparisons)
    if scorer is not None:
        found = replace(found, found=tuple(scored(found.found, scorer)))
    if recipe.scores:
        found = _scored_by(read(recipe.scores, reward=recipe.reward, by_rewards=True), found)
    found = found.less(checked(found.found)[1])
    found = found.less(unlike(found.found, rewards=recipe.terms.method == "rpo"))
    if recipe.trained_on:
        found = _apart(recipe, found)
    required(found.found, found.dropped, ", ".join(recipe.data) or "the comparisons")
    return found


def _read(recipe: PreferRecipe) -> Comparisons:
    """The files of the recipe; where files of scores give the rewards, those in the data neither have to be there nor to agree."""
    if recipe.scores:
        return read(recipe.data, by_rewards=True)
    return read(recipe.data, reward=recipe.reward, by_rewards=recipe.by_rewards)


def placed(comparisons: Comparisons) -> Comparisons:
    """Comparisons that were read from no file get places of their own, for what is said of them."""
    if len({each.source for each in comparisons.found}) == len(comparisons.found):
        return comparisons
    named = (replace(each, source=f"{each.source or 'comparison'}#{number}") for number, each in enumerate(comparisons.found, start=1))
    return replace(comparisons, found=tuple(named))


def _scored_by(scores: Comparisons, found: Comparisons) -> Comparisons:
    """Rewards by prompt and answer, from comparisons that have them; a comparison with an answer that has none or several is dropped."""
    known = defaultdict[tuple[str, str], set[float | None]](set)
    for each in scores.found:
        for answer in each.answers:
            known[each.prompt, answer.text].add(answer.reward)
    given, dropped = [], []
    for each in found.found:
        told = [known[each.prompt, answer.text] for answer in each.answers]
        given.append(each.rewarded([next(iter(some), None) for some in told]))
        if any(len(some) > 1 for some in told):
            sentence = f"{each.source}: the files of scores give an answer of it different scores."
            dropped.append(Dropped(each.source, "different scores in the files of scores", sentence))
        elif given[-1].rewards is None:
            sentence = f"{each.source}: the files of scores lack an answer of it."
            dropped.append(Dropped(each.source, "no score in the files of scores", sentence))
    return replace(found, found=tuple(given)).less(dropped)


def _apart(recipe: PreferRecipe, found: Comparisons) -> Comparisons:
    """Without prompts that fine-tuning has seen, where they are to be dropped."""
    both = overlap(found.found, (each.messages for each in read_conversations(recipe.trained_on).found))
    if recipe.shared_prompts == "tell":
        return replace(found, trained_on=len(both.shared))
    reason = "prompt of the fine-tuning"
    return found.less([Dropped(source, reason, f"{source} asks what the model was fine-tuned on.") for source in both.shared])


def prepare(recipe: PreferRecipe, run: Run, name: str, found: Comparisons) -> Prepared:
    """Rows for training and for measuring, kept; every row that is not used is in `NAME-dropped.jsonl`."""
    run.progress.note(f"  {found}")
    template = template_of(recipe.template, tokenizer_of(recipe.start))
    training, held_out, dropped = divided(recipe, found)
    sides = {f"{name}-training": training, f"{name}-held-out": held_out}
    made = {side: _packed(run, side, some, template, recipe) for side, some in sides.items()}  # before anything is kept of bad data
    rows = [_kept(run, side, some, template, recipe, made[side]) for side, some in sides.items()]
    write_dropped(run.path(f"{name}-dropped.jsonl"), [*dropped, *rows[0].dropped, *rows[1].dropped])
    return Prepared(chat_tokenizer(recipe, template), *rows)


def divided(recipe: PreferRecipe, found: Comparisons) -> tuple[list[Comparison], list[Comparison], tuple[Dropped, ...]]:
    """For training and for measuring, no prompt on both sides; and everything that is not used."""
    if recipe.held_out:
        others = gathered(replace(recipe, data=recipe.held_out, held_out=()))
        asked = {each.prompt for each in others.found}
        both = [each.source for each in found.found if each.prompt in asked]
        apart = found.less([Dropped(source, "held out", f"{source} asks what is held out.") for source in both])
        required(apart.found, apart.dropped, "the comparisons that are not held out")
        return list(apart.found), list(others.found), (*apart.dropped, *others.dropped)
    prompts = sorted({each.prompt for each in found.found}, key=lambda prompt: fingerprint_bytes(f"held out {recipe.seed}", prompt))
    if len(prompts) < 2:
        raise DataError(f"There must be at least two prompts, one of them to measure with; got {len(prompts)}.")
    late = set(prompts[: min(max(1, round(recipe.validation_share * len(prompts))), len(prompts) - 1)])
    sides = [[each for each in found.found if (each.prompt in late) == held_out] for held_out in (False, True)]
    return sides[0], sides[1], found.dropped


def chat_tokenizer(recipe: PreferRecipe, template: Template) -> Tokenizer:
    """The tokenizer that the trained model gets: with the template, and with what ends an answer as end of text."""
    source = for_others(template.source) if recipe.template in BUILT_IN else template.source
    return template.tokenizer.with_chat(source, template.ending())


def _packed(run: Run, name: str, some: Sequence[Comparison], template: Template, recipe: PreferRecipe) -> ComparisonRows | None:
    """None where they are kept from before."""
    if run.is_kept(f"{name}.rows", made_from(some, template, recipe.longest, recipe.too_long)):
        return None
    return pack(some, template, recipe.longest, too_long=recipe.too_long)


def _kept(
    run: Run, name: str, some: Sequence[Comparison], template: Template, recipe: PreferRecipe, made: ComparisonRows | None
) -> ComparisonRows:
    origin = made_from(some, template, recipe.longest, recipe.too_long)

    def make(path: Path) -> None:
        assert made is not None, "what is not kept was packed"
        made.save(path)

    return run.keep(f"{name}.rows", origin, make, lambda path: ComparisonRows.load(path, origin), title=name, describe=str)
