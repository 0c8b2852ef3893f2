"""From files to packed rows: the part that every recipe with text begins with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from amaru.config import Config, fingerprint_bytes
from amaru.data.blend import Blend, Portion, schedule
from amaru.data.corpus import Document, split
from amaru.data.loader import Batches, Loader
from amaru.data.packing import PackedRows, Rows, made_from, pack
from amaru.data.shards import Prepared, token_files
from amaru.data.together import Together
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError
from amaru.models.checkpoint import Checkpoint
from amaru.recipes.run import Run
from amaru.recipes.sources import PYTHON as PYTHON
from amaru.recipes.sources import BlendRecipe, Source, gather, token_paths, weighted

VOCAB = 4096
ONLY = "text"  # the name of the source where there is one


class TextRecipe(Config):
    """`TextRecipe(data=("stories/*.txt",))`: which text, and how it is cut into rows.

    data              paths, directories and globs; "@python" is the standard library of the running interpreter; a directory of
                      `amaru data prepare`; .npy files of tokens. Each with a weight (`web/=0.7`), they are blended
    blend             sources and phases instead of `data`
    field             the text field of .jsonl and the text column of .parquet files
    vocab             size of the tokenizer that is trained, where neither the model nor prepared text brings one (None: 4096)
    row_length        tokens a row; states never cross rows
    validation_share  share of documents kept for validation (prepared text has chosen its own)
    limit_megabytes   at most so much text in all, in documents that a hash chooses; None takes everything
    """

    data: tuple[str, ...] = ()
    blend: BlendRecipe | None = None
    field: str = "text"
    vocab: int | None = Field(default=None, ge=258)
    row_length: int = Field(default=512, ge=2)
    validation_share: float = Field(default=0.02, gt=0, lt=1)
    limit_megabytes: float | None = Field(default=None, gt=0)
    seed: int = 0

    def check(self) -> None:
        if not self.data and self.blend is None:
            raise DataError("No text is named; give --data PATH_OR_GLOB, or --data @python for Python's standard library.")
        if self.data and self.blend is not None:
            raise ConfigError("Give either data or a blend; a blend names its own sources.")
        if self.limit_megabytes is not None and self.mixed() is not None:
            raise ConfigError("text.limit_megabytes is for one source of text; in a blend weights and tokens decide how much is drawn.")

    def mixed(self) -> BlendRecipe | None:
        """The blend, written out or in the short form."""
        return self.blend or weighted(self.data, self.field)

    def sources(self) -> dict[str, Source]:
        blend = self.mixed()
        return {ONLY: Source(data=self.data, field=self.field)} if blend is None else blend.sources


@dataclass(frozen=True)
class Text:
    """Tokenised text of a run: training rows by source, and the phases in which they are mixed (none for one source)."""

    tokenizer: Tokenizer
    sources: Mapping[str, Rows]
    validation: Rows
    phases: tuple[Portion, ...] = ()

    @property
    def training(self) -> Rows:
        """The rows of the only source; raises `ConfigError` for a blend."""
        if self.phases:
            raise ConfigError("This needs one source of text, not a blend; blends are for amaru train. Give --data without weights.")
        return next(iter(self.sources.values()))

    @property
    def row_length(self) -> int:
        return self.validation.row_length

    @property
    def fingerprint(self) -> str:
        rows = [f"{name} {rows.fingerprint}" for name, rows in self.sources.items()]
        return fingerprint_bytes(*rows, self.validation.fingerprint, *map(repr, self.phases))

    def batches(self, steps: int, batch_rows: int, seed: int) -> Batches:
        """What a run of so many steps draws: shuffled rows of the only source, or the blend in its phases."""
        if not self.phases:
            return Loader(self.training, batch_rows, seed)
        batch_tokens = batch_rows * self.row_length
        packed = {name: rows for name, rows in self.sources.items() if isinstance(rows, PackedRows)}
        return Blend(packed, schedule(self.phases, steps * batch_tokens, batch_tokens, self.row_length), seed)


def prepare(recipe: TextRecipe, run: Run, tokenizer: Tokenizer | None = None) -> Text:
    """Read, split, tokenise and pack, or open what is prepared; a tokenizer is trained when there is none. Kept in the run directory."""
    if tokenizer is not None and recipe.vocab is not None:
        raise ConfigError(
            f"text.vocab is {recipe.vocab}, but the model brings its own tokenizer of {tokenizer.vocab_size} tokens; leave it out."
        )
    sources = recipe.sources()
    documents = {name: _documents(name, source, recipe, run) for name, source in sources.items() if source.kind == "text"}
    tokenizer = tokenizer or _brought(sources, recipe) or _learned(documents, recipe, run)
    training: dict[str, Rows] = {}
    validation: list[Rows] = []
    for name, source in sources.items():
        rows = _opened(source, tokenizer, recipe) if source.kind != "text" else _packed(name, documents[name], tokenizer, recipe, run)
        if source.kind != "text":
            run.progress.note(f"  {name}: {rows[0]}; for validation {rows[1]}")
        training[name] = rows[0]
        validation.append(rows[1])
    blend = recipe.mixed()
    together = validation[0] if len(validation) == 1 else Together(validation)
    return Text(tokenizer, training, together, () if blend is None else blend.phases)


def tokenizer_of(checkpoint: str | Path) -> Tokenizer:
    """The tokenizer beside a checkpoint; raises `ConfigError` when it knows more tokens than the model has rows for."""
    tokenizer, vocab = Tokenizer.load(checkpoint), Checkpoint(checkpoint).config.vocab
    if tokenizer.vocab_size > vocab:
        raise ConfigError(f"{checkpoint} has {vocab} embeddings, but its tokenizer knows {tokenizer.vocab_size} tokens.")
    return tokenizer


def outlook(recipe: TextRecipe) -> tuple[str, int]:
    """What a dry run says about the text, and the size of the tokenizer that comes of it."""
    sources, lines, vocab = recipe.sources(), [], recipe.vocab or VOCAB
    for name, source in sources.items():
        if source.kind == "prepared":
            found = Prepared.load(source.data[0])
            kept, vocab = found.facts["kept"]["training"], found.tokenizer().vocab_size
            lines.append(f"{name}: {kept['tokens']:,} tokens in {kept['documents']:,} documents, prepared")
        elif source.kind == "tokens":
            lines.append(f"{name}: {len(token_paths(source))} files of tokens")
        else:
            lines.append(f"{name}: {gather(source).summary}" if len(sources) > 1 else str(gather(source).summary))
    return "\n".join(lines), vocab


Documents = tuple[list[Document], list[Document]]


def _documents(name: str, source: Source, recipe: TextRecipe, run: Run) -> Documents:
    corpus = gather(source)
    run.progress.note(f"  {name}: {corpus.summary}")
    training, validation = split(corpus.documents, recipe.validation_share, recipe.seed)
    if recipe.limit_megabytes is not None:
        training = _limited("training", training, recipe.limit_megabytes * (1 - recipe.validation_share), run)
        validation = _limited("validation", validation, recipe.limit_megabytes * recipe.validation_share, run)
    return training, validation


def _brought(sources: Mapping[str, Source], recipe: TextRecipe) -> Tokenizer | None:
    """The tokenizer that prepared text was made with."""
    prepared = [Prepared.load(source.data[0]) for source in sources.values() if source.kind == "prepared"]
    if prepared and recipe.vocab is not None:
        raise ConfigError(f"text.vocab is {recipe.vocab}, but {prepared[0].directory} brings its own tokenizer; leave it out.")
    return prepared[0].tokenizer() if prepared else None


def _learned(documents: Mapping[str, Documents], recipe: TextRecipe, run: Run) -> Tokenizer:
    texts = [document for training, _ in documents.values() for document in training]
    if not texts:
        raise ConfigError("Files of tokens do not say which tokenizer made them; give a model with --from, or prepared text beside them.")
    return run.keep(
        "tokenizer",
        {"text": fingerprint_bytes(*(document.text for document in texts)), "recipe": repr(recipe)},
        lambda path: Tokenizer.train((document.text for document in texts), recipe.vocab or VOCAB).save(path),
        Tokenizer.load,
        title="tokenizer",
        describe=lambda found: f"{found.vocab_size} tokens",
    )


def _opened(source: Source, tokenizer: Tokenizer, recipe: TextRecipe) -> tuple[PackedRows, PackedRows]:
    """The training and validation rows of tokens that lie on disk."""
    if source.kind == "tokens":
        rows = token_files(token_paths(source), tokenizer, recipe.validation_share)
        return rows("training", recipe.row_length), rows("validation", recipe.row_length)
    found = Prepared.load(source.data[0])
    if found.tokenizer().backend.to_str() != tokenizer.backend.to_str():
        raise ConfigError(f"{found.directory} was prepared with another tokenizer than the model has; prepare it with --tokenizer MODEL.")
    return found.rows("training", recipe.row_length), found.rows("validation", recipe.row_length)


def _packed(name: str, documents: Documents, tokenizer: Tokenizer, recipe: TextRecipe, run: Run) -> tuple[PackedRows, PackedRows]:
    prefix = "" if name == ONLY else f"{fingerprint_bytes(name)[:8]}-"
    training, validation = (
        _rows(f"{prefix}{side}.rows", f"{name}, {side}" if prefix else side, some, tokenizer, recipe.row_length, run)
        for side, some in zip(("training", "validation"), documents, strict=True)
    )
    return training, validation


def _limited(name: str, documents: list[Document], megabytes: float, run: Run) -> list[Document]:
    """The first documents that fit; `split` gives them in the order of a hash, so this is a random sample."""
    size, kept = 0, []
    for document in documents:
        size += len(document.text.encode())
        if kept and size > megabytes * 1e6:
            run.progress.note(f"  {name}: {len(kept):,} of {len(documents):,} documents are used ({megabytes:.2f} MB)")
            break
        kept.append(document)
    return kept


def _rows(name: str, title: str, documents: list[Document], tokenizer: Tokenizer, row_length: int, run: Run) -> PackedRows:
    origin = made_from(documents, tokenizer, row_length)

    def make(path: Path) -> None:
        pack(documents, tokenizer, row_length).save(path)

    return run.keep(name, origin, make, lambda path: PackedRows.load(path, origin), title=title, describe=str)
