"""Chat templates: the text and ids of transformers, Nemotron-4's to the byte, and exactly the assistant's tokens."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from amaru.data.chat import Ambiguous, Template
from amaru.data.chat_packing import TOO_LONG, TURNS_CUT, ChatRows, best_fit, made_from, pack
from amaru.data.conversations import Conversation, read, recognised, sample
from amaru.data.loader import Loader, collate
from amaru.data.packing import IGNORED
from amaru.data.templates import BUILT_IN, for_others, template_of
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ArtifactError, ConfigError, DataError

CHATML, NEMOTRON4, OTHERS = ("<|im_start|>", "<|im_end|>"), ("<extra_id_0>", "<extra_id_1>"), ("<s>", "</s>")
SPECIAL = ("<|endoftext|>", *CHATML, *NEMOTRON4, *OTHERS, "<|eot_id|>", "<|start_header_id|>")
USER = {"role": "user", "content": ""}

# Shapes of published templates: headers, brackets with eos, both with generation marks, and one that trims.
LLAMA3 = """{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant\\n\\n' }}{%- endif %}
"""
BRACKETS = """{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]{% else %}
{% generation %} {{ message['content'] }}</s>{% endgeneration %}{% endif %}
{% endfor %}"""
PLAIN_CHATML = for_others(BUILT_IN["chatml"])
OWN = {name: BUILT_IN[name] for name in ("chatml", "nemotron4")}
TEMPLATES = {"llama3": LLAMA3, "brackets": BRACKETS, "plain chatml": PLAIN_CHATML, **OWN}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    texts = [f"user: what is {n} + {n}?\nassistant\n{2 * n}.\n\nSystem add a\u00f1o <|im" for n in range(60)]
    made = Tokenizer.train(texts, vocab=400, special=SPECIAL)
    config = json.loads(made.companions["tokenizer_config.json"]) | {"bos_token": "<s>"}
    return Tokenizer(made.backend, {"tokenizer_config.json": json.dumps(config)})


@pytest.fixture(scope="module")
def theirs(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(path)
    return PreTrainedTokenizerFast.from_pretrained(path)


def said(*contents: str, system: str | None = None) -> list[dict]:
    begin = [] if system is None else [{"role": "system", "content": system}]
    return [*begin, *({"role": role, "content": text} for role, text in zip(itertools.cycle(["user", "assistant"]), contents))]


CHATS = [said("what is 2 + 2?", "4."), said(" a\u00f1o ", "x\n\ny", "again?", "no", "1", "2"), said("a", "b\n")]


@pytest.mark.parametrize("chat", CHATS, ids=["one turn", "three turns", "ends in a line end"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_transformers(tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast, name: str, chat: list[dict]) -> None:
    template = Template(TEMPLATES[name], tokenizer)
    for messages, begin in ((chat, False), (chat[:-1], True)):
        ours = template.ids(template.render(messages, begin=begin))
        assert ours == theirs.apply_chat_template(
            messages, chat_template=TEMPLATES[name], add_generation_prompt=begin, return_dict=False
        )
    assert template.learned(chat).ids.tolist() == template.ids(template.render(chat, begin=False))


@pytest.mark.parametrize("chat", CHATS, ids=["one turn", "three turns", "ends in a line end"])
@pytest.mark.parametrize("name", ["brackets", "chatml", "nemotron4"])
def test_what_generation_marks_is_what_transformers_masks(
    tokenizer: Tokenizer, theirs: PreTrainedTokenizerFast, name: str, chat: list[dict]
) -> None:
    expected = theirs.apply_chat_template(chat, chat_template=TEMPLATES[name], return_dict=True, return_assistant_tokens_mask=True)
    found = Template(TEMPLATES[name], tokenizer).learned(chat)
    assert found.learned.astype(int).tolist() == list(expected["assistant_masks"])


@pytest.mark.parametrize("chat", CHATS)
def test_marks_and_growing_prompts_agree(tokenizer: Tokenizer, chat: list[dict]) -> None:
    marked, plain = (Template(source, tokenizer).learned(chat) for source in (BUILT_IN["chatml"], PLAIN_CHATML))
    assert marked.ids.tolist() == plain.ids.tolist() and marked.learned.tolist() == plain.learned.tolist()


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_answer_goes_on_from_the_prompt_that_asked_for_it(tokenizer: Tokenizer, name: str) -> None:
    """The tokens before an answer are those that the model is given when it is used; the answer ends with a control token."""
    template, chat = Template(TEMPLATES[name], tokenizer), CHATS[1]
    found = template.learned(chat)
    changes = np.diff(found.learned.astype(int), prepend=0, append=0)
    begins, ends = np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)
    assert len(begins) == len(ends) == 3
    for turn, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        prompt = template.ids(template.render(chat[: 2 * turn + 1], begin=True))
        assert found.ids[:begin].tolist() == prompt
        text = tokenizer.decode(found.ids[begin:end].tolist())
        assert text.strip().startswith(chat[2 * turn + 1]["content"].strip()) and text.rstrip().endswith(SPECIAL)


def test_nemotron4_to_the_byte(tokenizer: Tokenizer) -> None:
    template = template_of("nemotron4", tokenizer)

    def text(messages: list[dict], begin: bool) -> str:
        return tokenizer.decode(template.ids(template.render(messages, begin=begin)))

    first = "<extra_id_0>System\n\n<extra_id_1>User\nhi\n<extra_id_1>Assistant\n"
    assert text(said("hi"), True) == first
    assert text(said("hi", "yes", "so?"), True) == first + "yes\n<extra_id_1>User\nso?\n<extra_id_1>Assistant\n"
    assert text(said("hi", "yes"), False) == first + "yes\n<extra_id_1>"
    assert text(said("hi", system="Be brief."), True).startswith("<extra_id_0>System\nBe brief.\n<extra_id_1>User\n")
    found = template.learned(said("hi", "yes", "so?", "no"))
    assert tokenizer.decode(found.ids[found.learned].tolist()) == "yes\n<extra_id_1>no\n<extra_id_1>"
    with pytest.raises(ConfigError, match="take turns"):
        template.render([USER, USER], begin=True)


def test_what_people_write_never_becomes_a_control_token(tokenizer: Tokenizer) -> None:
    chat = said("say <|im_end|>", "<|im_end|> is it", "\ue0fc?", "ok<|im_start|>")
    for source in (BUILT_IN["chatml"], PLAIN_CHATML):
        found = Template(source, tokenizer).learned(chat)
        control = tokenizer.backend.token_to_id("<|im_end|>")
        assert found.ids.tolist().count(control) == 4 and found.ids[found.learned].tolist().count(control) == 2
        assert tokenizer.decode(found.ids[found.learned].tolist()) == "<|im_end|> is it<|im_end|>ok<|im_start|><|im_end|>"


def test_only_the_last_answer(tokenizer: Tokenizer) -> None:
    found = template_of("chatml", tokenizer).learned(CHATS[1], only_last=True)
    assert tokenizer.decode(found.ids[found.learned].tolist()) == "2<|im_end|>"


FORGETFUL = """{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{% if message['role'] == 'user' or loop.last %}
{{ message['content'] }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
WORDS = "{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}{% if add_generation_prompt %}assistant{% endif %}"
THINKING = PLAIN_CHATML.replace("<|im_start|>assistant\\n", "<|im_start|>assistant\\n<think>")
ENDLESS = BUILT_IN["chatml"].replace("message['content'] + '<|im_end|>' -}}{%- endgen", "message['content'] -}}{%- endgen")
LAST_ONLY = BUILT_IN["chatml"].replace("== 'assistant'", "== 'assistant' and loop.last")
FOREIGN = BUILT_IN["chatml"].replace("<|im_end|>", "<|end_of_turn|>")


@pytest.mark.parametrize(
    "source, chat, sentence",
    [
        (FORGETFUL, CHATS[1], "the conversation up to there is not how the whole conversation begins"),
        (THINKING, CHATS[0], "its prompt for that turn is not how"),
        (WORDS, CHATS[0], "which is no control token"),
        (ENDLESS, CHATS[0], "which is no control token"),
        (LAST_ONLY, CHATS[1], "marks 1 stretches .* conversation of 3"),
        (FOREIGN, CHATS[0], r"writes <\|end_of_turn\|>, which the tokenizer does not know"),
        (BUILT_IN["chatml"], [USER], "teaches nothing"),
        ("{% for %}", CHATS[0], "cannot be read"),
    ],
)
def test_a_template_that_leaves_it_open_is_refused(tokenizer: Tokenizer, source: str, chat: list[dict], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Template(source, tokenizer).learned(chat)


def test_a_token_across_the_border_is_refused_and_counted(tokenizer: Tokenizer) -> None:
    """The space that ends the prompt and the first word of an answer are one token."""
    template = Template(PLAIN_CHATML.replace("role'] + '\\n'", "role'] + ' '").replace("assistant\\n'", "assistant '"), tokenizer)
    with pytest.raises(Ambiguous):
        template.learned(said("a", "what"))
    rows = pack([conversation("a", "what"), conversation("a", "\nb")], template, 64)
    assert rows.counts == {"a token belongs to prompt and answer at once": 1} and len(rows.sources) == 1


def test_plain_is_prompt_and_completion_and_the_end(tokenizer: Tokenizer) -> None:
    template = Template(BUILT_IN["plain"], tokenizer)
    found = template.learned(said("2 + 2 =\n", "4"))
    assert found.ids.tolist() == [*tokenizer.encode("2 + 2 =\n"), *tokenizer.encode("4"), tokenizer.eos_id]
    assert found.ids[found.learned].tolist() == [*tokenizer.encode("4"), tokenizer.eos_id]
    assert template.ending() == tokenizer.decode([tokenizer.eos_id])


def test_control_tokens_can_be_added(tokenizer: Tokenizer) -> None:
    template = Template(BUILT_IN["chatml"].replace("im_", "turn_"), tokenizer)
    assert template.unknown == ["<|turn_end|>", "<|turn_start|>"]
    larger = tokenizer.with_special(template.unknown)
    found = Template(template.source, larger).learned(CHATS[0])
    assert larger.vocab_size == tokenizer.vocab_size + 2 and found.ids.max() >= tokenizer.vocab_size
    kept = larger.with_chat(for_others(template.source), "<|turn_end|>")
    assert kept.eos_id == larger.backend.token_to_id("<|turn_end|>") and kept.decode([kept.eos_id]) == "<|turn_end|>"
    again = template_of(None, kept)
    assert again.ids(again.render(CHATS[0], begin=False)) == found.ids.tolist()
    with pytest.raises(ConfigError, match="has no chat template; give --template chatml, nemotron4, plain"):
        template_of(None, tokenizer)
    with pytest.raises(DataError, match="'chatlm' is no chat template"):
        template_of("chatlm", tokenizer)


def conversation(*contents: str, source: str = "a.jsonl:1") -> Conversation:
    return Conversation(source, tuple(said(*contents)), {})


def test_three_shapes_are_one_conversation(tmp_path: Path) -> None:
    records = [
        {"messages": said("q", "a", system="s")},
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
        {"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}], "completion": "a"},
        {"prompt": "q", "completion": "b"},
        {"messages": said("q")},
        {"messages": [*said("q", "a", system="s")], "tools": None},
    ]
    assert len({recognised("a", record)[1].identity for record in records[:3]}) == 1
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    found = read([str(tmp_path / "a.jsonl")])
    assert found.shapes == {"messages": 3, "conversations": 1, "prompt/completion": 2}
    assert found.left_out == {"no answer of an assistant": 1, "duplicate": 3} and [each.source[-1] for each in found.found] == ["1", "4"]


@pytest.mark.parametrize(
    "record, sentence",
    [
        ({"text": "a"}, "is no conversation: it has text"),
        ({"messages": [{"content": "a"}]}, "message 1 has no role"),
        ({"messages": [{"role": "user", "content": None}]}, "content of message 1 must be text; it is NoneType"),
        ({"conversations": [{"from": "robot", "value": "a"}]}, "turn 1 is from 'robot'"),
    ],
)
def test_records_that_are_no_conversation(record: dict, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        recognised("a.jsonl:1", record)


def test_replay_takes_its_share_and_the_same_again() -> None:
    some = [conversation("q", str(n)) for n in range(150)]
    chosen = sample(some, 0.02, seed=1)
    assert len(chosen) == 3 and chosen == sample(some[::-1], 0.02, seed=1) != sample(some, 0.02, seed=2)


@pytest.mark.parametrize("room", [9, 13, 40])
def test_best_fit_places_everything_once_and_wastes_little(room: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 10, 200).tolist()
    rows = best_fit(lengths, room)
    assert sorted(number for row in rows for number in row) == list(range(200))
    sums = [sum(lengths[number] for number in row) for row in rows]
    assert max(sums) <= room and len(rows) <= 1.1 * sum(lengths) / room + 1


@pytest.fixture(scope="module")
def rows(tokenizer: Tokenizer) -> ChatRows:
    some = [conversation(*["what is it?", f"{n}."] * (1 + n % 4), source=f"a.jsonl:{n}") for n in range(40)]
    return pack(some, template_of("chatml", tokenizer), 130)


def test_rows_hold_whole_conversations_and_learned_targets(rows: ChatRows) -> None:
    batch = Loader(rows, len(rows), seed=0).batch(0)
    pieces = list(itertools.pairwise(batch.cu_seqlens.tolist()))
    assert len(pieces) == 40 and batch.target_tokens == rows.targets and len(batch.ids) == rows.positions
    spans = {rows.sources[n]: rows.conversation(n) for n in range(40)}
    for source, (first, end) in zip(batch.documents, pieces, strict=True):
        expected = spans[source]
        assert batch.ids[first:end].tolist() == expected.ids[:-1].tolist()
        assert batch.targets[first:end].tolist() == np.where(expected.learned, expected.ids, IGNORED)[1:].tolist()
        assert batch.positions[first] == 0
    lengths = rows.lengths(np.arange(len(rows)))
    assert lengths.tolist() == [len(rows.row(index).ids) for index in range(len(rows))] and lengths.max() <= 130
    assert Loader(rows, 2, seed=0).drawn(11)[0].tokens == sum(len(Loader(rows, 2, seed=0).batch(step).ids) for step in range(11))


def test_rows_come_back_from_disk(rows: ChatRows, tmp_path: Path) -> None:
    rows.save(tmp_path / "a.rows")
    again = ChatRows.load(tmp_path / "a.rows", rows.made_from)
    assert collate(again, range(len(again))).targets.tolist() == collate(rows, range(len(rows))).targets.tolist()
    assert str(again) == str(rows)
    with pytest.raises(ArtifactError, match="another template"):
        ChatRows.load(tmp_path / "a.rows", rows.made_from | {"template": "0"})


def test_long_conversations_are_dropped_or_lose_their_last_turns(tokenizer: Tokenizer) -> None:
    template = template_of("chatml", tokenizer)
    long, short = conversation("q", "first", "q", "second " * 40), conversation("q", "a")
    dropped, cut = (pack([long, short], template, 40, too_long=policy) for policy in ("drop", "cut"))
    assert dropped.counts == {TOO_LONG: 1} and cut.counts == {TURNS_CUT: 1}
    found = cut.conversation(0)
    assert tokenizer.decode(found.ids[found.learned].tolist()) == "first<|im_end|>"
    assert made_from([long], template, 40, "drop", False) != made_from([long], template, 40, "cut", False)
    with pytest.raises(DataError, match=r"No conversation fits into rows of 4 tokens \(2 longer than a row\)"):
        pack([long, short], template, 4)


def test_what_the_template_refuses_is_counted(tokenizer: Tokenizer) -> None:
    odd = Conversation("a.jsonl:2", ({"role": "assistant", "content": "a"},), {})
    rows = pack([conversation("q", "a"), odd], template_of("nemotron4", tokenizer), 64)
    (reason,) = rows.counts
    assert rows.counts[reason] == 1 and "refused by the chat template (After an optional system message" in reason
