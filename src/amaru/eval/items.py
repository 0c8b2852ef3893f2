"""The two kinds of items that files hold: endings whose likelihood decides, and requests whose answer is judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amaru.eval.estimate import Score
from amaru.eval.likelihood import Likelihood
from amaru.eval.subject import Request

CHOICE = ("accuracy", "accuracy per character", "accuracy per byte", "accuracy per token")
ENDING = ("accuracy", "nats")


@dataclass(frozen=True)
class Choice:
    """Pairs of context and continuation, of which the one at `gold` is right; `texts` are what lengths are taken of.

    accuracy               the right pair has the highest log-likelihood (lm-eval: acc)
    ... per character      divided by the characters of its text (lm-eval: acc_norm)
    ... per byte           divided by its bytes of UTF-8 (lm-eval: acc_bytes)
    ... per token          divided by the tokens of its continuation

    Of equals the first is taken, as numpy's argmax does.
    """

    pairs: tuple[tuple[str, str], ...]
    texts: tuple[str, ...]
    gold: int

    @property
    def solved(self) -> str:
        """The item with its answer, as an example."""
        return "".join(self.pairs[self.gold])

    def judged(self, found: Sequence[Likelihood]) -> dict[str, Score]:
        nats = np.array([float(each.logprobs.sum()) for each in found])
        lengths = {
            CHOICE[0]: np.ones(len(nats)),
            CHOICE[1]: np.array([len(text) for text in self.texts]),
            CHOICE[2]: np.array([len(text.encode()) for text in self.texts]),
            CHOICE[3]: np.array([len(each.logprobs) for each in found]),
        }
        return {name: Score(float(np.argmax(nats / of) == self.gold)) for name, of in lengths.items()}


@dataclass(frozen=True)
class LastWord:
    """One ending: LAMBADA's last word, the result of a sum.

    accuracy   greedy decoding would say every token of it (lm-eval: acc)
    nats       -log p of the whole ending; exp of the mean is lm-eval's perplexity of LAMBADA, which is per word and not per token
    """

    context: str
    continuation: str

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return ((self.context, self.continuation),)

    @property
    def solved(self) -> str:
        return self.context + self.continuation

    def judged(self, found: Sequence[Likelihood]) -> dict[str, Score]:
        (ending,) = found
        return {"accuracy": Score(float(ending.greedy.all())), "nats": Score(-float(ending.logprobs.sum()))}


@dataclass(frozen=True)
class Question:
    """A request, the scores of its answer, and the item with its answer as an example (None where it has none)."""

    request: Request
    grade: Callable[[str], Mapping[str, Score]]
    solved: str | None = None
