"""Search over sizes: one training at a rate that stays, which grows where a race is won, and leaves every size."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from graftwork._files import check_id, damaged
from graftwork.errors import ConfigError, SurgeryError
from graftwork.surgery._calls import Batches, Loss, call_of
from graftwork.surgery._grow import Optimizers
from graftwork.surgery._rehearsal import Rehearsal
from graftwork.surgery._updates import held_out_losses, update_flops
from graftwork.surgery.families._family import FamilyMember, ModuleFamily
from graftwork.surgery.families._files import FamilyFiles
from graftwork.surgery.families._task import Task, seeded
from graftwork.surgery.families._trunk import State, Trunk
from graftwork.surgery.growths import ModelGrowth


def search_module(
    build: Callable[[], nn.Module],
    growths: Sequence[ModelGrowth],
    *,
    optimizer: Callable[[nn.Module], Optimizers],
    batches: Callable[[int], Batches],
    held_out: Batches,
    loss: Loss,
    steps: int,
    folder: str | os.PathLike[str],
    seed: int = 0,
) -> ModuleFamily:
    """Train a module of one's own, growing it where a race says so, into a family of finished models.

    One training, the trunk, runs at the rates of the optimizers. When it has taken 5, 10, 20 and 35 % of the FLOPs
    every growth races against going on as it is (see `advise`). If one wins, a branch finishes a copy of the present
    size with rates that fall to zero (see `decay_branch`), and the trunk grows; a last branch finishes the last size.
    The budget counts everything, races and branches included.

    The folder keeps the training, too: called again with the same arguments after a kill, it goes on from there. The
    bits are then those of an uninterrupted call, if ``batches`` depends on nothing but the step.

    Args:
        build: Makes the smallest model.
        growths: What may grow, one at a time; each is raced again at every moment.
        optimizer: Makes the optimizers of a model.
        batches: From a number of updates to the batches that come next, pairs of inputs and targets; called again where
            they end, as after an epoch.
        held_out: The same to compare losses on, at least one and of one size; from several, the noise is known.
        loss: Function of the model's output and the target; returns a scalar, a mean over the batch.
        steps: Budget, in updates of the model as ``build`` makes it.
        folder: Where the models go: an empty folder, or that of an interrupted call.
        seed: Seed of the first weights and of what the forward draws.

    Returns:
        The family, smallest model first.

    Raises:
        ConfigError: The budget is too small for its races, something is missing, or the folder's call was another one.
        SurgeryError: The model can't make one of the growths, or can't be copied or stored; told before the training.
    """
    tried = tuple((call_of(inputs), target) for inputs, target in held_out)
    task = Task(build, tuple(growths), optimizer, batches, tried, loss, steps, seed)
    files = FamilyFiles(Path(folder))
    state = _stored(files, task)
    if state is None or not state.finished:
        trunk = _begun(files, task) if state is None else _continued(files, task, state)
        state = trunk.state
        while not trunk.complete:
            with seeded(seed, state.steps):
                trunk.ask(files)
                trunk.go_on()
            trunk.save(files)
        with seeded(seed, state.steps, 1):
            trunk.branch(files)
        state.finished = True
        trunk.save(files)
    members = [FamilyMember(**{**member, "folder": files.folder / member["folder"]}) for member in state.members]
    return ModuleFamily(tuple(members), tuple(state.races), state.flops, state.budget)


def _stored(files: FamilyFiles, task: Task) -> State | None:
    """How far an earlier call has come; None at the beginning.

    Raises:
        ConfigError: It was called otherwise.
        SurgeryError: The record is damaged.
    """
    record = files.record()
    if record is None:
        return None
    if record.get("asked") != task.asked:
        raise ConfigError(
            f"folder: expected the options that {files.folder} was begun with, {record.get('asked')}, got "
            f"{task.asked}; name another folder"
        )
    with damaged(f"{files.folder}: the record", error=SurgeryError):
        state = State(**record["state"])
        for name in [state.trunk, *(member["folder"] for member in state.members)]:
            check_id(name, f"{files.folder}: name of a folder", error=SurgeryError)
        return state


def _continued(files: FamilyFiles, task: Task, state: State) -> Trunk:
    """The trunk as it was stored."""
    with seeded(task.seed):
        model, optimizers = files.load(state.trunk, task.build, task.optimizers)
        return Trunk(task, model, optimizers, state)


def _begun(files: FamilyFiles, task: Task) -> Trunk:
    """A trunk without an update; growths are tried on a copy first, and everything is stored and measured once.

    Raises:
        SurgeryError: One is refused.
    """
    with seeded(task.seed):
        model = task.build()
        optimizers = task.optimizers(model)
        example = next(task.pairs(0))
        for growth in task.growths:
            try:
                Rehearsal(model, example[0].example_input, optimizer=optimizers).grow(growth)
            except SurgeryError as error:
                raise type(error)(f"growths: {growth!r} is refused: {error}") from error
        held_out_losses(model, task.held_out[:1], task.loss)
        trunk = Trunk(task, model, optimizers, State(task.steps * update_flops(model, example, task.loss)))
    trunk.save(files)
    return trunk
