"""One engine on several processes: each steps its own part of the model, and the first tells the others who came and who left.

Everything an engine decides follows from its requests, in their order, and from the tokens chosen; logits are the same bits on
every process. So no batch is sent: each process makes it, and only arrivals and departures are told, between two steps.
"""

import contextlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from amaru.config import from_dict, to_dict
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ProcessError
from amaru.models.decoder import Decoder
from amaru.parallel.collectives import Group, tell, told
from amaru.parallel.decoder import load_part
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.request import Event, Handle, Settings
from amaru.serve.sequence import OnEvent, Running
from amaru.serve.step import Stepper

log = logging.getLogger(__name__)


class DividedStepper(Stepper):
    """An error in the middle of a pass ends the process: others wait for this one's part of it, so nobody can go on."""

    def step(self, runnings: Sequence[Running]) -> bool:
        shares = self._shares(runnings)
        if shares:
            self._pass(shares)
        return bool(shares)


class DividedEngine(Engine):
    """What the engines of all processes of a group have in common."""

    stepper = DividedStepper

    def __init__(
        self, decoder: Decoder, group: Group, tokenizer: Tokenizer | None, config: EngineConfig, draft: Decoder | None = None
    ) -> None:
        super().__init__(decoder, tokenizer, config, draft=draft)
        self._group = group


class LeadingEngine(DividedEngine):
    """The engine of the first process: `LeadingEngine(decoder, group, tokenizer, config)`, used like any other."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._announced: set[Running] = set()
        self._leaving: list[Running] = []

    def submit(self, prompt: Sequence[int], settings: Settings, on_event: OnEvent, boundaries: Sequence[int] = ()) -> Handle:
        def guarded(handle: Handle, event: Event) -> None:
            try:
                on_event(handle, event)
            except Exception:  # who cannot take an event leaves between two steps, as all who leave
                log.exception("the receiver of %s failed; the request is cancelled", handle.id)
                handle.cancel()

        return super().submit(prompt, settings, guarded, boundaries)

    def step(self) -> bool:
        self._announce()
        return super().step()

    def run(self) -> None:
        try:
            super().run()
        finally:
            with contextlib.suppress(RuntimeError):  # the others may be gone already
                tell(None, self._group)

    def _announce(self) -> None:
        with self._changed:
            waiting, leaving, self._leaving = list(self._waiting), self._leaving, []
        arrived = [running for running in waiting if running not in self._announced]
        news = {
            "before": fingerprint(self),
            "arrived": [_request(running) for running in arrived],
            "left": [running.handle.id for running in leaving],
        }
        tell(json.dumps(news).encode(), self._group)
        self._announced = set(waiting)
        for running in leaving:
            running.cancelled = True

    def _may_begin(self, running: Running) -> bool:
        return running in self._announced

    def _cancel(self, running: Running) -> None:
        with self._changed:
            self._leaving.append(running)
            self._changed.notify()


class FollowingEngine(DividedEngine):
    """The engine of another process: `FollowingEngine(decoder, group, tokenizer, config).follow()` until the first has ended."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._known: dict[str, Handle] = {}

    def follow(self) -> None:
        """Raises `ProcessError` when this process came to other tokens than the first."""
        while (words := told(self._group)) is not None:
            news = json.loads(words)
            if news["before"] != fingerprint(self):
                raise ProcessError(f"Process {self._group.rank} chose other tokens than the first; are machines and versions the same?")
            for request in news["arrived"]:
                self._begin(request)
            for name in news["left"]:
                if name in self._known:
                    self._known[name].cancel()
            self.step()

    def _begin(self, request: dict[str, Any]) -> None:
        name, settings = request["name"], from_dict(Settings, request["settings"])

        def heard(handle: Handle, event: Event) -> None:
            if event.finish:
                self._known.pop(name, None)

        self._known[name] = self.submit(request["prompt"], settings, heard, request["boundaries"])


def engine_part(path: Path, tokenizer: Tokenizer | None, config: EngineConfig, draft: Decoder | None) -> LeadingEngine | FollowingEngine:
    """The engine of this process, whatever its rank in the default group, with its part of a checkpoint. A draft model is whole on
    each: it is small, and every process must come to the same guesses."""
    group = Group.of(dist.group.WORLD)
    kind = FollowingEngine if group.rank else LeadingEngine
    return kind(load_part(path), group, tokenizer, config, draft)


def fingerprint(engine: Engine) -> list[Any]:
    """What two engines that did the same agree in: tokens chosen so far, who runs, and the last token of each."""
    return [engine.stats().generated_tokens, [[len(running.ids), running.ids[-1]] for running in engine._running]]


def _request(running: Running) -> dict[str, Any]:
    return {
        "name": running.handle.id,
        "prompt": running.ids,
        "settings": to_dict(running.settings),
        "boundaries": sorted(running.boundaries),
    }
