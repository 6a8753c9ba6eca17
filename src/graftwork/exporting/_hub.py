"""A folder as the Hugging Face hub has them: weights, config, readable source, model card."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from graftwork._files import as_json, damaged, scratch
from graftwork._version import __version__
from graftwork.errors import GraftworkError, InputError, ResourceError
from graftwork.exporting._card import render_card
from graftwork.exporting._export import ExportReport, move_into_place
from graftwork.exporting._formats import FILES
from graftwork.runs import RunFolder

HUB_FILES = ("modeling.py", "model.safetensors", "config.json", "preprocessor_config.json", "README.md")
"""What a hub folder holds."""

_LOAD = "def load("
_CLASS = '''try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError:  # load() works without it
    pass
else:

    class HubNetwork(Network, PyTorchModelHubMixin):
        """The network with from_pretrained, save_pretrained and push_to_hub."""


'''


def export_hub(
    run: RunFolder,
    name: str,
    folder: Path,
    *,
    source: Callable[[Path], ExportReport],
    ensemble: bool = False,
    licence: str = "unknown",
    overwrite: bool = False,
) -> ExportReport:
    """Write `HUB_FILES`: a network that loads by its own source, and by ``from_pretrained`` of ``HubNetwork``.

    Args:
        run: A finished run.
        name: Id of a member, or method of an ensemble.
        folder: Folder for the files; made if it is missing.
        source: Exports it to a folder in the format ``source``, checked (see `export_member`).
        ensemble: Whether it is an ensemble.
        licence: Identifier of a licence for the model card, as the hub knows it: ``apache-2.0``, ``mit``, …
        overwrite: Whether to replace files of the same names.

    Returns:
        The receipt of the source, with the files of the folder.

    Raises:
        InputError: If files are there already, or the run has not scored it.
        ResourceError: If the files can't be written.
    """
    there = [entry for entry in HUB_FILES if (folder / entry).exists()]
    if there and not overwrite:
        raise InputError(f"export: {' and '.join(there)} exist in {str(folder)!r}; choose another folder or overwrite")
    texts = {
        "config.json": as_json(_config(run, name, ensemble=ensemble)),
        "preprocessor_config.json": as_json(_preprocessing(run)),
        "README.md": render_card(run, name, ensemble=ensemble, licence=licence),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with scratch(folder, "export") as aside:
            report = source(aside)
            readable, weights = (aside / entry for entry in FILES["source"])
            texts["modeling.py"] = _with_class(readable.read_text(encoding="utf-8"), readable.name)
            for entry, text in texts.items():
                (aside / entry).write_text(text, encoding="utf-8")
            assert weights.name in HUB_FILES
            paths = move_into_place([aside / entry for entry in HUB_FILES], folder)
    except OSError as error:
        raise ResourceError(f"export: can't write to {str(folder)!r}: {error}; nothing was replaced") from error
    return replace(report, paths=paths)


def _with_class(source: str, name: str) -> str:
    """The readable source with a class of the hub beside the network, under the name that it has there."""
    if source.count(f"\n{_LOAD}") != 1:
        raise GraftworkError(f"export: expected one function load in {name}, got another source; this is a defect")
    return source.replace(f"python {name}", f"python {HUB_FILES[0]}").replace(_LOAD, _CLASS + _LOAD, 1)


def _data(run: RunFolder) -> dict[str, Any]:
    with damaged(f"{run.path / 'provenance.json'}"):
        data: dict[str, Any] = run.read_json("provenance.json")["data"]
        return {key: data[key] for key in ("channels", "height", "width", "class_names")}


def _config(run: RunFolder, name: str, *, ensemble: bool) -> dict[str, Any]:
    data = _data(run)
    members = run.read_json(f"ensembles/{name}.json")["members"] if ensemble else [name]
    return {
        "architectures": ["HubNetwork"],
        "model_type": "graftwork",
        "graftwork_version": __version__,
        "num_channels": data["channels"],
        "image_size": [data["height"], data["width"]],
        "num_labels": len(data["class_names"]),
        "id2label": {str(number): text for number, text in enumerate(data["class_names"])},
        "label2id": {text: number for number, text in enumerate(data["class_names"])},
        "genomes": {member: run.read_json(f"members/{member}.json")["genome"] for member in members},
    }


def _preprocessing(run: RunFolder) -> dict[str, Any]:
    """What ``read_image`` of the readable source does; the network normalises for itself."""
    data = _data(run)
    size = {"height": data["height"], "width": data["width"]}
    return {
        "do_convert_rgb": data["channels"] == 3,
        "do_resize": True,
        "size": size,
        "resize_mode": "cover",
        "resample": 2,
        "do_center_crop": True,
        "crop_size": size,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
    }
