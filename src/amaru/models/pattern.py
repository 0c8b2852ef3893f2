"""Pattern strings: one letter per layer, as the papers write a hybrid stack (M Mamba-2, * attention, - MLP, E mixture of experts)."""

from collections.abc import Mapping, Sequence

from amaru.errors import ConfigError
from amaru.nn.layer import LayerConfig


def layers_from_pattern(pattern: str, layers: Mapping[str, LayerConfig]) -> tuple[LayerConfig, ...]:
    """`layers_from_pattern("M-M*-", {"M": mamba, "*": attention, "-": mlp})`; `ConfigError` for an unknown letter."""
    for place, letter in enumerate(pattern):
        if letter not in layers:
            raise ConfigError(f"Letter '{letter}' at place {place} of pattern '{pattern}' is unknown; allowed are {' '.join(layers)}.")
    return tuple(layers[letter] for letter in pattern)


def pattern_of(layers: Sequence[LayerConfig]) -> str:
    """The inverse, without the widths: `pattern_of(config.layers) == "M-M*-"`."""
    return "".join(layer.letter for layer in layers)
