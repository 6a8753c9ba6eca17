"""From a config to the objects of a search."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graftwork.datasets import ImageDataset, Splits, describe, load_dataset, split
from graftwork.errors import ConfigError
from graftwork.evolution import Plan, Population, SearchState
from graftwork.evolution.strategies import Strategy
from graftwork.machine import PrecisionChoice, ThreadsChoice
from graftwork.networks.execution import InputTransform, set_kernels
from graftwork.networks.genome import Genome, num_parameters, seed_genome
from graftwork.session._config import SearchConfig
from graftwork.session._growth import strategy_of
from graftwork.session._machine import choose_kernels, choose_precision, choose_threads, device_of
from graftwork.session._planning import make_plan
from graftwork.training import BankOptimizer, BatchStream, Scorer, Trainer, take_images

CALIBRATION_VALUES = 2**23
"""At most so many pixel values are run as one batch when statistics are made."""


@dataclass(frozen=True)
class Problem:
    """Data as a search needs it.

    Args:
        dataset: All images.
        splits: Rows for training, validation, blend and test.
        transform: From stored bytes to network input; its mean and deviation are those of the training split.
    """

    dataset: ImageDataset
    splits: Splits
    transform: InputTransform

    @classmethod
    def load(cls, config: SearchConfig) -> "Problem":
        """Load and split the data set of a config."""
        dataset = load_dataset(
            config.data,
            image_size=config.image_size,
            image_column=config.image_column,
            label_column=config.label_column,
            skip_bad_images=config.skip_bad_images,
        )
        seed = config.seed if config.split_seed is None else config.split_seed
        splits = split(dataset, seed=seed, validation=config.validation, blend=config.blend, test=config.test)
        mean, std = dataset.channel_moments(splits.train)
        return cls(dataset, splits, InputTransform(tuple(map(float, mean)), tuple(max(float(s), 1e-3) for s in std)))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        _, height, width, channels = self.dataset.images.shape
        return channels, height, width

    def images(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """uint8 [n, H, W, C] of some rows, in memory."""
        return take_images(self.dataset.images, torch.from_numpy(rows))

    def labels(self, rows: np.ndarray[Any, Any]) -> Tensor:
        """int64 [n] of some rows."""
        return torch.from_numpy(np.asarray(self.dataset.labels[rows], dtype=np.int64))

    def test(self) -> tuple[Tensor, Tensor, Tensor]:
        """Open the test split: images uint8 [n, H, W, C], labels int64 [n], rows int64 [n]."""
        rows = self.splits.test
        images, labels = self.dataset.images, self.dataset.labels
        if self.dataset.test_images is not None and self.dataset.test_labels is not None:
            images, labels = self.dataset.test_images, self.dataset.test_labels
        taken = torch.from_numpy(np.ascontiguousarray(images[rows]))
        return taken, torch.from_numpy(np.asarray(labels[rows], dtype=np.int64)), torch.from_numpy(rows.copy())

    def pictures(self, split: str, rows: np.ndarray[Any, Any], /) -> np.ndarray[Any, Any]:
        """uint8 [n, H, W, C] of rows as predictions name them: of ``"test"``, or of any other split."""
        given = self.dataset.test_images
        images = given if split == "test" and given is not None else self.dataset.images
        return np.asarray(images[rows])

    def describe(self) -> dict[str, Any]:
        """What the data are, as plain data."""
        return describe(self.dataset, self.splits)

    def calibration_rows(self, wanted: int) -> np.ndarray[Any, Any]:
        """Rows of the calibration subset: ``wanted``, or as many as fit in one batch."""
        fit = max(2, CALIBRATION_VALUES // int(np.prod(self.input_shape)))
        return self.splits.calibration(min(wanted, fit, len(self.splits.train)))


@dataclass
class Setup:
    """Everything that `graftwork.search` takes, ready.

    Args:
        config: Where it comes from.
        problem: The data.
        state: A population that holds the seed.
        trainer: One update of one member.
        scorer: On the validation split.
        strategy: What the search decides.
        plan: How much work each round gets.
        precision: What products and passes run in, and what was measured for it. Passes are a setting of the process.
        threads: How many it runs on, and what was measured for it; a setting of the process, too.
        speed: Measured training FLOPs per second; ``None`` where the budget needs none.
    """

    config: SearchConfig
    problem: Problem
    state: SearchState
    trainer: Trainer
    scorer: Scorer
    strategy: Strategy
    plan: Plan
    precision: PrecisionChoice
    threads: ThreadsChoice
    speed: float | None = None

    @property
    def population(self) -> Population:
        """Of the state."""
        return self.state.population

    @property
    def parts(self) -> dict[str, Any]:
        """Keyword arguments of `graftwork.search` beside the state."""
        recipe = self.config.recipe
        return {
            "strategy": self.strategy,
            "trainer": self.trainer,
            "scorer": self.scorer,
            "plan": self.plan,
            "num_survivors": recipe.num_survivors,
            "population_size": recipe.population_size,
        }

    def __repr__(self) -> str:
        return f"<Setup: {self.problem.dataset!r}, recipe {self.config.recipe.name!r}, {self.plan}>"


def prepare(
    config: SearchConfig | None = None,
    *,
    problem: Problem | None = None,
    seed_network: Genome | None = None,
    plan: Plan | None = None,
    precision_choice: PrecisionChoice | None = None,
    threads_choice: ThreadsChoice | None = None,
    **options: Any,
) -> Setup:
    """Load the data, make the seed network, measure what has to be measured, and fix the plan.

    Args:
        config: Options; ``None``: made from ``options`` (see `SearchConfig.from_dict`).
        problem: The data, if it is loaded already.
        seed_network: h_i; ``None``: the recipe's.
        plan: Of an earlier run that is followed again; ``None``: made from the budget.
        precision_choice: Of an earlier run; ``None``: as the config says.
        threads_choice: Of an earlier run; ``None``: as the config says. They are set for the process.
        **options: Only without ``config``.

    Raises:
        ConfigError: If an option is wrong, or the budget is too small for one step a round.
        DataError: If the data can't be used.
    """
    if config is not None and options:
        raise ConfigError(f"prepare: give either a config or options, got both: {sorted(options)}")
    config = config or SearchConfig.from_dict(options)
    known = threads_choice.threads if threads_choice is not None else config.threads
    if known is not None:  # otherwise they are measured further down
        torch.set_num_threads(known)
    problem = problem or Problem.load(config)
    recipe, device = config.recipe, device_of(config.device)
    genome = seed_network or seed_of(config, problem)
    calibration = problem.images(problem.calibration_rows(recipe.num_calibration))
    rng = np.random.default_rng(config.seed)
    population = Population()
    with _one_thread():
        population.add_seed(
            genome,
            generator=torch.Generator().manual_seed(int(rng.integers(2**62))),
            initialisation=recipe.initialisation,
            images=problem.transform(calibration),
        )
    population.to(device)
    batches = BatchStream(
        problem.dataset.images,
        problem.dataset.labels,
        problem.splits.train,
        batch_size=recipe.batch_size,
        seed=config.seed,
        augmentation=recipe.augmentation.resolve(problem.input_shape),
        transform=problem.transform,
        device=device,
    )
    kernels = choose_kernels(config, device, precision_choice)
    precision = precision_choice or choose_precision(
        config, genome, kernels, batch_size=batches.batch_size, device=device
    )
    set_kernels(kernels if precision.passes == "compiled" else None)
    trainer = Trainer(
        BankOptimizer(population.bank, recipe.rules),
        batches=batches,
        schedule=recipe.make_schedule(),
        label_smoothing=recipe.label_smoothing,
        precision=precision.precision,
        lr_scale=recipe.lr_scale,
        reference_parameters=num_parameters(genome),
    )
    scorer = Scorer(
        problem.images(problem.splits.validation),
        problem.labels(problem.splits.validation),
        transform=problem.transform,
        calibration=calibration,
        batch_size=config.scoring_batch_size,
        precision=precision.precision,
        device=device,
    )
    threads = threads_choice or choose_threads(config, genome, trainer)
    torch.set_num_threads(threads.threads)
    setup = Setup(
        config,
        problem,
        SearchState(population, rng),
        trainer,
        scorer,
        strategy_of(config),
        Plan(0, flops=1),
        precision,
        threads,
    )
    setup.plan = plan or make_plan(setup)
    return setup


@contextmanager
def _one_thread() -> Iterator[None]:
    """What is made inside does not depend on how many threads the process has, which are not chosen yet."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def seed_of(config: SearchConfig, problem: Problem) -> Genome:
    """h_i for a problem: from the config's file, or the recipe's.

    Raises:
        ConfigError: If the file can't be read, or its genome is for other images or classes.
    """
    classes = len(problem.dataset.class_names)
    if config.genome is None:
        return seed_genome(config.recipe.seed_genome, problem.input_shape, classes)
    try:
        text = Path(config.genome).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"genome: can't read {config.genome}: {error}") from error
    genome = Genome.from_json(text)
    if genome.input_shape != problem.input_shape or genome.num_classes != classes:
        raise ConfigError(
            f"genome: {config.genome} is for images {genome.input_shape} of {genome.num_classes} classes, but the data "
            f"have {problem.input_shape} and {classes}"
        )
    return genome
