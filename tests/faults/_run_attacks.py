"""The attacks on run folders, by name."""

import json
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tests.faults._building import (
    BAD_JSON,
    DEEP,
    DIRECTION,
    ESCAPES,
    JSON_FILES,
    MARKUP,
    NAMES,
    NUMBERS,
    SCRIPT,
    TEXTS,
    Attack,
    a_socket,
    appended,
    best,
    config,
    dangling,
    device,
    edited,
    folder,
    grown,
    hard_link,
    header,
    link,
    loop,
    number,
    path_of,
    pipe,
    put,
    replaced,
    tensors,
    written,
)
from tests.faults._sandbox import Place

CHECKPOINT = "checkpoints/NEWEST"
MEMBER, MEMBER_TENSORS = "members/BEST.json", "members/BEST.safetensors"
LINKED = (
    *("config.toml", "records.jsonl", "result.json", "provenance.json", "seed_genome.json", "manifest.json", "lock"),
    *("owner.json", "report.html", "figures", "members", "predictions", "ensembles", "checkpoints", "export", "distil"),
    *(MEMBER, MEMBER_TENSORS, "predictions/test.safetensors", "ensembles/mean.json", "figures/lineage.svg"),
    *(CHECKPOINT, f"{CHECKPOINT}/state.json", f"{CHECKPOINT}/tensors.safetensors", f"{CHECKPOINT}/manifest.json"),
)
ODD_FILES: dict[str, Callable[[str, Place], None]] = {
    "a link": link,
    "a link to nothing": dangling,
    "a link to itself": loop,
    "a hard link": hard_link,
    "a pipe": pipe,
    "a socket": a_socket,
    "a device": device,
    "a folder": folder,
}
ODD_PLACES = ("config.toml", "records.jsonl", "result.json", "lock", "owner.json", MEMBER, MEMBER_TENSORS)


def attacks() -> dict[str, Attack]:
    """Every attack on a run folder, by name."""
    return {
        **_texts(),
        **_numbers(),
        **_json(),
        **_files(),
        **_tensors(),
        **_structure(),
        **_configs(),
    }


def _texts() -> dict[str, Attack]:
    class_names: dict[str, Any] = {**TEXTS, "a list": ["a"], "numbers": 7, "nothing": ""}
    spots: dict[str, tuple[str, tuple[Any, ...]]] = {
        "the recipe": ("result.json", ("recipe",)),
        "the data's name": ("result.json", ("data",)),
        "the opening": ("result.json", ("test_openings", 0, "by")),
        "the time": ("result.json", ("test_opened_at",)),
        "the machine": ("provenance.json", ("machine", "processor")),
        "a key": ("provenance.json", ("machine", MARKUP)),
        "the plan": ("provenance.json", ("plan", "num_generations")),
        "the combiner": ("ensembles/mean.json", ("combiner", "kind")),
        "the features": ("ensembles/mean.json", ("features",)),
        "an ancestor": (MEMBER, ("ancestors", 0, "transform")),
        "the activation": (MEMBER, ("genome", "activation")),
        "the scale": (MEMBER, ("genome", "head", "scale")),
        "a pool": (MEMBER, ("genome", "body", 0, "type")),
        "the owner": ("owner.json", ("host",)),
    }
    return {
        **{f"id: {name}": partial(replaced, best, text) for name, text in NAMES.items()},
        **{f"class: {name}": partial(replaced, "7", text) for name, text in class_names.items()},
        **{f"block: {name}": partial(replaced, "s0", text) for name, text in NAMES.items()},
        **{f"transform: {name}": partial(replaced, "seed", text) for name, text in TEXTS.items()},
        **{
            f"{spot}: {name}": partial(_spot, *where, text)
            for spot, where in spots.items()
            for name, text in (("markup", MARKUP), ("script", SCRIPT), ("escapes", ESCAPES))
        },
        "ensemble: outside": partial(edited, "ensembles/mean.json", partial(put, ("members", 0), "../../victim/m0")),
        "ensemble: method of markup": partial(edited, "result.json", partial(put, ("ensemble", 0, "method"), MARKUP)),
        "ensemble: method of a path": partial(
            edited, "result.json", partial(put, ("ensemble", 0, "method"), "../../victim/x")
        ),
    }


def _spot(name: str, keys: tuple[Any, ...], value: Any, place: Place) -> None:
    if name == "owner.json":
        path_of(place, name).write_text(json.dumps({"pid": 1, "host": "", "since": ESCAPES}))
    edited(name, partial(put, keys, value), place)


def _numbers() -> dict[str, Attack]:
    spots: dict[str, tuple[str, tuple[Any, ...]]] = {
        "accuracy": ("result.json", ("best", "validation_accuracy")),
        "parameters": ("result.json", ("best", "parameters")),
        "seconds": ("result.json", ("seconds",)),
        "steps": ("result.json", ("steps",)),
        "calibration": ("result.json", ("ensemble", 0, "ece")),
        "channels": (MEMBER, ("genome", "body", 0, "out_channels")),
        "height": (MEMBER, ("genome", "input_shape", 1)),
        "classes": (MEMBER, ("genome", "num_classes")),
        "hidden channels": (MEMBER, ("genome", "body", 0, "blocks", 0, "hidden_channels")),
        "mean": (MEMBER, ("input", "mean", 0)),
        "deviation": (MEMBER, ("input", "std", 0)),
        "members": ("ensembles/mean.json", ("combiner", "num_members")),
        "updates": (f"{CHECKPOINT}/state.json", ("search", "step")),
        "generation": (f"{CHECKPOINT}/state.json", ("search", "generation")),
        "random numbers": (f"{CHECKPOINT}/state.json", ("search", "rng", "state", "state")),
        "the seed's channels": ("seed_genome.json", ("body", 0, "out_channels")),
        "the plan's rounds": ("provenance.json", ("plan", "num_generations")),
        "threads": ("provenance.json", ("machine", "threads")),
        "the owner's process": ("owner.json", ("pid",)),
    }
    found: dict[str, Attack] = {
        f"{spot}: {name}": partial(_number_at, *where, literal)
        for spot, where in spots.items()
        for name, literal in NUMBERS.items()
    }
    found["a large shape"] = partial(edited, MEMBER, partial(put, ("genome", "input_shape"), [1, 10**6, 10**6]))
    found["a large seed"] = partial(edited, "seed_genome.json", partial(put, ("input_shape",), [1, 10**6, 10**6]))
    return found


def _number_at(name: str, keys: tuple[Any, ...], literal: str, place: Place) -> None:
    if name == "owner.json":
        path_of(place, name).write_text(json.dumps({"pid": 1, "host": os.uname().nodename, "since": "now"}))
    number(name, keys, literal, place)


def _json() -> dict[str, Attack]:
    state = (f"{CHECKPOINT}/state.json", f"{CHECKPOINT}/manifest.json", "manifest.json", "records.jsonl")
    found: dict[str, Attack] = {
        f"{name}: {kind}": partial(written, name, content)
        for name in (*JSON_FILES, *state)
        for kind, content in BAD_JSON.items()
        if not (kind == "many lists" and name != "result.json")
    }
    lines = {
        "deep": DEEP.encode(),
        "another kind": b'[1]\n{"type": "member"}',
        "no id": b'{"type": "member"}',
        "an unknown type": b'{"type": "\\u001b[2J<script>"}',
    }
    found |= {f"a record: {name}": partial(appended, "records.jsonl", line + b"\n") for name, line in lines.items()}
    found |= {f"a terabyte: {name}": partial(grown, name) for name in (*JSON_FILES, *state, "config.toml")}
    return found


def _files() -> dict[str, Attack]:
    found: dict[str, Attack] = {f"a link: {name}": partial(link, name) for name in LINKED}
    found |= {
        f"{kind}: {name}": partial(make, name)
        for kind, make in ODD_FILES.items()
        for name in ODD_PLACES
        if kind != "a link"
    }
    return found


def _tensors() -> dict[str, Attack]:
    places = (MEMBER_TENSORS, "predictions/test.safetensors", f"{CHECKPOINT}/tensors.safetensors")
    headers: dict[str, Callable[[dict[str, Any]], object]] = {
        "overlapping": lambda h: [put((n, "data_offsets"), next(iter(h.values()))["data_offsets"], h) for n in h] and h,
        "beyond the file": lambda h: put((_one(h), "data_offsets"), [0, 2**62], h),
        "negative": lambda h: put((_one(h), "data_offsets"), [-8, 0], h),
        "an overflowing product": lambda h: put((_one(h), "shape"), [2**33, 2**33, 4], h),
        "a huge empty shape": lambda h: put((_one(h), "shape"), [0, 2**62], h),
        "another type": lambda h: put((_one(h), "dtype"), "F64", h),
        "an unknown type": lambda h: put((_one(h), "dtype"), "PICKLE", h),
        "markup": lambda h: {MARKUP: h[_one(h)], **{k: v for k, v in h.items() if k != _one(h)}},
        "metadata": lambda h: put(("__metadata__",), {MARKUP: SCRIPT}, h),
        "wrong metadata": lambda h: put(("__metadata__",), [1], h),
    }
    contents = {
        "a header of 2⁶⁰ bytes": b"\xff" * 7 + b"\x10",
        "a header beyond the file": (10**6).to_bytes(8, "little") + b"{}",
        "a deep header": (2 * len(DEEP)).to_bytes(8, "little") + b'{"a":' + DEEP.encode() + b"}",
        "empty": b"",
        "a pickle": b"\x80\x04cposix\nsystem\n(S'touch WITNESS'\ntR.",
    }
    changes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "not a number": lambda t: {k: np.full_like(v, np.nan) if v.dtype.kind == "f" else v for k, v in t.items()},
        "infinite": lambda t: {k: np.full_like(v, np.inf) if v.dtype.kind == "f" else v for k, v in t.items()},
        "flat": lambda t: {k: v.reshape(-1) for k, v in t.items()},
        "none": lambda t: {},
        "one more": lambda t: {**t, "more/../../x": next(iter(t.values()))},
        "one less": lambda t: dict(list(t.items())[1:]),
        "integers": lambda t: {k: v.astype(np.int32) if v.dtype.kind == "f" else v for k, v in t.items()},
        "empty ones": lambda t: {k: v[:0] if v.ndim else v for k, v in t.items()},
    }
    found: dict[str, Attack] = {}
    for name in places:
        short = name.rsplit("/", 1)[-1].replace(".safetensors", "") if "NEWEST" not in name else "checkpoint"
        found |= {f"{short}'s header: {kind}": partial(header, name, change) for kind, change in headers.items()}
        found |= {f"{short}'s tensors: {kind}": partial(tensors, name, change) for kind, change in changes.items()}
        found |= {f"{short}'s file: {kind}": partial(written, name, content) for kind, content in contents.items()}
        found[f"a terabyte: {short}"] = partial(grown, name)
    test = "predictions/test.safetensors"
    found |= {
        "labels out of range": partial(tensors, test, lambda t: {**t, "labels": t["labels"] + 10**6}),
        "negative labels": partial(tensors, test, lambda t: {**t, "labels": t["labels"] - 10**6}),
        "labels of text": partial(tensors, test, lambda t: {**t, "labels": t["labels"].astype(np.float32)}),
        "an index far out": partial(tensors, test, lambda t: {**t, "index": t["index"] + 10**15}),
        "no labels": partial(tensors, test, lambda t: {k: v for k, v in t.items() if k != "labels"}),
    }
    return found


def _one(header: dict[str, Any]) -> str:
    return next(name for name in header if name != "__metadata__")


def _structure() -> dict[str, Attack]:
    return {
        "a line of descent in a circle": partial(edited, MEMBER, _circle),
        "births in a circle": _birth_circle,
        "a hundred thousand records": _many_records,
        "a hundred thousand members": _many_members,
        "ten thousand layers": partial(edited, MEMBER, _many_layers),
        "ten thousand layers of the seed": partial(edited, "seed_genome.json", _many_layers_of),
        "a hundred thousand class names": partial(edited, MEMBER, partial(put, ("class_names",), ["a"] * 10**5)),
        "no class names": partial(edited, MEMBER, partial(put, ("class_names",), [])),
        "a block twice": partial(edited, MEMBER, lambda d: d["genome"]["body"].append(d["genome"]["body"][0])),
        "a hundred thousand survivors": partial(
            edited, "result.json", lambda d: put(("survivors",), [d["best"]] * 10**5, d)
        ),
        "no survivors": partial(edited, "result.json", partial(put, ("survivors",), [])),
        "the dead alive": partial(edited, f"{CHECKPOINT}/state.json", partial(put, ("search", "alive"), ["m99"])),
        "nobody alive": partial(edited, f"{CHECKPOINT}/state.json", partial(put, ("search", "alive"), [])),
        "the seed as its own parent": partial(
            edited, f"{CHECKPOINT}/state.json", partial(put, ("search", "lineage", 0, "parent"), "m0")
        ),
        "a bank of other shapes": partial(edited, f"{CHECKPOINT}/state.json", partial(put, ("search", "bank"), {})),
        "a foreign optimizer": partial(edited, f"{CHECKPOINT}/state.json", partial(put, ("search", "optimizer"), [])),
        "a foreign strategy": partial(edited, f"{CHECKPOINT}/state.json", partial(put, ("search", "strategy"), 5)),
        "a foreign generator": partial(
            edited, f"{CHECKPOINT}/state.json", partial(put, ("search", "rng", "bit_generator"), "os.system")
        ),
        "a combiner in a combiner": partial(edited, "ensembles/mean.json", _nested_combiner),
        "a combiner without memory's end": partial(edited, "ensembles/stacked.json", _huge_combiner),
        "a checkpoint far ahead": _checkpoint_ahead,
        "a member that is a path": lambda place: (place.run / "members" / "=1+1 <b>.json").write_text("{}"),
        "a figure's name": lambda place: (place.run / "figures" / f"{DIRECTION}.svg").write_text("<svg/>"),
        "leftovers of others": lambda place: (place.run / ".x.1.tmp").symlink_to(place.victim),
        "provenance without its parts": partial(edited, "provenance.json", lambda d: [d.pop("machine"), d.pop("data")]),
        "provenance of other kinds": partial(edited, "provenance.json", lambda d: d.update(machine=[1], data=[2])),
    }


def _circle(data: Any) -> None:
    data["ancestors"] = [{**data["ancestors"][0], "parent": data["ancestors"][-1]["id"]}] * 1000


def _birth_circle(place: Place) -> None:
    path = place.run / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        for birth in row.get("births", ()):
            birth["parent"] = birth["id"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _many_records(place: Place) -> None:
    path = place.run / "records.jsonl"
    line = next(line for line in path.read_text().splitlines() if '"member"' in line)
    appended("records.jsonl", f"{line}\n".encode() * 100_000, place)


def _many_members(place: Place) -> None:
    path = place.run / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    last = next(row for row in reversed(rows) if row["type"] == "generation")
    last["births"] = [{"id": f"x{n}", "parent": None, "transform": "seed"} for n in range(100_000)]
    last["members"] = [f"x{n}" for n in range(100_000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _many_layers(data: Any) -> None:
    _many_layers_of(data["genome"])


def _many_layers_of(genome: Any) -> None:
    (layer,) = [item for item in genome["body"] if item["type"] == "layer"][:1]
    block = layer["blocks"][0]
    genome["body"] += [{**layer, "blocks": [{**block, "id": f"x{n}"}]} for n in range(10_000)]


def _nested_combiner(data: Any) -> None:
    for _ in range(50):
        data["combiner"] = {"kind": "temperature", "combiner": data["combiner"]}


def _huge_combiner(data: Any) -> None:
    data["combiner"] = {
        "kind": "network",
        "num_members": 10**5,
        "num_features": 10**5,
        "num_classes": 10,
        "hidden_features": 10**6,
        "residual": True,
    }


def _checkpoint_ahead(place: Place) -> None:
    newest = path_of(place, CHECKPOINT)
    newest.rename(newest.with_name("search-999999999999999999"))


def _configs() -> dict[str, Attack]:
    options: dict[str, tuple[str, str]] = {
        "a file of the system": ("data", '"/etc/passwd"'),
        "a folder of the system": ("data", '"/proc"'),
        "a path of the network": ("data", r"'\\host\share\data'"),
        "an address": ("data", '"https://example.invalid/data.parquet"'),
        "a name of the hub": ("data", '"evil/data"'),
        "markup as data": ("data", json.dumps(MARKUP)),
        "a zero byte as data": ("data", r'"a\u0000b"'),
        "escapes as data": ("data", r'"\u001b[2J\u202e"'),
        "a genome outside": ("genome", '"../../victim/m0.json"'),
        "an unknown key": ("pwned", "1"),
        "an unknown key of markup": ('"<script>pwn()</script>"', "1"),
        "a trunk of code": ("trunk", '"../data/code.py:build"'),
        "a trunk of the system": ("trunk", '"hf:/etc"'),
        "a trunk of markup": ("trunk", json.dumps(f"hf:{MARKUP}")),
        "a trunk of the network": ("trunk", '"timm:evil/model"'),
        "a rate of a trunk": ("trunk_rate", "1e308"),
        "a device": ("device", '"cuda:99"'),
        "an unknown device": ("device", '"x86; rm -rf"'),
        "a million workers": ("workers", "1000000"),
        "a billion threads": ("threads", "1000000000"),
        "a batch of 10¹²": ("batch_size", "1000000000000"),
        "a scoring batch of 10¹²": ("scoring_batch_size", "1000000000000"),
        "an image of 10⁶": ("image_size", "1000000"),
        "no time": ("checkpoint_every", "nan"),
        "all time": ("checkpoint_every", "inf"),
        "text for a number": ("seed", '"a"'),
        "a number of thousands of digits": ("seed", "1" * 5000),
        "a seed of 10³⁰": ("seed", "1" + "0" * 30),
        "a split of more than all": ("validation", "1e308"),
        "no split": ("validation", "nan"),
        "a table for a text": ("selection", "{a = 1}"),
        "options of a selector": ("selection_options", '{"__class__" = 1}'),
        "a date": ("budget", "1979-05-27"),
        "a recipe of nothing": ("recipe", "[]"),
        "a recipe of markup": ("recipe", json.dumps(MARKUP)),
        "a deep recipe": ("recipe", "{a=" * 2000 + "1" + "}" * 2000),
        "a deep list": ("data", "[" * 100_000 + "]" * 100_000),
    }
    found: dict[str, Attack] = {
        f"config: {name}": partial(config, **{key: value}) for name, (key, value) in options.items()
    }
    texts = {"no TOML": b"a = = 1", "no UTF-8": b"\xff\xfe", "empty": b"", "escapes": ESCAPES.encode()}
    found |= {f"config: {name}": partial(written, "config.toml", content) for name, content in texts.items()}
    return found
