"""The run directory: which steps are finished, what each was made from, and what exactly ran."""

import fcntl
import json
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from amaru import __version__
from amaru.config import Config, atomic_file, fingerprint_bytes, to_dict
from amaru.config.atomic import storage_errors
from amaru.config.records import read_record
from amaru.errors import ArtifactError
from amaru.recipes.device import device_named
from amaru.recipes.team import ONE, Team
from amaru.train.settings import guarded

T = TypeVar("T")
VERSIONS = ("torch", "numpy", "tokenizers", "safetensors")


class Progress(Protocol):
    """Where a run says what it does: a line that stays, and a line that changes in place."""

    def note(self, text: str) -> None: ...
    def update(self, text: str) -> None: ...


def default_directory(kind: str, recipe: Config) -> Path:
    """`runs/train-3f2a91c0`: the same settings find the same run again."""
    return Path("runs") / f"{kind}-{fingerprint_bytes(json.dumps(_deciding(to_dict(recipe)), sort_keys=True))[:8]}"


class Run:
    """`with Run("runs/demo", "demo", recipe, progress) as run:` steps that are kept when whole and made when not.

    A step is finished when its entry in `steps.json` names the same `made_from` and its file is there. The same
    command therefore continues after the last finished step, whatever stopped it. `device` is where models compute; a run may go on
    on another.
    Used in a `with`, which keeps other processes out. Raises `ArtifactError` when one is in, and when the directory
    holds finished steps of another recipe.
    """

    team: Team = ONE

    def __init__(self, directory: str | Path, kind: str, recipe: Config, progress: Progress, device: str = "cpu") -> None:
        self.directory = Path(directory)
        self.kind = kind
        self.recipe = recipe
        self.progress = progress
        self.device = device_named(device)

    def __enter__(self) -> "Run":
        if self.directory.is_file():
            raise ArtifactError(f"{self.directory} is a file; --out is a directory.")
        with storage_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._lock = self.path(".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._claim()
        except BlockingIOError:
            self._lock.close()
            raise ArtifactError(f"Another process is working in {self.directory}; wait for it, or give another --out.") from None
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and {path.name for path in self.directory.iterdir()} <= {".lock", "run.json"}:
            shutil.rmtree(self.directory)  # nothing came of it, so nothing is left lying about
        self._lock.close()

    def path(self, name: str) -> Path:
        return self.directory / name

    def keep(
        self,
        name: str,
        made_from: dict[str, str],
        make: Callable[[Path], Any],
        load: Callable[[Path], T],
        *,
        title: str = "",
        describe: Callable[[T], object] = lambda content: "",
    ) -> T:
        """The content of file or directory `name`, made by `make(path)` unless a whole one from the same things is there.

        One line says what was made or kept, and how long it took; `describe(content)` adds what is in it.
        """
        path, title = self.path(name), title or name
        if self.is_kept(name, made_from):
            content = load(path)
            self._tell(title, describe(content), "kept from before")
            return content
        others = {other: step for other, step in self._steps().items() if other != name}
        self.write("steps.json", others)  # a kill must not leave the old entry
        start = time.monotonic()
        make(path)
        content = load(path)
        seconds = round(time.monotonic() - start, 2)
        self.write("steps.json", self._steps() | {name: {"made_from": made_from, "seconds": seconds}})
        self._tell(title, describe(content), f"{seconds:.1f} s")
        return content

    def is_kept(self, name: str, made_from: dict[str, str]) -> bool:
        """Whether a whole one from the same things is there."""
        return self._steps().get(name, {}).get("made_from") == made_from and self.path(name).exists()

    def keep_together(
        self, name: str, made_from: dict[str, str], make: Callable[[Path], Any], load: Callable[[Path], T], *, title: str = ""
    ) -> T:
        """`keep`, for what all processes of the team make together, each its part."""
        return self.keep(name, made_from, make, load, title=title)

    def result(self, name: str, made_from: dict[str, str], make: Callable[[], Any], *, title: str = "") -> Any:
        """Plain JSON values under `name`, measured once and kept."""
        return self.keep(f"{name}.json", made_from, lambda path: self.write(path.name, make()), read_record, title=title)

    def _tell(self, title: str, content: object, how: str) -> None:
        self.progress.note(f"  {title}: {content} ({how})" if str(content) else f"  {title}: {how}")

    def _steps(self) -> dict[str, Any]:
        path = self.path("steps.json")
        return read_record(path) if path.exists() else {}

    def _clear_leftovers(self) -> None:
        """Remove what a killed process had half written here: the lock says that nobody is writing it now."""
        for leftover in self.directory.glob(".*.*.partial"):
            if leftover.name.split(".")[-2].isdigit():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _claim(self) -> None:
        path = self.path("run.json")
        now = {"kind": self.kind, "recipe": _plain(to_dict(self.recipe)), "amaru": __version__}
        if path.exists():
            self._clear_leftovers()
            before = read_record(path)
            different = _differences(_settings(before), _settings(now))
            if different and self._steps():
                raise ArtifactError(
                    f"{self.directory} holds a run with other settings ({'; '.join(different)}); give another --out, or delete it."
                )
            if not different:
                self.progress.note(f"Continuing {self.directory}")
            if before.get("recipe") == now["recipe"]:
                return
        self.write("run.json", {"kind": self.kind, "recipe": now["recipe"], **environment()})

    def write(self, name: str, values: Any) -> None:
        """JSON values that follow from others, written anew each time."""
        with atomic_file(self.path(name)) as temporary:
            temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Command, versions and machine, for the record."""
    return {
        "command": shlex.join(["amaru", *sys.argv[1:]]),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "amaru": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _plain(values: Any) -> Any:
    """As JSON gives them back (infinity and tuples included)."""
    return json.loads(json.dumps(values))


PLACES = ("checkpoint", "teacher", "student", "start")  # paths; what lies there is known by its fingerprint, so a run may be moved


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    """What decides the results of a run."""
    recipe = {name: value for name, value in record.get("recipe", {}).items() if name not in PLACES}
    return {"kind": record.get("kind"), "amaru": record.get("amaru"), **_deciding(recipe)}


def _deciding(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without how the state is saved (but for which weights a run ends with) and where a cache lies, and with a guard that skips where it
    would stop."""
    kept = {}
    for name, value in recipe.items():
        if name == "directory":
            continue
        if name == "saving":
            kept[name] = {"best": value["best"]}
        elif name == "guard":
            kept[name] = guarded(value)
        else:
            kept[name] = _deciding(value) if isinstance(value, dict) else value
    return kept


def _differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    names = []
    for name in before.keys() | now.keys():
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            names += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            names.append(f"{prefix}{name}: {old} there, {new} now")
    return sorted(names)
