"""The attacks on trunks, by name: on a folder of transformers, and on what a run holds of one that it has trained."""

import json
import os
import pickle
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults._building import BAD_JSON, Attack, appended, edited, grown, header, put, tensors, written
from tests.faults._sandbox import Place

STORED = "trunk.safetensors"


def make_trunk(folder: Path) -> None:
    """Save a small random network of transformers."""
    import torch
    import transformers

    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.ViTConfig(**sizes, image_size=8, patch_size=2)
        transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(folder)


def trunk_of(place: Place) -> Path:
    """The stranger's trunk."""
    return place.root / "trunk"


def trunk_attacks() -> dict[str, Attack]:
    """Every attack on a trunk, by name."""
    return {**_folders(), **_sizes(), **_stored()}


def _folders() -> dict[str, Attack]:
    found: dict[str, Attack] = {
        "trunk: code beside the config": _code,
        "trunk: pickled weights": _pickled,
        "trunk: an index that names files outside": _outside,
        "trunk: a config that is a device": partial(_odd, "config.json", "/dev/zero"),
        "trunk: a config that is a pipe": partial(_pipe, "config.json"),
        "trunk: weights that are a device": partial(_odd, "model.safetensors", "/dev/zero"),
        "trunk: weights that are a pipe": partial(_pipe, "model.safetensors"),
        "trunk: normalisation that is a pipe": partial(_pipe, "preprocessor_config.json"),
        "trunk: weights that are cut": lambda place: os.truncate(trunk_of(place) / "model.safetensors", 900),
        "trunk: weights that claim a terabyte": lambda place: os.truncate(trunk_of(place) / "model.safetensors", 2**40),
        "trunk: a header of a terabyte": _long_header,
        "trunk: weights of nothing": lambda place: (trunk_of(place) / "model.safetensors").write_bytes(b""),
    }
    found |= {f"trunk: config, {name}": partial(_written, "config.json", content) for name, content in BAD_JSON.items()}
    numbers = ("[NaN, 0, 0]", '["a", 0, 0]', "[]", "1e400", "[0, 0, 0, 0]", "null")
    return found | {
        f"trunk: means of {text}": partial(
            _written, "preprocessor_config.json", f'{{"image_mean": {text}, "image_std": [1, 1, 1]}}'.encode()
        )
        for text in numbers
    }


def _sizes() -> dict[str, Attack]:
    values: dict[str, Any] = {
        "hidden_size": 10**9,
        "num_hidden_layers": 10**7,
        "image_size": 10**9,
        "patch_size": 0,
        "num_attention_heads": -1,
        "intermediate_size": 1e400,
        "model_type": "../../victim",
        "hidden_act": "__import__('os').system('touch pwned')",
        "architectures": ["</script><script>pwn()</script>"],
        "_name_or_path": "https://example.invalid/model",
    }
    return {f"trunk: {name} of {str(value)[:20]}": partial(_sized, name, value) for name, value in values.items()}


def _stored() -> dict[str, Attack]:
    def broken(weights: dict[str, Any]) -> dict[str, Any]:
        return {name: np.full_like(value, np.nan) for name, value in weights.items()}

    def turned(weights: dict[str, Any]) -> dict[str, Any]:
        return {name: value.reshape(-1) for name, value in weights.items()}

    def renamed(found: dict[str, Any]) -> dict[str, Any]:
        return {f"../{name}": value for name, value in found.items()}

    names = ("provenance.json", ("data", "trunk"))
    values = {"text": "a", "nothing": None, "numbers": {"sha256": 7, "mean": ["a"], "std": [0]}, "endless": {"mean": 1}}
    return {
        "stored: weights that are not finite": partial(tensors, STORED, broken),
        "stored: weights of other shapes": partial(tensors, STORED, turned),
        "stored: weights of other names": partial(header, STORED, renamed),
        "stored: no weights": partial(written, STORED, b""),
        "stored: weights that go on": partial(appended, STORED, bytes(64)),
        "stored: weights that claim a terabyte": partial(grown, STORED),
        "stored: a link": _linked,
        **{
            f"stored: a trunk of {name}": partial(edited, names[0], partial(put, names[1], value))
            for name, value in values.items()
        },
    }


def _written(name: str, content: bytes, place: Place) -> None:
    (trunk_of(place) / name).write_bytes(content)


def _odd(name: str, target: str, place: Place) -> None:
    path = trunk_of(place) / name
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def _pipe(name: str, place: Place) -> None:
    path = trunk_of(place) / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _linked(place: Place) -> None:
    path = place.run / STORED
    shutil.move(path, place.victim / STORED)
    path.symlink_to(place.victim / STORED)


def _sized(name: str, value: Any, place: Place) -> None:
    path = trunk_of(place) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


def _code(place: Place) -> None:
    _sized("auto_map", {"AutoConfig": "code.C", "AutoModel": "code.M"}, place)
    _sized("model_type", "strange", place)
    (trunk_of(place) / "code.py").write_text(f"open({str(place.victim / 'pwned')!r}, 'w')\n")


class _Deed:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch pwned",)


def _pickled(place: Place) -> None:
    (trunk_of(place) / "model.safetensors").unlink()
    (trunk_of(place) / "pytorch_model.bin").write_bytes(pickle.dumps(_Deed()))


def _outside(place: Place) -> None:
    (trunk_of(place) / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"embeddings.cls_token": "../../victim/m0.safetensors"}}
    (trunk_of(place) / "model.safetensors.index.json").write_text(json.dumps(index))


def _long_header(place: Place) -> None:
    (trunk_of(place) / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
