"""Searches as estimators of scikit-learn, for images and tables.

`GraftworkClassifier` takes arrays of images, or rows of features, and has ``fit``, ``predict``, ``predict_proba`` and
``score``. It works in pipelines, grid searches and cross-validation, and leaves no files. There is no regressor: heads,
losses, scores and ensembles count classes.
"""

from graftwork.sklearn._classifier import GraftworkClassifier

__all__ = ["GraftworkClassifier"]
