"""Prompts: jinja templates with a version, which is a hash of their text. Ours lie in `prompts/`; a recipe may bring its own."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from amaru.config import fingerprint_bytes
from amaru.errors import ConfigError

OURS = files("amaru.synth") / "prompts"
# What a row may make of a template or an expression: filters raise whatever Python does.
FAULTS = (jinja2.TemplateError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
SANDBOX = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)


class Prompt:
    """`Prompt("subtopics", text).render({"topic": "Food", "count": 5})`.

    Raises `ConfigError` for a text that is no jinja template.
    """

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text.strip()
        try:
            self.needs = frozenset(jinja2.meta.find_undeclared_variables(SANDBOX.parse(self.text)))
            self._template = SANDBOX.from_string(self.text)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"The prompt {name} is no jinja template: {error.message} (line {error.lineno}).") from None

    @property
    def version(self) -> str:
        return fingerprint_bytes(self.text)

    def render(self, columns: Mapping[str, Any]) -> str:
        """Raises `ConfigError` for a column that the row does not have, or that is of another kind."""
        try:
            return self._template.render(columns).strip()
        except FAULTS as error:
            raise ConfigError(f"The prompt {self.name} cannot be written: {error}; the row has {', '.join(columns)}.") from None


def find_prompt(named: str, directory: Path | None = None) -> Prompt:
    """One of ours by its name, a file that ends in .jinja (beside the recipe), or the text itself, which has a blank in it.

    Raises `ConfigError` when it is none of them.
    """
    if named.endswith(".jinja"):
        path = (directory or Path()) / named
        if not path.is_file():
            raise ConfigError(f"There is no prompt file {path}.")
        return Prompt(path.stem, path.read_text(encoding="utf-8"))
    if len(named.split()) > 1:
        return Prompt("inline", named)
    if named not in our_prompts():
        raise ConfigError(f"There is no prompt '{named}'. There is: {', '.join(our_prompts())}; a file ends in .jinja, a text has blanks.")
    return our_prompts()[named]


@cache
def our_prompts() -> dict[str, Prompt]:
    """All that lie in `prompts/`, by name."""
    found = sorted((file for file in OURS.iterdir() if file.name.endswith(".jinja")), key=lambda file: file.name)
    return {file.name.removesuffix(".jinja"): Prompt(file.name.removesuffix(".jinja"), file.read_text(encoding="utf-8")) for file in found}


class Expression:
    """`Expression("level == 'beginner' and question | length > 20").value({"level": ..., "question": ...})`."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._of = SANDBOX.compile_expression(text, undefined_to_none=False)
        except jinja2.TemplateSyntaxError as error:
            raise ConfigError(f"'{text}' is no jinja expression: {error.message}.") from None

    def value(self, columns: Mapping[str, Any]) -> Any:
        """Raises `ConfigError` where a row does not have the columns, or they are of other kinds."""
        try:
            value = self._of(**columns)
            json.dumps(value)  # an undefined name, or what jinja makes on the way, is no value
            return value
        except FAULTS as error:
            raise ConfigError(f"'{self.text}' cannot be computed: {error}; the row has {', '.join(columns)}.") from None
