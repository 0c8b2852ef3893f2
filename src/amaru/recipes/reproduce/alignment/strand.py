"""One seed and all that is made of it, in a run directory of its own: data, the chain of stages, and what branches off it."""

import json
import random
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from amaru.align.rounds import Judged, Prompt, read_prompts
from amaru.config import atomic_directory, fingerprint_bytes
from amaru.config.records import read_lines, read_record
from amaru.data.tokenizer import Tokenizer
from amaru.models import cost
from amaru.models.checkpoint import Checkpoint, save
from amaru.models.decoder import Decoder
from amaru.recipes.align import align
from amaru.recipes.alignment.answers import Voice
from amaru.recipes.alignment.passing import passing
from amaru.recipes.alignment.settings import AlignRecipe, Preferences
from amaru.recipes.reproduce.alignment.settings import AlignmentClaims
from amaru.recipes.reproduce.alignment.world import answered, different
from amaru.recipes.run import Run
from amaru.recipes.sft import Stage

Record = dict[str, Any]
SFT, ROUNDS = "fine-tuned", ("dpo", "rpo-1", "rpo-2", "rpo-3")
TEMPLATE = "plain"


class Strand:
    """`Strand(recipe, 0, run).chain()`: everything is read from the run directory where it is whole."""

    def __init__(self, recipe: AlignmentClaims, seed: int, run: Run) -> None:
        self.recipe, self.seed, self.run = recipe, seed, run

    @cached_property
    def data(self) -> Path:
        """A directory of conversations, prompts and held-out prompts."""
        recipe = self.recipe

        def make(path: Path) -> None:
            counts = [recipe.learned, len(ROUNDS) * recipe.prompts, recipe.held_out]
            learned, prompts, held_out = different(counts, self.seed)
            generator = random.Random(f"answers {self.seed}")
            with atomic_directory(path) as directory:
                said = [{"prompt": each.text, "completion": answered(each, generator, recipe.wrong)} for each in learned]
                _write(directory / "conversations.jsonl", said)
                for name, some in (("learned", learned), ("prompts", prompts), ("held-out", held_out)):
                    _write(directory / f"{name}.jsonl", [each.record for each in some])

        what = f"{recipe.learned} {recipe.wrong} {recipe.prompts} {recipe.held_out} {self.seed}"
        return self.run.keep("data", {"world": fingerprint_bytes(what)}, make, lambda path: path, title="requests and answers")

    def new(self, size: str) -> Path:
        """A model of new weights, small or large."""
        shape = self.recipe.small if size == "small" else self.recipe.large

        def make(path: Path) -> None:
            lines = read_lines(self.data / "conversations.jsonl")
            tokenizer = Tokenizer.train((each["prompt"] + each["completion"] for each in lines), vocab=self.recipe.vocab)
            save(Decoder(shape.resolve(tokenizer.vocab_size)).initialise(self.seed), path, tokenizer)

        made_from = {"shape": repr(shape), "vocab": f"{self.recipe.vocab} {self.seed}"}
        return self.run.keep(f"new-{size}", made_from, make, lambda path: path, title=f"new weights, {size}")

    @cached_property
    def held_out(self) -> tuple[Prompt, ...]:
        return read_prompts([str(self.data / "held-out.jsonl")])

    @cached_property
    def chain(self) -> Path:
        """The run directory of SFT -> DPO -> RPO 1-3, as `amaru align` makes it."""
        recipe = self.aligning(self.new("small"), self.data / "conversations.jsonl", self.recipe.tuning, rounds=True)
        return self.aligned("chain", recipe)

    def aligning(self, start: Path, conversations: Path, tuning: Any, *, rounds: bool) -> AlignRecipe:
        """What `amaru align` would be told."""
        recipe = self.recipe
        common: dict[str, Any] = {
            "kind": "preference",
            "prompts": (str(self.data / "prompts.jsonl"),),
            "limit": recipe.prompts,
            "answering": recipe.answering,
            "learning": recipe.preferring,
        }
        dpo = Preferences(name="dpo", loss=recipe.dpo, gate=recipe.strict, **common)
        rpo = Preferences(name="rpo", times=len(ROUNDS) - 1, loss=recipe.rpo, gate=recipe.loose, **common)
        return AlignRecipe(
            start=str(start),
            template=TEMPLATE,
            sft=(Stage(name=SFT, data=(str(conversations),), epochs=recipe.epochs),),
            sft_learning=tuning,
            rounds=(dpo, rpo) if rounds else (),
            held_out=(str(self.data / "held-out.jsonl"),),
            held_out_tokens=recipe.answering.max_tokens,
            row_length=recipe.row_length,
            seed=self.seed,
        )

    def aligned(self, name: str, recipe: AlignRecipe) -> Path:
        with Run(self.run.path(name), "align", recipe, self.run.progress) as inner:
            align(recipe, inner)
        return self.run.path(name)

    @property
    def tuned(self) -> Path:
        """The fine-tuned model of the chain, where the branches begin."""
        return Path(read_record(self.chain / "comparison.json")["models"][SFT])

    @cached_property
    def judged(self) -> list[tuple[Prompt, list[Judged]]]:
        """Answers of the fine-tuned model to the prompts of the first round, and what they are worth."""
        lines = read_lines(self.chain / f"{ROUNDS[0]}-judged.jsonl")
        prompts = (Prompt(tuple(line["messages"]), source=f"judged:{number}") for number, line in enumerate(lines, start=1))
        return [(prompt, [Judged(**each) for each in line["answers"]]) for prompt, line in zip(prompts, lines, strict=True)]

    def stages(self) -> Record:
        """What every model of the chain passes."""
        found = read_record(self.chain / "comparison.json")
        return {"stages": {name: self.told(found["rows"][name], found["models"][name]) for name in (SFT, *ROUNDS)}}

    def measured(self, name: str, checkpoint: Path) -> Record:
        """What a checkpoint passes of the held-out requests."""
        return self.told(passing(self.run, name, Voice(checkpoint), self.held_out, self.recipe.answering.max_tokens), checkpoint)

    def told(self, row: Record, checkpoint: Path | str) -> Record:
        """What a record keeps of it: the share with every item, and the model's size."""
        kept = {name: row[name] for name in ("checks", "kinds", "whole", "tokens", "items")}
        return {"passed": row["strict"]["mean"], "parameters": cost.parameters(Checkpoint(checkpoint).config)} | kept


def _write(path: Path, lines: Sequence[Record]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
