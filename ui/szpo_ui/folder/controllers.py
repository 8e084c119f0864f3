"""The processes that hold the models of a folder's runs, started and ended from its home page.

Each is the same controller as under ``szpo serve RUN``: ``szpo run --resume RUN --stay``,
restarted when it dies. None starts by itself, since memory may hold only one model.

The size of a model's files on disk tells whether it fits into this machine's memory.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from szpo import cache, memory
from szpo.config import model_table, settings_file
from szpo.config.schema import Config
from szpo.errors import LeaseError, ResourceError, UsageError
from szpo.ledger.database import Ledger
from szpo.ledger.run_spec import recorded_config
from szpo.runs import assemble, run_engine
from szpo.voting import lease, shown_features
from szpo_ui.web.child_process import SZPO, Keeper, controller, record_end, start

Say = Callable[[str], None]
LINES: Final = 5
"""How many of a process's last lines are kept."""
LAST_S: Final = 2.0
"""How long to wait for the last lines of an ended process, seconds."""
LOOK_S: Final = 0.1
"""Seconds between two checks for a new run's file."""


@dataclass(slots=True)
class _ControlledRun:
    """A run whose process this server started."""

    need: int | None
    keeper: Keeper | None = None
    """None until the file of a new run exists."""
    child: subprocess.Popen[Any] | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))
    reader: threading.Thread | None = None
    """Reads the process's output."""
    features: tuple[str, ...] = ()
    """The user's own features, from the settings of a run that was created here."""
    trouble: str = ""
    """Why the last process failed; empty if it did not."""

    def last_line(self, otherwise: str) -> str:
        """The last line of an ended process, after waiting for the rest of its output."""
        if self.reader is not None:
            self.reader.join(LAST_S)
        return self.lines[-1] if self.lines else otherwise


class Controllers:
    """Starts and ends the model processes of a folder; safe to use from several threads."""

    def __init__(
        self,
        folder: Path,
        say: Say,
        command: Sequence[str] = SZPO,
        *,
        features: Sequence[str] = (),
    ):
        """``say`` prints a line to the terminal; ``command`` begins szpo's own commands.

        ``features`` are the user's own that runs may use: a run's record must not name code.
        """
        self._features: Final = tuple(features)
        self._folder: Final = folder
        self._say: Final = say
        self._command: Final = tuple(command)
        self._lock: Final = threading.RLock()
        self._driven: dict[str, _ControlledRun] = {}

    def start(self, name: str) -> None:
        """Start the process of a run, which resumes the run.

        Raises:
            LeaseError: the run has a process already.
            ResourceError: the model does not fit into memory beside the running ones.
            UsageError: the run has no settings, or they name a web address not allowed here.
            SzpoError: the file cannot be read.
        """
        path = self._folder / f"{name}.db"
        with Ledger.open(path, readonly=True) as ledger:
            row, config = lease.controller(ledger), recorded_config(ledger)
            if config is None:
                raise UsageError(f"{path.name} was not made by szpo run; continue it from Python")
            run_engine.read_settings(ledger)
            driven = lease.is_driven(row["lease"], row["expires_us"], ledger.clock())
        with self._lock:
            if self.is_alive(name) or driven:
                raise LeaseError(f"{name} has a process already")
            need = self._refuse_unless_it_fits(name, config)
            made = _ControlledRun(need)
            made.keeper = self._keeper(path, made, None)
            self._driven[name] = made
            made.keeper.run()

    def require_features(self, name: str, ledger: Ledger) -> None:
        """Refuse more votes for a run whose process would lack the user's own features.

        Raises:
            UsageError: the run uses features that this server was not given.
        """
        with self._lock:
            made = self._driven.get(name)
            given = (*self._features, *(() if made is None else made.features))
        shown_features.require_given(ledger, given)

    def begin(self, name: str, *, preset: str | None = None, file: str | None = None) -> None:
        """Create a new run, paused, from a preset or a settings file of the folder.

        Raises:
            UsageError: neither or both are given, or the settings are wrong.
            StorageError: a run of that name exists.
            LeaseError: a run of that name is being set up.
            ResourceError: the model does not fit into memory beside the running ones.
        """
        if (preset is None) == (file is None):
            raise UsageError("a new run begins from a preset or from a settings file: choose one")
        sets = [f"run.name={name}", f"run.folder={self._folder}"]
        source = None if file is None else self._folder / file
        if source and (source.parent != self._folder or source.suffix != ".toml"):
            raise UsageError(f"{file} is not a settings file (*.toml) of this folder")
        config = settings_file.load(source, preset_name=preset, sets=sets)
        with self._lock:
            if self.is_alive(name):
                raise LeaseError(f"{name} is being set up")
            path = assemble.new_path(config)
            need = self._refuse_unless_it_fits(name, config)
            words = [str(source)] if source else ["--preset", str(preset)]
            for each in sets:
                words += ["--set", each]
            made = _ControlledRun(need, features=tuple(config.features.add))
            self._driven[name] = made
        command = [*self._command, "run", *words, "--stay", "--hold"]
        follow = partial(self._follow, path, made, command)
        threading.Thread(target=follow, name=f"szpo-{name}", daemon=True).start()

    def stop(self, name: str) -> None:
        """Shut down the process of a run; the run keeps its state and still takes votes.

        Raises:
            UsageError: this server started no process for the run.
        """
        with self._lock:
            found = self._driven.pop(name, None)
        if found is None:
            raise UsageError(f"{name} has no process of this server; end it where it began")
        _end(found)

    def close(self) -> None:
        """End all processes in parallel."""
        with self._lock:
            every, self._driven = list(self._driven.values()), {}
        with ThreadPoolExecutor(max(1, len(every))) as threads:
            list(threads.map(_end, every))

    def is_alive(self, name: str) -> bool:
        """Whether a process of the run was started here and runs or will restart."""
        with self._lock:
            found = self._driven.get(name)
            return found is not None and _is_alive(found)

    def notes(self) -> dict[str, str]:
        """By run, the state of its process while it is being set up, or why it failed."""
        with self._lock:
            return {
                name: each.trouble or (each.lines[-1] if each.lines else "starting")
                for name, each in self._driven.items()
                if each.trouble or each.keeper is None
            }

    # ---- internals ----

    def _refuse_unless_it_fits(self, name: str, config: Config) -> int | None:
        """The bytes that the run's process will take; checked only if another process runs.

        Raises:
            ResourceError: the process does not fit beside the others.
        """
        need = estimate(config)
        others = [each for each in self._driven.values() if _is_alive(each)]
        set_aside = sum(map(_outstanding, others))
        free = memory.available_bytes() - set_aside
        if others and need is not None and need > free:
            aside = f", {_gib(set_aside)} set aside for runs that are starting"
            raise ResourceError(
                f"{name} needs about {_gib(need)} of memory, and {_gib(max(0, free))} are free"
                f"{aside if set_aside else ''}; stop another run's model first"
            )
        return need

    def _keeper(
        self, path: Path, made: _ControlledRun, first: subprocess.Popen[Any] | None
    ) -> Keeper:
        def on_end(code: int, wait: float) -> None:
            last = made.last_line("it printed nothing")
            made.trouble = f"ended with code {code}: {last}" if code else ""
            record_end(path, code, wait)

        command = controller(path, (*self._features, *made.features), self._command)
        return Keeper(
            f"process of {path.stem}", command, say=self._say, on_end=on_end, first=first,
            begin=self._relay_output(path.stem, made),
        )  # fmt: skip

    def _relay_output(
        self, name: str, made: _ControlledRun
    ) -> Callable[[Sequence[str]], subprocess.Popen[Any]]:
        """A function that starts a process and prints its lines after the run's name."""

        def begin(command: Sequence[str]) -> subprocess.Popen[Any]:
            child = start(command, output=subprocess.PIPE)
            made.trouble = ""
            made.reader = threading.Thread(target=relay, args=(child,), daemon=True)
            made.reader.start()
            return child

        def relay(child: subprocess.Popen[Any]) -> None:
            with contextlib.closing(child.stdout) as lines:  # type: ignore[type-var]
                for line in lines:  # type: ignore[union-attr]
                    if text := line.decode("utf-8", "replace").rstrip():
                        made.lines.append(text)
                        self._say(f"{name}: {text}")

        return begin

    def _follow(self, path: Path, made: _ControlledRun, command: Sequence[str]) -> None:
        """Start the process of a new run, and keep it running once the run's file exists.

        This thread must outlive that first process, since Linux would end the process with it.
        """
        with self._lock:
            if self._driven.get(path.stem) is not made:
                return  # the run was stopped before its process began
            child = made.child = self._relay_output(path.stem, made)(command)
        while not path.exists():
            if child.poll() is not None:
                last = made.last_line(f"exit code {child.returncode}")
                made.trouble = f"not set up: {last}"
                return
            time.sleep(LOOK_S)
        with self._lock:
            if self._driven.get(path.stem) is made:
                made.keeper = self._keeper(path, made, child)
                made.keeper.run()
        child.wait()


def _is_alive(driven: _ControlledRun) -> bool:
    if driven.keeper is not None:
        return driven.keeper.is_alive
    return not driven.trouble and (driven.child is None or driven.child.poll() is None)


def _outstanding(driven: _ControlledRun) -> int:
    """Bytes that a process will still take: its need minus the memory it has now."""
    child = driven.child if driven.keeper is None else driven.keeper.child
    has = 0 if child is None else memory.resident_bytes(child.pid)
    return max(0, (driven.need or 0) - has)


def _end(driven: _ControlledRun) -> None:
    if driven.keeper is not None:
        driven.keeper.close()
    elif driven.child is not None and driven.child.poll() is None:
        driven.child.terminate()
        driven.child.wait()


GIB: Final = 2**30
PROCESS: Final = 700 * 2**20
"""Memory of Python with torch and transformers but without a model, bytes."""
WORKING: Final = 1.0
"""Further memory while answers are written, as a multiple of the weights in fp32."""
STORED: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
KNOWN: Final = {"smollm2": 134_515_008, "tiny": 1_000_000}
"""Number of parameters of the models that have a name in szpo."""


def estimate(config: Config) -> int | None:
    """Bytes that the process of a run will take; None if its model is not on this machine yet.

    A model on a GPU, on workers or on servers takes no memory itself here.
    """
    if not config.engine.is_local or not config.model.device.startswith(("cpu", "auto")):
        return PROCESS
    free_gib = memory.available_bytes() / GIB
    # Only the process that loads the model knows what auto means, so assume the largest type.
    number = model_table.NUMBER_BYTES.get(
        config.model.dtype, max(model_table.NUMBER_BYTES.values())
    )
    name = model_table.name_auto(
        config.model.name, free_gib, accelerator=False, number_bytes=number
    )
    parameters = _parameters(name)
    if parameters is None:
        return None
    each = 0.6 if config.model.quantization else number
    return round(PROCESS + parameters * (each + 4 * WORKING))


def _parameters(name: str) -> int | None:
    """The number of a model's parameters, from the sizes of its files; None if it has none."""
    if name in KNOWN:
        return KNOWN[name]
    folder = Path(name).expanduser()
    if not folder.is_dir():
        found = cache.hub_copy(name)
        if found is None:
            return None
        folder = found
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    try:
        described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        described = {}
    stored = str(described.get("dtype") or described.get("torch_dtype") or "float32")
    return size // STORED.get(stored, 4) or None


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
