"""The tokenizer: byte-level BPE trained here, or whatever a Hugging Face directory holds, with the same ids as transformers."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from amaru.config import atomic_file, fingerprint_bytes
from amaru.errors import DataError

END, PADDING = "<|endoftext|>", "<|padding|>"
BYTES = 256

# What transformers keeps beside tokenizer.json; carried along unread, so that a chat template survives compression.
COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True)
class Tokenizer:
    """Text to ids and back.

    >>> tokenizer = Tokenizer.train((document.text for document in documents), vocab=4096)
    >>> tokenizer.decode(tokenizer.encode("def fibonacci(n):"))
    'def fibonacci(n):'

    Special tokens are never read out of text: `<|endoftext|>` inside a document is spelled with ordinary tokens
    (transformers does so with `split_special_tokens=True`). What a loaded tokenizer puts around every text,
    such as a first `<s>`, is kept.
    """

    backend: Backend
    companions: dict[str, str]

    @classmethod
    def train(cls, texts: Iterable[str], vocab: int, special: tuple[str, ...] = (END, PADDING)) -> "Tokenizer":
        """Byte-level BPE of at most `vocab` tokens (fewer if the texts hold too few pairs); the same texts give the same tokenizer.

        `special[0]` ends (and begins) documents, `special[1]`, when given, pads; they take the first ids.
        """
        if not special or vocab < BYTES + len(special):
            raise DataError(f"A byte-level vocabulary holds {BYTES} bytes and at least one special token; got {vocab} and {len(special)}.")
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False)
        backend.train_from_iterator(texts, trainer)
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": special[0], "eos_token": special[0]}
        config |= {"pad_token": special[1]} if len(special) > 1 else {}
        config |= {"clean_up_tokenization_spaces": False, "model_max_length": int(1e30)}  # what transformers writes for "no limit"
        return cls.of(backend, {"tokenizer_config.json": json.dumps(config, indent=2)})

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """Read `tokenizer.json` and its companions; raises `DataError` when it is missing or cannot be read."""
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise DataError(f"There is no tokenizer.json in {directory}; a checkpoint directory needs one to read or write text.")
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DataError(f"{path} is not a tokenizer that can be read: {error}.") from None
        found = [directory / name for name in COMPANIONS]
        return cls.of(backend, {file.name: file.read_text(encoding="utf-8") for file in found if file.is_file()})

    @classmethod
    def of(cls, backend: Backend, companions: dict[str, str]) -> "Tokenizer":
        """A backend and the files beside it, by name; lengths are not limited, and special tokens not read out of text."""
        backend.no_truncation()  # some published files carry a length limit, which would cut documents silently
        backend.no_padding()
        backend.encode_special_tokens = True
        return cls(backend, companions)

    def with_special(self, tokens: Sequence[str]) -> "Tokenizer":
        """The same tokenizer with more control tokens behind all that it has; its model needs `vocab_size` rows then."""
        backend = Backend.from_str(self.backend.to_str())
        backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
        return self.of(backend, self.companions)

    def with_chat(self, template: str, end_of_turn: str) -> "Tokenizer":
        """The same tokenizer with a chat template, whose answers end with `end_of_turn`: from now on that is what ends a text."""
        config = json.loads(self.companions.get("tokenizer_config.json", "{}"))
        config = {name: value for name, value in config.items() if name != "chat_template"} | {"eos_token": end_of_turn}
        said = {"tokenizer_config.json": json.dumps(config, indent=2), "chat_template.jinja": template}
        return self.of(self.backend, self.companions | said)

    def save(self, directory: str | Path) -> None:
        """Write the files that `transformers.AutoTokenizer` reads."""
        for name, text in {"tokenizer.json": self.backend.to_str(pretty=True), **self.companions}.items():
            with atomic_file(Path(directory) / name) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The same as `encode` for each text, on all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts)]

    def decode(self, ids: list[int]) -> str:
        """The text of the ids, special tokens written out."""
        return self.backend.decode(ids, skip_special_tokens=False)

    def difference(self, other: "Tokenizer") -> str | None:
        """`"token 17 is 'Ġthe' here and 'ing' there"`: the first thing in which two tokenizers differ; None when they give the same ids."""
        mine, theirs = ({index: token for token, index in each.backend.get_vocab().items()} for each in (self, other))
        for index in sorted(mine.keys() | theirs.keys()):
            if mine.get(index) != theirs.get(index):
                said = [repr(names[index]) if index in names else "none" for names in (mine, theirs)]
                return f"token {index} is {said[0]} in the first and {said[1]} in the second"
        if self.eos_id != other.eos_id:
            return f"texts end with token {self.eos_id} in the first and {other.eos_id} in the second"
        one, two = (json.loads(each.backend.to_str()) for each in (self, other))
        parts = [name for name in sorted(one.keys() | two.keys()) if one.get(name) != two.get(name)]
        return f"their vocabularies are equal, but not how they cut text ({', '.join(parts)})" if parts else None

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id, so that it is enough rows for an embedding."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def eos_id(self) -> int:
        """The id that ends a document; raises `DataError` when the tokenizer names none."""
        found = self._named("eos_token")
        if found is None:
            raise DataError('This tokenizer names no end-of-text token; add "eos_token" to its tokenizer_config.json.')
        return found

    @cached_property
    def bos_id(self) -> int | None:
        return self._named("bos_token")

    @cached_property
    def pad_id(self) -> int | None:
        return self._named("pad_token")

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_bytes(self.backend.to_str(), *(text for _, text in sorted(self.companions.items())))

    @cached_property
    def _names(self) -> dict[str, object]:
        """What the companion files say; tokenizer_config.json wins, as in transformers."""
        names: dict[str, object] = {}
        for file in ("special_tokens_map.json", "tokenizer_config.json"):
            try:
                names |= json.loads(self.companions.get(file, "{}"))
            except ValueError as error:
                raise DataError(f"The tokenizer's {file} is not valid JSON: {error}.") from None
        return names

    def _named(self, role: str) -> int | None:
        token = self._names.get(role)
        if isinstance(token, dict):
            token = token.get("content")
        if token is None:
            return None
        found = self.backend.token_to_id(str(token))
        if found is None:
            raise DataError(f"The tokenizer's {role} is '{token}', which its vocabulary does not hold.")
        return found
