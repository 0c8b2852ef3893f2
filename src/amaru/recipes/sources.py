"""What a recipe's text may be, source by source: files of text, a prepared directory, or .npy files of tokens; and how they are mixed.

    text:
      blend:
        sources:
          web: {data: ["web/*.jsonl"]}
          code: {data: [prepared-code/]}
        phases:
          - {until: 60%, weights: {web: 0.8, code: 0.2}}
          - {until: 80%, weights: {web: 0.6, code: 0.4}}
          - {weights: {web: 0.6, code: 0.4}, row_length: 2048}
          - {last: 380B, weights: {web: 0.3, code: 0.7}, row_length: 2048}
"""

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from amaru.config import Config
from amaru.data.blend import Portion
from amaru.data.corpus import Corpus, find, read, standard_library
from amaru.data.shards import RECORD
from amaru.errors import ConfigError, DataError

PYTHON = "@python"
WEIGHTED = re.compile(r"(.+)=([+-]?[\d.]+(?:[eE][+-]?\d+)?)")


class Source(Config):
    """`Source(data=("web/*.jsonl",))`: paths, directories and globs, "@python", a prepared directory, or .npy files of tokens.

    field   the text field of .jsonl and the text column of .parquet files
    """

    data: tuple[str, ...]
    field: str = "text"

    def check(self) -> None:
        if not self.data:
            raise DataError("A source names no text; give it data: [paths, directories or globs].")

    @property
    def kind(self) -> str:
        """ "text", "prepared" or "tokens"."""
        first = Path(self.data[0]).expanduser()
        if len(self.data) == 1 and first.is_dir() and ((first / RECORD).exists() or any(first.glob("shard-*.safetensors"))):
            return "prepared"
        return "tokens" if all(name.endswith(".npy") for name in self.data) else "text"


class BlendRecipe(Config):
    """Sources by name, and the phases that mix them; the last phase ends with the run."""

    sources: dict[str, Source] = Field(min_length=1)
    phases: tuple[Portion, ...] = Field(min_length=1)

    def check(self) -> None:
        used = {name for phase in self.phases for name in phase.weights}
        if unknown := sorted(used - self.sources.keys()):
            raise ConfigError(f"A phase draws from '{unknown[0]}', which is no source; there is {', '.join(self.sources)}.")
        if unused := sorted(self.sources.keys() - used):
            raise ConfigError(f"No phase draws from the source '{unused[0]}'; give it a weight or leave it out.")


def weighted(data: Sequence[str], field: str) -> BlendRecipe | None:
    """`("web/=0.7", "@python=0.3")` as a blend of one phase; None for paths without weights."""
    found = [(name, WEIGHTED.fullmatch(name)) for name in data]
    matches = [match for name, match in found if match is not None and not Path(name).exists()]
    if not matches:
        return None
    if len(matches) < len(data):
        bare = next(name for name, match in found if match is None)
        raise ConfigError(f"Either every source has a weight or none has; {bare} has none. Write it {bare}=0.5.")
    weights = {match[1]: _number(match[2]) for match in matches}
    if len(weights) < len(matches):
        raise ConfigError(f"A source is named twice among {', '.join(data)}; give each once, with its whole weight.")
    return BlendRecipe(sources={name: Source(data=(name,), field=field) for name in weights}, phases=(Portion(weights=weights),))


def gather(source: Source) -> Corpus:
    """Every document of a source of text, duplicates dropped; raises `DataError` for tokens, which are no text any more."""
    if source.kind != "text":
        raise DataError(f"{source.data[0]} holds tokens; this reads text. Give the files that they were made from.")
    if source.data == (PYTHON,):
        return standard_library()
    if PYTHON in source.data:
        raise DataError(f"{PYTHON} stands alone; it cannot be mixed with other paths. Two sources may be blended: {PYTHON}=0.5 and more.")
    return read(list(source.data), field=source.field)


def token_paths(source: Source) -> list[Path]:
    return find(list(source.data)).files


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"A weight is a number such as 0.7; got '{text}'.") from None
