"""SearchConfig: every option of a search, from TOML and flags."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import tomli_w

from graftwork._files import read_named
from graftwork.errors import ConfigError, RunError, did_you_mean
from graftwork.evolution.selection import make_selector
from graftwork.evolution.strategies import check_strategy, ignored_options, suited_recipe, why_alone
from graftwork.machine import parse_latency, parse_size
from graftwork.metrics import METRICS, OF_WHOLE_MEMBERS, Metric
from graftwork.session._budget import Budget, parse_budget
from graftwork.training import RECIPES, Passes, Precision, Recipe, make_recipe, part_of
from graftwork.trunks import located

_MAX_BYTES = 2**20
Cost = Literal["flops", "parameters", "latency"]
COSTS: tuple[Cost, ...] = get_args(Cost)
_RECIPE_KEYS = {entry.name for entry in fields(Recipe)}
_AUGMENTING = {"flip", "augment"}


@dataclass(frozen=True)
class SearchConfig:
    """Every option of a search; plain, frozen, checked.

    Args:
        data: The data set: ``digits``, a folder, a file or a name (see `graftwork.datasets.load_dataset`).
        recipe: Networks, optimizers, schedule and the numbers of Algorithm 1.
        trunk: Pretrained network whose features members read instead of images (see `graftwork.trunks.open_trunk`);
            ``None``: none.
        trunk_rate: Learning rate of the trunk's weights, by Adam, at schedule factor 1; 0: it is frozen, and its
            features are computed once.
        genome: JSON file of the seed network's genome; ``None``: the recipe's.
        strategy: Name of a search strategy (`graftwork.evolution.strategies.STRATEGIES`).
        selection: Name of a selector (`graftwork.evolution.selection.SELECTORS`).
        selection_options: Keyword arguments of the selector.
        metric: What members are compared by: ``accuracy``, ``balanced-accuracy`` (every class counts the same),
            ``macro-f1`` or ``log-loss``.
        cost: What ``pareto`` selection weighs against it: ``flops`` of one image, ``parameters``, or
            measured ``latency``.
        scoring_batch_size: Images in one pass of scoring; the last bits of the result depend on it.
        budget: Time, FLOPs or steps; ``None``: the steps of the recipe. Plain data hold its text (see `parse_budget`).
        seed: Seed of every random choice.
        split_seed: Seed of the splits alone; ``None``: ``seed``. Runs that share it are scored on the same images.
        device: Device that steps run on: ``cpu``, ``cuda``, ``mps``, …
        precision: Type of the factors of products: ``auto`` (measured at the start), ``float32`` or ``bfloat16``.
        passes: What runs the passes between products: ``auto`` (compiled where there is a C compiler and, with
            precision ``auto``, where it is measured to be faster), ``compiled`` or ``torch``.
        threads: Threads of torch's CPU operations, in each worker; ``None``: measured at the start, between one and
            torch's choice, or with several workers between one and the worker's share of its machine's cores.
        workers: Number of processes that search together (see ``docs/scaling.md``).
        sync_every: Updates that each worker makes by itself between two averagings of the blocks they touched, in
            rounds with enough members to deal; in others workers share every batch and its gradients. 0: they always
            do.
        validation: Share or number of training images that selection sees.
        blend: Share or number of training images that ensembles are fitted on.
        test: Share or number of images held out as test split where the data set has none.
        image_size: Pixels that images are brought to: a side, height and width (``"48x64"``), or ``"auto"``: what data,
            budget and memory decide (see ``docs/how-to/photos.md``).
        image_column: Column of a table that holds images or their paths; ``None``: found by what it holds.
        label_column: Column of a table that holds labels; ``None``: found by its name.
        group_column: Column of a table of which no value is in two splits; ``None``: images are split one by one.
        image_root: Folder that paths in a table begin from, and must lie below; ``None``: the table's own.
        skip_bad_images: Whether images that can't be read are left out and recorded; otherwise they are an error.
        max_images: About how many images are used; ``None``: all, or as many as a budget of time leaves time to decode.
        max_parameters: Most parameters of a member; ``None``: any number.
        max_flops: Most FLOPs of a member's forward pass over one image; ``None``: any number.
        max_latency: Most time that a member takes for one image, measured here, such as ``5ms``; ``None``: any.
        max_memory: Memory that each process may take to train and score a member, such as ``4GB``; ``None``: six tenths
            of what is free at the start, divided among the processes of this machine.
        random_padding: Whether to grow by random padding, which does not preserve the function (control).
        control: Whether to train the seed alone, too, with the FLOPs of the whole search.
        checkpoint_every: Seconds between checkpoints.

    Raises:
        ConfigError: If a value is out of its range; the message names the key.
    """

    data: str = "digits"
    recipe: Recipe = field(default_factory=lambda: RECIPES["default"])
    trunk: str | None = None
    trunk_rate: float = 0.0
    genome: str | None = None
    strategy: str = "neuroevolution"
    selection: str = "greedy"
    selection_options: Mapping[str, Any] = field(default_factory=dict)
    metric: Metric = "accuracy"
    cost: Cost = "flops"
    scoring_batch_size: int = 500
    budget: Budget | None = None
    seed: int = 0
    split_seed: int | None = None
    device: str = "cpu"
    precision: Literal["auto"] | Precision = "auto"
    passes: Literal["auto"] | Passes = "auto"
    threads: int | None = None
    workers: int = 1
    sync_every: int = 16
    validation: float = 0.1
    blend: float = 0.05
    test: float = 0.15
    image_size: int | str = "auto"
    image_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    image_root: str | None = None
    skip_bad_images: bool = False
    max_images: int | None = None
    max_parameters: int | None = None
    max_flops: int | None = None
    max_latency: str | None = None
    max_memory: str | None = None
    random_padding: bool = False
    control: bool = False
    checkpoint_every: float = 60.0

    def __post_init__(self) -> None:
        selector = make_selector(self.selection, **self.selection_options)  # refuses what it can't take
        if self.metric not in METRICS:
            hint = did_you_mean(self.metric, METRICS) or "; take one of these"
            raise ConfigError(f"metric: expected one of {', '.join(METRICS)}, got {self.metric!r}{hint}")
        if self.metric in OF_WHOLE_MEMBERS and not selector.takes_scores:
            raise ConfigError(
                f"metric: expected accuracy or balanced-accuracy with {self.selection} selection, which looks at each "
                f"example, got {self.metric}; take one of these, or --selection greedy or pareto"
            )
        self._check_strategy()
        if not isinstance(self.budget, Budget | None):
            raise ConfigError(f"budget: expected a Budget, got {self.budget!r}; parse_budget reads one from text")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ConfigError(f"precision: expected auto, float32 or bfloat16, got {self.precision!r}; take one")
        if self.passes not in ("auto", "compiled", "torch"):
            raise ConfigError(f"passes: expected auto, compiled or torch, got {self.passes!r}; take one")
        if isinstance(self.image_size, str) and self.image_size.isdecimal():
            object.__setattr__(self, "image_size", int(self.image_size))
        parse_image_size(self.image_size)  # refuses what is no size
        counts = ("threads", "workers", "sync_every", "max_images", "max_parameters", "max_flops", "scoring_batch_size")
        for name in ("seed", "split_seed", *counts):
            value, low = getattr(self, name), 0 if name.endswith("seed") or name == "sync_every" else 1
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < low):
                raise ConfigError(f"{name}: expected an integer >= {low}, got {value!r}; give such a number")
        self._check_workers()
        self._check_latency()
        self._check_trunk_rate()
        if self.max_memory is not None:
            parse_size(self.max_memory)  # refuses what is no size
        if self.sync_every == 0:
            part_of(self.recipe.batch_size, 0, self.workers)  # refuses what can't be shared
        if not self.checkpoint_every > 0:
            raise ConfigError(
                f"checkpoint_every: expected a number of seconds > 0, got {self.checkpoint_every!r}; 60 is the default"
            )

    def _check_strategy(self) -> None:
        check_strategy(self.strategy)
        for entry in fields(self):
            if entry.name in ignored_options(self.strategy):
                usual = entry.default if entry.default_factory is MISSING else entry.default_factory()
                _refuse_ignored(self.strategy, entry.name, getattr(self, entry.name), usual)

    def _check_workers(self) -> None:
        if self.workers > 1 and (why := why_alone(self.strategy)):
            raise ConfigError(
                f"workers: expected 1 with strategy {self.strategy}, as {why}, got {self.workers}; leave them out"
            )

    def _check_latency(self) -> None:
        if self.cost not in COSTS:
            hint = did_you_mean(self.cost, COSTS) or "; take one of these"
            raise ConfigError(f"cost: expected one of {', '.join(COSTS)}, got {self.cost!r}{hint}")
        if self.trunk is not None and self.measures_latency:
            raise ConfigError(
                f"trunk: expected no max_latency and cost other than latency, as they would leave {self.trunk} out; "
                "leave them away: the outcome tells the time of both together"
            )
        if self.max_latency is not None:
            parse_latency(self.max_latency)  # refuses what is no time
        if self.measures_latency and self.workers > 1:
            raise ConfigError(
                f"workers: expected 1 with max_latency or cost latency, as each would measure other times, got "
                f"{self.workers}; limit max_flops instead"
            )

    def _check_trunk_rate(self) -> None:
        rate = self.trunk_rate
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate < float("inf"):
            raise ConfigError(f"trunk_rate: expected a learning rate >= 0, got {rate!r}; 1e-5 is a usual one")
        if rate == 0:
            return
        if self.trunk is None:
            raise ConfigError(f"trunk_rate: expected a trunk to train at {rate:g}, got none; name one with --trunk")
        if self.budget is not None and self.budget.kind == "seconds":
            raise ConfigError(
                f"trunk_rate: expected a budget in steps or FLOPs, got {self.budget}: only members' updates are timed, "
                "not those of a trunk; give 2000steps or 0.1PFLOP"
            )
        if self.workers > 1:
            raise ConfigError(
                f"trunk_rate: expected 1 worker, got {self.workers}: the trunk's weights are not averaged between "
                "workers; leave workers out"
            )
        if self.control:
            raise ConfigError(
                "trunk_rate: expected no control, got one: the seed network alone would train another trunk; leave it "
                "out, or take the trunk frozen"
            )

    @property
    def measures_latency(self) -> bool:
        """Whether the search decides by how long networks take."""
        return self.max_latency is not None or self.cost == "latency"

    def located(self) -> "SearchConfig":
        """The same with the whole paths of data and trunk, so that a run finds them from any working folder."""
        path = Path(self.data).expanduser()
        root = None if self.image_root is None else str(Path(self.image_root).expanduser().resolve())
        data = str(path.resolve()) if self.data != "digits" and path.exists() else self.data
        return replace(self, data=data, image_root=root, trunk=self.trunk and located(self.trunk))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data; `from_dict` gives an equal config back."""
        data = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        budget = None if self.budget is None else self.budget.text
        selection_options = dict(self.selection_options)
        return {**data, "recipe": self.recipe.to_dict(), "selection_options": selection_options, "budget": budget}

    def to_toml(self) -> str:
        """Return the effective config as TOML, which has no null: what is ``None`` is left out."""
        return tomli_w.dumps(_without_none(self.to_dict()))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SearchConfig":
        """Build a config from plain data.

        Args:
            data: Options by name. ``recipe`` is a name or a table; a table starts from the recipe that its ``name``
                says and changes some values. Options of the recipe may also stand beside the others, and so may
                ``flip`` and ``augment`` (a name in `graftwork.training.AUGMENTATIONS`), which change its augmentation.
                Numbers that suit the strategy take the place of the recipe's where none are given.

        Raises:
            ConfigError: If a key is unknown (with the nearest name) or a value is out of range.
        """
        own = {entry.name for entry in fields(cls)}
        for key in data:
            if key not in own | _RECIPE_KEYS | _AUGMENTING:
                hint = did_you_mean(key, [*own, *_RECIPE_KEYS, *_AUGMENTING]) or "; graftwork config prints all options"
                raise ConfigError(f"config: expected options of a search, got the unknown key {key!r}{hint}")
        changes = {key: value for key, value in data.items() if key in _RECIPE_KEYS - own - {"name"}}
        check_strategy(strategy := str(data.get("strategy", "neuroevolution")))
        recipe = _recipe(data.get("recipe", "default"))
        for key in sorted(ignored_options(strategy).intersection(changes)):
            _refuse_ignored(strategy, key, changes[key], suited_recipe(strategy).get(key, getattr(recipe, key)))
        recipe = _suited(recipe, strategy, data)
        if changes:
            recipe = recipe.replace(**changes)
        if "augment" in data:
            recipe = recipe.replace(augmentation=recipe.augmentation.at(data["augment"]))
        if "flip" in data:
            recipe = recipe.mirrored(data["flip"])
        rest = {key: value for key, value in data.items() if key in own and key != "recipe"}
        if not isinstance(rest.get("budget"), Budget | None):
            rest["budget"] = parse_budget(rest["budget"])
        try:
            return cls(recipe=recipe, **rest)
        except TypeError as error:
            raise ConfigError(f"config: {error}") from error

    @classmethod
    def load(cls, path: Path | None, **flags: Any) -> "SearchConfig":
        """Read a TOML file; flags win.

        Args:
            path: The file; ``None``: defaults only.
            flags: Options by name; those that are ``None`` do not count.

        Raises:
            ConfigError: If the file is missing or no TOML, or an option is unknown or out of range.
        """
        stored = {} if path is None else read_options(path)
        given = {key: value for key, value in flags.items() if value is not None}
        try:
            return cls.from_dict({**stored, **given})
        except ConfigError as error:
            if path is None or given:  # it may be the flags
                raise
            raise ConfigError(f"{path}: {error}") from error


def parse_image_size(value: object) -> int | tuple[int, int] | None:
    """Read a side, height and width (``"48x64"``) or ``"auto"``, for which ``None`` is returned.

    Raises:
        ConfigError: If it is none of these.
    """
    if value == "auto":
        return None
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = re.fullmatch(r"([1-9][0-9]{0,4})[x×]([1-9][0-9]{0,4})", value) if isinstance(value, str) else None
    if match is None:
        raise ConfigError(
            f"image_size: expected auto, a side such as 64, or 48x64 (height, width), got {value!r}; give one"
        )
    return int(match[1]), int(match[2])


def read_options(path: Path) -> dict[str, Any]:
    """Read options from a TOML file, as they stand there.

    Raises:
        ConfigError: If the file is missing or no TOML.
    """
    try:
        return tomllib.loads(read_named(path, limit=_MAX_BYTES).decode())
    except FileNotFoundError as error:
        raise ConfigError(f"config: expected a TOML file, got {path} ({error.strerror}); check the path") from error
    except RecursionError:
        raise ConfigError(f"config: expected options in {path}, got TOML that is nested too deeply; mend it") from None
    except ValueError as error:
        if isinstance(error, RunError):
            raise
        raise ConfigError(f"config: expected TOML in {path}, got something else ({error}); mend that line") from error


def _recipe(value: Any) -> Recipe:
    if isinstance(value, Recipe):
        return value
    if isinstance(value, str):
        return make_recipe(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"recipe: expected a name or a table, got {value!r}; name one of {', '.join(RECIPES)}")
    base = make_recipe(str(value.get("name", "default"))).to_dict()
    for exclusive in (("initial_steps", "initial_fraction"), ("initial_fraction", "initial_steps")):
        if exclusive[0] in value and exclusive[1] not in value:
            base[exclusive[1]] = None
    if "batch_size" in value:
        base["min_updates"] = 0
    if "seed_genome" in value:
        base["seed_sizes"] = {}
    merged = {**base, **value}
    if "rules" in value:
        merged["rules"] = {
            role: {**base["rules"].get(role, {}), **rule} if isinstance(rule, Mapping) else rule
            for role, rule in {**base["rules"], **value["rules"]}.items()
        }
    return Recipe.from_dict(merged)


def _suited(recipe: Recipe, strategy: str, data: Mapping[str, Any]) -> Recipe:
    """The recipe with the numbers that suit a strategy, save those that ``data`` give themselves."""
    inside = data.get("recipe", ())
    if isinstance(inside, Recipe):
        return recipe
    given = {*data, *(inside if isinstance(inside, Mapping) else ())}
    if "initial_steps" in given or recipe.initial_steps is not None:  # its rounds are counted in steps
        given.add("initial_fraction")
    return recipe.replace(**{key: value for key, value in suited_recipe(strategy).items() if key not in given})


def _refuse_ignored(strategy: str, name: str, value: object, usual: object) -> None:
    if value != usual:
        raise ConfigError(
            f"{name}: expected none with strategy {strategy}, which has no use for it, got {value!r}; leave it out, or "
            "take another strategy (docs/how-to/strategies.md says what each decides)"
        )


def _without_none(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _without_none(value) for key, value in data.items() if value is not None}
    return list(data) if isinstance(data, tuple) else data
