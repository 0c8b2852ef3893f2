"""Known results and tests of programs, in rows."""

from tests.synth.steps.through import through


def test_programs_run_with_their_tests(tmp_path):
    rows = [
        {"answer": "Like so:\n```python\ndef f(x):\n    return 2 * x\n```", "expected": "assert f(2) == 4"},
        {"answer": "```\ndef f(x):\n    return x\n```", "expected": "assert f(2) == 4"},
        {"answer": "I would double it.", "expected": "assert f(2) == 4"},
        {"answer": "```\nprint(1)\n```"},
    ]
    made, _, _, _ = through(tmp_path, rows, {"kind": "verify", "by": "program"})
    assert [row["verified"] for row in made] == [True, False, False, None]


def test_known_results_in_rows(tmp_path):
    rows = [{"answer": "so it is 8.", "expected": "8"}, {"answer": "so it is 9.", "expected": 8}, {"answer": "nobody knows"}]
    made, _, _, _ = through(tmp_path, rows, {"kind": "verify", "by": "result"})
    assert [row["verified"] for row in made] == [True, False, None]
