"""From files to packed rows: the part that every recipe with text begins with."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from amaru.config import Config, fingerprint_bytes
from amaru.data.corpus import Corpus, Document, read, split, standard_library
from amaru.data.packing import PackedRows, made_from, pack
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError
from amaru.models.checkpoint import Checkpoint
from amaru.recipes.run import Run

PYTHON = "@python"
VOCAB = 4096


class TextRecipe(Config):
    """`TextRecipe(data=("stories/*.txt",))`: which text, and how it is cut into rows.

    data              paths, directories and globs; "@python" is the standard library of the running interpreter
    field             the text field of .jsonl files
    vocab             size of the tokenizer that is trained, where the model does not bring one (None: 4096)
    row_length        tokens a row; states never cross rows
    validation_share  share of documents kept for validation
    limit_megabytes   at most so much text in all, in documents that a hash chooses; None takes everything
    """

    data: tuple[str, ...] = ()
    field: str = "text"
    vocab: int | None = Field(default=None, ge=258)
    row_length: int = Field(default=512, ge=2)
    validation_share: float = Field(default=0.02, gt=0, lt=1)
    limit_megabytes: float | None = Field(default=None, gt=0)
    seed: int = 0

    def check(self) -> None:
        if not self.data:
            raise DataError("No text is named; give --data PATH_OR_GLOB, or --data @python for Python's standard library.")


@dataclass(frozen=True)
class Text:
    """Tokenised text of a run."""

    tokenizer: Tokenizer
    training: PackedRows
    validation: PackedRows

    @property
    def fingerprint(self) -> str:
        return fingerprint_bytes(self.training.fingerprint, self.validation.fingerprint)


def prepare(recipe: TextRecipe, run: Run, tokenizer: Tokenizer | None = None) -> Text:
    """Read, split, tokenise and pack; a tokenizer is trained when none is given. Kept in the run directory."""
    if tokenizer is not None and recipe.vocab is not None:
        raise ConfigError(
            f"text.vocab is {recipe.vocab}, but the model brings its own tokenizer of {tokenizer.vocab_size} tokens; leave it out."
        )
    corpus = gather(recipe)
    run.progress.note(f"  text: {corpus.summary}")
    training, validation = split(corpus.documents, recipe.validation_share, recipe.seed)
    if recipe.limit_megabytes is not None:
        training = _limited("training", training, recipe.limit_megabytes * (1 - recipe.validation_share), run)
        validation = _limited("validation", validation, recipe.limit_megabytes * recipe.validation_share, run)
    if tokenizer is None:
        tokenizer = run.keep(
            "tokenizer",
            {"text": corpus.summary.fingerprint, "recipe": repr(recipe)},
            lambda path: Tokenizer.train((document.text for document in training), recipe.vocab or VOCAB).save(path),
            Tokenizer.load,
            title="tokenizer",
            describe=lambda found: f"{found.vocab_size} tokens",
        )
    rows = [_rows(name, side, tokenizer, recipe.row_length, run) for name, side in (("training", training), ("validation", validation))]
    return Text(tokenizer, *rows)


def tokenizer_of(checkpoint: str | Path) -> Tokenizer:
    """The tokenizer beside a checkpoint; raises `ConfigError` when it knows more tokens than the model has rows for."""
    tokenizer, vocab = Tokenizer.load(checkpoint), Checkpoint(checkpoint).config.vocab
    if tokenizer.vocab_size > vocab:
        raise ConfigError(f"{checkpoint} has {vocab} embeddings, but its tokenizer knows {tokenizer.vocab_size} tokens.")
    return tokenizer


def gather(recipe: TextRecipe) -> Corpus:
    """Every document of the recipe, duplicates dropped."""
    if recipe.data == (PYTHON,):
        return standard_library()
    if PYTHON in recipe.data:
        raise DataError(f"{PYTHON} stands alone; it cannot be mixed with other paths.")
    return read(list(recipe.data), field=recipe.field)


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


def _rows(name: str, documents: list[Document], tokenizer: Tokenizer, row_length: int, run: Run) -> PackedRows:
    origin = made_from(documents, tokenizer, row_length)

    def make(path: Path) -> None:
        pack(documents, tokenizer, row_length).save(path)

    return run.keep(f"{name}.rows", origin, make, lambda path: PackedRows.load(path, origin), title=name, describe=str)
