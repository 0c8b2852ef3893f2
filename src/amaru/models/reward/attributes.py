"""What a reward model tells: its attributes by name, and the one number that they make together."""

import math
from collections.abc import Mapping, Sequence

from pydantic import Field

from amaru.config import Config
from amaru.errors import ConfigError

# HelpSteer2 (arXiv 2406.08673): the weights of Nemotron-4-340B-Reward. The four in front are OpenAssistant's; the released model has
# places for them that were never trained.
PUBLISHED = {"helpfulness": 0.30, "correctness": 0.74, "coherence": 0.46, "complexity": 0.47, "verbosity": -0.33}
HELPSTEER = tuple(PUBLISHED)
LEGACY = ("quality", "toxicity", "humor", "creativity")
SCALAR = ("reward",)  # of a model that only ranks


class Attributes(Config):
    """`Attributes(names=HELPSTEER, weights=PUBLISHED).scalar([1.6171875, 1.6484375, 3.3125, 0.546875, 0.515625])` -> 3.315625.

    names    in the order of the head's outputs
    weights  of the sum that is the reward; a name without one counts nothing
    unused   names that have an output and no labels, as the released model has four
    lowest, highest  what labels lie between; None: any number does
    """

    names: tuple[str, ...] = Field(min_length=1)
    weights: dict[str, float]
    unused: tuple[str, ...] = ()
    lowest: float | None = None
    highest: float | None = None

    def check(self) -> None:
        if len({*self.names}) < len(self.names) or not all(name.strip() for name in self.names):
            raise ConfigError(f"Attributes have different names, none of them empty; got {', '.join(self.names)}.")
        for what, named in {"weights": self.weights, "unused": self.unused}.items():
            if strange := [name for name in named if name not in self.names]:
                raise ConfigError(f"{what} names {strange[0]!r}, which is no attribute; there is {', '.join(self.names)}.")
        if not all(map(math.isfinite, self.weights.values())) or not any(self.weights.values()):
            raise ConfigError(f"Weights are finite numbers, not all of them 0; got {self.weights}.")
        if (self.lowest is None) != (self.highest is None) or (self.lowest is not None and not self.lowest < self.highest):  # type: ignore[operator]
            raise ConfigError(f"Labels lie between a lower and a higher number; got {self.lowest} and {self.highest}.")

    def scalar(self, values: Sequence[float]) -> float:
        """The weighted sum, of values in the order of `names`; in double precision, and never rounded."""
        return math.fsum(self.weights.get(name, 0.0) * value for name, value in zip(self.names, values, strict=True))

    def told(self, values: Sequence[float]) -> dict[str, float]:
        """Values by name."""
        return dict(zip(self.names, values, strict=True))


def weights_of(names: Sequence[str], given: Mapping[str, float] | None) -> dict[str, float]:
    """Weights that were given, else the published ones, else 1 for the only attribute; raises `ConfigError` when none are known."""
    if given:
        return dict(given)
    if len(names) == 1:
        return {names[0]: 1.0}
    if unknown := [name for name in names if name not in (*PUBLISHED, *LEGACY)]:
        raise ConfigError(f"There is no published weight for {', '.join(unknown)}; give weights such as {names[0]}=1,{names[1]}=0.5.")
    return {name: PUBLISHED.get(name, 0.0) for name in names}
