r"""What averaging each test image with its mirror image gives a finished run that has mirrored images in training.

    python benchmarks/mirrored.py RUN --data PATH-TO-CIFAR10 --json results/mirrored.json

The best member and the recommended ensemble, as they are and by ``--mirrored``, on the test split that the data have.
"""

import argparse
from pathlib import Path

import torch

import _ratio
from graftwork.datasets import load_dataset
from graftwork.metrics import wilson_interval
from graftwork.runs import RunFolder
from graftwork.session import open_classifier


def main() -> None:
    """Measure, and print a line a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="What the run was searched on; its test split must be given.")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    data, result = load_dataset(options.data), RunFolder.open(options.run).result()
    if data.test_images is None or data.test_labels is None:
        parser.error("--data: expected data with a test split")
    images, labels = torch.from_numpy(data.test_images.copy()), torch.from_numpy(data.test_labels)
    rows = []
    for ensemble in (None, result["recommended"]):
        for mirrored in (False, True):
            model = open_classifier(options.run, ensemble=ensemble, mirrored=mirrored)
            found = torch.cat([model.probabilities(batch) for batch in images.split(model.batch_size)])
            right = int((found.argmax(1) == labels).sum())
            accuracy, interval = right / len(labels), list(wilson_interval(right, len(labels)))
            rows.append({"model": ensemble or "best", "mirrored": mirrored, "accuracy": accuracy, "interval": interval})
            print(rows[-1])
    _ratio.write(options.json, {"rows": rows})


if __name__ == "__main__":
    main()
