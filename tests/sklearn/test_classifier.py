"""`GraftworkClassifier` behaves as scikit-learn's own estimators do, on images and on tables."""

import pickle
import pickletools
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_classification
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator

from graftwork.errors import ConfigError, DataError
from graftwork.sklearn import GraftworkClassifier
from graftwork.training import make_recipe

SMALL = make_recipe("default", seed_genome="poster", population_size=3, num_survivors=2, num_generations=1)

QUICK = {
    "check_dict_unchanged",
    "check_estimator_cloneable",
    "check_estimator_sparse_array",
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_estimators_pickle",
    "check_fit1d",
    "check_fit2d_1sample",
    "check_fit_idempotent",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in_after_fitting",
    "check_sample_weight_equivalence_on_dense_data",
    "check_supervised_y_2d",
}


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    found = load_digits()
    return found.images, found.target


@pytest.fixture(scope="module")
def grown(digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> GraftworkClassifier:
    """A population that grew on 600 digits."""
    images, labels = digits
    return GraftworkClassifier("24steps", recipe=SMALL, random_state=0).fit(images[:600], labels[:600])


def test_the_quick_checks_of_scikit_learn_pass() -> None:
    seen = set()
    for estimator, check in estimator_checks_generator(GraftworkClassifier("3steps")):
        name = getattr(check, "func", check).__name__
        if name in QUICK:
            seen.add(name)
            check(estimator)
    assert seen == QUICK


@pytest.mark.slow
def test_all_checks_of_scikit_learn_pass_without_an_exemption() -> None:
    outcomes = check_estimator(GraftworkClassifier(), on_skip=None)
    assert len(outcomes) >= 60
    # these need pandas, or array-API dispatch, which a variable of the environment switches on
    allowed = {"check_sample_weights_pandas_series", "check_array_api_input", "check_classifier_data_not_an_array"}
    assert {outcome["check_name"] for outcome in outcomes if outcome["status"] != "passed"} <= allowed


def test_networks_grow_on_images_and_an_ensemble_is_taken(
    grown: GraftworkClassifier, digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
) -> None:
    images, labels = digits
    assert grown.ensemble_ is not None
    assert len(grown.genomes_) == 2
    blocks = [sum(len(layer.blocks) for layer in genome.layers) for genome in grown.genomes_]
    assert max(blocks) > 3  # the seed has three
    assert grown.score(images[600:900], labels[600:900]) > 0.8
    assert grown.validation_accuracy_ is not None


def test_images_as_rows_are_the_same_images(
    digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
) -> None:
    images, labels = digits[0][:60], digits[1][:60]
    one = GraftworkClassifier("4steps", random_state=0).fit(images, labels)
    other = clone(one).set_params(image_shape=(8, 8)).fit(images.reshape(60, 64), labels)
    expected = one.predict_proba(images)
    np.testing.assert_array_equal(other.predict_proba(images.reshape(60, 64)), expected)
    coloured = np.repeat(images[..., None], 3, axis=3).astype(np.uint8)
    assert clone(one).fit(coloured, labels).predict_proba(coloured).shape == (60, 10)


def test_a_pickle_holds_bytes_of_safetensors_and_no_tensor(
    grown: GraftworkClassifier, digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]
) -> None:
    text = pickle.dumps(grown)
    names = {str(argument) for _, argument, _ in pickletools.genops(text) if isinstance(argument, str)}
    assert not any(name.startswith(("torch", "graftwork.networks", "graftwork.evolution")) for name in names)
    again = pickle.loads(text)
    np.testing.assert_array_equal(again.predict_proba(digits[0][:20]), grown.predict_proba(digits[0][:20]))


def test_the_order_and_repetition_of_rows_make_no_difference() -> None:
    X, y = make_classification(60, random_state=0)
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(60), 1 + np.arange(60) % 3))
    once = GraftworkClassifier("4steps", random_state=0).fit(X, y, sample_weight=1 + np.arange(60) % 3)
    repeated = clone(once).fit(X[order], y[order])
    np.testing.assert_array_equal(once.predict_proba(X), repeated.predict_proba(X))
    unweighted = clone(once).fit(X, y)
    assert not np.array_equal(once.predict_proba(X), unweighted.predict_proba(X))


def test_weights_of_any_proportion_move_the_prediction() -> None:
    X = np.array([[0.0], [1.0]] * 20)
    y = np.array([0, 1] * 20)
    y[:20] = 1 - y[:20]  # every row says both
    first, second = np.where(np.arange(40) < 20, 0.731, 0.269), np.where(np.arange(40) < 20, 0.269, 0.731)
    model = GraftworkClassifier("40steps", random_state=0)
    assert model.fit(X, y, sample_weight=first).predict([[0.0]]) == [1]
    assert model.fit(X, y, sample_weight=second).predict([[0.0]]) == [0]


def test_a_warm_start_goes_on_with_the_networks_that_are_there(grown: GraftworkClassifier) -> None:
    images, labels = load_digits().images[:600], load_digits().target[:600]
    further = pickle.loads(pickle.dumps(grown)).set_params(warm_start=True, budget="12steps")
    further.fit(images, labels)
    lineage = [birth["id"] for birth in further._fitted.data["search"]["lineage"]]
    assert len(lineage) > len(grown._fitted.data["search"]["lineage"])
    assert further.score(images, labels) >= grown.score(images, labels) - 0.02
    with pytest.raises(DataError, match="classes of the last fit"):
        further.fit(images, labels % 5)
    with pytest.raises(DataError, match="images of 8×8 pixels"):
        further.fit(images[:, :7], labels)


def test_it_works_in_pipelines_searches_and_cross_validation() -> None:
    X, y = load_iris(return_X_y=True)
    pipeline = make_pipeline(MinMaxScaler(), GraftworkClassifier("20steps", random_state=0))
    found = GridSearchCV(pipeline, {"graftworkclassifier__budget": ["5steps", "20steps"]}, cv=2).fit(X, y)
    assert found.best_score_ > 0.8
    assert set(found.predict(X)) == {0, 1, 2}


def test_cross_validation_on_digits(digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> None:
    images, labels = digits
    model = GraftworkClassifier("30steps", random_state=0, ensemble=None)
    assert cross_val_score(model, images.reshape(-1, 64), labels, cv=2).mean() > 0.9


@pytest.mark.slow
def test_auto_reads_digits_as_images_and_as_a_table(
    digits: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]],
) -> None:
    images, labels = digits
    model = GraftworkClassifier(random_state=0)
    assert cross_val_score(model, images.reshape(-1, 64), labels, cv=3).mean() > 0.94
    assert model.fit(images[:400], labels[:400]).score(images[1000:], labels[1000:]) > 0.93


def test_auto_is_counted_and_small_for_a_hundred_rows() -> None:
    X, y = make_classification(100, random_state=0)
    state = torch.get_rng_state()
    model = GraftworkClassifier(random_state=0).fit(X, y)
    assert (model.n_iter_, model.flops_) == (70, 203_520_000)
    assert torch.equal(state, torch.get_rng_state())


def test_a_time_is_a_budget_too_and_said_to_depend_on_the_clock() -> None:
    X, y = make_classification(40, random_state=0)
    model = GraftworkClassifier("1s", random_state=0)
    assert model.fit(X, y).n_iter_ >= 1
    assert model.__sklearn_tags__().non_deterministic
    assert not GraftworkClassifier("5steps").__sklearn_tags__().non_deterministic


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"budget": "soon"}, "budget: expected a time"),
        ({"recipe": "defualt"}, "did you mean 'default'"),
        ({"selection": "best"}, "expected one of"),
        ({"ensemble": "stakced"}, "did you mean 'stacked'"),
        ({"ensemble": "stacked"}, "rows and a budget that suffice for 'stacked'"),
        ({"image_shape": (3, 3)}, "image_shape: expected .height, width."),
    ],
)
def test_wrong_parameters_are_refused_at_fit(parameters: dict[str, Any], message: str) -> None:
    X, y = make_classification(30, random_state=0)
    model = GraftworkClassifier(**{"budget": "2steps", **parameters})
    with pytest.raises(ConfigError, match=message):
        model.fit(X, y)


def test_images_of_real_numbers_are_not_recoloured() -> None:
    images, labels = load_digits().images[:40], load_digits().target[:40]
    default = make_recipe("default")
    strong = default.replace(augmentation=default.augmentation.at("strong"))
    with pytest.raises(ConfigError, match="give the images as uint8"):
        GraftworkClassifier("2steps", recipe=strong).fit(images, labels)
    GraftworkClassifier("2steps", recipe=strong).fit(images.astype(np.uint8), labels)


def test_other_images_than_in_fit_are_refused(grown: GraftworkClassifier) -> None:
    with pytest.raises(DataError, match="images of 8×8 pixels and 1 channels"):
        grown.predict(np.zeros((2, 8, 9)))
    with pytest.raises(DataError, match="got 5 axes"):
        GraftworkClassifier().fit(np.zeros((4, 2, 2, 1, 1)), [0, 1, 0, 1])
