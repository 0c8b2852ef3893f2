"""An instruction: what kind it is, its arguments, and the sentence that says it; kept in records as IFEval keeps them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amaru.instructions.checking import check_of, followed, followed_loosely


@dataclass(frozen=True)
class Instruction:
    """`Instruction("punctuation:no_comma", {}, "Use no commas.").follows("one and two")`."""

    kind: str
    arguments: Mapping[str, Any]
    sentence: str = ""

    def follows(self, text: str, loose: bool = False) -> bool:
        """Raises `ValueError` for a kind that is not known, or arguments that are not its own or of other types."""
        try:
            return (followed_loosely if loose else followed)(text, check_of(self.kind, self.arguments))
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{self.kind} cannot be checked with {dict(self.arguments)}: {error}") from None


def follows(text: str, instructions: Sequence[Instruction], loose: bool = False) -> bool:
    """Whether an answer follows all of them."""
    return all(each.follows(text, loose) for each in instructions)


def share(text: str, instructions: Sequence[Instruction], loose: bool = False) -> float:
    """How many of them an answer follows, 0 to 1."""
    return sum(each.follows(text, loose) for each in instructions) / len(instructions)


def record_of(prompt: str, instructions: Sequence[Instruction]) -> dict[str, Any]:
    """A row of a file that `amaru eval --tasks ifeval` reads: prompt, instruction_id_list, kwargs."""
    kinds, arguments = [each.kind for each in instructions], [dict(each.arguments) for each in instructions]
    return {"prompt": prompt, "instruction_id_list": kinds, "kwargs": arguments}


def instructions_of(record: Mapping[str, Any]) -> tuple[Instruction, ...]:
    """Those of such a row. Raises `ValueError` where kinds and arguments do not match, or nothing could be checked by them."""
    kinds, arguments = (_listed(record, name) for name in ("instruction_id_list", "kwargs"))
    if not kinds or len(kinds) != len(arguments):
        raise ValueError(f"it has {len(kinds)} instructions and {len(arguments)} sets of arguments")
    if not all(isinstance(given, Mapping) for given in arguments):
        raise ValueError("each set of arguments must be an object with names")
    found = tuple(Instruction(kind, dict(given)) for kind, given in zip(kinds, arguments, strict=True))
    for each in found:
        each.follows("a text")  # what is wrong with arguments shows here, and not when hours of answers are checked
    return found


def _listed(record: Mapping[str, Any], name: str) -> Sequence[Any]:
    if not isinstance(found := record.get(name), list | tuple):
        raise ValueError(f"{name} must be a list; it is {type(found).__name__}")
    return found
