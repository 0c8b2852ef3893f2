"""A tokenizer as GGUF keeps one: byte-level BPE (its model is called "gpt2"), token types, merges, special ids, chat template."""

import json
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend
from tokenizers import models

from amaru.data.tokenizer import Tokenizer
from amaru.errors import CheckpointError

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5


class Cut(NamedTuple):
    """llama.cpp's name for a way to cut words. `whole`: a word that is a token is taken as it is, without looking at merges."""

    name: str
    whole: bool = False
    remark: str | None = None


SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
FIRST, SPACES = r"[^\r\n\p{L}\p{N}]?", r"\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT_2 = Cut("gpt-2")

# How a text is cut into words before merging, by the pattern of tokenizer.json.
CUTS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": GPT_2,
    rf"{SHORT}|{FIRST}\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}": Cut("llama-bpe", whole=True),
    rf"{SHORT}|{FIRST}\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{SPACES}": Cut("qwen2"),
    rf"{FIRST}{UPPER}*{LOWER}+|{FIRST}{UPPER}+{LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{SPACES}": Cut(
        "tekken",
        whole=True,
        remark="llama.cpp's 'tekken' tells capitals from small letters in ASCII alone and counts no accent as a letter, so there a text "
        "with others may get other token ids than here",
    ),
}


def vocabulary(tokenizer: Tokenizer, rows: int) -> dict[str, Any]:
    """The keys of a tokenizer for an embedding of `rows` rows.

    Raises `CheckpointError` for one that llama.cpp would read otherwise: no byte-level BPE, a normalizer, an unknown way to cut words.
    """
    described = json.loads(tokenizer.backend.to_str())
    model = described["model"]
    _check_model(described, model)
    if tokenizer.vocab_size > rows:
        raise _refusal(f"it has {tokenizer.vocab_size} tokens, and the model {rows} rows for them")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    cut = _cut(described["pre_tokenizer"])
    if cut.whole != model.get("ignore_merges", False) and not _merges_reach_all(model, described["added_tokens"]):
        raise _refusal(f"llama.cpp's '{cut.name}' {'does not obey' if cut.whole else 'obeys'} merges for words that are tokens; it differs")
    tokens, types = _tokens(tokenizer, described["added_tokens"], rows)
    values = {"model": "gpt2", "pre": cut.name, "tokens": tokens, "token_type": types, "merges": merges}
    values |= _special_ids(tokenizer)
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()} | _chat_templates(tokenizer)


def remark(tokenizer: Tokenizer) -> str | None:
    """What llama.cpp will not do exactly as this tokenizer, which `vocabulary` takes, does."""
    return _cut(json.loads(tokenizer.backend.to_str())["pre_tokenizer"]).remark


def _refusal(reason: str) -> CheckpointError:
    return CheckpointError(
        f"This tokenizer cannot be written into a GGUF file: {reason}. "
        "A model without tokenizer files beside it is written for token ids alone."
    )


def _check_model(described: dict[str, Any], model: dict[str, Any]) -> None:
    if model.get("type") != "BPE" or (described["decoder"] or {}).get("type") != "ByteLevel":
        raise _refusal("it is no byte-level BPE")
    if described["normalizer"] is not None:
        raise _refusal(f"it normalizes text ({described['normalizer'].get('type')}), which llama.cpp would not do")
    for option in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(option):
            raise _refusal(f"its {option} is {model[option]!r}, which llama.cpp would not heed")


def _cut(pre_tokenizer: dict[str, Any] | None) -> Cut:
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    match steps:
        case [{"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}]:
            return GPT_2
        case [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ] if pattern in CUTS:
            return CUTS[pattern]
    known = ", ".join(sorted(cut.name for cut in CUTS.values()))
    raise _refusal(f"it cuts words in a way that is none of {known}: {json.dumps(pre_tokenizer)[:200]}")


def _merges_reach_all(model: dict[str, Any], added: list[dict[str, Any]]) -> bool:
    """Whether merging gives each token for its own text, so that taking words whole makes no difference."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    plain = Backend(models.BPE(vocab=model["vocab"], merges=[(first, second) for first, second in pairs]))
    ids = {token: id for token, id in model["vocab"].items() if token not in {special["content"] for special in added}}
    found = plain.encode_batch_fast(list(ids), add_special_tokens=False)
    return all(encoding.ids == [id] for encoding, id in zip(found, ids.values(), strict=True))


def _tokens(tokenizer: Tokenizer, added: list[dict[str, Any]], rows: int) -> tuple[list[str], list[int]]:
    """Text and type of every row; rows without a token get a name that no text spells."""
    tokens, types = [f"[PAD{row}]" for row in range(rows)], [UNUSED] * rows
    for token, id in tokenizer.backend.get_vocab(with_added_tokens=True).items():
        tokens[id], types[id] = token, NORMAL
    for token in added:
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    return tokens, types


def _special_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """The named ids, and what is put around every text."""
    bare, whole = (tokenizer.backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    place = next((place for place in range(len(whole)) if whole[place : place + len(bare)] == bare), None)
    before, after = (whole, whole) if place is None else (whole[:place], whole[place + len(bare) :])
    if before not in ([], [tokenizer.bos_id]) or after not in ([], [tokenizer.eos_id]):
        raise _refusal(f"it puts {before} before and {after} behind every text, and llama.cpp can put bos and eos only")
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    named = {f"{role}_token_id": id for role, id in ids.items() if id is not None}
    return {**named, "add_bos_token": bool(before), "add_eos_token": bool(after)}


def _chat_templates(tokenizer: Tokenizer) -> dict[str, Any]:
    """From chat_template.jinja, or from tokenizer_config.json, where there may be several by name."""
    template = tokenizer.companions.get("chat_template.jinja")
    if template is None:
        template = json.loads(tokenizer.companions.get("tokenizer_config.json", "{}")).get("chat_template")
    named = {"default": template} if isinstance(template, str) else {one["name"]: one["template"] for one in template or []}
    others = sorted(named.keys() - {"default"})
    keys: dict[str, Any] = {f"tokenizer.chat_template.{name}": named[name] for name in others}
    keys |= {"tokenizer.chat_template": named["default"]} if "default" in named else {}
    return keys | ({"tokenizer.chat_templates": others} if others else {})
