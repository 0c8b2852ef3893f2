"""Results and programs."""

import pytest
from tests.synth.steps.through import through

from amaru.synth.result import result_in, same_result


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("so she pays $1,018.", "1018", True),
        ("1 + 1 = 2\n#### 2", "9 - 7 = <<9-7=2>>2\n#### 2", True),
        (r"\boxed{\frac{1}{2}} of 7", "0.5", True),
        (r"first \boxed{3}, no: \boxed{4}", "4", True),
        ("it is 3/4", "0.75", True),
        (r"\boxed{x^{2}+1}", "X^{2}+1", True),
        ("it is 2", "3", False),
        ("I cannot tell.", "3", False),
        ("12.50", "12.5", True),
        ("-3 degrees", "3", False),
        (r"\boxed{Paris}", "paris.", True),
    ],
)
def test_results_are_compared_as_numbers_where_they_are(answer, expected, same):
    assert same_result(result_in(answer), expected) is same


def test_programs_run_with_their_tests(tmp_path):
    rows = [
        {"answer": "Like so:\n```python\ndef f(x):\n    return 2 * x\n```", "expected": "assert f(2) == 4"},
        {"answer": "```\ndef f(x):\n    return x\n```", "expected": "assert f(2) == 4"},
        {"answer": "I would double it.", "expected": "assert f(2) == 4"},
        {"answer": "```\nprint(1)\n```"},
    ]
    made, _, _, _ = through(tmp_path, rows, {"kind": "verify", "by": "program"})
    assert [row["verified"] for row in made] == [True, False, False, None]
