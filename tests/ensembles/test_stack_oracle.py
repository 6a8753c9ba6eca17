"""The poster's stacker against scikit-learn's multi-layer perceptron on the same outputs of members, on digits."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import StackingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import Tensor

from graftwork.ensembles import fit_combiner

NUM_SEEDS = 3


def columns(start: int, stop: int) -> FunctionTransformer:
    return FunctionTransformer(lambda images: images[:, start:stop])


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray, dict[str, slice]]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    splits = {"train": slice(0, 300), "blend": slice(300, 900), "test": slice(900, None)}
    return images[order] / 16, labels[order], splits


@pytest.mark.slow
def test_the_stacker_is_as_good_as_that_of_scikit_learn(
    digits: tuple[np.ndarray, np.ndarray, dict[str, slice]],
) -> None:
    images, labels, splits = digits
    train, blend, test = splits["train"], splits["blend"], splits["test"]
    members = [
        make_pipeline(columns(0, 32), LogisticRegression(max_iter=500)),  # sees the upper half
        make_pipeline(columns(32, 64), LogisticRegression(max_iter=500)),  # sees the lower half
        GaussianNB(var_smoothing=1e-2),
    ]
    for member in members:
        member.fit(images[train], labels[train])

    def outputs(part: slice) -> Tensor:
        return torch.tensor(np.stack([member.predict_proba(images[part]) for member in members], axis=1)).float()

    ours, theirs = [], []
    for seed in range(NUM_SEEDS):
        combiner = fit_combiner(
            "stacked-network",
            outputs(blend),
            torch.tensor(labels[blend]),
            generator=torch.Generator().manual_seed(seed),
            residual=False,
        ).combiner
        ours.append(np.mean(combiner(outputs(test)).argmax(dim=1).numpy() == labels[test]))
        network = MLPClassifier((64,), max_iter=30, learning_rate_init=3e-3, random_state=seed)
        oracle = StackingClassifier(
            [(f"m{k}", FrozenEstimator(member)) for k, member in enumerate(members)],
            final_estimator=make_pipeline(StandardScaler(), network),
            cv="prefit",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it stops at max_iter, as intended
            theirs.append(oracle.fit(images[blend], labels[blend]).score(images[test], labels[test]))
    best_member = max(member.score(images[test], labels[test]) for member in members)
    assert np.mean(ours) == pytest.approx(np.mean(theirs), abs=0.005)
    assert np.mean(ours) > best_member + 0.02
