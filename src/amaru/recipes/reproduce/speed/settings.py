"""The settings of the claims of speed: which shapes are compared, on which devices by plan, and how narrow here."""

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError
from amaru.recipes.bench.long import Long
from amaru.recipes.reproduce.speed.plan import Pair, Serving

EIGHT = Serving(machine="8xH100-80GB")
FOUR_TOGETHER = Serving(batch=4)  # "at batch 4" is all that the report of the 4B says of its figure


class Duel(Config):
    """`Duel(ours="nemotron-h-8b", theirs="nemotron-t-8b")`: narrow copies of both in amaru's engine, widths divided by `divisor`.

    aim   the ratio of output tokens per second that counts as the claim
    """

    ours: str
    theirs: str
    aim: float = Field(gt=0)
    divisor: int = Field(default=16, gt=0)

    @property
    def name(self) -> str:
        return f"{self.ours}-{self.theirs}"


class SpeedClaim(Config):
    """`SpeedClaim(plans=(Pair(...),), engine=(Duel(...),))`: what is computed for real shapes, and what is measured here.

    plans    by plan: counted bytes and FLOPs at published rates
    engine   narrow copies with random weights, as `amaru bench long` measures them, `rounds` times
    blocks   layers of both, timed one by one at the widths divided by the duel's divisor, and added up
    prompt   tokens of the prompt that blocks are timed with; they decode behind as many
    """

    plans: tuple[Pair, ...]
    engine: tuple[Duel, ...] = ()
    blocks: tuple[Duel, ...] = ()
    long: Long = Long()
    rounds: int = Field(default=3, gt=0)
    prompt: int = Field(default=1024, gt=0)

    def check(self) -> None:
        if not self.plans:
            raise ConfigError("A claim of speed names at least one pair of shapes in plans.")


class LongContext(SpeedClaim):
    """Nemotron-H beside Transformers of its size, 65,536 tokens in and 1,024 out (2504.03624, 2.6)."""

    plans: tuple[Pair, ...] = (
        Pair(ours="nemotron-h-8b", theirs="llama-3.1-8b", paper=3.0),
        Pair(ours="nemotron-h-8b", theirs="qwen2.5-7b", paper=1.8),
        Pair(ours="nemotron-h-8b", theirs="nemotron-t-8b", paper=2.17),
        *(Pair(ours="nemotron-h-56b", theirs=theirs, paper=2.4, serving=EIGHT) for theirs in ("llama-3.1-70b", "qwen2.5-72b")),
        *(Pair(ours="nemotron-h-47b", theirs=theirs, paper=2.9, serving=EIGHT) for theirs in ("llama-3.1-70b", "qwen2.5-72b")),
    )
    engine: tuple[Duel, ...] = (Duel(ours="nemotron-h-8b", theirs="nemotron-t-8b", aim=1.8),)


class FourB(SpeedClaim):
    """The compressed 4B beside its parent, Phi-4-mini and Qwen2.5-3B (2504.11409, figure 8)."""

    plans: tuple[Pair, ...] = (
        Pair(ours="nemotron-h-4b", theirs="phi-4-mini", paper=2.2, serving=FOUR_TOGETHER),
        Pair(ours="nemotron-h-4b", theirs="qwen2.5-3b", paper=1.41, serving=FOUR_TOGETHER),
        Pair(ours="nemotron-h-4b", theirs="nemotron-h-8b", paper=1.35, serving=FOUR_TOGETHER),
    )
    engine: tuple[Duel, ...] = (Duel(ours="nemotron-h-4b", theirs="nemotron-h-8b", aim=1.35),)
    blocks: tuple[Duel, ...] = (Duel(ours="nemotron-h-4b", theirs="nemotron-h-8b", aim=1.35, divisor=1),)


class FortySevenB(SpeedClaim):
    """The 47B beside the 56B that it was cut from (2504.03624, 3)."""

    plans: tuple[Pair, ...] = (Pair(ours="nemotron-h-47b", theirs="nemotron-h-56b", paper=1.2, serving=EIGHT),)
    engine: tuple[Duel, ...] = ()
    blocks: tuple[Duel, ...] = (Duel(ours="nemotron-h-47b", theirs="nemotron-h-56b", aim=1.2, divisor=8),)
