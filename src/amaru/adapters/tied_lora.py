"""Tied-LoRA (arXiv 2311.09578): W'_l = W_l + diag(v_l) B diag(u_l) A, where equal projections of all layers may share A and B."""

import math
from typing import Literal

from amaru.adapters.method import Factor, Method
from amaru.errors import ConfigError

# What the paper calls those of which that is certain; its TL1 to TL4 are other subsets, and nobody here knows which.
NAMED: dict[str, tuple[tuple[Factor, ...], tuple[Factor, ...]]] = {
    "LoRA": ((), ("A", "B")),
    "TL5": (("A", "B"), ("A", "B")),
    "TL6": (("A", "B"), ("A", "B", "u", "v")),
    "VeRA-equivalent": (("A", "B"), ("u", "v")),
}


class TiedLoRA(Method):
    """`TiedLoRA(rank=8, tied=("A", "B"), trained=("A", "B", "u", "v"), targets=("q_proj", "k_proj", "v_proj"))`: TL6 of the paper.

    tied      the factors that are one for all blocks of a kind, name and shape; u and v always belong to a layer
    trained   the factors that learn; an A or B that does not is random, a u or v that does not is one
    start     the factor that is zero at first; None: the first of B, v, A, u that is trained
    alpha     None, as in the paper: the change is not scaled
    damped    scaled by 1 / sqrt(rank): random factors that do not learn make the change grow with the rank

    Raises `ConfigError` for what no gradient would ever reach: nothing trained, or a factor at zero that stays there.
    """

    method: Literal["tied-lora"] = "tied-lora"
    fuse: bool = True
    tied: tuple[Factor, ...] = ("A", "B")
    trained: tuple[Factor, ...] = ("A", "B", "u", "v")
    start: Factor | None = None
    damped: bool = False

    @classmethod
    def named(cls, name: str, **settings: object) -> "TiedLoRA":
        """`TiedLoRA.named("TL5", rank=32)`: a configuration by its name in the paper."""
        if name not in NAMED:
            raise ConfigError(f"No configuration is called '{name}'; there is: {', '.join(NAMED)}; all others are said by factors.")
        tied, trained = NAMED[name]
        return cls(tied=tied, trained=trained, **settings)  # type: ignore[arg-type]

    def check(self) -> None:
        if wrong := [factor for factor in self.tied if factor not in ("A", "B")]:
            raise ConfigError(f"TiedLoRA.tied may have A and B; got {wrong[0]}, which belongs to a layer.")
        for field in ("tied", "trained"):
            if len(set(getattr(self, field))) < len(getattr(self, field)):
                raise ConfigError(f"TiedLoRA.{field} names a factor twice: {', '.join(getattr(self, field))}.")
        if not self.trained:
            raise ConfigError("TiedLoRA.trained is empty, so nothing would learn; give some of A, B, u, v.")
        if self.start is not None and self.start not in self.trained:
            raise ConfigError(
                f"With {self.start} zero and not trained the change stays zero, and no gradient reaches {', '.join(self.trained)}; "
                f"start is one of these."
            )

    @property
    def called(self) -> str:
        """The paper's name, or what it is: `A and B tied, training A, u, v`."""
        for name, (tied, trained) in NAMED.items():
            if (set(tied), set(trained)) == (set(self.tied), set(self.trained)):
                return name
        return f"{' and '.join(sorted(self.tied)) or 'nothing'} tied, training {', '.join(sorted(self.trained))}"

    @property
    def tying(self) -> tuple[str, ...]:
        return tuple(sorted(self.tied))

    @property
    def training(self) -> tuple[str, ...]:
        return self.trained

    @property
    def zero(self) -> str:
        return self.start or next(factor for factor in ("B", "v", "A", "u") if factor in self.trained)

    def scale(self, rank: int) -> float:
        return super().scale(rank) / (math.sqrt(rank) if self.damped else 1.0)
