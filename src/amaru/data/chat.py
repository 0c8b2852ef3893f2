"""Messages to token ids by a chat template, as Hugging Face renders it, in a sandbox; and which of the ids an assistant learns.

What people write never becomes a control token: text that spells one is read as ordinary characters.

What is learned are the assistant's own turns, up to the control token that ends each. The template says so itself where it has
`{% generation %}`; otherwise each turn is what the template adds to its own prompt for that turn. A template for which that is not
the beginning of the conversation as a whole is refused, because then nobody can tell.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, NamedTuple, NoReturn

import jinja2
import jinja2.meta
import numpy as np
from jinja2 import Environment, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as Backend

from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError

# Characters for private use, which no message can bring along: around what people wrote that spells a control token, and around
# what an assistant learns; from rendering until encoding.
OPEN, CLOSE, BEGIN, END = "\ue0fe", "\ue0ff", "\ue0fc", "\ue0fd"
MARKS = str.maketrans(dict.fromkeys((OPEN, CLOSE, BEGIN, END)))
LIKE_CONTROL = re.compile(r"<\|[^|<>\s]{1,40}\|>|<extra_id_\d+>|<(?:start|end)_of_turn>")

Message = Mapping[str, Any]


class Learned(NamedTuple):
    """`ids` int64 [tokens] of a conversation, and `learned` bool [tokens]: which of them the model is trained to say."""

    ids: np.ndarray
    learned: np.ndarray


class Ambiguous(DataError):
    """A token that belongs to the prompt and to the answer at once; the conversation is left out, and counted."""


class Template:
    """`Template.of(tokenizer)` or `Template(source, tokenizer)`; `of` gives None where the tokenizer brings no template.

    >>> template.ids(template.render([{"role": "user", "content": "hello"}], begin=True))
    >>> template.learned([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}])
    """

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        self.source, self.tokenizer = source, tokenizer
        self._names = _names(tokenizer)
        # This copy reads control tokens where the template writes them; the tokenizer itself never does.
        self._backend = Backend.from_str(tokenizer.backend.to_str())
        self._backend.encode_special_tokens = False
        special = [token.content for token in self._backend.get_added_tokens_decoder().values() if token.special]
        self._control = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")
        self._spelled = re.compile(f"{OPEN}({self._control.pattern}){CLOSE}|[{OPEN}{CLOSE}{BEGIN}{END}]")
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            tree = environment.parse(source)
        except jinja2.TemplateError as error:
            raise DataError(f"The chat template of the tokenizer cannot be read: {error}.") from None
        self.takes_tools = "tools" in jinja2.meta.find_undeclared_variables(tree)
        self.marks_answers = next(tree.find_all(nodes.ExtensionAttribute), None) is not None
        self.unknown = sorted(set(LIKE_CONTROL.findall(_constants(tree))) - {*special})

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Template | None":
        """From chat_template.jinja, else from tokenizer_config.json; of several named ones the default."""
        config = json.loads(tokenizer.companions.get("tokenizer_config.json", "{}"))
        source = tokenizer.companions.get("chat_template.jinja") or config.get("chat_template")
        if isinstance(source, list):
            source = {each["name"]: each["template"] for each in source}.get("default")
        return cls(source, tokenizer) if source else None

    def render(self, messages: Sequence[Message], values: Mapping[str, Any] | None = None, *, begin: bool) -> str:
        """The text with marks in it, for `ids`; `begin` adds what an answer begins with.

        Raises `ConfigError` when the template refuses these messages.
        """
        given = {**self._names, **self._guarded(values or {}), "messages": self._guarded(messages), "add_generation_prompt": begin}
        try:
            return self._template.render(given)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
            raise ConfigError(f"The model's chat template does not take these messages: {error}") from None

    def ids(self, rendered: str) -> list[int]:
        """Spelled control tokens as ordinary characters, the rest as it stands; templates write the first token themselves."""
        pieces = self._spelled.split(rendered.replace(BEGIN, "").replace(END, ""))
        written, spelled = pieces[::2], pieces[1::2]
        ids = self._backend.encode(written[0], add_special_tokens=False).ids
        for token, after in zip(spelled, written[1:], strict=True):
            ids += self.tokenizer.backend.encode(token or "", add_special_tokens=False).ids
            ids += self._backend.encode(after, add_special_tokens=False).ids
        return ids

    def learned(self, messages: Sequence[Message], values: Mapping[str, Any] | None = None, *, only_last: bool = False) -> Learned:
        """The ids of a conversation, and which are learned: all of the assistant's turns, or only the last.

        Raises `DataError` when the template leaves that open, ends turns with no control token, or writes control tokens that the
        tokenizer lacks; `Ambiguous` when one token belongs to a prompt and its answer; `ConfigError` as `render`.
        """
        rendered = self.render(messages, values, begin=False)
        if lacking := [token for token in self.unknown if token in rendered]:
            raise DataError(
                f"The chat template writes {', '.join(lacking)}, which the tokenizer does not know as control tokens, so they would be "
                "spelled with ordinary ones. Give another --template, or --add-special-tokens to give the model rows for them."
            )
        answers = [index for index, message in enumerate(messages) if message.get("role") == "assistant"]
        if not answers:
            raise DataError("A conversation without an assistant's turn teaches nothing.")
        parts = self._marked_parts(rendered, len(answers)) if self.marks_answers else self._grown_parts(rendered, messages, answers, values)
        for number, answer in enumerate(parts[1::2]):
            match = self._control.match(answer, self._last_control(answer))
            if match is None or answer[match.end() :].strip():
                raise DataError(
                    f"The chat template ends answer {number + 1} with {answer[-20:]!r}, which is no control token, so the model would not "
                    "learn where to stop. Give a template that ends turns with one, such as --template chatml."
                )
        if only_last:
            parts = ["".join(parts[:-2]), *parts[-2:]]
        return self._encoded(parts)

    def ending(self) -> str:
        """The control token that ends an answer."""
        found = self.learned([{"role": "user", "content": "a\n"}, {"role": "assistant", "content": "b"}])  # "ab" may be one token
        texts = [self._backend.id_to_token(token) or "" for token in found.ids[found.learned].tolist()]
        return next(text for text in reversed(texts) if self._control.fullmatch(text))

    def _last_control(self, text: str) -> int:
        """Where the last control token of a text begins that is not spelled by its author; its end if there is none."""
        found = [match.start() for match in self._control.finditer(text) if text[match.start() - 1 : match.start()] != OPEN]
        return found[-1] if found else len(text)

    def _marked_parts(self, rendered: str, answers: int) -> list[str]:
        """[between, answer, between, answer, ...] as the template marks them."""
        parts = re.split(f"[{BEGIN}{END}]", rendered)
        if sum(map(bool, parts[1::2])) != answers or len(parts) % 2 == 0:
            raise DataError(
                f"The chat template marks {len(parts) // 2} stretches with {{% generation %}} in a conversation of {answers} answers; "
                "it must mark each answer once."
            )
        return parts

    def _grown_parts(self, rendered: str, messages: Sequence[Message], answers: list[int], values: Mapping[str, Any] | None) -> list[str]:
        """The same, from the prompt of each answer and the conversation up to its end, which must be how the whole begins."""
        parts, done = [], 0
        for index in answers:
            prompt = self.render(messages[:index], values, begin=True)
            until = rendered if index == len(messages) - 1 else self.render(messages[: index + 1], values, begin=False)
            if not until.startswith(prompt) or not rendered.startswith(until) or len(prompt) < done:
                what = "its prompt for that turn" if not until.startswith(prompt) else "the conversation up to there"
                raise DataError(
                    f"The chat template does not say which tokens are the assistant's: at message {index + 1}, {what} is not how the whole "
                    "conversation begins. Put {% generation %} and {% endgeneration %} around answers in a template of your own "
                    "(--template FILE)."
                )
            end = len(prompt) + self._turn_end(until[len(prompt) :])
            parts += [rendered[done : len(prompt)], rendered[len(prompt) : end]]
            done = end
        return [*parts, rendered[done:]]

    def _turn_end(self, text: str) -> int:
        """Behind the control token that ends a turn, where only white space follows it."""
        begins = self._last_control(text)
        match = self._control.match(text, begins)
        return match.end() if match and not text[match.end() :].strip() else len(text)

    def _encoded(self, parts: list[str]) -> Learned:
        """The whole as one text, as it is read when it is a prompt; borders between parts must fall between tokens."""
        whole, pieces = self.ids("".join(parts)), [self.ids(part) for part in parts]
        borders = [0, *accumulate(map(len, pieces))]
        if [token for piece in pieces for token in piece] != whole:  # tokenizers that treat the beginning of a text specially
            beginnings = [self.ids("".join(parts[: count + 1])) for count in range(len(parts))]
            if any(whole[: len(some)] != some for some in beginnings):
                raise Ambiguous("One token belongs to a prompt and to its answer at once.")
            borders = [0, *map(len, beginnings)]
        learned = np.zeros(len(whole), dtype=bool)
        for first, end in zip(borders[1::2], borders[2::2], strict=False):
            learned[first:end] = True
        return Learned(np.array(whole, dtype=np.int64), learned)

    def _guarded(self, value: Any) -> Any:
        """Messages with every control token that they spell set between marks."""
        if isinstance(value, str):
            return self._control.sub(f"{OPEN}\\g<0>{CLOSE}", value.translate(MARKS))
        if isinstance(value, Mapping):
            return {key: self._guarded(item) for key, item in value.items()}
        return [self._guarded(item) for item in value] if isinstance(value, list | tuple) else value


def _names(tokenizer: Tokenizer) -> dict[str, str]:
    """`bos_token`, `eos_token` and others by their text; configs write it plainly, or as an object."""
    names = json.loads(tokenizer.companions.get("special_tokens_map.json", "{}"))
    names |= json.loads(tokenizer.companions.get("tokenizer_config.json", "{}"))
    texts = {role: value.get("content") if isinstance(value, dict) else value for role, value in names.items() if role.endswith("_token")}
    return {role: text for role, text in texts.items() if isinstance(text, str) and text}


def _constants(tree: nodes.Template) -> str:
    written = [node.data for node in tree.find_all(nodes.TemplateData)]
    return "\n".join([*written, *(node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))])


class _Generation(Extension):
    """`{% generation %}`, which marks an assistant's words."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own declaration)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:
        return f"{BEGIN}{caller()}{END}"


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
