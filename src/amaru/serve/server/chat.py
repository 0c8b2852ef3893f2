"""Messages to token ids by the model's own chat template, as Hugging Face renders it, in a sandbox.

What people write never becomes a control token: text that spells one is read as ordinary characters.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, NoReturn

import jinja2
import jinja2.meta
from jinja2 import Environment, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as Backend

from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError
from amaru.serve.server.requests import Message

# Around what people wrote that spells a control token, from rendering until encoding.
OPEN, CLOSE = "\ue0fe", "\ue0ff"


class Prompt(NamedTuple):
    """`boundaries`: lengths after which other prompts are likely to go on: behind the system message, and behind the last turn."""

    ids: list[int]
    boundaries: tuple[int, ...] = ()


class ChatTemplate:
    """`ChatTemplate.of(tokenizer).prompt([Message(role="user", content="hello")])`; `of` gives None where there is no template."""

    def __init__(self, source: str, tokenizer: Tokenizer, names: Mapping[str, str]) -> None:
        self._tokenizer, self._names = tokenizer, names
        # This copy reads control tokens where the template writes them; the model's own tokenizer never does.
        self._backend = Backend.from_str(tokenizer.backend.to_str())
        self._backend.encode_special_tokens = False
        special = [token.content for token in self._backend.get_added_tokens_decoder().values() if token.special]
        self._control = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
        self._marked = re.compile(f"{OPEN}({self._control.pattern}){CLOSE}|[{OPEN}{CLOSE}]")
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self.takes_tools = "tools" in jinja2.meta.find_undeclared_variables(environment.parse(source))
        except jinja2.TemplateError as error:
            raise DataError(f"The chat template of the tokenizer cannot be read: {error}.") from None

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "ChatTemplate | None":
        """From chat_template.jinja, else from tokenizer_config.json; of several named ones the default."""
        config = json.loads(tokenizer.companions.get("tokenizer_config.json", "{}"))
        names = json.loads(tokenizer.companions.get("special_tokens_map.json", "{}")) | config
        source = tokenizer.companions.get("chat_template.jinja") or config.get("chat_template")
        if isinstance(source, list):
            source = {each["name"]: each["template"] for each in source}.get("default")
        texts = {role: _text_of(value) for role, value in names.items() if role.endswith("_token")}
        return cls(source, tokenizer, {role: text for role, text in texts.items() if text}) if source else None

    def prompt(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), settings: Mapping[str, Any] | None = None
    ) -> Prompt:
        """Token ids up to where the assistant begins. Raises `ConfigError` when the template refuses these messages."""
        turns = [_turn(message) for message in messages]
        values = {"tools": list(tools) or None, **(settings or {})}
        ids = self._encode(self._render(turns, values, begin=True))
        known = [turns[:1]] if len(turns) > 1 and turns[0]["role"] == "system" else []
        places = [_shared(ids, self._beginning(part, values)) for part in [*known, turns]]
        return Prompt(ids, tuple(sorted({place for place in places if 0 < place < len(ids)})))

    def _beginning(self, turns: list[dict[str, Any]], values: Mapping[str, Any]) -> list[int]:
        """The ids of some turns without what begins an answer; none where the template wants more than these."""
        try:
            return self._encode(self._render(turns, values, begin=False))
        except ConfigError:
            return []

    def _render(self, turns: list[dict[str, Any]], values: Mapping[str, Any], begin: bool) -> str:
        try:
            return self._template.render(
                {**self._names, **self._guarded(values), "messages": self._guarded(turns), "add_generation_prompt": begin}
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            raise ConfigError(f"The model's chat template does not take these messages: {error}") from None

    def _guarded(self, value: Any) -> Any:
        """Messages with every control token that they spell set between marks, which no message can bring along itself."""
        if isinstance(value, str):
            return self._control.sub(f"{OPEN}\\g<0>{CLOSE}", value.replace(OPEN, "").replace(CLOSE, ""))
        if isinstance(value, Mapping):
            return {key: self._guarded(item) for key, item in value.items()}
        return [self._guarded(item) for item in value] if isinstance(value, list | tuple) else value

    def _encode(self, text: str) -> list[int]:
        """Marked tokens as ordinary characters, the rest as it stands; templates write the first token themselves."""
        pieces = self._marked.split(text)
        written, spelled = pieces[::2], pieces[1::2]
        ids = self._backend.encode(written[0], add_special_tokens=False).ids
        for token, after in zip(spelled, written[1:], strict=True):
            ids += self._tokenizer.backend.encode(token or "", add_special_tokens=False).ids
            ids += self._backend.encode(after, add_special_tokens=False).ids
        return ids


def _turn(message: Message) -> dict[str, Any]:
    """A message as templates expect it: one text, arguments of calls as objects."""
    rest = message.model_dump(exclude_none=True, exclude={"content"})
    for call in rest.get("tool_calls", []):
        function = call.get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            function["arguments"] = _object(function["arguments"])
    return {**rest, "content": message.text}


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("The arguments of a tool call are JSON in a text; these are not.") from None


def _text_of(token: Any) -> str | None:
    """A token's text; configs write it plainly, or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


class _Generation(Extension):
    """`{% generation %}`, which marks an assistant's words for training, and changes nothing here."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own declaration)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> Environment:
    """What Hugging Face's templates may rely on, and nothing else."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Without jinja's escapes for HTML, which no model was trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
