"""A tokenizer with fewer tokens, for a model that lost rows of its embedding; and which tokens can best be missed.

What stays is encoded as before, with other numbers: a text whose tokens all stay gets the same tokens. Others fall apart into the
smaller tokens that they were merged from, down to single bytes, so that no text is lost.
"""

import json
from typing import Any

import numpy as np
from tokenizers import Tokenizer as Backend

from amaru.data.tokenizer import Tokenizer
from amaru.errors import DataError

UNSEEN = 1e-3  # of a use: a token that no text has is still used less than those that it is made of


def token_uses(tokenizer: Tokenizer, counts: np.ndarray, vocab: int) -> np.ndarray:
    """`token_uses(tokenizer, np.bincount(ids, minlength=vocab), vocab)`: [vocab] how much is lost with each token.

    A token is used where a text has it, and where it has one that is merged from it: what is made of others is always used less than
    they are, so that the most used tokens can be made of each other however many they are. Infinite for what must stay: what is made
    of nothing smaller (bytes, letters) and control tokens. -1 for rows of the embedding that no token has.
    """
    model, ids = _model(tokenizer)
    tokens, uses = list(ids.values()), np.full(vocab, -1.0)
    uses[tokens] = counts[tokens] + UNSEEN
    merges = _merges(model)
    for left, right in sorted(merges, key=lambda pair: -len(pair[0] + pair[1])):  # what is longer is complete by then
        for piece in {left, right}:
            uses[ids[piece]] += uses[ids[left + right]]
    made = {left + right for left, right in merges}
    needed = [number for token, number in ids.items() if token not in made]
    uses[[*needed, *(token["id"] for token in _said(tokenizer)["added_tokens"])]] = np.inf
    return uses


def narrowed(tokenizer: Tokenizer, kept: list[int]) -> Tokenizer:
    """`narrowed(tokenizer, [0, 1, 5, 7])`: the tokenizer whose token i is the old token `kept[i]`.

    Raises `DataError` for one that is no byte-pair encoding, and when a control token or one that others are made of is missing.
    """
    said = _said(tokenizer)
    model, ids = _model(tokenizer)
    place = {old: new for new, old in enumerate(kept)}
    if lost := [token["content"] for token in said["added_tokens"] if token["id"] not in place]:
        raise DataError(f"The control token '{lost[0]}' cannot be dropped; keep it, or take it out of the tokenizer first.")
    stays = {token: place[number] for token, number in ids.items() if number in place}
    merges = [pair for pair in _merges(model) if "".join(pair) in stays]
    if broken := [pair for pair in merges if not (pair[0] in stays and pair[1] in stays)]:
        raise DataError(f"The token '{''.join(broken[0])}' is merged from '{broken[0][0]}' and '{broken[0][1]}', of which one is dropped.")
    model["vocab"] = {token: number for token, number in stays.items() if token in model["vocab"]}
    model["merges"] = [list(pair) for pair in merges]
    for token in said["added_tokens"]:
        token["id"] = place[token["id"]]
    said["model"], said["post_processor"] = model, _renumbered(said["post_processor"], place)
    return Tokenizer.of(Backend.from_str(json.dumps(said)), tokenizer.companions | _companion(tokenizer, place))


def _said(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.backend.to_str())


def _model(tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, int]]:
    """The byte-pair encoding as the file has it, and the number of every token, added ones included."""
    model = _said(tokenizer)["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix"):
        raise DataError(f"Only a byte-pair encoding without prefixes can lose tokens; this tokenizer is {model['type']}.")
    return model, tokenizer.backend.get_vocab(with_added_tokens=True)


def _merges(model: dict[str, Any]) -> list[tuple[str, str]]:
    """Pairs in the order in which they are merged; older files write one as `a b`."""
    return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]  # type: ignore[misc]


def _companion(tokenizer: Tokenizer, place: dict[int, int]) -> dict[str, str]:
    """tokenizer_config.json with the new numbers of control tokens, where it lists them."""
    name, listed = "tokenizer_config.json", "added_tokens_decoder"
    said = json.loads(tokenizer.companions.get(name, "{}"))
    if listed not in said:
        return {}
    return {name: json.dumps(said | {listed: {str(place[int(number)]): token for number, token in said[listed].items()}}, indent=2)}


def _renumbered(processor: dict[str, Any] | None, place: dict[int, int]) -> dict[str, Any] | None:
    """What a tokenizer puts around every text, with the new numbers."""
    if processor is None or processor["type"] in ("ByteLevel", "Sequence", "TemplateProcessing"):
        if processor and "processors" in processor:
            processor["processors"] = [_renumbered(each, place) for each in processor["processors"]]
        for token in (processor or {}).get("special_tokens", {}).values():
            token["ids"] = [place[number] for number in token["ids"]]
        return processor
    raise DataError(f"The post-processor {processor['type']} of this tokenizer holds token numbers in a form that is not known here.")
