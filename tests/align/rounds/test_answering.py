"""Answers are those of the engine one prompt at a time, and a run that was stopped gives those of an undisturbed one."""

from pathlib import Path

import pytest
import torch
from tests.align.rounds.small import WORDS, row, speaker

from amaru.align.rounds import Answering, Speaker, answer
from amaru.align.rounds.prompts import prompt_of
from amaru.errors import ConfigError
from amaru.nn.batch import Batch

PROMPTS = [prompt_of("", row(one, other)) for one in WORDS[:3] for other in WORDS[:3]][:7]
HOW = Answering(samples=2, max_tokens=5, at_once=3)


class Stopped(Exception):
    """What stops a run in a test."""


def test_a_greedy_answer_is_the_step_loop_s(tmp_path: Path) -> None:
    who = speaker()
    (found,) = answer(lambda: who, PROMPTS[:1], Answering(samples=1, temperature=0, max_tokens=6), "s", tmp_path / "a.jsonl", {})[0]
    ids = who.template.ids(who.template.render(list(PROMPTS[0].messages), begin=True))
    said: list[int] = []
    with torch.no_grad():
        while len(said) < 6 and (not said or said[-1] not in who.stop):
            said.append(int(who.decoder(Batch.of([torch.tensor(ids + said)]))[-1].argmax()))
    whole = said[-1] in who.stop
    assert found.text == who.template.tokenizer.decode(said[:-1] if whole else said) and found.whole == whole


def test_stopped_after_any_batch_it_goes_on(tmp_path: Path) -> None:
    who, asked = speaker(), []
    calm = answer(lambda: who, PROMPTS, HOW, "s", tmp_path / "calm.jsonl", {"model": "a"})
    assert [len(some) for some in calm] == [2] * 7 and len({each.text for some in calm for each in some}) > 7

    def stop(done: int) -> None:
        asked.append(done)
        if len(asked) in (1, 2):
            raise Stopped

    file = tmp_path / "killed.jsonl"
    for _ in range(2):
        with pytest.raises(Stopped):
            answer(lambda: who, PROMPTS, HOW, "s", file, {"model": "a"}, stop)
        with file.open("a") as opened:
            opened.write('{"answers": [{"text": "half a li')  # what a kill leaves
    assert answer(lambda: who, PROMPTS, HOW, "s", file, {"model": "a"}, stop) == calm and asked == [3, 6, 7]
    assert file.read_bytes() == (tmp_path / "calm.jsonl").read_bytes()


def test_whole_answers_need_no_model_and_those_of_another_are_not_taken(tmp_path: Path) -> None:
    def nobody() -> Speaker:
        raise Stopped

    first = answer(speaker, PROMPTS, HOW, "s", tmp_path / "a.jsonl", {"model": "a"})
    assert answer(nobody, PROMPTS, HOW, "s", tmp_path / "a.jsonl", {"model": "a"}) == first
    assert answer(lambda: speaker(seed=1), PROMPTS, HOW, "s", tmp_path / "a.jsonl", {"model": "b"}) != first
    assert answer(speaker, PROMPTS, HOW, "another seed", tmp_path / "b.jsonl", {}) != first


def test_samples_without_temperature_are_refused() -> None:
    with pytest.raises(ConfigError, match="all 4 samples"):
        Answering(temperature=0)
