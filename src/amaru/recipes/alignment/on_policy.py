"""A round of on-policy distillation: at every token of the model's own answers a larger model tells what it would have said."""

from dataclasses import replace
from pathlib import Path

from amaru.data.chat_packing import ChatRows, pack
from amaru.data.conversations import Conversation
from amaru.data.templates import template_of
from amaru.errors import DataError
from amaru.recipes.alignment.one import One
from amaru.recipes.alignment.settings import OnPolicy
from amaru.recipes.distill import distil_student, one_tokenizer
from amaru.recipes.learning import Learning
from amaru.recipes.sft import divide
from amaru.recipes.teaching import Teaching
from amaru.recipes.team import ONE
from amaru.recipes.text import Text


def distilled(one: One[OnPolicy]) -> Path:
    """The checkpoint that the round leaves; whatever of it is whole is not made again."""
    teacher, start = Path(one.how.teacher), one.start.checkpoint
    tokenizer = one_tokenizer(teacher, start)
    template, said = template_of(one.start.template, tokenizer), conversations(one)
    training, validation = (
        pack(some, template, one.recipe.row_length, too_long=one.recipe.too_long, only_last=True)
        for some in divide(said, one.recipe.validation_share, one.recipe.seed)
    )
    one.run.progress.note(f"  own answers: {training}; for validation {validation}")
    one.run.team = ONE  # a round before may have trained an adapter
    text, learning = Text(tokenizer, {one.name: training}, validation), lasting(one, training)
    return distil_student(one.run, one.name, teacher, start, learning, one.recipe.seed, text, Teaching(loss=one.how.loss))


def conversations(one: One[OnPolicy]) -> list[Conversation]:
    """Different whole answers of the model, each behind its prompt. Raises `DataError` where there are fewer than two."""
    found: dict[str, Conversation] = {}
    for prompt, some in zip(one.asked, one.drawn(), strict=True):
        for _, each in some:
            if each.whole and each.text.strip():
                said = Conversation(prompt.source, (*prompt.messages, {"role": "assistant", "content": each.text}), {})
                found.setdefault(said.identity, said)
    if len(found) < 2:
        raise DataError(f"Round {one.name} has {len(found)} whole answers of the model to learn on; give more prompts or tokens.")
    return list(found.values())


def lasting(one: One[OnPolicy], rows: ChatRows) -> Learning:
    """So many tokens that every answer is seen as often as the round says."""
    learning, length = one.how.learning, one.recipe.row_length
    a_step = learning.rows(length)
    return replace(learning, tokens=max(1, -(-round(one.how.epochs * len(rows)) // a_step)) * a_step * length)
