"""Writing and opening each kind of export."""

import importlib
import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor, nn

from graftwork._version import __version__
from graftwork.errors import InputError
from graftwork.exporting._front import Front
from graftwork.exporting._source import IMAGE_MODES, plain_network, render_preprocessing
from graftwork.typing import Shape

ExportFormat = Literal["source", "pt2", "onnx"]

PREPROCESSING = "preprocess.py"
"""Reads image files for programs, as ``model.py`` does itself."""

FILES: Mapping[ExportFormat, tuple[str, ...]] = {
    "source": ("model.py", "model.safetensors"),
    "pt2": ("model.pt2", PREPROCESSING),
    "onnx": ("model.onnx", PREPROCESSING),
}
"""What each format writes; the first is the file to open. Programs for images that no file holds come without
`PREPROCESSING`."""

SHEET = "graftwork.json"


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a user of an exported model has to know, stored inside it.

    Args:
        input_shape: Channels, height and width of an image.
        class_names: Names of the classes, in the order of the logits.
        genome_id: Id of the member's genome.
    """

    input_shape: Shape
    class_names: tuple[str, ...]
    genome_id: str

    def to_json(self) -> str:
        """The sheet as a JSON object."""
        fields = {"input_shape": self.input_shape, "class_names": self.class_names, "genome_id": self.genome_id}
        return json.dumps({**fields, "preprocessing": self.preprocessing})

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How an image becomes an input: what ``preprocess.py`` does, in words for other languages."""
        mode = IMAGE_MODES.get(self.input_shape[0])
        return {
            "dtype": "float32",
            "layout": "BCHW",
            "values": [0.0, 1.0],
            "normalization": "inside the model",
            "mode": mode and {"L": "grey", "RGB": "RGB"}[mode],
            "orientation": "by EXIF",
            "transparency": "over white",
            "resize": "bilinear, until it covers height and width",
            "crop": "the middle",
        }

    @classmethod
    def from_json(cls, text: str) -> "Sheet":
        """Read what `to_json` wrote."""
        data = json.loads(text)
        channels, height, width = data["input_shape"]
        return cls((channels, height, width), tuple(data["class_names"]), data["genome_id"])


@dataclass(frozen=True)
class Exported:
    """An exported model, opened again.

    Args:
        path: The file.
        input_shape: Channels, height and width of an image.
        class_names: Names of the classes, in the order of the logits.
        run: Function: float32 images [B, C, H, W] with values in [0, 1] → logits [B, classes]. That of a program gives
            NaN for images on another scale.
    """

    path: Path
    input_shape: Shape
    class_names: tuple[str, ...]
    run: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of images, without gradients.

        Raises:
            InputError: If they are of another type or shape, or on another scale.
        """
        shape = ", ".join(map(str, self.input_shape))
        if images.dtype != torch.float32 or tuple(images.shape[1:]) != self.input_shape:
            raise InputError(
                f"images: expected float32 [B, {shape}] with values from 0 to 1, got {images.dtype} "
                f"{list(images.shape)}; read image files as preprocess.py or model.py does"
            )
        with torch.no_grad():
            try:
                found = self.run(images)
            except (TypeError, ValueError) as error:
                raise InputError(str(error)) from error
        if bool(found.isnan().any()):
            raise InputError(
                f"images: expected values from 0 to 1, got {float(images.min()):g} to {float(images.max()):g} and NaN "
                "from the model; scale them, or where they are right, export again"
            )
        return found


def require_onnx(*names: str) -> None:
    """Raise `InputError` where packages for ONNX are missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"export: onnx needs {' and '.join(missing)}, which is not installed; "
            "install the extra: pip install 'graftwork[onnx]', or export to source or pt2"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporters tell their own developers: deprecations inside torch, a missing torchvision."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*treespec.*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _program(network: nn.Module, shape: Shape) -> torch.export.ExportedProgram:
    """The traced network with a free batch size of at least 1."""
    batch = torch.export.Dim("batch", min=1)
    # traced with 2 images: a size of 1 would be taken for a constant
    return torch.export.export(network, (torch.rand(2, *shape),), dynamic_shapes=({0: batch},))


def write_files(
    to: ExportFormat,
    folder: Path,
    *,
    source: str,
    tensors: Mapping[str, Tensor],
    sheet: Sheet,
    front: Front | None = None,
) -> tuple[Path, ...]:
    """Write the files of one format into a folder, without any check.

    Returns:
        Paths of those that were written, in the order of `FILES`.

    Raises:
        InputError: If onnx or onnxscript are wanted and missing.
    """
    paths = tuple(folder / name for name in FILES[to])
    if to == "source":
        paths[0].write_text(source, encoding="utf-8")
        # not save_file, which keeps the file from other users
        paths[1].write_bytes(save(dict(tensors), metadata={"format": "pt"}))
        return paths
    text = render_preprocessing(sheet.input_shape, sheet.class_names, version=__version__)
    if text is None:
        paths = paths[:1]
    else:
        paths[1].write_text(text, encoding="utf-8")
    if to == "onnx":
        require_onnx("onnx", "onnxscript")
    network = plain_network(source, dict(tensors))
    if front is not None:
        network = front.before(network)
    with _quiet():
        program = _program(network, sheet.input_shape)
        if to == "pt2":
            torch.export.save(program, paths[0], extra_files={SHEET: sheet.to_json()})
            return paths
        converted = torch.onnx.export(
            program, dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
        )
    assert converted is not None  # no file was asked for
    converted.model.metadata_props[SHEET] = sheet.to_json()
    converted.save(paths[0], external_data=False)
    return paths


def open_export(path: str | Path) -> Exported:
    """Open an exported model, to run it.

    ``model.py`` is executed and ``.pt2`` files may hold pickles: open only files that you trust.

    Args:
        path: ``model.py``, ``model.pt2``, ``model.onnx`` or a folder that holds one of them.

    Raises:
        InputError: If there is no such file, it was not exported by graftwork, or a package to run it is missing.
    """
    file = _find(Path(path))
    opened = {".py": _open_source, ".pt2": _open_pt2, ".onnx": _open_onnx}[file.suffix]
    try:
        return opened(file)
    except (KeyError, AttributeError, json.JSONDecodeError) as error:
        raise InputError(f"export: {str(file)!r} was not exported by graftwork: {error}") from error


def _find(path: Path) -> Path:
    files = [path / names[0] for names in FILES.values()] if path.is_dir() else [path]
    for file in files:
        if file.is_file() and file.suffix in (".py", ".pt2", ".onnx"):
            return file
    names = ", ".join(names[0] for names in FILES.values())
    raise InputError(f"export: expected an exported model ({names}) or its folder, got {str(path)!r}")


def _open_source(file: Path) -> Exported:
    spec = importlib.util.spec_from_file_location("graftwork_export", file)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return Exported(file, module.IMAGE_SHAPE, module.CLASSES, module.load())


def _open_pt2(file: Path) -> Exported:
    extra: dict[str, Any] = {SHEET: ""}
    with _quiet():
        network = torch.export.load(file, extra_files=extra).module()
    sheet = Sheet.from_json(extra[SHEET])
    return Exported(file, sheet.input_shape, sheet.class_names, network)


def _open_onnx(file: Path) -> Exported:
    require_onnx("onnxruntime")
    onnxruntime = importlib.import_module("onnxruntime")  # optional, and without types
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    sheet = Sheet.from_json(session.get_modelmeta().custom_metadata_map[SHEET])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return Exported(file, sheet.input_shape, sheet.class_names, run)


def can_run(to: ExportFormat) -> bool:
    """Whether this installation can run an exported model."""
    return to != "onnx" or importlib.util.find_spec("onnxruntime") is not None
