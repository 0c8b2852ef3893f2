"""Results of worked answers."""

import pytest

from amaru.instructions import comes_to


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
        ("it is 42", "2", False),
        (r"\boxed{Paris}", "paris.", True),
        ("The capital is **Paris**.", "Paris", True),
        ("The capital is not-Paris.", "Paris", False),
        (r"\boxed{Rome}, not Paris", "Paris", False),
        (r"\boxed{4.2e1}", "42", True),
        (r"\boxed{1e999999999}", "42", False),
        (r"\boxed{1/0}", "42", False),
    ],
)
def test_results_are_compared_as_numbers_where_they_are(answer, expected, same):
    assert comes_to(answer, expected) is same
