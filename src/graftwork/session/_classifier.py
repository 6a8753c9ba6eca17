"""Classifying images with what a run left, or with an exported model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from graftwork._files import damaged
from graftwork.errors import InputError
from graftwork.exporting import Front, open_export
from graftwork.machine import device_of
from graftwork.networks.execution import InputTransform
from graftwork.runs import RunFolder, load_member
from graftwork.session._ensembles import load_ensemble
from graftwork.session._trunk import front_of
from graftwork.typing import Shape

_MOST_PIXELS, _MOST_IMAGES = 2**22, 256


@dataclass(frozen=True)
class Classifier:
    """A network or an ensemble, ready to classify.

    Args:
        run: Function: uint8 images [B, H, W, C] → logits [B, classes].
        input_shape: Channels, height and width of an image.
        class_names: Names of the classes, in the order of the logits.
        folder: Run that it is from; ``None`` for an exported model.
        stored_as: Its name among the predictions that the run stored; empty for an exported model.
        transform: How images are normalised, by the training images; ``None`` for an exported model or behind a trunk.
        mirrored: Whether the probabilities of an image and of its mirror image are averaged.
    """

    run: Callable[[Tensor], Tensor]
    input_shape: Shape
    class_names: Sequence[str]
    folder: RunFolder | None = None
    stored_as: str = ""
    transform: InputTransform | None = None
    mirrored: bool = False

    @property
    def batch_size(self) -> int:
        """Images in a pass by default: fewer of large ones, to bound memory."""
        _, height, width = self.input_shape
        return max(1, min(_MOST_IMAGES, _MOST_PIXELS // (height * width)))

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Probabilities, float32 [B, classes] on the CPU, of uint8 images [B, H, W, C]."""
        found = self._probabilities(images)
        if self.mirrored:
            found = (found + self._probabilities(images.flip(2))) / 2
        if not bool(found.isfinite().all()):
            raise InputError("predict: expected finite logits, got NaN or infinity; the model is damaged: take another")
        return found

    def _probabilities(self, images: Tensor) -> Tensor:
        return self.run(images).float().softmax(1).cpu()


def open_classifier(
    path: Path,
    *,
    member: str | None = None,
    ensemble: str | None = None,
    device: str = "cpu",
    trunk: str | None = None,
    mirrored: bool = False,
) -> Classifier:
    """Open a member or an ensemble of a run, or an exported model.

    Args:
        path: Run folder, or an exported model that is trusted (see `open_export`).
        member: Id of a member of the run; ``None``: the best.
        ensemble: Name of an ensemble of the run, instead of a member.
        device: Device to run on.
        trunk: The run's trunk, named by the user again, without which no code of one is run.
        mirrored: Average the probabilities of each image and of its mirror image, which takes twice as long: the
            test-time augmentation of Krizhevsky et al. (2012). Only for a run that has mirrored images in training.

    Raises:
        InputError: If there is no such thing, an exported program can't run on the device, or images in the mirror may
            be of another class.
    """
    if member is not None and ensemble is not None:
        raise InputError(f"predict: give either --member or --ensemble, got {member!r} and {ensemble!r}")
    place = device_of(device)
    if (path / "config.toml").is_file():
        folder = RunFolder.open(path)
        found = _of_ensemble(folder, ensemble, place) if ensemble is not None else _of_member(folder, member, place)
        front = front_of(folder, trunk)
        if mirrored:
            _check_mirroring(folder)
            found = replace(found, mirrored=True)
        return found if front is None else _behind(found, front, place)
    if member is not None or ensemble is not None or trunk is not None or mirrored:
        raise InputError(
            f"predict: --member, --ensemble, --trunk and --mirrored are of a run, but {path} is no run folder"
        )
    opened = open_export(path)
    if isinstance(opened.run, torch.nn.Module) and opened.path.suffix == ".py":
        opened.run.to(place)
    elif place.type != "cpu":
        raise InputError(
            f"predict: expected device cpu for {opened.path}, whose program is for it, got {device!r}; take the run, "
            "or an export to source"
        )
    return Classifier(lambda x: opened(x.to(place).permute(0, 3, 1, 2) / 255), opened.input_shape, opened.class_names)


def _check_mirroring(folder: RunFolder) -> None:
    """Refuse a run that has not mirrored images in training."""
    with damaged(f"{folder.path}: provenance"):
        flip = folder.read_json("provenance.json")["training"]["augmentation"]["flip"]
    if flip != "random":
        raise InputError(
            f"predict: --mirrored takes a run that has mirrored images in training, but flip is {flip!r} in "
            f"{folder.path}, so that a mirror image may be of another class: leave --mirrored out, or search with "
            "--flip random"
        )


def _behind(model: Classifier, front: Front, device: torch.device) -> Classifier:
    """A classifier of features as one of images, which go through the trunk first."""
    trunk = front.trunk.to(device)
    return replace(
        model, run=lambda x: model.run(trunk.features(x.to(device))), input_shape=front.input_shape, transform=None
    )


def _of_member(folder: RunFolder, member: str | None, device: torch.device) -> Classifier:
    name = member or folder.result()["best"]["id"]
    network, transform, data = load_member(folder, name)
    network.to(device)
    return Classifier(
        lambda x: network(transform(x.to(device))),
        network.genome.input_shape,
        data["class_names"],
        folder,
        name,
        transform,
    )


def _of_ensemble(folder: RunFolder, name: str, device: torch.device) -> Classifier:
    ensemble, transform, data = load_ensemble(folder, name)
    ensemble.to(device)
    channels, height, width = data["genome"]["input_shape"]
    return Classifier(
        lambda x: ensemble(transform(x.to(device))),
        (channels, height, width),
        data["class_names"],
        folder,
        f"ensemble/{name}",
        transform,
    )
