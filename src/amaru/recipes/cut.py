"""A shape by name, and the scores that tell what of the parent makes it: `amaru cut`."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from amaru.compress.plan import Plan
from amaru.compress.ranking import Ranking, cut_for
from amaru.compress.scores import Scores
from amaru.compress.shape import shaped
from amaru.data.narrow import token_uses
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, ConfigError
from amaru.models.checkpoint import Checkpoint, fingerprint
from amaru.models.decoder import DecoderConfig


def scores_of(path: str | Path, checkpoint: str | Path) -> tuple[Scores, str]:
    """`scores_of("scores.safetensors", "parent")`: the scores, and the checkpoint's fingerprint; raises `ArtifactError` for another's."""
    scores, found = Scores.load(path), fingerprint(checkpoint)
    if scores.made_from.get("checkpoint") != found:
        raise ArtifactError(
            f"{path} holds scores of another checkpoint ({scores.made_from.get('checkpoint')}), not of {checkpoint} ({found}); name the "
            f"one that was scored, or run `amaru score {checkpoint}`."
        )
    return scores, found


def plan_by_scores(
    checkpoint: str | Path,
    path: str | Path,
    widths: Mapping[str, int],
    kept: Mapping[str, int],
    dropped: tuple[int, ...] = (),
    *,
    at: Mapping[int, Mapping[str, int]] | None = None,
    ranking: Ranking | None = None,
) -> Plan:
    """`plan_by_scores("parent", "scores.safetensors", {"hidden": 3072, "ffn": 12288, "head": 14}, {"attention": 3})`.

    widths   the size of an axis in every layer that has it; `head` is counted per group, `query` per KV group
    kept     by kind, how many layers stay: those whose removal moves the output most
    dropped  layers that go in any case
    at       by layer, widths of that layer alone
    ranking  how indices are chosen, if not as published

    Raises `ArtifactError` for scores of another checkpoint, `ConfigError` for a shape that the parent cannot be cut to.
    """
    scores, found = scores_of(path, checkpoint)
    config = Checkpoint(checkpoint).config
    ranking, candidate = ranking or Ranking(), shaped(config, widths, layers=_layers(config, scores, kept, dropped), at=at)
    uses = token_uses(Tokenizer.load(checkpoint), scores.vocab, config.vocab) if "vocab" in widths and scores.vocab is not None else None
    cut = cut_for(candidate, config, scores, ranking, uses)
    origin = {"checkpoint": found, "text": scores.made_from.get("text", "")}
    return Plan(parent=config, candidate=candidate, cut=cut, ranking=ranking, made_from=origin)


def _layers(config: DecoderConfig, scores: Scores, kept: Mapping[str, int], dropped: tuple[int, ...]) -> list[int]:
    """The layers that stay, ascending."""
    kinds = [layer.kind for layer in config.layers]
    there = Counter(kinds)
    if unknown := [kind for kind in kept if kind not in there]:
        raise ConfigError(f"There are no {unknown[0]} layers; this model has {', '.join(f'{n} {kind}' for kind, n in there.items())}.")
    if wrong := [index for index in dropped if not 0 <= index < len(kinds)]:
        raise ConfigError(f"There is no layer {wrong[0]} to drop; this model has layers 0 to {len(kinds) - 1}.")
    stay = [index for index in range(len(kinds)) if index not in dropped]
    for kind, count in kept.items():
        of_kind = [index for index in stay if kinds[index] == kind]
        if not 0 <= count <= len(of_kind):
            raise ConfigError(f"{count} {kind} layers cannot stay; {len(of_kind)} are there.")
        if count < len(of_kind) and scores.layers is None:
            raise ConfigError("These scores do not tell which layers matter; score them (amaru score --layer-samples 1), or --drop some.")
        ranked = sorted(of_kind, key=lambda index: -scores.layers[index])  # type: ignore[index]  # asked for just above
        stay = [index for index in stay if kinds[index] != kind or index in ranked[:count]]
    return stay
