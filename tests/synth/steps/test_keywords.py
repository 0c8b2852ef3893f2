"""Keywords of corpora, counted by hand."""

import json

import pytest
from tests.synth.steps.through import recipe, through

from amaru.errors import DataError
from amaru.synth.mining import python, terms

PROGRAM = """
import numpy as np
from itertools import chain
import os.path

with open("a") as file:
    rows = [line for line in file]
print(np.linalg.norm(rows), os.path.join("a", "b"), len(chain(rows)))
"""


def test_what_a_program_uses():
    imported = {"numpy", "os", "itertools", "itertools.chain", "numpy.linalg", "os.path"}
    assert python(PROGRAM) == imported | {"list comprehensions", "context managers", "open", "print", "len"}
    assert python("import sys\nprint 'old'\nfrom a.b import c") == {"sys", "a.b"}


def test_runs_of_words_that_stop_nowhere():
    assert terms("The area of a right triangle, and its hypotenuse.") == {"area", "right", "triangle", "right triangle", "hypotenuse"}
    assert "prime number theorem" in terms("the prime\nprime numbers prime number theorem")  # a line ends a term


def test_terms_that_are_frequent_here_and_rare_there_come_first(tmp_path):
    here = ["right triangle here today", "a right triangle and a prime", "today a prime", "today the right triangle", "a lemma"]
    there = ["today it rains", "today it snows", "right here today", "today"]
    for name, texts in (("here", here), ("there", there)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    step = {"kind": "keywords", "files": ["her*.jsonl"], "least": 2}
    alone, _, _, _ = through(tmp_path, None, step, directory=tmp_path)
    assert alone == [{"keyword": name, "documents": n} for name, n in (("right triangle", 3), ("today", 3), ("prime", 2))]
    held, _, _, _ = through(tmp_path / "b", None, {**step, "against": ["there.jsonl"], "count": 3}, directory=tmp_path)
    assert [row["keyword"] for row in held] == ["right triangle", "prime", "today"]


def test_files_that_say_nothing_are_errors(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    for files, words in ((["b.py"], "There is no file"), (["a.py"], "No keyword is in 2 documents of a.py")):
        with pytest.raises(DataError, match=words):
            recipe(None, [{"kind": "keywords", "what": "python", "files": files}], directory=tmp_path).brought(0)
