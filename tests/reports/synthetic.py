"""A run folder without a run: plausible lineage, records, genomes and predictions, from a seed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from graftwork.evolution.transforms import R2RDeepen, R2RWiden
from graftwork.metrics import wilson_interval
from graftwork.networks.genome import Genome, forward_flops, num_parameters, seed_genome, training_flops

__all__ = ["make_images", "make_run_folder"]

DIGITS = tuple(map(str, range(10)))


@dataclass
class _Life:
    id: str
    parent: str | None
    transform: str
    generation: int
    genome: Genome
    skill: float


def _grow(parent: _Life, number: int, generation: int, rng: np.random.Generator) -> _Life:
    genome, kernel = parent.genome, int(rng.choice([1, 3, 5]))
    if rng.random() < 0.5:
        growth = R2RDeepen(int(rng.integers(len(genome.body) + 1)), (kernel,))(genome, rng=rng)
    else:
        at = [place for place, item in enumerate(genome.body) if item in genome.layers]
        position = int(rng.choice(at))
        channels = (0, genome.body[position].out_channels // 2) if rng.random() < 0.3 else None
        growth = R2RWiden(position, kernel, channels=channels)(genome, rng=rng)
    skill = parent.skill + 0.12 + 0.2 * rng.standard_normal()
    return _Life(f"m{number}", parent.id, growth.transform, generation, growth.child, skill)


def _logits(skills: dict[str, float], labels: NDArray[np.int64], classes: int, rng: Any) -> dict[str, Any]:
    hard = rng.gumbel(size=len(labels))
    twin = (labels + rng.integers(1, classes, len(labels))) % classes
    made = {}
    for name, skill in skills.items():
        logits = rng.normal(0, 1.0, (len(labels), classes))
        rows = np.arange(len(labels))
        logits[rows, labels] += 3.2 + skill
        logits[rows, twin] += 1.6 * hard + 0.6 * rng.standard_normal(len(labels))
        made[name] = (1.4 * logits).astype(np.float32)
    return made


def _entry(life: _Life, validation: float, test: float) -> dict[str, Any]:
    return {
        "id": life.id,
        "validation_accuracy": validation,
        "test_accuracy": test,
        "parameters": num_parameters(life.genome),
        "flops": forward_flops(life.genome),
    }


def make_images(split: str, index: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Stripes that differ by example: gray, 8×8."""
    ramp = np.arange(64, dtype=np.int64).reshape(8, 8, 1) * (3 + (split == "test"))
    return ((ramp + 37 * index[:, None, None, None]) % 256).astype(np.uint8)


def make_run_folder(
    tmp_path: Path,
    *,
    name: str = "demo",
    seed: int = 0,
    class_names: tuple[str, ...] = DIGITS,
    num_generations: int = 6,
    population_size: int = 6,
    num_survivors: int = 3,
    num_examples: int = 400,
    shape: tuple[int, int, int] = (1, 8, 8),
    finished: bool = True,
    control: bool = True,
    predictions: bool = True,
    ensemble: bool = False,
) -> Path:
    """Write a run folder as `docs/run-folder.md` describes it.

    Args:
        finished: False leaves out ``members/``, ``predictions/`` and ``result.json``, and cuts the last record in two.
        control: whether `seed_network` was trained.
        predictions: whether predictions are stored.
        ensemble: whether ``result.json`` lists ensembles; their predictions are stored, too.
    """
    rng = np.random.default_rng(seed)
    folder = tmp_path / name
    (folder / "members").mkdir(parents=True)
    (folder / "predictions").mkdir()
    classes = len(class_names)
    origin = _Life("m0", None, "seed", 0, seed_genome("poster", shape, classes), 0.0)
    lives, alive, records = {"m0": origin}, [origin], []
    step, spent, scores = 400, 400 * 64 * training_flops(origin.genome), {}

    def accuracy(life: _Life, generation: int) -> float:
        learned = 1.5 + 0.28 * generation + life.skill + 0.05 * rng.standard_normal()
        return round(float(1 / (1 + np.exp(-learned))) * num_examples) / num_examples

    for generation in range(num_generations + 1):
        births = []
        while generation and len(alive) < population_size:
            child = _grow(alive[int(rng.integers(len(alive)))], len(lives), generation, rng)
            lives[child.id] = child
            births.append(child)
            alive.append(child)
        if generation:
            step += 150
            spent += 150 * 64 * int(np.mean([training_flops(life.genome) for life in alive]))
        else:
            births = [origin]
        scores.update({life.id: accuracy(life, generation) for life in alive})
        common = {"generation": generation, "step": step, "training_flops": spent, "seconds": 1.5 * step}
        for life in alive:
            entry = _entry(life, scores[life.id], 0.0)
            del entry["test_accuracy"]
            records.append({"type": "member", **common, **entry})
        alive_then = [life.id for life in alive]
        alive = sorted(alive, key=lambda life: -scores[life.id])[:num_survivors]
        best = scores[alive[0].id]
        records.append(
            {
                "type": "generation",
                **common,
                "members": alive_then,
                "survivors": [life.id for life in alive],
                "births": [{"id": b.id, "parent": b.parent, "transform": b.transform} for b in births],
                "best": alive[0].id,
                "scoring_flops": 10**9,
                "mean_loss": 1.0 / (1 + generation),
                "rejected": {},
                "saturated": False,
                "diversity": None
                if len(alive_then) < 2
                else {
                    "num_members": len(alive_then),
                    "mean_accuracy": best - 0.03,
                    "best_accuracy": best,
                    "vote_accuracy": best + 0.004,
                    "oracle_accuracy": min(1.0, best + 0.05 - 0.003 * generation),
                    "disagreement": 0.06 + 0.004 * generation,
                    "double_fault": 0.05 - 0.004 * generation,
                    "q_statistic": 0.9,
                },
                "bank_blocks": 10,
                "bank_parameters": 10**5,
            }
        )
    if control:
        for share in np.linspace(0.15, 1, 8):
            value = round(float(1 / (1 + np.exp(-(0.9 + 1.9 * share)))) * num_examples) / num_examples
            entry = _entry(origin, value, 0.0) | {"id": "seed_network"}
            del entry["test_accuracy"]
            at = {"step": int(share * step * 1.4), "training_flops": int(share * spent)}
            records.append(
                {"type": "control", "generation": num_generations, **at, **entry, "seconds": 1.5 * (step + at["step"])}
            )
    losses = [
        {"type": "loss", "stage": stage, "generation": 0, "step": at, "loss": 2 / at**0.3, "rate": 1 - at / 900}
        for stage in ("search", *(["control"] if control else []))
        for at in range(1, 900, 7)
    ]
    records = [*losses, *records]
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "records.jsonl").write_text(text if finished else text + '{"type": "gener')
    (folder / "config.toml").write_text('data = "digits"\nrecipe = "default"\nselection = "coevolution"\nseed = 0\n')
    provenance = {
        "versions": {"graftwork": "0.1.0", "torch": "2.9.0", "numpy": "2.3.0", "python": "3.12.4"},
        "machine": {"processor": "x86_64, AVX2", "cores": 2},
        "precision": "float32",
        "threads": 2,
        "git_commit": None,
        "data": {
            "name": "digits",
            "fingerprint": "sha256:4f5c…",
            "per_class": {split: dict.fromkeys(class_names, 40) for split in ("train", "validation", "blend", "test")},
        },
        "training": {"augmentation": {"flip": "none", "shift": 2, "erase": 0.25}, "class_weights": "none"},
        "race": {"flip": "none", "reason": "they flip", "pairs": []},
        "plan": {"num_generations": num_generations, "initial_steps": 400, "steps_per_generation": 150},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance))
    if not finished:
        return folder
    _finish(folder, lives, alive, scores, records, class_names, num_examples, rng, control, predictions, ensemble)
    return folder


def _accuracies(validation: float, test: float, count: int = 400) -> dict[str, Any]:
    found: dict[str, Any] = {"balanced_accuracy": test, "macro_f1": test}
    for split, share in (("validation", validation), ("test", test)):
        interval = wilson_interval(round(share * count), count)
        found |= {f"{split}_accuracy": share, f"{split}_interval": list(interval)}
    return found


def _finish(
    folder: Path,
    lives: dict[str, _Life],
    alive: list[_Life],
    scores: dict[str, float],
    records: list[dict[str, Any]],
    class_names: tuple[str, ...],
    num_examples: int,
    rng: np.random.Generator,
    control: bool,
    predictions: bool,
    ensemble: bool,
) -> None:
    kept = {life.id: life for life in alive}
    if control:
        kept["seed_network"] = _Life("seed_network", None, "seed", 0, lives["m0"].genome, -0.4)
    tested: dict[str, dict[str, float]] = {}
    methods: list[dict[str, Any]] = []
    for split in ("validation", "test"):
        count = num_examples if split == "validation" else num_examples + 100
        labels = rng.integers(0, len(class_names), count)
        logits = _logits({i: 0.5 * life.skill for i, life in kept.items()}, labels, len(class_names), rng)
        if ensemble:
            logits["ensemble/mean"] = np.mean([logits[life.id] for life in alive], axis=0)
        tested[split] = {i: float(np.mean(values.argmax(1) == labels)) for i, values in logits.items()}
        if predictions:
            index = rng.permutation(5 * count)[:count].astype(np.int64)
            tensors = {**logits, "labels": labels.astype(np.int64), "index": index}
            save_file(tensors, folder / "predictions" / f"{split}.safetensors")
    if ensemble:
        numbers = _accuracies(tested["validation"]["ensemble/mean"], tested["test"]["ensemble/mean"])
        cost = {
            "parameters": 123_457,
            "flops": 7_654_321,
            "num_members": len(alive),
            "members": [life.id for life in alive],
            "ece": 0.0123,
            "nll": 0.2345,
            "held_out_nll": 0.2456,
        }
        methods = [{"method": "mean", **numbers, **cost}]
    for member_id, life in kept.items():
        line, current = [], lives.get(member_id)
        while current is not None:
            line.append({name: getattr(current, name) for name in ("id", "parent", "transform", "generation")})
            current = lives.get(current.parent or "")
        data = _entry(life, tested["validation"][member_id], tested["test"][member_id])
        data |= {"parent": life.parent, "transform": life.transform, "generation": life.generation}
        data |= {"ancestors": line[::-1], "genome": life.genome.to_dict(), "class_names": class_names}
        data |= {"parent_genome": lives[life.parent].genome.to_dict() if life.parent else None}
        (folder / "members" / f"{member_id}.json").write_text(json.dumps(data))
    entries = {
        i: _entry(life, tested["validation"][i], tested["test"][i])
        | _accuracies(tested["validation"][i], tested["test"][i])
        | {"validation_score": tested["validation"][i]}
        for i, life in kept.items()
    }
    last = records[-1]
    best = max(alive, key=lambda life: tested["validation"][life.id])
    result = {
        "best": entries[best.id],
        "majority": {"name": class_names[0], **_accuracies(0.2, 0.25)},
        "per_class": [{"name": name, "precision": 0.5, "recall": 0.75, "support": 8} for name in class_names],
        "mirror_pairs": [list(class_names[:2])],
        "seed_network": entries.get("seed_network"),
        "survivors": [entries[life.id] for life in alive],
        "ensemble": methods or None,
        "recommended": "mean" if methods else None,
        "cascade": {
            "threshold": 0.75,
            "flops": 2.5e5,
            "stages": [{"id": best.id, "flops": 3 * 10**5, "share": 1.0}],
            "curve": [
                {"threshold": at, "flops": 2.5e5 + 1e5 * at, "validation_accuracy": 0.6, "test_accuracy": 0.5 + at / 8}
                for at in (0.0, 0.75, 2.0)
            ],
        }
        if methods
        else None,
        "latency": {
            "device": "cpu",
            "threads": 2,
            "batch_size": 32,
            "networks": {i: {"one": 0.5 + 0.25 * place, "batch": 9.5} for place, i in enumerate(entries)},
            "ensembles": {row["method"]: {"one": 3.5, "batch": 41.25} for row in methods or ()},
        },
        "training_flops": last["training_flops"],
        "scoring_flops": 7 * 10**9,
        "seconds": 172.25,
        "generations": 6,
        "steps": 1300,
        "seed": 0,
        "bank_sha256": "5f" * 32,
        "test_opened_at": "2026-11-24T12:00:00Z",
        "test_openings": [{"at": "2026-11-24T12:00:00Z", "by": "search", "members": list(entries)}],
        "data": "digits",
        "classes": len(class_names),
        "recipe": "default",
        "strategy": "neuroevolution",
        "selection": "coevolution",
        "metric": "accuracy",
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2))
