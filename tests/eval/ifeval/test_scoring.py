"""IFEval's four accuracies of one answer."""

from amaru.eval.ifeval.scoring import graded
from amaru.instructions import check_of


def test_accuracy_is_per_prompt_and_per_instruction_strictly_and_loosely() -> None:
    checks = [check_of("punctuation:no_comma", {}), check_of("startend:quotation", {}), check_of("detectable_format:title", {})]
    scores = graded('Sure, here it is:\n"<<A day>> *well*"', checks)
    assert {name: tuple(score) for name, score in scores.items()} == {
        "prompt strict": (0, 1),
        "instruction strict": (1 / 3, 3),
        "prompt loose": (1, 1),  # each instruction is followed when the first line is gone
        "instruction loose": (1, 3),
    }
    assert graded(" \n", checks[:1])["prompt strict"].value == 0  # an empty answer follows nothing
