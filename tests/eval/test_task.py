"""Tasks from files through a tiny model: what is judged, kept, resumed and compared."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.eval.small import small_subject
from tests.eval.test_layouts import RECORDS

from amaru.errors import ArtifactError, ConfigError, DataError
from amaru.eval import compare, measure, open_task
from amaru.eval.estimate import Score
from amaru.eval.store import Store
from amaru.eval.subject import Request, Subject, chat_of
from amaru.eval.task import Judged
from amaru.serve import Settings, generate
from amaru.serve.sampler import GREEDY


def write(path: Path, *records: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def choices(count: int) -> list[dict[str, object]]:
    return [{"query": f"Question: after {n}?", "choices": [f"{n + 1}", f"{n} and one", "two"], "gold": n % 3} for n in range(count)]


def test_choices_are_scored_by_the_models_likelihoods(tmp_path: Path) -> None:
    subject = small_subject()
    task = open_task(write(tmp_path / "numbers.jsonl", *choices(7)))
    result = measure(task, subject)
    assert (task.name, task.metrics[0], sorted(result.items)) == (f"{tmp_path.name}/numbers", "accuracy", list(range(7)))
    for number, record in enumerate(choices(7)):
        endings = [subject.ending(f"{record['query']}\nAnswer:", f" {choice}") for choice in record["choices"]]  # type: ignore[attr-defined]
        sums = {index: float(found.logprobs.sum()) for index, found in subject.likelihoods(endings)}
        assert result.items[number].scores["accuracy"].value == (max(sums, key=lambda index: sums[index]) == record["gold"])


def test_answers_are_those_of_greedy_decoding_one_at_a_time() -> None:
    subject = small_subject()
    requests = [Request(f"Question: {'which ' * n}number?", 5 + n) for n in range(4)]
    found = dict(subject.answers(requests))
    for index, request in enumerate(requests):
        settings = Settings(max_tokens=request.max_tokens, stop=(subject.tokenizer.eos_id,), sampling=GREEDY)
        ids = subject.tokenizer.encode(request.prompt)
        assert found[index] == generate(subject.decoder, [ids], settings, tokenizer=subject.tokenizer)[0].text


def test_a_chat_model_is_asked_by_its_template_and_ends_its_turn_itself() -> None:
    plain = small_subject()
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    with pytest.raises(ConfigError, match="no chat template"):
        chat_of(plain.tokenizer)
    chat = replace(plain, chat=chat_of(plain.tokenizer.with_chat(source, "<|endoftext|>")))
    ids = chat.prompt("hello")
    assert plain.tokenizer.decode(ids) == "user: hello\nassistant:" and chat.identity != plain.identity
    whole = dict(chat.answers([Request("hello", 12)]))[0]
    assert dict(chat.answers([Request("hello", 12, stop=(whole[3:5],))]))[0] == whole
    answer = dict(plain.answers([Request("hello", 12)]))[0]
    assert dict(plain.answers([Request("hello", 12, stop=(answer[3:5],))]))[0] == answer[: answer.index(answer[3:5])]


def test_examples_stand_before_each_item_and_are_not_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "numbers.jsonl", *choices(5))
    task = open_task(path, shots=2)
    assert len(task) == 3
    assert {*task.examples} == {"Question: after 0?\nAnswer: 1\n\nQuestion: after 1?\nAnswer: 1 and one\n\n"}
    given = open_task(path, shots=1, examples=write(tmp_path / "train.jsonl", *choices(9)[8:]))
    assert len(given) == 5 and {*given.examples} == {"Question: after 8?\nAnswer: two\n\n"}
    assert len({open_task(path).fingerprint, task.fingerprint, given.fingerprint}) == 3
    with pytest.raises(ConfigError, match="too few records"):
        open_task(path, shots=5)


def test_records_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", choices(1)[0], {"query": "a", "choices": ["b"], "gold": 4})
    with pytest.raises(DataError, match=r"bad\.jsonl:2 is no item of the layout 'choice'.*4, of 1"):
        open_task(path)
    with pytest.raises(DataError, match="lacks context"):
        open_task(path, "ending")
    with pytest.raises(ConfigError, match="no layout 'essay'"):
        open_task(path, "essay")
    with pytest.raises(DataError, match="no record"):
        open_task(write(tmp_path / "empty.jsonl"))
    with pytest.raises(ConfigError, match="no examples with answers"):
        open_task(write(tmp_path / "code.jsonl", *[RECORDS["humaneval"]] * 2), shots=1)


class Counting:
    """A task that remembers what it was asked, and can stop in the middle."""

    name, metrics, fingerprint = "counting", ("accuracy",), "counting 1"

    def __init__(self, stop_after: int = 1000) -> None:
        self.asked: list[int] = []
        self.stop_after = stop_after

    def __len__(self) -> int:
        return 10

    def judge(self, subject: Subject, wanted: Sequence[int]) -> Iterator[tuple[int, Judged]]:
        for index in reversed(wanted):
            if len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(index)
            yield index, Judged({"accuracy": Score(float(index % 2))}, f"said {index}")


def test_what_was_judged_is_not_asked_again(tmp_path: Path) -> None:
    store, subject = Store(tmp_path / "kept.sqlite"), small_subject()
    stopped = Counting(stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        measure(stopped, subject, store)
    rest = Counting()
    result = measure(rest, subject, store)
    assert (sorted(stopped.asked), sorted(rest.asked), result.kept) == ([6, 7, 8, 9], [0, 1, 2, 3, 4, 5], 4)
    assert result == replace(measure(Counting(), subject), kept=4)
    other = Counting()
    measure(other, small_subject(1), store, limit=3)  # another model has answered nothing yet
    assert other.asked == [2, 1, 0]


def test_another_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database" * 100)
    with pytest.raises(ArtifactError, match="no"):
        Store(tmp_path / "notes.txt")
    with sqlite3.connect(tmp_path / "kept.sqlite") as connection:
        connection.execute("CREATE TABLE other (x TEXT)")
    assert Store(tmp_path / "kept.sqlite").get("model", "task") == {}


def test_two_models_are_compared_on_the_same_items(tmp_path: Path) -> None:
    task = open_task(write(tmp_path / "numbers.jsonl", *choices(20)))
    one, two = (measure(task, small_subject(seed)) for seed in (0, 1))
    found = compare(one, two)
    assert found.keys() == set(task.metrics)
    assert found["accuracy"].mean == pytest.approx(two.estimates["accuracy"].mean - one.estimates["accuracy"].mean)
    with pytest.raises(ConfigError, match="same items"):
        compare(one, measure(task, small_subject(1), limit=5))
