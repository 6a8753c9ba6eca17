"""The channel form of the poster's widening: a member of a bank as a plain module, widened by surgery."""

import torch
from torch import Tensor, nn

from experiments.growing._branch import Branch, pack_correct
from experiments.growing._learner import Learner, seeded
from experiments.growing._models import PosterLayer, PosterNet
from experiments.growing._tasks import ImageTask, evaluation_mode
from experiments.growing._widths import BATCH_SIZE, LR, grow
from graftwork.networks.genome import Layer
from graftwork.training import Schedule, generator_for
from graftwork.typing import BlockId

NAMES = {"filter.weight": "filter", "norm.weight": "norm_weight", "norm.bias": "norm_bias", "mix.weight": "mixing"}
NAMES |= {"mix.bias": "bias"}
HEAD = {"1.weight": "hidden", "1.bias": "hidden_bias", "3.weight": "weight", "3.bias": "bias"}
"""Parameter of a layer, or of the head, in the module → tensor of the bank's entry."""


def as_learner(branch: Branch, *, width: float) -> Learner:
    """The same network, weights and moments of Adam alike, as a module and its training loop.

    Args:
        branch: Of the poster's network, one block a layer, two layers a stage.
        width: Its share of the base network's filters.
    """
    problem, genome = branch.bench.problem, branch.genome
    model = seeded(
        lambda: PosterNet((2, 2, 2), width=width, input_shape=genome.input_shape, num_classes=genome.num_classes),
        0,
    )
    assert isinstance(model, PosterNet)
    sources: dict[str, tuple[BlockId, str]] = {}
    blocks = [item.blocks[0].id for item in genome.body if isinstance(item, Layer)]
    layers = [(name, part) for name, part in model.layers.named_children() if isinstance(part, PosterLayer)]
    for (number, layer), block_id in zip(layers, blocks, strict=True):
        layer.filter.register_parameter("bias", None)  # before a norm it changes nothing, and the bank has none
        sources |= {f"layers.{number}.{name}": (block_id, tensor) for name, tensor in NAMES.items()}
    sources |= {f"head.{name}": (genome.head.id, tensor) for name, tensor in HEAD.items()}
    rows = problem.splits.validation
    images, labels = problem.transform(problem.images(rows)), problem.labels(rows)
    task = ImageTask(branch.batches, images, labels, LR)
    assert task.batch_size == BATCH_SIZE
    learner = Learner(model, task, precision=branch.bench.precision)
    moments, _ = branch.optimizer.state()
    for name, parameter in model.named_parameters():
        block_id, tensor = sources[name]
        with torch.no_grad():
            parameter.copy_(branch.optimizer.bank[block_id][tensor])
        learner.optimizer.state[parameter] = {
            slot: moments[key].clone().reshape(() if slot == "step" else parameter.shape)
            for slot in ("step", "exp_avg", "exp_avg_sq")
            if (key := f"{block_id}/{tensor}/{slot}") in moments
        }
    learner.steps, learner.flops, learner.seconds = branch.steps, float(branch.flops), branch.seconds
    return learner


def run_channel_form(branch: Branch, schedule: Schedule, *, width: float, total: int) -> dict[str, object]:
    """Widen every layer by surgery, Adam's state carried along, and train to the end.

    Args:
        branch: Half as wide; left as it is.
        schedule: Over all ``total`` updates.
        width: Its share of the base network's filters.
        total: Updates.

    Returns:
        As `Branch.end`.
    """
    learner = as_learner(branch, width=width)
    grow(
        learner.model,
        "widen",
        method="r2r",
        example=learner.example(4),
        optimizer=learner.optimizer,
        generator=generator_for("growth", branch.bench.seed),
    )
    learner.recount()
    points = list(branch.points)
    while learner.steps < total:
        learner.step(schedule(learner.steps / total))
        if learner.steps % branch.bench.every == 0 or learner.steps == total:
            points.append(learner.point())
    images, labels = branch.bench.test
    correct = _correct(learner.model, branch.bench.problem.transform(images), labels)
    return {
        "points": points,
        "flops": learner.flops,
        "steps": learner.steps,
        "test_correct": pack_correct(correct.numpy()),
        "test_accuracy": float(correct.float().mean()),
    }


def _correct(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    with evaluation_mode(model), torch.no_grad():
        return torch.cat([model(part).argmax(1) for part in torch.split(x, 250)]) == labels
