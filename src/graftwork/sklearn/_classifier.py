"""GraftworkClassifier: a search as an estimator of scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data

from graftwork.errors import ConfigError, DataError
from graftwork.networks.genome import Genome
from graftwork.session import Budget, SearchConfig, parse_budget
from graftwork.sklearn._fitted import Fitted
from graftwork.sklearn._fitting import RECOMMENDED, Task, fit_rows
from graftwork.sklearn._rows import merge_rows
from graftwork.training import Recipe


class GraftworkClassifier(ClassifierMixin, BaseEstimator):
    """A classifier of images or of rows of a table: networks that grow, and the ensemble of the best.

    ``X`` is one of three things:

    * images [n, h, w] or [n, h, w, c], uint8 or real numbers of any scale;
    * the same as rows [n, h · w · c], with ``image_shape``;
    * a table [n, features]. Features are standardised, and networks read them as [features, 1, 1], by 1×1 blocks.

    From 500 rows on, of which 10 are of the rarest class, a tenth is held out to select by and a twentieth to fit
    ensembles on; fewer rows all train a seed network, a small one, which does not grow. A row of weight 2 is the same
    as two equal rows, to the bit, and one of weight 0 is not there. The order of the rows makes no difference.

    Args:
        budget: What a fit may spend: FLOPs (``"0.001PFLOP"``), steps (``"200steps"``), or ``"auto"``: FLOPs by the
            number of rows and features, under a second for 100 rows of a table or 8×8 images. The same data and
            ``random_state`` then give the same bits on the same machine. A time (``"30s"``) is taken too, but depends
            on the clock: two fits differ.
        recipe: Name of a recipe, or a `graftwork.training.Recipe`. Colour images are mirrored unless it says otherwise
            (``make_recipe("default").mirrored("none")``).
        selection: Name of a selector (`graftwork.evolution.selection.SELECTORS`).
        ensemble: ``"recommended"`` takes the ensemble of the survivors whose held-out predictions are the most likely;
            a method (``"mean"``, ``"greedy"``, ``"stacked"``, …) takes that; ``None`` the best network alone.
        image_shape: Height and width, or height, width and channels, of images that come as rows; ``None``: rows of
            ``X`` with two axes are a table.
        warm_start: Whether the networks of the last fit train and grow further, with their normalisation, instead of a
            new seed network. Classes and shape have to be the same.
        random_state: Seed, generator or ``None``, as everywhere in scikit-learn.

    Attributes:
        classes_: Classes, sorted.
        n_features_in_: Length of the second axis of ``X``.
        n_iter_: Number of updates.
        flops_: FLOPs of training and scoring.
        validation_accuracy_: Share of the held-out rows that the best network gets right; ``None`` where none were.
        ensemble_: Method of the ensemble; ``None`` where one network predicts.
    """

    def __init__(
        self,
        budget: str | Budget = "auto",
        *,
        recipe: str | Recipe = "default",
        selection: str = "greedy",
        ensemble: str | None = RECOMMENDED,
        image_shape: Sequence[int] | None = None,
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.budget = budget
        self.recipe = recipe
        self.selection = selection
        self.ensemble = ensemble
        self.image_shape = image_shape
        self.warm_start = warm_start
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "GraftworkClassifier":
        """Search for networks that tell the classes apart.

        Args:
            X: Images or rows, as above.
            y: Class of each, [n].
            sample_weight: Weight of each, at least 0, [n]; ``None``: 1.

        Raises:
            ConfigError: If a parameter is out of its range.
            DataError: If the data can't be used.
        """
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32, np.uint8], allow_nd=True)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        weights = _weights(sample_weight, len(y))
        values = self._values(X)
        classes, labels = np.unique(y[weights > 0], return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"y: expected at least 2 classes, got 1 class in {len(y)} rows; give rows of another class")
        warm = self._warm(values, classes)
        numbered = np.zeros(len(y), dtype=np.int64)
        numbered[weights > 0] = labels
        task = Task(merge_rows(values, numbered, weights), len(classes), self._is_table(X), warm)
        self._fitted: Fitted = fit_rows(task, self._config(), ensemble=self.ensemble)
        self.classes_ = classes
        search = self._fitted.data["search"]
        self.n_iter_: int = search["step"]
        self.flops_: int = search["training_flops"] + search["scoring_flops"]
        self.ensemble_: str | None = self._fitted.data["ensemble"]
        self.validation_accuracy_: float | None = self._fitted.data["validation_accuracy"]
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Probability of each class, in the order of ``classes_``, [n, classes]."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32, np.uint8], allow_nd=True, reset=False)
        values = self._values(X)
        self._check_shape(values, self._fitted)
        return self._fitted.probabilities(values)

    def predict(self, X: Any) -> NDArray[Any]:
        """The most likely class of each row or image, [n]."""
        likely = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[likely])

    @property
    def genomes_(self) -> list[Genome]:
        """Architectures of the networks that predict."""
        check_is_fitted(self)
        return self._fitted.genomes

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_fitted")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = _is_a_time(self.budget)
        return tags

    def _is_table(self, X: NDArray[Any]) -> bool:
        return X.ndim == 2 and self.image_shape is None

    def _values(self, X: NDArray[Any]) -> NDArray[Any]:
        """Rows as networks take them: float64 [n, 1, 1, features], or uint8 or float32 [n, h, w, c]."""
        if self._is_table(X):
            return X.astype(np.float64)[:, None, None, :] + 0.0  # no negative zeros
        if X.ndim == 2:
            X = _folded(X, self.image_shape)
        if X.ndim not in (3, 4):
            raise DataError(
                f"X: expected images [n, h, w] or [n, h, w, c], or rows [n, features], got {X.ndim} axes; reshape it"
            )
        if X.dtype != np.uint8:
            X = X.astype(np.float32)
        return X[..., None] if X.ndim == 3 else X

    def _config(self) -> SearchConfig:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        given: dict[str, Any] = {"recipe": self.recipe, "selection": self.selection, "seed": seed}
        budget = self.budget
        if budget != "auto":
            given["budget"] = budget
        return SearchConfig.from_dict(given)

    def _warm(self, values: NDArray[Any], classes: NDArray[Any]) -> Fitted | None:
        if not self.warm_start or not self.__sklearn_is_fitted__():
            return None
        if not np.array_equal(classes, self.classes_):
            raise DataError(
                f"warm_start: expected the classes of the last fit, {self.classes_}, got {classes}; clone the "
                "estimator to begin with others"
            )
        self._check_shape(values, self._fitted)
        return self._fitted

    @staticmethod
    def _check_shape(values: NDArray[Any], fitted: Fitted) -> None:
        channels, height, width = fitted.input_shape
        if values.shape[1:] != (height, width, channels):
            raise DataError(
                f"X: expected images of {height}×{width} pixels and {channels} channels, as in fit, got "
                f"{'×'.join(map(str, values.shape[1:]))}; bring them to one size"
            )


def _is_a_time(budget: object) -> bool:
    try:
        return (budget if isinstance(budget, Budget) else parse_budget(budget)).kind == "seconds"
    except ConfigError:  # "auto", or what fit will refuse
        return False


def _weights(sample_weight: Any, count: int) -> NDArray[np.float64]:
    """Weights as float64 [n].

    Raises:
        DataError: If they are not numbers of at least 0, not all 0, one for each row.
    """
    if sample_weight is None:
        return np.ones(count)
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (count,):
        raise DataError(f"sample_weight: expected one for each of {count} rows, got shape {weights.shape}; give these")
    if not np.isfinite(weights).all() or weights.min() < 0:
        raise DataError("sample_weight: expected finite numbers of at least 0, got others; leave those rows out")
    if not weights.any():
        raise DataError("sample_weight: expected a weight above zero, got zero for every row; give at least one")
    return weights


def _folded(X: NDArray[Any], image_shape: Sequence[int] | None) -> NDArray[Any]:
    """Rows as images [n, h, w(, c)].

    Raises:
        ConfigError: If ``image_shape`` is none, or has another number of values.
    """
    shape = tuple(image_shape or ())
    plain = len(shape) in (2, 3) and all(isinstance(side, int | np.integer) and side > 0 for side in shape)
    if not plain or np.prod(shape) != X.shape[1]:
        raise ConfigError(
            f"image_shape: expected (height, width) or (height, width, channels) with a product of {X.shape[1]}, as "
            f"rows have so many values, got {image_shape!r}; give the images' shape"
        )
    return X.reshape(len(X), *shape)
