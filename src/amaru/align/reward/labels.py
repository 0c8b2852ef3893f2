"""What answers were rated for: which attributes some data has, and whether its labels are what a reward model learns."""

from collections import Counter
from collections.abc import Iterator, Sequence

from amaru.align.comparisons import NAMED, Answer, Comparison
from amaru.errors import ConfigError, DataError
from amaru.models.reward.attributes import HELPSTEER, Attributes


def counted(some: Sequence[Comparison]) -> dict[str, int]:
    """How many labels there are of each attribute: HelpSteer's in their order, others as they come."""
    found = Counter(name for each in some for answer in each.answers for name in answer.attributes)
    order = [*(name for name in HELPSTEER if name in found), *(name for name in found if name not in HELPSTEER)]
    return {name: found[name] for name in order}


def check_labels(some: Sequence[Comparison], attributes: Attributes) -> str:
    """What there is to learn, in a sentence. Raises `ConfigError` when an attribute has no label anywhere or one that is unused has some,
    and `DataError` naming rows for answers without any label, and for labels out of range.
    """
    found, learned = counted(some), [name for name in attributes.names if name not in attributes.unused]
    has = ", ".join(found) or "none"
    if missing := [name for name in learned if name not in found]:
        raise ConfigError(
            f"No answer has a label of {', '.join(missing)}; the data has labels of {has}. Leave it out of the attributes, or name it as "
            "unused to give it a place that is not trained."
        )
    if given := [name for name in attributes.unused if name in found]:
        raise ConfigError(f"{given[0]} is said to be unused, but {found[given[0]]:,} answers have a label of it.")
    _refuse([place for place, answer in placed(some) if not {*answer.attributes} & {*learned}], f"no label of {', '.join(learned)}")
    if attributes.lowest is not None:
        outside = f"a label that is not between {attributes.lowest:g} and {attributes.highest:g}"
        _refuse([place for place, answer in placed(some) if not _inside(answer, attributes)], outside, " or give another --range")
    beside = [name for name in found if name not in learned]
    return ", ".join(f"{found[name]:,} labels of {name}" for name in learned) + f"; not learned: {', '.join(beside)}" * bool(beside)


def placed(some: Sequence[Comparison]) -> Iterator[tuple[str, Answer]]:
    """Every answer, and where it was read: answers to one prompt may have stood in one row, or in several that were joined."""
    for each in some:
        for number, answer in enumerate(each.answers, start=1):
            yield each.source if len(each.answers) == 1 else f"{each.source} (answer {number} to this prompt)", answer


def _inside(answer: Answer, attributes: Attributes) -> bool:
    given = (answer.attributes[name] for name in attributes.names if name in answer.attributes)
    return all(attributes.lowest <= value <= attributes.highest for value in given)  # type: ignore[operator]


def _refuse(sources: list[str], what: str, hint: str = "") -> None:
    if sources:
        more = f" and {len(sources) - NAMED:,} more" * (len(sources) > NAMED)
        raise DataError(f"{', '.join(sources[:NAMED])}{more}: an answer has {what}. Leave such rows out{hint}.")
