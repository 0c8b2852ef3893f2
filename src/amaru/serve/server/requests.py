"""What may be asked: the bodies of every endpoint, checked strictly, with OpenAI's names, defaults and ranges.

A field that would change nothing may be left at its neutral value; one that this server cannot honour is refused, never ignored.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from amaru.serve.server.errors import did_you_mean

MOST_ALTERNATIVES = 20  # log-probabilities per place, as OpenAI's chat and vLLM have it
MOST_STOPS = 16
TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
TEXT = {"type": "string", "minLength": 1}


class Body(BaseModel):
    """A JSON object. null means left out, as everywhere in OpenAI's interface."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    NO_EFFECT: ClassVar[frozenset[str]] = frozenset()
    NEUTRAL: ClassVar[Mapping[str, Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = {name: value for name, value in values.items() if value is not None and name not in cls.NO_EFFECT}
        for name in given.keys() & cls.NEUTRAL.keys():
            if given.pop(name) != cls.NEUTRAL[name]:
                raise ValueError(f"This server does not offer '{name}'; leave it out.")
        known = [field.alias or name for name, field in cls.model_fields.items()]
        if unknown := sorted(given.keys() - {*known}):
            raise ValueError(f"There is no field '{unknown[0][:80]}'.{did_you_mean(unknown[0], known)}")
        return given


def _texts(value: Any) -> tuple[str, ...]:
    """stop: one text or several."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts) or len(texts) > MOST_STOPS:
        raise ValueError(f"stop is a text or a list of at most {MOST_STOPS} texts, none of them empty.")
    return tuple(texts)


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def _prompts(value: Any) -> list[str] | list[list[int]]:
    """prompt: a text, token ids, or a list of either."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if _ids(value):
            return [value]
        if all(isinstance(item, str) for item in value) or all(map(_ids, value)):
            return value
    raise ValueError("prompt is a text, a list of token ids, or a list of either; and it is not empty.")


Stops = Annotated[
    tuple[str, ...],
    PlainValidator(_texts),
    WithJsonSchema({"anyOf": [TEXT, {"type": "array", "items": TEXT, "maxItems": MOST_STOPS}]}),
]
Prompts = Annotated[
    list[str] | list[list[int]],
    PlainValidator(_prompts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, "minItems": 1},
                TOKEN_IDS,
                {"type": "array", "items": TOKEN_IDS, "minItems": 1},
            ]
        }
    ),
]


class StreamOptions(Body):
    NO_EFFECT = frozenset({"include_obfuscation"})

    include_usage: bool = False


class GenerationRequest(Body):
    """What texts and chats have in common. Behind `seed`, the fields are amaru's own, named as in vLLM."""

    NO_EFFECT = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"})

    model: str | None = None
    temperature: float = Field(default=1.0, ge=0, le=2)
    top_p: float = Field(default=1.0, gt=0, le=1)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    stop: Stops = ()
    n: int = Field(default=1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    top_k: int | None = Field(default=None, ge=1, lt=2**31)
    min_p: float = Field(default=0.0, ge=0, le=1)
    repetition_penalty: float = Field(default=1.0, ge=0.01, le=100)
    min_tokens: int = Field(default=0, ge=0, lt=2**31)
    stop_token_ids: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(default=[], max_length=64)
    ignore_eos: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> "GenerationRequest":
        if self.stream_options and not self.stream:
            raise ValueError("stream_options only says something about a stream; set stream to true as well.")
        return self


class CompletionRequest(GenerationRequest):
    NEUTRAL: ClassVar[Mapping[str, Any]] = {"best_of": 1, "suffix": "", "logit_bias": {}}

    prompt: Prompts
    max_tokens: int = Field(default=16, ge=0, lt=2**31)
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    echo: bool = False

    @model_validator(mode="after")
    def _something_to_do(self) -> "CompletionRequest":
        if not self.max_tokens and not self.echo:
            raise ValueError("max_tokens of 0 gives nothing back; ask for at least 1, or set echo to true.")
        if self.echo and self.stream:
            raise ValueError("echo gives the prompt back whole, so it cannot be streamed; set one of the two to false.")
        return self


class TextPart(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    """One turn. Parts are joined to one text; this server reads no pictures or sounds."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] = ""
    name: str | None = None
    tool_calls: list[dict[str, Any]] | None = Field(default=None, max_length=128)
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class JsonSchema(Body):
    NO_EFFECT = frozenset({"strict", "description"})  # a schema is always kept to

    name: str
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _whole(self) -> "ResponseFormat":
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("response_format has a json_schema exactly when its type is 'json_schema'.")
        return self

    @property
    def schema_of_text(self) -> dict[str, Any] | None:
        return {"text": None, "json_object": {"type": "object"}}.get(self.type, self.json_schema and self.json_schema.schema_)


class ChatRequest(GenerationRequest):
    """Without max_tokens an answer may take what the model's context leaves, up to the server's own limit."""

    NEUTRAL: ClassVar[Mapping[str, Any]] = {
        "logit_bias": {},
        "store": False,
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "service_tier": "auto",
    }

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    response_format: ResponseFormat = ResponseFormat(type="text")
    tools: list[dict[str, Any]] = Field(default=[], max_length=128)
    tool_choice: Literal["none", "auto"] = "auto"
    chat_template_kwargs: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_completion_tokens is the new name of max_tokens; give one of them.")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs set to true.")
        return self


class TokenizeRequest(Body):
    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(Body):
    model: str | None = None
    tokens: list[Annotated[int, Field(ge=0, lt=2**31)]]
