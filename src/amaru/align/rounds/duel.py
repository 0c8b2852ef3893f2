"""A model as judge of two answers, asked in both orders: it counts only where both times the same answer wins."""

import torch

from amaru.align.rounds.answering import Speaker
from amaru.align.rounds.prompts import Prompt
from amaru.data.chat import Message
from amaru.errors import ConfigError
from amaru.nn.batch import Batch

QUESTION = """\
Here are a request and two answers to it, A and B. Which answer does better what is asked? Consider whether it is correct, complete and \
clear; neither length nor order is a merit in itself. Say only the letter.

Request:
{request}

Answer A:
{first}

Answer B:
{second}"""


class JudgeModel:
    """`JudgeModel(speaker)(prompt, "4", "5")`: log-odds that the first is better, a mean over both orders; None where they disagree.

    Raises `ConfigError` for a tokenizer that begins A and B with the same token.
    """

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        found = [speaker.template.tokenizer.encode(letter) for letter in "AB"]
        if found[0][:1] == found[1][:1]:
            raise ConfigError("The judge model's tokenizer has no tokens of their own for A and B; take another model as judge.")
        self._letters = [ids[0] for ids in found]

    def __call__(self, prompt: Prompt, one: str, other: str) -> float | None:
        ahead, behind = self._prefers_first(prompt, one, other), -self._prefers_first(prompt, other, one)
        return (ahead + behind) / 2 if ahead * behind > 0 else None

    def asked(self, prompt: Prompt, first: str, second: str) -> list[Message]:
        request = "\n\n".join(each["content"] for each in prompt.messages)
        return [{"role": "user", "content": QUESTION.format(request=request, first=first, second=second)}]

    @torch.inference_mode()
    def _prefers_first(self, prompt: Prompt, first: str, second: str) -> float:
        template = self.speaker.template
        decoder, ids = self.speaker.decoder, template.ids(template.render(self.asked(prompt, first, second), begin=True))
        batch = Batch.of([torch.tensor(ids, device=decoder.head.weight.device)])
        logits = decoder.logits(decoder.hidden_states(batch)[-1:])[0].float()
        return float(logits[self._letters[0]] - logits[self._letters[1]])
