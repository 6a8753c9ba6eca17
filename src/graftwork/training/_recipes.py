"""Recipes: all values that a search needs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from graftwork.errors import ConfigError
from graftwork.training._augment import Augmentation, Flip
from graftwork.training._options import check_choice, check_known, check_range
from graftwork.training._rules import ROLES, Rule, Rules, check_rules, same_rule
from graftwork.training._schedules import Schedule, make_schedule
from graftwork.training._step import LrScale
from graftwork.typing import Initialisation, Role, Shape

ClassWeights = Literal["auto", "none", "balanced"]
SMALLEST_BATCH = 64
"""Images in a step below which batches are not halved so that a budget makes more updates."""
_DECAYED: tuple[Role, ...] = ("filter", "mixing", "head")
"""Roles whose weights decay where images are few."""


@dataclass(frozen=True)
class Recipe:
    """The values of Algorithm 1 and of its joint training; plain, frozen, comparable.

    Args:
        name: Name of the recipe.
        seed_genome: Name of h_i in `graftwork.networks.genome.SEEDS`.
        seed_sizes: Names of seed networks, smallest first → images that a budget of time or FLOPs should train each
            on, the same one counted each time that it is seen. A session takes the last that the budget trains enough,
            or else the first, in place of ``seed_genome``. Empty: always ``seed_genome``.
        rules: Role → optimizer and rates.
        schedule: Name in `SCHEDULES` of a schedule over the whole search.
        schedule_options: Keyword arguments of the schedule.
        batch_size: Number of images in a step.
        min_updates: Updates of the seed network that a budget of time or FLOPs should make: where it makes fewer, a
            session halves batches, down to `SMALLEST_BATCH` images. 0: batches stay as they are.
        augmentation: How training images are changed.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: Weight of an example in the loss: ``"none"``; ``"balanced"``: in inverse proportion to the number
            of images of its class; ``"auto"``: balanced where classes are uneven (see `graftwork.datasets.UNEVEN`).
        few_images: Number of training images below which they are few: what ``"auto"`` shifts is shifted twice as far,
            and weights decay by ``few_weight_decay``. 0: they never are.
        few_weight_decay: Decoupled decay of weight matrices where images are few, unless their rule has one.
        lr_scale: ``"parameter-ratio"`` scales rate and decay of a member by |θ_seed| / |θ_member|.
        num_survivors: K, members that are selected in each generation.
        population_size: M, members after mutation.
        num_generations: Number of rounds of select, mutate, train.
        initial_steps: N_i, steps that the seed trains alone; ``None``: by ``initial_fraction``.
        initial_fraction: The same as a share of the budget; ``None``: by ``initial_steps``. Exactly one is given.
        steps_per_generation: N_j, steps in each generation; ``None``: the rest of the budget in FLOPs is split evenly
            over the generations.
        deepen_probability: Probability that a mutation adds a layer; otherwise it widens one.
        kernel_probabilities: Probabilities of kernel sizes 1, 3 and 5.
        min_shared_fraction: τ: a child is kept only if |θ_parent| / |θ_child| is greater; 0 keeps all.
        hidden_multiple: Hidden channels of a new block as a multiple of the channels that it writes (1: the paper).
        concat_probability: Probability of widening only the upper or lower half of a layer's channels.
        small_share: Share of the training, from its start, whose images are shrunk (progressive resizing: more updates
            for the same FLOPs); 0: none. Only where heads pool globally and the shrunk side has 16 pixels or more.
        small_scale: Factor on the height and width of shrunk images.
        num_calibration: Number of training images from which running statistics are made before scoring.
        initialisation: How the seed network begins: ``"twin"`` (output zero) or ``"random"``.

    Raises:
        ConfigError: If a value is out of its range; the message names the key.
    """

    name: str
    seed_genome: str
    rules: Rules
    seed_sizes: Mapping[str, int] = field(default_factory=dict)
    schedule: str = "constant"
    schedule_options: Mapping[str, float] = field(default_factory=dict)
    batch_size: int = 64
    min_updates: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    label_smoothing: float = 0.0
    class_weights: ClassWeights = "auto"
    few_images: int = 0
    few_weight_decay: float = 0.0
    lr_scale: LrScale = "none"
    num_survivors: int = 3
    population_size: int = 10
    num_generations: int = 15
    initial_steps: int | None = 5000
    initial_fraction: float | None = None
    steps_per_generation: int | None = 5000
    deepen_probability: float = 0.5
    kernel_probabilities: tuple[float, float, float] = (0.30, 0.35, 0.35)
    min_shared_fraction: float = 0.0
    hidden_multiple: float = 1.0
    concat_probability: float = 0.0
    small_share: float = 0.0
    small_scale: float = 0.75
    num_calibration: int = 1000
    initialisation: Initialisation = "twin"

    def __post_init__(self) -> None:
        check_rules(self.rules)
        self.make_schedule()
        object.__setattr__(self, "kernel_probabilities", tuple(self.kernel_probabilities))
        for key in ("batch_size", "num_survivors", "population_size"):
            check_range(f"recipe: {key}", getattr(self, key), low=1, integer=True)
        check_range("recipe: num_generations", self.num_generations, low=0, integer=True)
        check_range("recipe: num_calibration", self.num_calibration, low=2, integer=True)
        check_range("recipe: min_updates", self.min_updates, low=0, integer=True)
        check_range("recipe: few_images", self.few_images, low=0, integer=True)
        check_range("recipe: few_weight_decay", self.few_weight_decay, low=0)
        if not isinstance(self.seed_sizes, Mapping):
            raise ConfigError(f"recipe: seed_sizes: expected numbers of images by name, got {self.seed_sizes!r}")
        for name, images in self.seed_sizes.items():
            check_range(f"recipe: seed_sizes: {name}", images, low=0, integer=True)
        check_range("recipe: label_smoothing", self.label_smoothing, low=0, high=0.999)
        check_range("recipe: deepen_probability", self.deepen_probability, low=0, high=1)
        check_range("recipe: min_shared_fraction", self.min_shared_fraction, low=0, high=1)
        check_range("recipe: concat_probability", self.concat_probability, low=0, high=1)
        check_range("recipe: small_share", self.small_share, low=0, high=1)
        check_range("recipe: small_scale", self.small_scale, low=0, high=1, open_low=True)
        check_range("recipe: hidden_multiple", self.hidden_multiple, low=0, open_low=True)
        check_choice("recipe: class_weights", self.class_weights, get_args(ClassWeights))
        check_choice("recipe: lr_scale", self.lr_scale, get_args(LrScale))
        check_choice("recipe: initialisation", self.initialisation, get_args(Initialisation))
        self._check_steps()
        self._check_counts()

    def _check_steps(self) -> None:
        if (self.initial_steps is None) == (self.initial_fraction is None):
            raise ConfigError(
                "recipe: expected exactly one of initial_steps and initial_fraction, the other None, got "
                f"{self.initial_steps!r} and {self.initial_fraction!r}"
            )
        if self.initial_steps is not None:
            check_range("recipe: initial_steps", self.initial_steps, low=0, integer=True)
        if self.initial_fraction is not None:
            check_range("recipe: initial_fraction", self.initial_fraction, low=0, high=1, open_low=True)
        if self.steps_per_generation is not None:
            check_range("recipe: steps_per_generation", self.steps_per_generation, low=1, integer=True)

    def _check_counts(self) -> None:
        if self.num_survivors > self.population_size:
            raise ConfigError(
                f"recipe: num_survivors: expected at most population_size, got {self.num_survivors} of "
                f"{self.population_size}"
            )
        chances = self.kernel_probabilities
        if len(chances) != 3 or min(chances) < 0 or abs(sum(chances) - 1) > 1e-9:
            raise ConfigError(
                "recipe: kernel_probabilities: expected three numbers >= 0 (for 1, 3 and 5) that sum to 1, "
                f"got {chances!r}"
            )

    def make_schedule(self) -> Schedule:
        """Make the schedule of the recipe."""
        return make_schedule(self.schedule, **self.schedule_options)

    def fit(self, input_shape: Shape, *, num_images: int, uneven: bool) -> "Recipe":
        """Decide what is left to the data.

        Args:
            input_shape: Channels, height and width of the images.
            num_images: Number of images to train on.
            uneven: Whether the sizes of the classes differ much.
        """
        few = num_images < self.few_images
        weights = self.class_weights if self.class_weights != "auto" else ("balanced" if uneven else "none")
        rules = dict(self.rules)
        if few:
            rules |= {role: self._decayed(rules[role]) for role in _DECAYED}
        augmentation = self.augmentation.resolve(input_shape, few=few)
        return self.replace(augmentation=augmentation, class_weights=weights, rules=rules)

    def _decayed(self, rule: Rule) -> Rule:
        """The rule with the decay of few images, unless it has one or keeps the norm of the weights."""
        if rule.weight_decay or (rule.optimizer == "muon" and rule.variant == "norm-reset"):
            return rule
        return replace(rule, weight_decay=self.few_weight_decay, decoupled=True)

    def mirrored(self, flip: Flip) -> "Recipe":
        """A copy whose images are mirrored as ``flip`` says (see `Augmentation`)."""
        return self.replace(augmentation=replace(self.augmentation, flip=flip))

    def replace(self, **changes: Any) -> "Recipe":
        """A copy with some values changed, checked again.

        A new ``initial_steps`` switches ``initial_fraction`` off, and the other way round, a new ``batch_size``
        ``min_updates``, and a new ``seed_genome`` ``seed_sizes``.

        Raises:
            ConfigError: If there is no such value, with the nearest name, or it is out of range.
        """
        check_known("recipe", changes, {entry.name for entry in fields(self)})
        for one, other in (("initial_steps", "initial_fraction"), ("initial_fraction", "initial_steps")):
            if changes.get(one) is not None and other not in changes:
                changes[other] = None
        if "batch_size" in changes:
            changes.setdefault("min_updates", 0)
        if "seed_genome" in changes:
            changes.setdefault("seed_sizes", {})
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for TOML (which has no null: drop the ``None``) and JSON."""
        data = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        data["rules"] = {role: rule.to_dict() for role, rule in self.rules.items()}
        data["seed_sizes"] = dict(self.seed_sizes)
        data["schedule_options"] = dict(self.schedule_options)
        data["augmentation"] = self.augmentation.to_dict()
        data["kernel_probabilities"] = list(self.kernel_probabilities)
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Recipe":
        """Read what `to_dict` wrote; missing values take their defaults, missing numbers of steps are ``None``.

        Raises:
            ConfigError: If a key is unknown (with the nearest name) or missing, or a value is out of range.
        """
        check_known("recipe", data, {entry.name for entry in fields(cls)})
        for key in ("name", "seed_genome", "rules"):
            if key not in data:
                raise ConfigError(f"recipe: expected a key {key!r}, got {sorted(data)}")
        values: dict[str, Any] = {"initial_steps": None, "initial_fraction": None, "steps_per_generation": None, **data}
        check_known("recipe: rules", data["rules"], ROLES)
        values["rules"] = {role: Rule.from_dict(rule) for role, rule in data["rules"].items()}
        if "augmentation" in data:
            check_known("recipe: augmentation", data["augmentation"], Augmentation.__dataclass_fields__)
            values["augmentation"] = Augmentation(**data["augmentation"])
        return cls(**values)


def _default_rules() -> dict[Role, Rule]:
    adam = Rule("adam", 1e-2, betas=(0.9, 0.99))
    filters = Rule("muon", 0.1, momentum=0.6, variant="norm-reset", num_iterations=3)
    mixing = Rule("muon", 0.05, momentum=0.6, num_iterations=3)
    return {**same_rule(adam), "filter": filters, "mixing": mixing}


PAPER = Recipe("paper", "poster", same_rule(Rule("adam", 3e-3, weight_decay=1e-6)))
"""The report's recipe: Adam for all, constant rate, no augmentation, cross-entropy."""

DEFAULT = Recipe(
    "default",
    "default",
    _default_rules(),
    seed_sizes={"small": 0, "default": 30_000},
    schedule="linear",
    batch_size=250,
    min_updates=450,
    augmentation=Augmentation("auto").at("light"),
    label_smoothing=0.1,
    few_images=1000,
    few_weight_decay=0.1,
    num_survivors=3,
    population_size=6,
    num_generations=2,
    initial_steps=None,
    initial_fraction=0.75,
    steps_per_generation=None,
    hidden_multiple=0.25,
    min_shared_fraction=0.5,
    small_share=0.4,
    num_calibration=1000,
    initialisation="random",
)
"""Chosen by screening one seed on validation (``benchmarks/screen.py`` repeats it): Muon on filters and mixing weights,
Adam on the rest, label smoothing, flips and shifts (Jordan 2024), smaller images at first (Howard 2018), a rate that
falls over the whole search, a long first round (most of the accuracy comes from the seed), and new blocks a quarter as
wide as their layer."""

RECIPES: Mapping[str, Recipe] = {"paper": PAPER, "default": DEFAULT}
"""Recipes by name."""


def make_recipe(name: str, **changes: Any) -> Recipe:
    """Make a recipe by name, with some values changed.

    Args:
        name: A key of `RECIPES`.
        **changes: New values by their names (see `Recipe.replace`).

    Raises:
        ConfigError: If there is no such recipe or value; suggests the nearest.
    """
    check_choice("recipe", name, RECIPES)
    return RECIPES[name].replace(**changes)
