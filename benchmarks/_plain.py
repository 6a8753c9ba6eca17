"""What people write in an afternoon: a small CNN in PyTorch, and scikit-learn's regression on principal components."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from time import process_time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from graftwork.datasets import are_uneven
from graftwork.metrics import class_scores
from graftwork.session import Problem, SearchConfig

Labels = NDArray[np.int64]


def plain_cnn(channels: int, num_classes: int, side: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU and max-pool, four times or while there is something to pool; then a mean."""
    layers: list[nn.Module] = []
    for width in (32, 64, 128, 256)[: 3 if side < 16 else 4]:
        layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        if side >= 4:
            layers.append(nn.MaxPool2d(2))
            side //= 2
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def moved(images: Tensor, *, mirrored: bool) -> Tensor:
    """Random crops of padded images, half of them mirrored where that is wanted."""
    count, _, height, width = images.shape
    pad = max(1, min(height, width) // 8)
    padded = F.pad(images, (pad,) * 4, mode="reflect")
    tops, lefts = torch.randint(2 * pad + 1, (2, count))
    places = zip(padded, tops, lefts, strict=True)
    images = torch.stack([one[:, top : top + height, left : left + width] for one, top, left in places])
    return torch.where(torch.rand(count, 1, 1, 1) < 0.5, images.flip(3), images) if mirrored else images


def train_cnn(
    images: Tensor, labels: Tensor, *, num_classes: int, until: float, mirrored: bool, lr: float = 2e-3, batch: int = 64
) -> nn.Sequential:
    """Train until this process has spent so many processor seconds: Adam, with a rate that falls by a cosine.

    Args:
        images: Normalised, float32 [N, C, H, W].
        labels: Classes, int64 [N].
        num_classes: Number of classes.
        until: Processor seconds, from the start of this process.
        mirrored: Whether half of the images are mirrored.
        lr: Highest rate.
        batch: Images in an update.
    """
    torch.manual_seed(0)
    network = plain_cnn(images.shape[1], num_classes, min(images.shape[2:]))
    optimizer, began, order = torch.optim.Adam(network.parameters(), lr=lr), process_time(), torch.tensor([])
    while (progress := (process_time() - began) / (until - began)) < 1:
        if len(order) < min(batch, len(images)):
            order = torch.randperm(len(images))
        rows, order = order[:batch], order[batch:]
        for group in optimizer.param_groups:
            group["lr"] = lr * (1 + np.cos(np.pi * progress)) / 2
        loss = F.cross_entropy(network(moved(images[rows], mirrored=mirrored)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def predict_cnn(network: nn.Module, images: Tensor) -> Labels:
    """Classes of images [N]."""
    network.eval()
    with torch.no_grad():
        found: Labels = torch.cat([network(part).argmax(1) for part in images.split(256)]).numpy()
    return found


def predict_by_components(images: Tensor, labels: Tensor, tests: Tensor, *, balanced: bool) -> Labels:
    """Logistic regression on at most 100 principal components."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    components = PCA(min(100, len(images) - 1, images[0].numel()), random_state=0)
    weights = "balanced" if balanced else None
    model = make_pipeline(components, StandardScaler(), LogisticRegression(C=0.1, max_iter=500, class_weight=weights))
    found: Labels = model.fit(images.flatten(1).numpy(), labels.numpy()).predict(tests.flatten(1).numpy())
    return found


def _inputs(run: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """Images and labels by split as a run divided them, at up to 32×32 pixels; who needs no blend split trains on it.

    Returns:
        Images, normalised, float32 [N, C, H, W]; labels, int64 [N]; number of classes.
    """
    config = replace(SearchConfig.load(run / "config.toml"), image_size="auto", max_images=None)
    problem = Problem.load(config)
    rows = np.concatenate([problem.splits.train, problem.splits.blend])
    tests, test_labels, _ = problem.test()
    images = {"train": problem.transform(problem.images(rows)), "test": problem.transform(tests)}
    labels = {"train": problem.labels(rows), "test": test_labels}
    if max(tests.shape[1:3]) > 32:  # larger ones leave both too few updates, and would cost them points
        images = {name: F.interpolate(part, (32, 32), mode="area") for name, part in images.items()}
    return {name: part.contiguous() for name, part in images.items()}, labels, len(problem.dataset.class_names)


def main() -> None:
    """Train one of the two on the splits of a run, and say what it scores on test."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rival", choices=("cnn", "components"))
    parser.add_argument("--run", type=Path, required=True, help="A run of graftwork, whose data and splits are taken.")
    parser.add_argument("--seconds", type=float, help="Processor seconds of the whole process.")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--mirrored", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    images, labels, classes = _inputs(options.run)
    if options.rival == "cnn":
        given = {"num_classes": classes, "until": options.seconds, "mirrored": options.mirrored, "lr": options.lr}
        network = train_cnn(images["train"], labels["train"], **given)
        predicted = predict_cnn(network, images["test"])
    else:
        uneven = are_uneven(np.bincount(labels["train"].numpy(), minlength=classes))
        predicted = predict_by_components(images["train"], labels["train"], images["test"], balanced=uneven)
    found = class_scores(predicted, labels["test"].numpy(), classes)
    print(json.dumps({"balanced_accuracy": found.balanced_accuracy, "support": found.support.tolist()}))


if __name__ == "__main__":
    main()
