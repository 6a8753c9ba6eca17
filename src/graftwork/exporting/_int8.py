"""An ONNX export in 8 bits, and what that costs in accuracy."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from graftwork._files import scratch
from graftwork.errors import InputError, ResourceError
from graftwork.exporting._formats import SHEET, Exported, open_export, require_onnx
from graftwork.metrics import wilson_interval

INT8 = "model.int8.onnx"
_MEASURED = "graftwork.int8.json"
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Int8Report:
    """The receipt of a quantisation.

    Args:
        path: The file in 8 bits.
        num_bytes: Its size.
        float_bytes: Size of the file in float32.
        accuracy: Share of the images that the file in 8 bits gets right.
        interval: Wilson's of that share, of 95 %.
        float_accuracy: Share that the file in float32 gets right.
        agreement: Share on which both give the same class.
        num_images: Number of these images.
    """

    path: Path
    num_bytes: int
    float_bytes: int
    accuracy: float
    interval: tuple[float, float]
    float_accuracy: float
    agreement: float
    num_images: int

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.path}: accuracy {self.accuracy:.4f} [{low:.3f}, {high:.3f}] in 8 bits, {self.float_accuracy:.4f} "
            f"in float32, the same class for {self.agreement:.4f} of {self.num_images} images; "
            f"{self.num_bytes:,} bytes instead of {self.float_bytes:,}"
        )


def quantize_export(
    file: str | Path, *, calibration: Tensor, images: Tensor, labels: Tensor, overwrite: bool = False
) -> Int8Report:
    """Write an ONNX export in 8 bits beside it, by onnxruntime, and measure both on labelled images.

    Weights have a scale for each channel; the ranges of activations are those that the calibration images give.

    Args:
        file: ``model.onnx``, as `export_member` or `export_ensemble` wrote it.
        calibration: Images that activations are measured on, uint8 [n, H, W, C]; of the training split.
        images: Images to compare on, uint8 [m, H, W, C]; not trained on.
        labels: True class of each of these, int64 [m].
        overwrite: Whether to replace a file that is there.

    Raises:
        InputError: If a package is missing, a file is there, or it is no ONNX export.
        ResourceError: If the file can't be written.
    """
    require_onnx("onnx", "onnxruntime")
    source = Path(file)
    target = source.with_name(INT8)
    if target.exists() and not overwrite:
        raise InputError(f"export: {target} exists; choose another folder or overwrite")
    if not len(calibration) or not len(images):
        raise InputError("export: expected images to calibrate and to compare on, got none; give some of each")
    exact = open_export(source)
    try:
        with scratch(source.parent, "int8") as aside:
            _quantize(source, aside / INT8, calibration)
            accuracy, other, agreement = _compare(open_export(aside / INT8), exact, images, labels)
            right = round(accuracy * len(images))
            report = Int8Report(
                target,
                (aside / INT8).stat().st_size,
                source.stat().st_size,
                accuracy,
                wilson_interval(right, len(images)),
                other,
                agreement,
                len(images),
            )
            _note(aside / INT8, {key: value for key, value in asdict(report).items() if key != "path"})
            (aside / INT8).replace(target)
    except OSError as error:
        raise ResourceError(f"export: can't write to {str(source.parent)!r}: {error}; nothing was replaced") from error
    return report


def _pixels(images: Tensor) -> Iterator[Tensor]:
    for part in torch.split(images, _BATCH):
        yield (part.permute(0, 3, 1, 2).float() / 255).contiguous()


def _quantize(source: Path, target: Path, calibration: Tensor) -> None:
    """Fold norms into convolutions, then quantise these and the linear layers."""
    quantization: Any = importlib.import_module("onnxruntime.quantization")  # optional, and without types
    prepare = importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = _pixels(calibration)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self._left, None)
            return None if images is None else {"images": images.numpy()}

    folded = target.with_name("folded.onnx")
    prepare(str(source), str(folded), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(folded), str(target), Reader(), per_channel=True, op_types_to_quantize=["Conv", "Gemm", "MatMul"]
    )
    onnx: Any = importlib.import_module("onnx")
    given = {entry.key: entry.value for entry in onnx.load(str(source), load_external_data=False).metadata_props}
    _note(target, json.loads(given[SHEET]), key=SHEET)


def _note(file: Path, data: dict[str, Any], *, key: str = _MEASURED) -> None:
    """Store plain data among a model's metadata."""
    onnx: Any = importlib.import_module("onnx")
    model = onnx.load(str(file))
    kept = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**kept, key: json.dumps(data)})
    onnx.save(model, str(file))


def _compare(one: Exported, other: Exported, images: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Accuracy of both, and the share of images on which they agree."""
    found = [torch.cat([model(part).argmax(1) for part in _pixels(images)]) for model in (one, other)]
    pairs = ((found[0], labels), (found[1], labels), (found[0], found[1]))
    first, second, same = (int((left == right).sum()) / len(images) for left, right in pairs)
    return first, second, same
