"""One step: a pass of the model over what everyone who runs brings to it, and what follows from it for each."""

from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from torch import Tensor

from amaru.models.decoder import Decoder
from amaru.serve.adapted import Passes
from amaru.serve.forward import Work
from amaru.serve.prefix import PrefixCache
from amaru.serve.rows import Row, Rows
from amaru.serve.sequence import Running
from amaru.serve.speculation import Speculation
from amaru.serve.state_pool import Fixed, StatePool
from amaru.serve.teller import Teller

PROMPT_LOGITS = 256  # rows of logits that exist at once when a prompt's log-probabilities are asked for


class Share(NamedTuple):
    """A sequence's part of a step: so many of its waiting tokens, and a guess of what comes after them."""

    running: Running
    count: int
    draft: list[int]


class Stepper:
    """`stepper.begin(running)` once for who was admitted, then `stepper.step(runnings)` until each has a `finish`."""

    def __init__(
        self,
        decoder: Decoder,
        pool: StatePool,
        prefixes: PrefixCache | None,
        speculation: Speculation | None,
        chunk_tokens: int,
        teller: Teller,
    ) -> None:
        self._passes, self._pool, self._prefixes = Passes(decoder, pool.state), pool, prefixes
        self._speculation, self._chunk_tokens, self._teller = speculation, chunk_tokens, teller

    def begin(self, running: Running) -> None:
        """Go on from what is known of the prompt."""
        assert running.lease is not None
        counts = self._teller.counts
        counts["prompt_tokens"] += len(running.ids)
        if self._prefixes is None or running.settings.prompt_logprobs:
            return
        adapter = running.settings.adapter
        if (snapshot := self._prefixes.find(running.ids, adapter)) is None:
            return
        self._prefixes.resume(snapshot, running.lease)
        running.computed = running.handle.reused_tokens = snapshot.tokens
        counts["reused_tokens"] += snapshot.tokens
        if snapshot.tokens == len(running.ids):  # the whole prompt is known, and what comes behind it
            assert snapshot.hidden is not None
            logits = self._passes.logits(snapshot.hidden[None], adapter)
            self._teller.choose(running, Row.alone(logits[0], running.settings.sampling.temperature))

    def step(self, runnings: Sequence[Running]) -> bool:
        """False when no one had anything to compute."""
        shares = self._shares(runnings)
        try:
            if shares:
                self._pass(shares)
        except Exception as error:
            self._teller.fail([share.running for share in shares], error)
        return bool(shares)

    def _shares(self, runnings: Sequence[Running]) -> list[Share]:
        """How many waiting tokens of whom: those that decode first, then prompts as far as a step reaches, each up to a place
        that is worth remembering."""
        drafts = self._speculation.drafts(runnings, self._chunk_tokens) if self._speculation else {}
        left, shares = max(self._chunk_tokens, len(runnings)), []
        for running in sorted(runnings, key=lambda each: each.waiting + len(drafts.get(each, ()))):
            if not running.finish and (count := min(running.until_boundary(running.computed), running.waiting, left)):
                draft = drafts.get(running, [])[: left - count]
                left -= count + len(draft)
                shares.append(Share(running, count, draft))
        return shares

    def _pass(self, shares: list[Share]) -> None:
        work, before = [], []
        for running, count, draft in shares:
            assert running.lease is not None
            self._pool.extend(running.lease, running.computed + count + len(draft))
            before.append(self._pool.fixed(running.lease) if draft else [])
            work.append(Work(running.ids[running.computed :][:count] + draft, running.computed, running.lease.slot))
        read = [1 + len(share.draft) for share in shares]
        adapters = [share.running.settings.adapter for share in shares]
        hidden, logits = self._passes.run(work, read, adapters)
        seen = hidden.split([len(item.ids) for item in work])
        rows = iter(Rows(logits, [share.running.settings.sampling.temperature for share in shares for _ in range(1 + len(share.draft))]))
        for share, hidden, count, fixed in zip(shares, seen, read, before, strict=True):
            self._after(share, hidden, [*islice(rows, count)], fixed)

    def _after(self, share: Share, hidden: Tensor, rows: Sequence[Row], before: Fixed) -> None:
        """A sequence's part of a step is done: remember, tell, choose."""
        running, count, draft = share
        assert running.lease is not None
        start, running.computed = running.computed, running.computed + count
        self._tell_prompt(running, start, hidden[:count])
        if not draft:
            self._pool.forget(running.lease, running.computed)
        if running.computed in running.boundaries:
            self._remember(running, hidden[-1])
        if running.waiting:
            return
        accepted = self._choose_along(running, draft, rows)
        if draft:
            self._settle(share, accepted, before)
        if running.finish and self._prefixes is not None and start + count > running.handle.prompt_tokens:
            last = hidden[count - 1 + accepted].clone()  # a pass may write its result where the one before had it
            self._see_again(running, start + count + accepted)
            self._remember(running, last)

    def _tell_prompt(self, running: Running, start: int, hidden: Tensor) -> None:
        """Log-probabilities of the prompt, where they were asked for: `hidden` [n, hidden] are its places from `start` on."""
        if not running.settings.prompt_logprobs or start >= running.handle.prompt_tokens:
            return
        for first in range(0, len(hidden), PROMPT_LOGITS):
            running.tell_prompt(self._passes.logits(hidden[first : first + PROMPT_LOGITS], running.settings.adapter), start + first)

    def _remember(self, running: Running, hidden: Tensor) -> None:
        assert running.lease is not None
        if self._prefixes is not None:
            self._prefixes.keep(running.ids[: running.computed], running.lease, hidden, running.settings.adapter)

    def _choose_along(self, running: Running, draft: list[int], rows: Sequence[Row]) -> int:
        """Choose from each row of logits as long as the choice is what was guessed; returns how many were."""
        for accepted, row in enumerate(rows):
            self._teller.choose(running, row)
            if running.finish or running.cancelled or accepted == len(draft) or running.ids[-1] != draft[accepted]:
                return accepted
        return len(draft)

    def _settle(self, share: Share, accepted: int, before: Fixed) -> None:
        """Of a guess that was not accepted as a whole the state has seen too much. A cache forgets by being written again; a fixed
        state is put back to before the pass, and sees what was accepted with the next tokens: no weight is read for that alone."""
        running, count, draft = share
        assert running.lease is not None and self._speculation is not None
        if accepted == len(draft) or not self._pool.fixed_bytes:
            running.computed += accepted
        else:
            self._pool.restore(running.lease, before)
            running.computed -= count
        self._pool.retract(running.lease, running.computed)
        self._pool.forget(running.lease, running.computed)
        self._speculation.learn(running, len(draft), accepted)
        self._teller.counts["drafted_tokens"] += len(draft)
        self._teller.counts["accepted_tokens"] += accepted

    def _see_again(self, running: Running, tokens: int) -> None:
        """Bring a state that was put back to where its text ends, where it is worth remembering."""
        assert running.lease is not None
        if running.computed < tokens:
            self._pool.extend(running.lease, tokens)
            work = Work(running.ids[running.computed : tokens], running.computed, running.lease.slot)
            self._passes.run([work], [1], [running.settings.adapter])
            running.computed = tokens
            self._pool.forget(running.lease, tokens)
