"""What the page says of the data: images per split and class, what is doubtful, and what was decided for them."""

from collections.abc import Mapping
from typing import Any

from graftwork.reports._read import RunData

_SPLITS = ("train", "validation", "blend", "test")


def warnings(run: RunData) -> list[str]:
    """What the data make doubtful, as it was told before training."""
    found = _described(run).get("warnings")
    return [str(text) for text in found] if isinstance(found, list) else []


def class_table(run: RunData) -> list[tuple[str, list[str]]]:
    """Images of each class in training, validation, blend and test split, and their sums; empty where unknown."""
    found = _described(run).get("per_class")
    counts = [_counts(found.get(split)) for split in _SPLITS] if isinstance(found, Mapping) else []
    if not counts or not counts[0]:
        return []
    rows = [(name, [f"{one.get(name, 0):,}" for one in counts]) for name in counts[0]]
    return [*rows, ("all", [f"{sum(one.values()):,}" for one in counts])]


def _counts(found: object) -> dict[str, int]:
    """Images by class, of what should be such numbers."""
    return {str(k): v for k, v in found.items() if isinstance(v, int)} if isinstance(found, Mapping) else {}


def decisions(run: RunData) -> list[str]:
    """How images are changed in training and how examples count, in sentences."""
    training, race = run.provenance.get("training"), _race(run)
    if not isinstance(training, Mapping):
        return []
    augmentation = training.get("augmentation")
    said = []
    if isinstance(augmentation, Mapping):
        mirrored = "mirrored" if augmentation.get("flip") == "random" else "not mirrored"
        reason = f": {race['reason']}" if race else ""
        said.append(f"Training images are {mirrored}{reason}.")
        said.append(f"They are {_changes(augmentation)}.")
    if pairs := mirror_pairs(run):
        said.append(f"These flip into each other: {', '.join(f'{one} and {two}' for one, two in pairs)}.")
    if training.get("class_weights") == "balanced":
        said.append("Examples count in inverse proportion to the size of their class.")
    return said


def _changes(augmentation: Mapping[str, Any]) -> str:
    shift = augmentation.get("shift") or 0
    parts = [f"shifted by up to {shift} pixel{'' if shift == 1 else 's'}"] if shift else []
    kinds = {"scale": "scaled", "colour": "recoloured", "erase": "partly erased", "mix": "mixed in pairs"}
    parts += [f"{word} ({augmentation[key]})" for key, word in kinds.items() if augmentation.get(key)]
    return ", ".join(parts) or "not changed otherwise"


def mirror_pairs(run: RunData) -> list[tuple[str, str]]:
    """Names of classes that flip into each other, as the best member finds them, or else the race over mirroring."""
    pairs: Any = run.result["mirror_pairs"] if run.result is not None else _race(run).get("pairs")
    found = pairs if isinstance(pairs, list) else []
    return [(str(pair[0]), str(pair[1])) for pair in found if isinstance(pair, list) and len(pair) == 2]


def is_mirrored(run: RunData) -> bool:
    """Whether training images were mirrored."""
    training = run.provenance.get("training")
    augmentation = training.get("augmentation") if isinstance(training, Mapping) else None
    return isinstance(augmentation, Mapping) and augmentation.get("flip") == "random"


def _described(run: RunData) -> Mapping[str, Any]:
    data = run.provenance.get("data")
    return data if isinstance(data, Mapping) else {}


def _race(run: RunData) -> Mapping[str, Any]:
    found = run.provenance.get("race")
    return found if isinstance(found, Mapping) and isinstance(found.get("reason"), str) else {}
