"""One run of several processes: the first keeps the run directory and talks to people, all of them train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.models.checkpoint import Checkpoint, write
from amaru.models.decoder import Decoder
from amaru.parallel.collectives import Group, tell, told
from amaru.parallel.shares import cut, read
from amaru.recipes.run import Progress, Run
from amaru.recipes.team import From, Start
from amaru.train.objective import CrossEntropy, Objective
from amaru.train.parallel.checkpoints import SpreadCheckpoints, whole
from amaru.train.parallel.layout import Layout
from amaru.train.parallel.spread import Spread
from amaru.train.settings import TrainConfig

T = TypeVar("T")
Make = Callable[[Path], Any]
Load = Callable[[Path], T]


class Several:
    """All processes of the default group, in a layout; used in each of them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._spread: Spread | None = None

    @property
    def spread(self) -> Spread:
        assert self._spread is not None, "a model is made before anything else is asked"
        return self._spread

    def model(self, start: Start, config: TrainConfig) -> Decoder:
        """A new model is drawn whole in every process, so that it is the one that a single process draws; then only parts stay."""
        if isinstance(start, From):
            source = Checkpoint(start.path)
            self._spread = Spread(source.config, self.layout, bf16=config.dtype == "bf16")
            return self.spread.model(lambda name, kept: read(source, name, kept).to(torch.float32))
        drawn = start()
        _require_plain(drawn)
        weights = dict(drawn.named_parameters())
        self._spread = Spread(drawn.config, self.layout, bf16=config.dtype == "bf16")
        return self.spread.model(lambda name, kept: cut(weights[name].detach(), kept))

    def objective(self, objective: Objective) -> Objective:
        if not isinstance(objective, CrossEntropy):
            raise ConfigError(f"{type(objective).__name__} is computed in one process only; leave the flags for several processes out.")
        return self.spread.objective

    def options(self, config: TrainConfig) -> dict[str, Any]:
        def store(directory: Path, made_from: dict[str, str]) -> SpreadCheckpoints:
            kept, background = config.checkpoint_keep, config.checkpoint_in_background
            return SpreadCheckpoints(directory, made_from, keep=kept, in_background=background, spread=self.spread)

        return {"placement": self.spread, "store": store}

    def save(self, decoder: Decoder, step: int, checkpoints: Path, path: Path, tokenizer: object) -> None:
        """The first process reads that checkpoint, a whole tensor at a time."""
        if self.spread.leads:
            config = self.spread.parts.config
            write(path, config, lambda name: whole(checkpoints / f"step-{step:08d}", config, name), torch.float32, tokenizer)


class LeadingRun(Run):
    """The run directory in the first process: the others learn when a step is there, and which they make together."""

    def __init__(self, directory: str | Path, kind: str, recipe: Config, progress: Progress, team: Several) -> None:
        super().__init__(directory, kind, recipe, progress)
        self.team = team
        self._group = Group.of(dist.group.WORLD)

    def keep(self, name: str, made_from: dict[str, str], make: Make, load: Load[T], **words: Any) -> T:
        content = super().keep(name, made_from, make, load, **words)
        tell(b"kept", self._group)
        return content

    def keep_together(self, name: str, made_from: dict[str, str], make: Make, load: Load[T], **words: Any) -> T:
        tell(b"kept" if self.is_kept(name, made_from) else b"make", self._group)
        return self.keep(name, made_from, make, load, **words)


class FollowingRun(Run):
    """The same in another process, which writes nothing here and reads what the first has made."""

    def __init__(self, directory: str | Path, kind: str, recipe: Config, progress: Progress, team: Several) -> None:
        super().__init__(directory, kind, recipe, Silence())
        self.team = team
        self._group = Group.of(dist.group.WORLD)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None: ...

    def keep(self, name: str, made_from: dict[str, str], make: Make, load: Load[T], **words: Any) -> T:
        told(self._group)
        return load(self.path(name))

    def keep_together(self, name: str, made_from: dict[str, str], make: Make, load: Load[T], **words: Any) -> T:
        if told(self._group) == b"make":
            make(self.path(name))
        return self.keep(name, made_from, make, load, **words)

    def write(self, name: str, values: Any) -> None: ...


class Silence:
    """Progress that nobody watches."""

    def note(self, text: str) -> None: ...
    def update(self, text: str) -> None: ...


def run_together(directory: str | Path, kind: str, recipe: Config, progress: Progress, layout: Layout, device: str = "cpu") -> Run:
    """`with run_together("runs/m", "train", recipe, progress, Layout.of(4, tensor=2)) as run:` in every process; a `Run` for one."""
    if layout.processes == 1:
        return Run(directory, kind, recipe, progress, device)
    if device != "cpu":
        raise ConfigError(f"Several processes compute on CPUs in this build; leave --device {device} out, or train in one process.")
    return (FollowingRun if dist.get_rank() else LeadingRun)(directory, kind, recipe, progress, Several(layout))


def _require_plain(decoder: Decoder) -> None:
    """Raise `ConfigError` for a decoder of which some module is another than its config says: it would be lost without a word."""
    with torch.device("meta"):
        known = {type(module) for module in Decoder(decoder.config).modules()}
    if strange := sorted({type(module).__name__ for module in decoder.modules() if type(module) not in known}):
        raise ConfigError(f"{', '.join(strange)} can be trained in one process only; leave --processes out, or train in bf16.")
