"""What is served under which name: a model or an adapter of it, with tokenizer and chat template; and the engines with their threads."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from amaru.adapters import activate, files, peft_files
from amaru.data.tokenizer import Tokenizer
from amaru.errors import CapacityError, CheckpointError, ConfigError
from amaru.models.checkpoint import load
from amaru.models.reward.checkpoint import is_reward
from amaru.models.reward.scorer import scorer
from amaru.serve.config import EngineConfig
from amaru.serve.engine import Engine
from amaru.serve.scoring import ScoringEngine
from amaru.serve.server.chat import ChatTemplate
from amaru.serve.server.errors import Refusal, did_you_mean
from amaru.serve.server.token_text import TokenText
from amaru.serve.together import LeadingEngine, engine_part

if TYPE_CHECKING:
    from amaru.serve.server.answer import Answer

log = logging.getLogger(__name__)


class Host:
    """An engine and the thread that steps it; `host.start(on_death)`, and `host.stop(drain, seconds)` when all is said."""

    def __init__(self, name: str, engine: Engine | ScoringEngine) -> None:
        self.name, self.engine = name, engine
        self.answers: set[Answer] = set()  # those that wait for the engine
        self.failed: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self, on_death: Callable[[Exception], object]) -> None:
        """Step in a thread of its own; should that ever end by an error, `on_death` is called from there."""
        self._thread = threading.Thread(target=self._run, args=(on_death,), name=f"engine of {self.name}", daemon=True)
        self._thread.start()

    def stop(self, drain: bool, seconds: float) -> None:
        self.engine.stop(drain)
        if self._thread:
            self._thread.join(seconds)

    def end_answers(self, refusal: Refusal) -> None:
        """Tell everyone who waits that nothing more will come; on the event loop's thread."""
        for answer in [*self.answers]:
            answer.end(refusal)

    def _run(self, on_death: Callable[[Exception], object]) -> None:
        try:
            self.engine.run()
        except Exception as error:
            self.failed = error
            log.exception("the engine of %s ended", self.name)
            on_death(error)


class Served:
    """`Served("student", Host("student", engine), tokenizer, stops)`: what a name in a request stands for.

    `stops` are the tokens that end an answer; an `adapter` of the host's model is a name of its own, and shares its engine.
    """

    def __init__(self, name: str, host: Host, tokenizer: Tokenizer, stops: Sequence[int], adapter: str | None = None) -> None:
        self.name, self.host, self.tokenizer, self.stops, self.adapter = name, host, tokenizer, tuple(stops), adapter
        self.chat = ChatTemplate.of(tokenizer)
        self.written = TokenText(tokenizer)
        self.created = int(time.time())

    @property
    def engine(self) -> Engine | ScoringEngine:
        return self.host.engine

    @property
    def attributes(self) -> list[str] | None:
        """What a reward model tells; None of a model that writes."""
        return list(self.engine.scorer.attributes.names) if isinstance(self.engine, ScoringEngine) else None

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Ids of a text. Raises `CapacityError` for one that is surely too long."""
        self.check_length(len(text))
        return self.tokenizer.backend.encode(text, add_special_tokens=special).ids

    def check_length(self, characters: int) -> None:
        """Refuse what cannot fit however it is tokenised, before the tokenizer spends its time on it."""
        most = self.engine.max_tokens * self._longest
        if characters > most:
            raise CapacityError(
                f"The prompt has {characters:,} characters; {self.engine.max_tokens:,} tokens, all that this model holds, "
                f"are never more than {most:,}."
            )

    @cached_property
    def _longest(self) -> int:
        """Characters of the longest token, at least: no character is more than one in a token's written form."""
        return max(map(len, self.tokenizer.backend.get_vocab(with_added_tokens=True)))


def load_served(
    name: str,
    path: Path,
    config: EngineConfig = EngineConfig(),  # noqa: B008  (frozen)
    draft: Path | None = None,
    adapters: Mapping[str, Path] = MappingProxyType({}),
) -> list[Served]:
    """`load_served("student", Path("runs/demo/student"), adapters={"sql": Path("adapters/sql")})`: the model, and each adapter by its name.

    `draft` is a checkpoint that guesses for this one, where the config says so. A reward model has neither.
    """
    if is_reward(path):
        if draft or adapters:
            raise ConfigError(f"{path} is a reward model, which writes nothing; serve it without draft models and adapters.")
        engine = ScoringEngine(scorer(path), config)
        return [Served(name, Host(name, engine), engine.tokenizer, ())]
    tokenizer, decoder = Tokenizer.load(path), load(path)
    for each, directory in adapters.items():
        (peft_files.read if (directory / peft_files.SETTINGS).is_file() else files.load)(decoder, directory, each)
    if adapters:
        activate(decoder)  # none of them, unless a request names it
    host = Host(name, Engine(decoder, tokenizer, config, draft=load(draft) if draft else None))
    stops = stop_ids(path, tokenizer)
    return [Served(each or name, host, tokenizer, stops, each) for each in (None, *adapters)]


def serve_part(named: Sequence[tuple[str, Path]], config: EngineConfig, draft: Path | None) -> list[Served]:
    """This process's part of one model that all processes of the default group serve: in the first process the model to serve, in
    the others nothing, as soon as the first is done. Raises `ConfigError` for several models, whose passes would mix.
    """
    if len(named) > 1:
        raise ConfigError(f"Tensor parallelism serves one model; got {len(named)}. Start another server for each.")
    name, path = named[0]
    if is_reward(path):
        raise ConfigError(f"{path} is a reward model, which is served by one process; leave --tensor-parallel out.")
    tokenizer = Tokenizer.load(path)
    engine = engine_part(path, tokenizer, config, load(draft) if draft else None)
    if isinstance(engine, LeadingEngine):
        return [Served(name, Host(name, engine), tokenizer, stop_ids(path, tokenizer))]
    engine.follow()
    return []


class Registry:
    """`registry["student"]`: the models of a server; where there is only one, it need not be named."""

    def __init__(self, models: Sequence[Served]) -> None:
        self.models = {served.name: served for served in models}
        if len(self.models) < len(models):
            raise ConfigError(f"Models need different names; got {', '.join(served.name for served in models)}.")

    def __getitem__(self, name: str | None) -> Served:
        if name is None:
            if len(self.models) > 1:
                raise Refusal(400, f"The field 'model' is missing.{did_you_mean('', list(self.models))}", param="model")
            return next(iter(self.models.values()))
        if name not in self.models:
            message = f"There is no model '{name[:80]}'.{did_you_mean(name, list(self.models))}"
            raise Refusal(404, message, param="model", code="model_not_found")
        return self.models[name]

    def __iter__(self) -> Iterator[Served]:
        return iter(self.models.values())

    @property
    def hosts(self) -> list[Host]:
        """The engines, each once."""
        return [*dict.fromkeys(served.host for served in self)]


def stop_ids(path: Path, tokenizer: Tokenizer) -> list[int]:
    """The tokenizer's end of text, and what generation_config.json names besides: chat models end their turns with another token."""
    file = path / "generation_config.json"
    try:
        named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id") if file.is_file() else None
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from None
    return sorted({tokenizer.eos_id, *(named if isinstance(named, list) else [] if named is None else [named])})
