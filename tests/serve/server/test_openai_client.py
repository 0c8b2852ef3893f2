"""The real `openai` client against a real server; the oracle is `generate` on the same model."""

import json
from collections.abc import Iterator
from dataclasses import replace

import httpx
import openai
import pytest
import torch
from tests.serve.server.running import ENGINE, Running, model, running, served, tokenizer_with

from amaru.nn import Batch
from amaru.serve.generate import generate
from amaru.serve.request import Settings
from amaru.serve.sampler import GREEDY, Sampling
from amaru.serve.server.chat import ChatTemplate
from amaru.serve.server.requests import Message

TOKENIZER = tokenizer_with()
STOP = (TOKENIZER.eos_id,)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(served("small"), served("plain", template=None)) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with server.client as client:
        yield client


def text_of(prompt: list[int], tokens: int, sampling: Sampling = GREEDY, **more) -> str:
    settings = Settings(max_tokens=tokens, stop=STOP, sampling=sampling, **more)
    return generate(model(), [prompt], settings, tokenizer=TOKENIZER)[0].text


def test_models_are_listed_and_found_by_name(client: openai.OpenAI) -> None:
    assert [each.id for each in client.models.list()] == ["small", "plain"]
    assert client.models.retrieve("plain").id == "plain"
    with pytest.raises(openai.NotFoundError, match=r"no model 'smal'. Did you mean 'small'"):
        client.models.retrieve("smal")
    with pytest.raises(openai.NotFoundError, match=r"no model 'gpt-9'. There is: small, plain"):
        client.completions.create(model="gpt-9", prompt="x")


def test_a_greedy_completion_is_what_generate_gives(client: openai.OpenAI) -> None:
    result = client.completions.create(model="small", prompt="def f", max_tokens=24, temperature=0)
    assert result.choices[0].text == text_of(TOKENIZER.encode("def f"), 24)
    assert result.usage is not None and result.usage.prompt_tokens == len(TOKENIZER.encode("def f"))
    assert (result.choices[0].finish_reason, result.usage.completion_tokens) == ("length", 24)


def test_seeds_make_samples_repeatable_and_choices_different(client: openai.OpenAI) -> None:
    ask = {"model": "small", "prompt": "def f", "max_tokens": 12, "n": 3, "seed": 5, "top_p": 0.9}
    first, again = (client.completions.create(**ask) for _ in range(2))
    texts = [choice.text for choice in first.choices]
    assert texts == [choice.text for choice in again.choices]
    assert texts == [text_of(TOKENIZER.encode("def f"), 12, Sampling(temperature=1, top_p=0.9, seed=5 + index)) for index in range(3)]
    assert len(set(texts)) == 3
    unseeded = {client.completions.create(model="small", prompt="def f", max_tokens=12).choices[0].text for _ in range(2)}
    assert len(unseeded) == 2
    assert client.completions.create(**ask | {"seed": -3}).choices[0].text != texts[0]


def test_every_form_of_prompt_gives_its_own_choices_in_order(client: openai.OpenAI) -> None:
    texts = ["def f", "return x", "añade"]
    ids = [TOKENIZER.encode(text) for text in texts]
    wanted = [text_of(each, 5) for each in ids]
    for prompt in (texts, ids):
        result = client.completions.create(model="small", prompt=prompt, max_tokens=5, temperature=0, n=2)
        assert [choice.index for choice in result.choices] == list(range(6))
        assert [choice.text for choice in result.choices] == [text for text in wanted for _ in range(2)]
        assert result.usage is not None and result.usage.prompt_tokens == sum(map(len, ids))
        assert result.usage.completion_tokens == 30
    assert client.completions.create(model="small", prompt=ids[0], max_tokens=5, temperature=0).choices[0].text == wanted[0]


def test_a_stream_has_the_same_text_and_its_usage_at_the_end(client: openai.OpenAI) -> None:
    ask = {"model": "small", "prompt": ["def f", "x + "], "max_tokens": 20, "temperature": 0}
    whole = client.completions.create(**ask)
    chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    for index, choice in enumerate(whole.choices):
        parts = [part for chunk in chunks for part in chunk.choices if part.index == index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts if part.finish_reason] == [choice.finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage is not None and whole.usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 40
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_stop_strings_end_the_text_before_them(client: openai.OpenAI) -> None:
    free = text_of(TOKENIZER.encode("def f"), 30)
    stop = free[9:12]
    result = client.completions.create(model="small", prompt="def f", max_tokens=30, temperature=0, stop=[stop, "never there"])
    assert (result.choices[0].text, result.choices[0].finish_reason) == (free[: free.index(stop)], "stop")
    chunks = list(client.completions.create(model="small", prompt="def f", max_tokens=30, temperature=0, stop=stop, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == result.choices[0].text


def test_a_stop_token_ends_the_text_unless_it_comes_too_early(client: openai.OpenAI) -> None:
    prompt = TOKENIZER.encode("def f")
    token = generate(model(), [prompt], Settings(max_tokens=4, sampling=GREEDY))[0].tokens[2]
    ask = {"model": "small", "prompt": "def f", "max_tokens": 6, "temperature": 0, "extra_body": {"stop_token_ids": [token]}}
    result = client.completions.create(**ask)
    assert result.usage is not None
    assert (result.choices[0].finish_reason, result.usage.completion_tokens) == ("stop", 2)
    ask["extra_body"] |= {"min_tokens": 6}
    assert client.completions.create(**ask).choices[0].finish_reason == "length"


def test_logprobs_are_those_of_the_model_and_hold_the_chosen_token(client: openai.OpenAI) -> None:
    result = client.completions.create(model="small", prompt="def f", max_tokens=6, temperature=1, seed=2, logprobs=3, echo=True)
    found = result.choices[0].logprobs
    prompt = TOKENIZER.encode("def f")
    answer = generate(model(), [prompt], Settings(max_tokens=6, sampling=Sampling(temperature=1, top_p=1, seed=2)))[0].tokens
    ids = prompt + list(answer)
    with torch.inference_mode():
        logprobs = model()(Batch.of([torch.tensor(ids)])).log_softmax(-1)
    assert found is not None and found.token_logprobs is not None and found.top_logprobs is not None and found.tokens is not None
    wanted = [None, *(float(logprobs[place, token]) for place, token in enumerate(ids[1:]))]
    assert found.token_logprobs[0] is None and found.top_logprobs[0] is None
    assert found.token_logprobs[1:] == pytest.approx(wanted[1:], abs=1e-4)
    for token, logprob, top, row in zip(found.tokens[1:], found.token_logprobs[1:], found.top_logprobs[1:], logprobs, strict=False):
        assert top[token] == logprob
        assert max(top.values()) == pytest.approx(float(row.max()), abs=1e-4)
        assert 3 <= len(top) <= 4
    assert result.choices[0].text.startswith("def f")


def test_text_offsets_point_at_their_tokens(client: openai.OpenAI) -> None:
    text = "def f(x): return 'añade' «uno»"
    result = client.completions.create(model="small", prompt=text, max_tokens=1, temperature=0, logprobs=1, echo=True)
    found = result.choices[0].logprobs
    assert found is not None and found.tokens and found.text_offset
    whole = [(token, offset) for token, offset in zip(found.tokens, found.text_offset, strict=True) if not token.startswith("bytes:")]
    assert len(whole) > 10
    assert all(result.choices[0].text[offset:].startswith(token) for token, offset in whole[:-1])


def test_echo_measures_exactly_one_place_behind_the_prompt(client: openai.OpenAI) -> None:
    """lm-eval takes all but the last log-probability, so the last must be of a generated token even where that ends the text."""
    prompt = TOKENIZER.encode("def f")
    likeliest = generate(model(), [prompt], Settings(max_tokens=1, sampling=GREEDY))[0].tokens[0]
    ask = {"model": "small", "prompt": [prompt], "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True}
    result = client.completions.create(**ask, extra_body={"stop_token_ids": [likeliest]})
    found = result.choices[0].logprobs
    assert found is not None and found.token_logprobs is not None
    assert len(found.token_logprobs) == len(prompt) + 1
    assert (result.choices[0].text, result.choices[0].finish_reason) == (TOKENIZER.decode(prompt), "stop")
    nothing = client.completions.create(**ask | {"max_tokens": 0})
    assert nothing.choices[0].logprobs is not None and nothing.choices[0].logprobs.token_logprobs == found.token_logprobs[:-1]
    assert nothing.usage is not None and nothing.usage.completion_tokens == 0


def test_a_chat_continues_what_its_template_renders(client: openai.OpenAI) -> None:
    messages = [{"role": "system", "content": "be terse"}, {"role": "user", "content": [{"type": "text", "text": "add one"}]}]
    template = ChatTemplate.of(TOKENIZER)
    assert template is not None
    prompt = template.prompt([Message(role="system", content="be terse"), Message(role="user", content="add one")])
    result = client.chat.completions.create(model="small", messages=messages, max_completion_tokens=20, temperature=0)
    assert result.choices[0].message.content == text_of(prompt.ids, 20)
    assert result.choices[0].message.role == "assistant"
    chunks = list(client.chat.completions.create(model="small", messages=messages, max_tokens=20, temperature=0, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == result.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "length"


def test_chat_logprobs_spell_the_answer_in_bytes(client: openai.OpenAI) -> None:
    ask = {"model": "small", "messages": [{"role": "user", "content": "ñ"}], "max_tokens": 30, "seed": 1, "logprobs": True}
    whole = client.chat.completions.create(**ask, top_logprobs=4)
    chunks = list(client.chat.completions.create(**ask, stream=True))
    found = whole.choices[0].logprobs
    assert found is not None and found.content is not None and len(found.content) == 30
    assert b"".join(bytes(each.bytes or []) for each in found.content).decode(errors="replace") == whole.choices[0].message.content
    assert all(len(each.top_logprobs) == 4 and each.top_logprobs[0].logprob >= each.logprob for each in found.content)
    streamed = [each for chunk in chunks if chunk.choices[0].logprobs for each in chunk.choices[0].logprobs.content or []]
    assert [each.token for each in streamed] == [each.token for each in found.content]
    assert all(each.top_logprobs == [] for each in streamed)


def test_a_chat_of_ten_turns_reuses_what_it_said_before() -> None:
    messages, prompt, reused = [{"role": "system", "content": "You add numbers, and say so in one line."}], 0, 0
    config = replace(ENGINE, max_tokens=800, speculate="lookup")
    with running(served(config=config)) as server:
        for turn in range(10):
            messages.append({"role": "user", "content": f"add {turn}"})
            result = server.client.chat.completions.create(model="small", messages=messages, max_tokens=6, temperature=0)
            assert result.usage is not None and result.usage.prompt_tokens_details is not None
            prompt += result.usage.prompt_tokens
            reused += result.usage.prompt_tokens_details.cached_tokens or 0
            messages.append({"role": "assistant", "content": result.choices[0].message.content or ""})
        page = httpx.get(f"{server.url}/metrics").text
    assert reused / prompt > 0.8
    for name, count in {"prompt": prompt, "reused": reused}.items():
        assert f'amaru_{name}_tokens_total{{model="small"}} {float(count)}' in page
    details = result.usage.completion_tokens_details
    assert details is not None and details.rejected_prediction_tokens is not None
    text = result.choices[0].message.content
    template = ChatTemplate.of(TOKENIZER)
    assert template is not None
    turns = [Message(role=each["role"], content=each["content"]) for each in messages[:-1]]
    assert text == text_of(template.prompt(turns).ids, 6)


def test_an_answer_keeps_to_its_schema(client: openai.OpenAI) -> None:
    fields = {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "b"]}}
    schema = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
    ask = {"model": "small", "messages": [{"role": "user", "content": "x"}], "max_tokens": 200, "seed": 3}
    for form in ({"name": "verdict", "schema": schema, "strict": True}, None):
        kind = {"type": "json_schema", "json_schema": form} if form else {"type": "json_object"}
        choice = client.chat.completions.create(**ask, response_format=kind, temperature=0.2 if form is None else 1).choices[0]
        if choice.finish_reason == "stop":  # a model that never learnt anything may not come to an end of its own object
            found = json.loads(choice.message.content or "")
            assert isinstance(found, dict) and (form is None or (type(found["ok"]) is bool and found["kind"] in ("a", "b")))
        assert form is None or choice.finish_reason == "stop"
        assert (choice.message.content or "").lstrip().startswith("{")
    with pytest.raises(openai.BadRequestError, match="schema"):
        wrong = {"name": "x", "schema": {"type": "no such type"}}
        client.chat.completions.create(**ask, response_format={"type": "json_schema", "json_schema": wrong})


def test_a_model_without_a_template_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'plain' has no chat template"):
        client.chat.completions.create(model="plain", messages=[{"role": "user", "content": "x"}])
    assert client.completions.create(model="plain", prompt="x", max_tokens=1).model == "plain"


def test_what_cannot_be_honoured_is_refused(client: openai.OpenAI) -> None:
    ask = {"model": "small", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    refusals = {
        "no place for tools": {"tools": [{"type": "function", "function": {"name": "f"}}]},
        "does not offer 'logit_bias'": {"logit_bias": {"5": 100}},
        "json_schema exactly when": {"response_format": {"type": "json_schema"}},
        "top_logprobs needs logprobs": {"top_logprobs": 3},
        "Did you mean 'temperature'": {"extra_body": {"temprature": 1}},
        "only says something about a stream": {"stream_options": {"include_usage": True}},
        "new name of max_tokens": {"max_completion_tokens": 7},
    }
    for sentence, more in refusals.items():
        with pytest.raises(openai.BadRequestError, match=sentence):
            client.chat.completions.create(**ask | more)
    neutral = {"logit_bias": {}, "user": "someone", "store": False, "extra_body": {"service_tier": "auto", "metadata": {"a": "b"}}}
    assert client.chat.completions.create(**ask, **neutral).choices
    for sentence, more in {"'best_of'": {"best_of": 4}, "'suffix'": {"suffix": "end"}, "at least 1": {"max_tokens": 0}}.items():
        with pytest.raises(openai.BadRequestError, match=sentence):
            client.completions.create(**{"model": "small", "prompt": "x"} | more)


def test_text_and_tokens_convert_both_ways(server: Running) -> None:
    text = "def f(x): # añade <|im_end|>"
    there = server.post("/tokenize", {"model": "small", "prompt": text, "return_token_strs": True}).json()
    assert there["tokens"] == TOKENIZER.encode(text) and there["count"] == len(there["tokens"])
    assert server.post("/detokenize", {"model": "small", "tokens": there["tokens"]}).json() == {"prompt": text}
    assert "model knows" in server.post("/detokenize", {"model": "small", "tokens": [10**6]}).json()["error"]["message"]
