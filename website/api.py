"""The API reference: one Markdown page for each package, made of signatures and docstrings. Sources are parsed, never imported."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import indent

SOURCE = Path(__file__).parents[1] / "src"
PACKAGES = (  # from what is called most to what lies below it
    "serve", "models", "compress", "distill", "train", "align", "adapters", "eval", "synth", "data", "precision", "parallel", "nn", "ops",
    "axes", "config", "instructions", "sandbox", "errors",
)  # fmt: skip
WIDEST = 100  # characters of a signature in one line
LAID_OUT = re.compile(r"^\s{2,}\S|\S\s{3,}\S|^>>>")  # a table, an example or a drawing in plain text

Definition = ast.ClassDef | ast.FunctionDef
Alias = ast.Assign | ast.AnnAssign


def page(package: str) -> str:
    """`page("serve")`: what the package says of itself, everything it exports, then its modules in one sentence each."""
    module = f"amaru.{package}"
    tree = _tree(module)
    parts = [f"# amaru.{package}", prose(ast.get_docstring(tree))]
    for name, home, found in _exported(module, tree) if _all(tree) else _of_modules(module):
        parts += _module_entry(name, home, found) if isinstance(found, ast.Module) else _entry(name, home, found)
    modules = [f"- `{name}`: {_escaped(_sentence(of))}" for name, of in _modules(module, "*/**/*.py" if not _all(tree) else "**/*.py")]
    parts += ["## Modules", "\n".join(modules)] if modules else []
    return "\n\n".join(part for part in parts if part) + "\n"


def prose(docstring: str | None) -> str:
    """A docstring as Markdown: paragraphs flow, whatever was laid out by hand stays as it was laid out."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring or ""))
    return "\n\n".join(_fenced(text) if any(LAID_OUT.search(line) for line in text.split("\n")) else _escaped(text) for text in paragraphs)


def _fenced(text: str) -> str:
    language = "pycon" if text.lstrip().startswith(">>>") else "text"
    return f"```{language}\n{inspect.cleandoc(text)}\n```"


def _escaped(text: str) -> str:
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(piece if piece.startswith("`") else re.sub(r"([\[\]*_#])", r"\\\1", piece).replace("<", "&lt;") for piece in pieces)


def _entry(name: str, home: str, found: Definition | Alias, level: int = 2) -> Iterator[str]:
    yield f"{'#' * level} {_escaped(name)}"
    if level == 2:
        yield f"`from {home} import {name}`"
    yield f"```python\n{signature(found)}\n```"
    yield prose(ast.get_docstring(found)) if isinstance(found, Definition) else ""
    for method in _methods(found):
        yield from _entry(method.name, home, method, level + 1)


def _module_entry(name: str, home: str, tree: ast.Module) -> Iterator[str]:
    """A name that a package exports and that is a module itself: an op beside its backends, by the function of its name if it has one."""
    yield f"## {_escaped(name)}"
    yield f"`from {home} import {name}`" if name in {found.name for found in _public(tree)} else f"`import {home}`"
    yield prose(ast.get_docstring(tree))
    for found in _public(tree):
        if ast.get_docstring(found):
            yield from list(_entry(found.name, home, found, 3))[found.name == name :]


def signature(found: Definition | Alias) -> str:
    """One line, or one line for each argument where that is too long."""
    if isinstance(found, Alias):
        return ast.unparse(found)
    if isinstance(found, ast.ClassDef):
        fields = [ast.unparse(line) for line in found.body if isinstance(line, ast.AnnAssign) and not ast.unparse(line).startswith("_")]
        bases = f"({', '.join(map(ast.unparse, found.bases))})" if found.bases else ""
        return f"class {found.name}{bases}" + (":\n" + indent("\n".join(fields), "    ") if fields else "")
    returns = f" -> {ast.unparse(found.returns)}" if found.returns else ""
    line = f"def {found.name}({ast.unparse(found.args)}){returns}"
    return line if len(line) <= WIDEST else f"def {found.name}(\n{indent(_arguments(found.args), '    ')}\n){returns}"


def _arguments(arguments: ast.arguments) -> str:
    plain = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(plain) - len(arguments.defaults)) + list(arguments.defaults)
    lines = [_argument(*pair) for pair in zip(plain, defaults, strict=True)]
    if arguments.vararg or arguments.kwonlyargs:
        lines.append("*" + (_argument(arguments.vararg, None) if arguments.vararg else ""))
    lines += [_argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    lines += ["**" + _argument(arguments.kwarg, None)] if arguments.kwarg else []
    return ",\n".join(lines) + ","


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + (f" = {ast.unparse(default)}" if default else "")


def _of_modules(module: str) -> Iterator[tuple[str, str, Definition]]:
    """What a package that exports nothing offers: each documented class and function of the package and of its modules."""
    for name, tree in [(module, _tree(module)), *_modules(module, "*.py")]:
        yield from ((found.name, name, found) for found in _public(tree) if ast.get_docstring(found))


def _exported(module: str, tree: ast.Module) -> Iterator[tuple[str, str, Definition | Alias | ast.Module]]:
    """Each name of `__all__`, the module that it is defined in, and its definition."""
    for line in tree.body:
        if isinstance(line, ast.ImportFrom):
            for alias in line.names:
                if alias.name in _all(tree) and line.module:
                    yield _found(alias.name, line.module, module)


def _found(name: str, module: str, exporter: str) -> tuple[str, str, Definition | Alias | ast.Module]:
    if _path(f"{module}.{name}").exists():
        return name, f"{module}.{name}", _tree(f"{module}.{name}")
    for line in _tree(module).body:
        if isinstance(line, Definition) and line.name == name:
            return name, exporter, line
        if isinstance(line, Alias) and name in ast.unparse(line).split(" = ")[0].split(":")[0].split():
            return name, exporter, line
        if isinstance(line, ast.ImportFrom) and line.module and name in {alias.name for alias in line.names}:
            return _found(name, line.module, exporter)
    raise LookupError(f"{exporter} exports {name}, which {module} does not define.")


def _all(tree: ast.Module) -> list[str]:
    named = [line.value for line in tree.body if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__all__"]
    return ast.literal_eval(named[0]) if named else []


def _public(tree: ast.Module | ast.ClassDef) -> list[Definition]:
    return [line for line in tree.body if isinstance(line, Definition) and not line.name.startswith("_")]


def _methods(found: ast.AST) -> list[ast.FunctionDef]:
    """The documented methods of a class, and how it is made."""
    methods = [line for line in found.body if isinstance(line, ast.FunctionDef)] if isinstance(found, ast.ClassDef) else []
    return [line for line in methods if line.name == "__init__" or (ast.get_docstring(line) and not line.name.startswith("_"))]


def _modules(module: str, pattern: str) -> Iterator[tuple[str, ast.Module]]:
    """The modules under a package, the packages among them by their own names."""
    package = _path(module)
    for path in sorted(package.parent.glob(pattern)) if package.name == "__init__.py" else ():
        if path != package and (path.name == "__init__.py" or not path.name.startswith("_")):
            inside = path.parent if path.name == "__init__.py" else path.with_suffix("")
            yield ".".join(inside.relative_to(SOURCE).parts), ast.parse(path.read_text(encoding="utf-8"))


def _sentence(tree: ast.Module) -> str:
    return " ".join((ast.get_docstring(tree) or "").split("\n\n")[0].split())


def _path(module: str) -> Path:
    path = SOURCE.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _tree(module: str) -> ast.Module:
    return ast.parse(_path(module).read_text(encoding="utf-8"))
