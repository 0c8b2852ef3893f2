"""The layouts in which people publish answers that were compared or rated, each as one `Comparison`.

    amaru          messages (or prompt), responses: content, score, attributes, model; best_first
    pair           prompt, chosen, rejected: texts or messages, the prompt within or beside them; TRL, UltraFeedback binarized, ShareGPT
    responses      prompt, chosen_response, rejected_response, chosen_reward, rejected_reward: `amaru synth export`, NeMo-Aligner
    UltraFeedback  instruction, completions: response, model, annotations, fine-grained_score
    preference     prompt, response_1, response_2, preference_strength: HelpSteer2
    ratings        prompt, response and the five attributes: HelpSteer2, where all rows of one prompt make a comparison
    rated          messages that end with an answer, and its attributes by name; joined as those
    LLMBar         input, output_1, output_2, label
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from amaru.align.comparisons import Answer, Comparison, Message
from amaru.data.conversations import SHAREGPT
from amaru.data.conversations import recognised as conversation
from amaru.errors import DataError

Record = Mapping[str, Any]

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")  # HelpSteer's
PROMPTS = ("prompt", "question", "instruction", "input")
REWARDS = ("{}_reward", "{}_score", "score_{}", "{}-rating")  # of the chosen and of the rejected answer
TURN = re.compile(r"\n?<extra_id_1>(User|Assistant)\n")  # between the turns of a HelpSteer2 prompt
RATINGS = ("ratings", "rated")  # a row holds one answer, and all rows of one prompt make a comparison


class Recognised(NamedTuple):
    layout: str
    comparison: Comparison


def recognised(source: str, record: Record) -> Recognised:
    """The layout of a record, and what it compares; raises `DataError` when it has none, or its fields are not what the layout says."""
    values = {name: record[name] for name in ("tools", "documents") if record.get(name)}
    for layout, (fields, reader) in LAYOUTS.items():
        if all(record.get(name) is not None for name in fields):
            messages, answers, best_first = reader(source, record)
            found = Comparison(tuple(messages), tuple(answers), best_first, source, values)
            return Recognised(layout, found if best_first else found.rewarded([answer.reward for answer in answers]))
    raise DataError(
        f"{source} is no comparison: it has {', '.join(record) or 'no fields'}. It needs messages and responses, or prompt, chosen and "
        "rejected, or another layout that the documentation lists."
    )


Read = tuple[Sequence[Message], Sequence[Answer], bool]


def _amaru(source: str, record: Record) -> Read:
    answers = []
    for number, response in enumerate(_list(source, record, "responses"), start=1):
        if not isinstance(response, dict) or not isinstance(response.get("content"), str):
            raise DataError(f"{source}: response {number} must be an object with the text of an answer as content.")
        where = f"{source}, response {number}"
        attributes = _attributes(where, response.get("attributes"))
        answers.append(Answer(response["content"], _reward(where, "score", response.get("score")), attributes, response.get("model")))
    asked = record["messages"] if record.get("messages") is not None else _prompt(record)
    return _asked(source, asked), answers, bool(record.get("best_first"))


def _pair(source: str, record: Record) -> Read:
    sides = {side: _said(source, side, record[side]) for side in ("chosen", "rejected")}
    begins = sides["chosen"][0]
    if begins != sides["rejected"][0]:
        raise DataError(f"{source}: chosen and rejected answer different conversations, so they cannot be compared.")
    if not begins or begins[-1]["role"] == "assistant":
        asked = _turns(source, record["conversations"]) if isinstance(record.get("conversations"), list) else _prompt(record)
        begins = [*_asked(source, asked), *begins]
    system = record.get("system")
    if isinstance(system, str) and system and begins and begins[0]["role"] != "system":
        begins = [{"role": "system", "content": system}, *begins]
    return begins, [Answer(text, _reward_of(source, record, side)) for side, (_, text) in sides.items()], True


def _responses(source: str, record: Record) -> Read:
    sides = {side: record[f"{side}_response"] for side in ("chosen", "rejected")}
    answers = [Answer(_text(source, f"{side}_response", text), _reward_of(source, record, side)) for side, text in sides.items()]
    return _asked(source, _prompt(record)), answers, True


def _ultrafeedback(source: str, record: Record) -> Read:
    """The reward is the mean of the ratings: overall scores of 10 in the first release are often misread ones."""
    answers = []
    for number, each in enumerate(_list(source, record, "completions"), start=1):
        where = f"{source}, completion {number}"
        if not isinstance(each, dict):
            raise DataError(f"{where} must be an object with a response.")
        rated = _object(where, "annotations", each.get("annotations"))
        ratings = {name: found.get("Rating") for name, found in rated.items() if isinstance(found, dict)}
        ratings |= {name: each.get(name) for name in ("overall_score", "fine-grained_score")}
        known = {name: _number(where, name, value) for name, value in ratings.items() if value not in (None, "N/A")}
        answers.append(Answer(_text(where, "response", each.get("response")), known.get("fine-grained_score"), known, each.get("model")))
    return _asked(source, record["instruction"]), answers, False


def _preference(source: str, record: Record) -> Read:
    """Positive where the second is better. The strength is an attribute: `--reward preference` makes it the reward."""
    strength = _number(source, "preference_strength", record["preference_strength"])
    if not math.isfinite(strength):
        raise DataError(f"{source}: preference_strength must be finite, as it says which answer is better; it is {strength}.")
    first, second = (_text(source, name, record[name]) for name in ("response_1", "response_2"))
    answers = [Answer(first, None, {"preference": max(0.0, -strength)}), Answer(second, None, {"preference": max(0.0, strength)})]
    return helpsteer_turns(_text(source, "prompt", record["prompt"])), answers[:: -1 if strength > 0 else 1], strength != 0


def _ratings(source: str, record: Record) -> Read:
    attributes = {name: _number(source, name, record[name]) for name in ATTRIBUTES if record.get(name) is not None}
    answer = Answer(_text(source, "response", record["response"]), None, attributes)
    return helpsteer_turns(_text(source, "prompt", record["prompt"])), [answer], False


def _rated(source: str, record: Record) -> Read:
    before, answer = _said(source, "messages", record["messages"])
    attributes = _attributes(source, record["attributes"])
    return before, [Answer(answer, _reward(source, "score", record.get("score")), attributes)], False


def _llmbar(source: str, record: Record) -> Read:
    if record["label"] not in (1, 2):
        raise DataError(f"{source}: label is which output is better, 1 or 2; got {record['label']!r}.")
    answers = [Answer(_text(source, name, record[name])) for name in ("output_1", "output_2")]
    return _asked(source, record["input"]), answers[:: 3 - 2 * record["label"]], True


LAYOUTS = {
    "amaru": (("responses",), _amaru),
    "pair": (("chosen", "rejected"), _pair),
    "responses": (("chosen_response", "rejected_response"), _responses),
    "UltraFeedback": (("instruction", "completions"), _ultrafeedback),
    "preference": (("prompt", "response_1", "response_2", "preference_strength"), _preference),
    RATINGS[0]: (("prompt", "response", ATTRIBUTES[0]), _ratings),
    RATINGS[1]: (("messages", "attributes"), _rated),
    "LLMBar": (("input", "output_1", "output_2", "label"), _llmbar),
}


def helpsteer_turns(prompt: str) -> list[Message]:
    """A prompt of HelpSteer2, whose earlier turns stand in it between marks, as messages."""
    first, *others = TURN.split(prompt)
    later = [{"role": role.lower(), "content": text} for role, text in zip(others[::2], others[1::2], strict=True)]
    return [{"role": "user", "content": first}, *later]


def _asked(source: str, value: Any) -> list[Message]:
    turns = value if isinstance(value, list) else [{"role": "user", "content": value}]
    return list(conversation(source, {"messages": turns})[1].messages)


def _prompt(record: Record) -> Any:
    return next((record[name] for name in PROMPTS if record.get(name) is not None), [])


def _said(source: str, side: str, value: Any) -> tuple[list[Message], str]:
    """What stands before the answer, if anything, and the answer: a text, a message, or a conversation that ends with it."""
    if isinstance(value, str):
        return [], value
    turns = _turns(source, value if isinstance(value, list) else [value])
    if not turns or turns[-1]["role"] != "assistant":
        raise DataError(f"{source}: {side} must be a text, or end with a message of the assistant.")
    return turns[:-1], _text(source, side, turns[-1]["content"])


def _turns(source: str, value: list[Any]) -> list[Message]:
    """Messages of role and content, or of from and value."""

    def shaped(each: Any) -> Any:
        if not isinstance(each, dict) or "from" not in each:
            return each
        who = each["from"]
        return {"role": SHAREGPT.get(who, who) if isinstance(who, str) else who, "content": each.get("value")}

    return _asked(source, list(map(shaped, value)))


def _reward_of(source: str, record: Record, side: str) -> float | None:
    names = [name.format(side) for name in REWARDS]
    return next((_reward(source, name, record[name]) for name in names if record.get(name) is not None), None)


def _reward(source: str, name: str, value: Any) -> float | None:
    return None if value is None else _number(source, name, value)


def _attributes(source: str, value: Any) -> dict[str, float]:
    return {name: _number(source, name, each) for name, each in _object(source, "attributes", value).items() if each is not None}


def _number(source: str, name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(f"{source}: {name} must be a number; it is {value!r}.")


def _text(source: str, name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    raise DataError(f"{source}: {name} must be text; it is {type(value).__name__}.")


def _object(source: str, name: str, value: Any) -> Mapping[str, Any]:
    if value is None or isinstance(value, dict):
        return value or {}
    raise DataError(f"{source}: {name} must be an object with names; it is {type(value).__name__}.")


def _list(source: str, record: Record, name: str) -> list[Any]:
    if isinstance(record[name], list):
        return record[name]
    raise DataError(f"{source}: {name} must be a list; it is {type(record[name]).__name__}.")
