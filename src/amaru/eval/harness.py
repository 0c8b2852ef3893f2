"""lm-eval's tasks on amaru's engine: a model as lm-eval asks for one (`pip install 'amaru[eval]'`).

    import lm_eval
    from amaru.eval.harness import AmaruLM

    lm_eval.simple_evaluate(AmaruLM(subject_of("student")), tasks=["arc_easy"])

Where lm-eval's own Hugging Face backend cuts a context at the left to fit, this one cuts nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from amaru.errors import BackendError, ConfigError
from amaru.eval.likelihood import Ending
from amaru.eval.subject import Request, Subject

try:
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]  (installed on demand)
except ImportError as error:
    raise BackendError("Tasks of lm-eval need lm-eval; install it with: pip install 'amaru[eval]'") from error

TOKENS = 256  # of an answer whose task does not say


class AmaruLM(LM):
    """`AmaruLM(subject)`; `longest` tokens are a window of rolling likelihoods, those that the model was trained with unless said."""

    def __init__(self, subject: Subject, longest: int | None = None) -> None:
        super().__init__()
        self.subject = subject
        self.longest = longest or subject.decoder.config.max_positions

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Of each (context, continuation): log p in nats, and whether greedy decoding says it."""
        endings = [self.subject.ending(*request.args) for request in requests]
        found = {index: (float(each.logprobs.sum()), bool(each.greedy.all())) for index, each in self.subject.likelihoods(endings)}
        return [found[index] for index in range(len(endings))]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """Of each text, every token predicted once, in windows that do not overlap in what they predict."""
        windows = [(number, window) for number, request in enumerate(requests) for window in self._windows(request.args[0])]
        found = [0.0] * len(requests)
        for index, each in self.subject.likelihoods([window for _, window in windows]):
            found[windows[index][0]] += float(each.logprobs.sum())
        return found

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Greedy answers that end before the first of `until`. Raises `ConfigError` for a task that samples."""
        asked = [_request(*request.args) for request in requests]
        found = dict(self.subject.answers(asked))
        return [_cut(found[index], asked[index].stop) for index in range(len(asked))]

    def _windows(self, text: str) -> Iterator[Ending]:
        tokenizer = self.subject.tokenizer
        ids = tokenizer.encode(text)
        before = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        if ids:
            yield Ending((before, *ids[: self.longest]), 1)
        for first in range(self.longest, len(ids), self.longest):
            end = min(first + self.longest, len(ids))
            yield Ending(tuple(ids[end - self.longest - 1 : end]), self.longest + 1 - (end - first))


def _request(context: str, said: Mapping[str, Any]) -> Request:
    if said.get("do_sample") or said.get("temperature"):
        raise ConfigError("This task samples its answers; amaru answers greedily, as most tasks ask. Set do_sample to false.")
    until = said.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    return Request(context, int(said.get("max_gen_toks") or said.get("max_tokens") or TOKENS), stop)


def _cut(text: str, stop: Sequence[str]) -> str:
    """What stands before all of them; a chat model is not stopped while it answers."""
    return text[: min((text.find(each) for each in stop if each and each in text), default=len(text))]
