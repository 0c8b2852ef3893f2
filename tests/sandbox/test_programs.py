"""Programs as models write them."""

from amaru.sandbox import fenced, program_in


def test_programs_stand_in_fences() -> None:
    assert fenced("Here:\n```python\nx = 1\n```\nthen\n```\ny = 2\n") == ["x = 1\n", "y = 2\n"]
    assert program_in("Here:\n```py\nx = 1\n```\nthen\n```\ny = 2\n") == "x = 1\n\ny = 2"
    assert program_in("```json\n{}\n```") is None and program_in("x = 1") is None
