"""Three tasks out of FairytaleQA (github.com/WorkInTheDark/FairytaleQA_Dataset, Apache-2.0), as prompts and completions.

    python benchmarks/tied_lora/tasks.py FAIRYTALEQA_FOLDER OUT

reads stories_*.jsonl (story, sections) and qa_*.jsonl (story, sections, question, answers, attribute, explicit) and writes for each task
OUT/NAME-train.jsonl and OUT/NAME-test.jsonl. Stories of the test files are in no training file.

answers   a question about a short section, in which the answer stands    -> the answer
kinds     a question and its answer                                       -> which of seven kinds of question it is
manner    how a section of an old fairy tale begins                       -> how it goes on, in its manner
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS, BEGINNING, GOES_ON = 110, 20, 45  # of a section with a question; of a beginning, and of what follows it
MOST = {"train": {"answers": 1200, "kinds": 3000, "manner": 1500}, "test": {"answers": 200, "kinds": 700, "manner": 200}}


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for side, parts in {"train": ("train",), "test": ("test", "val")}.items():
        stories = {each["story"]: each["sections"] for part in parts for each in records(source / f"stories_{part}.jsonl")}
        questions = [each for part in parts for each in records(source / f"qa_{part}.jsonl")]
        for name, task in {"answers": answers(questions, stories), "kinds": kinds(questions), "manner": manner(stories)}.items():
            pairs = list(dict.fromkeys(task))
            random.Random(0).shuffle(pairs)
            pairs = pairs[: MOST[side][name]]
            lines = [json.dumps({"prompt": prompt, "completion": completion}) + "\n" for prompt, completion in pairs]
            (out / f"{name}-{side}.jsonl").write_text("".join(lines), encoding="utf-8")
            print(f"{name}-{side}: {len(pairs)}")


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def answers(questions: list[dict[str, Any]], stories: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    for each in questions:
        if each["explicit"] == "explicit" and each["sections"].isdigit() and each["story"] in stories:
            section = plain(stories[each["story"]][int(each["sections"]) - 1])
            if len(section.split()) <= WORDS:
                yield f"{section}\nQuestion: {plain(each['question'])}\nAnswer:", f" {plain(each['answers'][0])}"


def kinds(questions: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for each in questions:
        yield f"Question: {plain(each['question'])}\nAnswer: {plain(each['answers'][0])}\nKind:", f" {each['attribute']}"


def manner(stories: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    for sections in stories.values():
        for section in sections:
            words = plain(section).split()
            if len(words) >= BEGINNING + GOES_ON:
                yield " ".join(words[:BEGINNING]), " " + " ".join(words[BEGINNING : BEGINNING + GOES_ON])


def plain(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
