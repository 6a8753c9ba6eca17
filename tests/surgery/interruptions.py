"""Exceptions and SIGINT at random source lines of surgery: afterwards all is as before, or complete.

python -m tests.surgery.interruptions --points 2000 --seed 0 --out results/faults/surgery.json
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import graftwork as gw
from graftwork import surgery
from graftwork._files import as_json
from graftwork.runs import machine, provenance
from graftwork.surgery.carry import _first_update

SOURCES = (str(Path(surgery.__file__).parent), str(Path(gw.__file__).parent / "_files.py"))
KINDS = ("SIGINT", "KeyboardInterrupt", "RuntimeError")


class Config:
    """As in the models of transformers: sizes that a model is built from, and that it holds."""

    def __init__(self) -> None:
        self.width, self.hidden, self.num_layers = 8, 12, 2

    def to_dict(self) -> dict[str, Any]:
        return dict(vars(self))


class Block(nn.Module):
    def __init__(self, config: Config, index: int) -> None:
        super().__init__()
        self.config, self.index = config, index
        self.up, self.down = nn.Linear(config.width, config.hidden), nn.Linear(config.hidden, config.width)
        self.size = config.hidden

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)).view(-1, self.size))  # type: ignore[no-any-return]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.stem, self.norm = nn.Linear(5, 8), nn.BatchNorm1d(8)
        self.blocks = nn.ModuleList(Block(self.config, index) for index in range(2))
        self.drop, self.head = nn.Dropout(0.1), nn.Linear(8, 3)
        self.calls = [0]

    def forward(self, x: Tensor) -> Tensor:
        self.calls[0] += 1
        x = self.norm(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(self.drop(x))  # type: ignore[no-any-return]


@dataclass
class Subject:
    """A trained model with its optimizer, and a folder that holds an older save of it."""

    folder: Path
    model: nn.Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    x: Tensor = field(init=False)
    receipt: surgery.SurgeryReceipt = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.x = Net(), torch.randn(4, 5)
        self.model.norm.eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.model(self.x).sum().backward()
        self.optimizer.step()
        shutil.rmtree(self.folder, ignore_errors=True)
        gw.save_model(self.model, self.folder)

    @property
    def along(self) -> dict[str, Any]:
        return {"example_input": self.x, "optimizer": self.optimizer, "generator": torch.Generator().manual_seed(1)}

    def values(self) -> dict[str, Any]:
        """All that can be compared with another run; tensors as bytes."""
        model, optimizer = self.model, self.optimizer
        return {
            "tensors": {
                name: (_plain(t), t.requires_grad, _plain(t.grad))
                for name, t in [*model.named_parameters(), *model.named_buffers()]
            },
            "modules": {name: _about(module) for name, module in model.named_modules()},
            "optimizer": _plain(optimizer.state_dict()),
            "waiting": len(_first_update._unsettled.get(optimizer, {})),
            "hooks": len(optimizer._optimizer_step_pre_hooks),
            "random": (_plain(torch.get_rng_state()), random.getstate()),
            "modes": (torch.is_grad_enabled(), len(_get_current_function_mode_stack())),
            "dispatch": len(_get_current_dispatch_mode_stack()),
            "kernels": (torch._C._get_mkldnn_enabled(), torch.backends.mha.get_fastpath_enabled()),
        }

    def identities(self) -> list[int]:
        """Of every object that a user may hold."""
        model = self.model
        configs = [module.config for module in model.modules() if hasattr(module, "config")]
        return [id(one) for one in (*model.parameters(), *model.buffers(), *model.modules(), *configs)]

    def saved(self) -> Any:
        """What the folder gives back: an older or a newer save, whole."""
        return _plain(gw.load_model(Net, self.folder).state_dict())


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.dtype, tuple(value.shape), value.detach().contiguous().numpy().tobytes())
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _about(module: nn.Module) -> Any:
    held = {k: v for k, v in vars(module).items() if isinstance(v, int | float | str | tuple | list)}
    hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
    config = module.config.to_dict() if hasattr(module, "config") else None
    return type(module).__name__, _plain(held), hooks, config, list(module._modules)


def _saved_again(subject: Subject) -> None:
    own = subject.model.head.weight.detach().clone()
    subject.model.head.weight.data.fill_(1.0)
    try:
        gw.save_model(subject.model, subject.folder)
    finally:
        subject.model.head.weight.data.copy_(own)


ACTIONS: dict[str, Callable[[Subject], object]] = {
    "widen": lambda s: gw.widen(s.model, "blocks.0.up", extra=4, **s.along),
    "widen_all": lambda s: gw.widen_all(s.model, 1.5, **s.along),
    "deepen": lambda s: gw.deepen(s.model, "norm", **s.along),
    "insert": lambda s: gw.grow(s.model, gw.InsertLayers("blocks", after=(0,)), **s.along),
    "save": _saved_again,
    "remove": lambda s: gw.remove(s.model, s.receipt, example_input=s.x, optimizer=s.optimizer),
}


def subject_of(action: str, folder: Path) -> Subject:
    """The subject of an action, as it is before: grown, where a growth is taken out."""
    subject = Subject(folder)
    if action == "remove":
        subject.receipt = gw.widen_all(subject.model, 1.5, **subject.along)
    return subject


class Fault:
    """Raises at the n-th line that runs in surgery; with ``at=None`` it only notes the lines."""

    def __init__(self, kind: str = "", at: int | None = None) -> None:
        self.kind, self.at = kind, at
        self.lines: list[tuple[str, int]] = []
        self.count = 0

    def _global(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._local if frame.f_code.co_filename.startswith(SOURCES) else None

    def _local(self, frame: FrameType, event: str, _: Any) -> Any:
        if event != "line":
            return self._local
        self.count += 1
        if self.at is None:
            self.lines.append((frame.f_code.co_filename, frame.f_lineno))
        elif self.count == self.at:
            sys.settrace(None)
            if self.kind == "SIGINT":
                signal.raise_signal(signal.SIGINT)
                return None
            raise KeyboardInterrupt if self.kind == "KeyboardInterrupt" else RuntimeError("injected")
        return self._local

    def run(self, action: Callable[[Subject], object], subject: Subject) -> BaseException | None:
        """Run an action under the fault; returns what it has raised."""
        before = sys.gettrace()
        sys.settrace(self._global)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # a file is closed with the frames that held it
            try:
                action(subject)
            except BaseException as error:
                traceback.clear_frames(error.__traceback__)
                return error.with_traceback(None)
            finally:
                sys.settrace(before)
                signal.signal(signal.SIGINT, signal.default_int_handler)
        return None


@dataclass
class Lines:
    """The lines that an action runs, and what it leads to."""

    name: str
    folder: Path
    lines: list[tuple[str, int]] = field(init=False)
    after: Any = field(init=False)
    saves: list[Any] = field(init=False)

    def __post_init__(self) -> None:
        action = ACTIONS[self.name]
        action(subject_of(self.name, self.folder))  # fills caches
        subject = subject_of(self.name, self.folder)
        old, fault = subject.saved(), Fault()
        problem = fault.run(action, subject)
        assert problem is None, problem
        self.lines, self.after, self.saves = fault.lines, subject.values(), [old, subject.saved()]

    def draw(self, rng: random.Random) -> int:
        """A random line, and a random one of the times that it runs."""
        line = rng.choice(sorted(set(self.lines)))
        return rng.choice([number for number, one in enumerate(self.lines, start=1) if one == line])

    def try_point(self, kind: str, at: int) -> str:
        """What a fault leads to: ``before``, ``complete``, ``another way`` (it was worked around), or a damage."""
        subject = subject_of(self.name, self.folder)
        before, identities = subject.values(), subject.identities()
        error = Fault(kind, at).run(ACTIONS[self.name], subject)
        now = subject.values()
        if subject.saved() not in self.saves:
            return f"damaged save after {error!r}"
        if now == before and subject.identities() == identities:
            return "before"
        if _lasting(now) == _lasting(self.after):
            return "complete"
        if error is None and _settings(now) == _settings(before):
            grown, old = subject.model.eval(), Subject(self.folder).model.eval()
            if torch.allclose(grown(subject.x), old(subject.x), atol=1e-5):
                return "another way"
        changed = [key for key in now if now[key] != before[key]]
        unlike = [key for key in now if now[key] != self.after[key]]
        return f"damaged: {', '.join(changed)} (from complete: {', '.join(unlike)}) after {error!r}"


def _settings(values: dict[str, Any]) -> Any:
    """Settings of the process, and of every module: its mode and its hooks."""
    modules = {name: (held["training"], hooks) for name, (_, held, hooks, _, _) in values["modules"].items()}
    before = {name: one for name, one in modules.items() if "graft" not in name and not name.startswith("blocks.")}
    return [before, *(values[name] for name in ("random", "modes", "dispatch", "kernels"))]


def _lasting(values: dict[str, Any]) -> dict[str, Any]:
    """Without the state of random numbers, which depends on what ran before."""
    return {**values, "random": None}


def run(
    points: int,
    seed: int,
    *,
    actions: Sequence[str] = tuple(ACTIONS),
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Try faults at random lines.

    Args:
        points: Number of faults.
        seed: Seed of their places.
        actions: Names of what they fall into, in turn.
        note: Is told of progress and of every damage.

    Returns:
        Counts by action and by outcome, and the places of damages.
    """
    rng, counts, damages = random.Random(seed), dict[str, Counter[str]](), list[str]()
    lines_hit: set[tuple[str, int]] = set()
    with tempfile.TemporaryDirectory() as folder:
        known = {name: Lines(name, Path(folder) / name) for name in actions}
        for number in range(points):
            name, kind = actions[number % len(actions)], KINDS[number // len(actions) % len(KINDS)]
            at = known[name].draw(rng)
            outcome = known[name].try_point(kind, at)
            line = known[name].lines[at - 1]
            lines_hit.add(line)
            if outcome.startswith("damaged"):
                damages.append(f"{name}: {kind} at {Path(line[0]).name}:{line[1]} ({at}): {outcome}")
                note(damages[-1])
                outcome = "damaged"
            counts.setdefault(name, Counter())[outcome] += 1
            if number % 100 == 99:
                note(f"{number + 1} of {points}")
    return {
        "points": points,
        "seed": seed,
        "kinds": list(KINDS),
        "lines_run": len({line for one in known.values() for line in one.lines}),
        "lines_hit": len(lines_hit),
        "outcomes": {name: dict(sorted(found.items())) for name, found in counts.items()},
        "damages": damages,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python -m tests.surgery.interruptions --points {options.points} --seed {options.seed}"
    about = {"command": command, "commit": provenance()["git_commit"], "machine": machine()}  # before it can change
    found = run(options.points, options.seed, note=lambda text: print(text, flush=True))
    print(json.dumps(found, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(as_json({**about, **found}))


if __name__ == "__main__":
    main()
