"""The exception tree is small, and every user's mistake is an InputError."""

import inspect

from graftwork import errors


def test_every_exported_error_is_a_graftwork_error() -> None:
    classes = [getattr(errors, name) for name in errors.__all__ if name != "did_you_mean"]
    assert len(classes) == 12
    assert all(inspect.isclass(c) and issubclass(c, errors.GraftworkError) for c in classes)
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)


def test_an_unknown_name_gets_the_nearest_known_one_or_nothing() -> None:
    assert errors.did_you_mean("chekc", ["scale", "check"]) == "; did you mean 'check'?"
    assert errors.did_you_mean("Relu", ["ReLU", "Tanh"]) == "; did you mean 'ReLU'?"
    assert errors.did_you_mean("elephant", ["scale", "check"]) == ""
    assert errors.did_you_mean(7, []) == ""
