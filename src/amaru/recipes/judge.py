"""A judge behind an OpenAI-compatible endpoint; what it said is kept, so that nothing is asked twice."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from amaru.config import fingerprint_bytes
from amaru.errors import EndpointError
from amaru.eval.judged.words import Message
from amaru.synth.budget import Budget, Ledger
from amaru.synth.call import Answer, Call
from amaru.synth.client import Client, Failed
from amaru.synth.endpoint import Endpoint
from amaru.synth.store import Store
from amaru.synth.structured import Unusable, whole_text
from amaru.synth.unit import Unit

T = TypeVar("T")
STEP = "judge"


class EndpointJudge:
    """`EndpointJudge(Endpoint(url="http://localhost:8000/v1", model="judge"), "runs/judge.sqlite").ask(questions, rating_of)`."""

    def __init__(self, endpoint: Endpoint, kept: str | Path) -> None:
        self.endpoint, self.kept = endpoint, Path(kept)

    @property
    def identity(self) -> str:
        """By what it is and how it is sampled, not where it is."""
        return fingerprint_bytes(self.endpoint.model, repr(self.endpoint.system), repr(self.endpoint.sampling))

    def ask(self, questions: Sequence[Sequence[Message]], read: Callable[[str], T | None]) -> list[T]:
        """All at once, within the endpoint's limits. Raises `EndpointError` when a question gets no answer that can be read, as soon as
        the others have theirs, which are kept."""
        return asyncio.run(self._all(questions, read))

    async def _all(self, questions: Sequence[Sequence[Message]], read: Callable[[str], T | None]) -> list[T]:
        def accept(answer: Answer) -> T:
            found = read(whole_text(answer))
            if found is None:
                raise Unusable("the answer has no verdict in double brackets")
            return found

        with Store(self.kept) as store:
            async with Client([self.endpoint], store, Ledger(Budget())) as client:
                try:
                    return await Unit.all(client.ask(self.endpoint, self._call(each), STEP, accept) for each in questions)
                except Failed as error:
                    raise EndpointError(f"The judge {self.endpoint.model} gave no verdict: {error}. The same command goes on.") from None

    def _call(self, messages: Sequence[Message]) -> Call:
        system: list[Message] = [{"role": "system", "content": self.endpoint.system}] if self.endpoint.system else []
        said = {"endpoint": self.endpoint.url, "model": self.endpoint.model, "sampling": self.endpoint.sampling.sent}
        return Call(messages=(*system, *messages), **said)
