"""A larger model taught by a smaller one: fine-tuned on answers of the aligned small model, or on those that the small one had."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

from amaru.align.rounds import read_prompts
from amaru.config import atomic_file, fingerprint_bytes
from amaru.config.records import read_lines, read_record
from amaru.recipes.alignment.answers import Voice, answers
from amaru.recipes.reproduce.alignment.strand import ROUNDS, SFT, TEMPLATE, Record, Strand

Teacher = Literal["careless", "aligned"]
TEACHERS: tuple[Teacher, ...] = ("careless", "aligned")


def measure(strand: Strand, teacher: Teacher) -> Record:
    """What the larger model passes after as many conversations: of the careless program, or of the aligned small model."""
    conversations = strand.data / "conversations.jsonl" if teacher == "careless" else made(strand)
    tuning = replace(strand.recipe.tuning, lr=strand.recipe.larger_rate)
    directory = strand.aligned(f"larger-{teacher}", strand.aligning(strand.new("large"), conversations, tuning, rounds=False))
    found = read_record(directory / "comparison.json")
    return strand.told(found["rows"][SFT], found["models"][SFT]) | {"conversations": len(read_lines(conversations))}


def made(strand: Strand) -> Path:
    """Answers of the last model of the chain to the requests of fine-tuning, those that pass, at most as many as it had itself."""
    last = Path(read_record(strand.chain / "comparison.json")["models"][ROUNDS[-1]])
    prompts = read_prompts([str(strand.data / "learned.jsonl")])
    how = replace(strand.recipe.answering, samples=2)
    drawn = answers(strand.run, "made", Voice(last, TEMPLATE), prompts, how, f"made {strand.seed}", title="answers of the small model")

    def make(path: Path) -> None:
        lines = [
            json.dumps({"prompt": prompt.messages[-1]["content"], "completion": text})
            for prompt, some in zip(prompts, drawn, strict=True)
            for text in dict.fromkeys(each.text for each in some if each.whole)
            if prompt.verified(text) == 1
        ]
        random.Random(f"made {strand.seed}").shuffle(lines)
        with atomic_file(path) as temporary:
            temporary.write_text("".join(f"{line}\n" for line in lines[: strand.recipe.learned]), encoding="utf-8")

    made_from = {"answers": fingerprint_bytes(repr(drawn)), "most": str(strand.recipe.learned)}
    return strand.run.keep("made-conversations.jsonl", made_from, make, lambda path: path, title="those that pass")
