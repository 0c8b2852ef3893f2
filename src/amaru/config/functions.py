"""Functions of the user's own, by the names that recipes give them."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amaru.errors import ConfigError


def function_named(place: str, directory: Path = Path()) -> Callable[..., Any]:
    """`function_named("checks.py:passes", recipe.parent)`, a file in that directory, or `package.module:name`.

    Raises `ConfigError` when there is no such function, with the reason: the module is the user's, and may end in anything.
    """
    where, _, name = place.partition(":")
    try:
        if not where.endswith(".py"):
            return getattr(importlib.import_module(where), name)
        spec = importlib.util.spec_from_file_location(Path(where).stem, directory / where)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"There is no function {place} ({reason}). It is named as file.py:function or package.module:function."
        ) from error
