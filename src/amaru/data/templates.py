"""The chat templates that amaru brings along, for models whose tokenizer has none: ChatML, Nemotron-4's, and none of either's marks."""

import re
from pathlib import Path

from amaru.data.chat import Template
from amaru.data.tokenizer import Tokenizer
from amaru.errors import ConfigError, DataError

CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""

# Nemotron-4 340B Instruct. Every turn opens with <extra_id_1>, which is also how an answer ends.
NEMOTRON4 = """\
{{- '<extra_id_0>System\\n' -}}
{%- set turns = messages -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{{- messages[0]['content'] -}}
{%- set turns = messages[1:] -%}
{%- endif -%}
{{- '\\n<extra_id_1>' -}}
{%- for message in turns -%}
{%- if message['role'] != ('user' if loop.index0 % 2 == 0 else 'assistant') -%}
{{- raise_exception('After an optional system message, user and assistant take turns, the user first.') -}}
{%- elif message['role'] == 'user' -%}
{{- 'User\\n' + message['content'] + '\\n<extra_id_1>' -}}
{%- else -%}
{{- 'Assistant\\n' -}}
{%- generation -%}{{- message['content'] + '\\n<extra_id_1>' -}}{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant\\n' -}}{%- endif -%}
"""

# Texts as they are, one after the other; an answer ends as documents do. For prompts and completions, and models without rows for marks.
PLAIN = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{- message['content'] + eos_token -}}{%- endgeneration -%}
{%- else -%}
{{- message['content'] -}}
{%- endif -%}
{%- endfor -%}
"""

BUILT_IN = {"chatml": CHATML, "nemotron4": NEMOTRON4, "plain": PLAIN}


def template_of(name: str | None, tokenizer: Tokenizer) -> Template:
    """`template_of("chatml", tokenizer)`: a template that is built in, or in a file; None takes the tokenizer's own.

    Raises `ConfigError` when there is none.
    """
    if name is None:
        found = Template.of(tokenizer)
        if found is None:
            raise ConfigError(f"The tokenizer has no chat template; give --template {', '.join(BUILT_IN)}, or a file with one.")
        return found
    if name in BUILT_IN:
        return Template(BUILT_IN[name], tokenizer)
    try:
        return Template(Path(name).read_text(encoding="utf-8"), tokenizer)
    except (OSError, UnicodeDecodeError):
        raise DataError(f"'{name}' is no chat template: neither {' nor '.join(BUILT_IN)}, nor a file of text.") from None


def for_others(source: str) -> str:
    """The template without marks of training, which programs other than transformers may not know."""
    return re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", source)
