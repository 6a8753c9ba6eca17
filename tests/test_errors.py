"""The exception tree is small, and every user's mistake is an InputError."""

import inspect

from graftwork import errors


def test_every_exported_error_is_a_graftwork_error() -> None:
    classes = [getattr(errors, name) for name in errors.__all__ if name != "did_you_mean"]
    assert len(classes) == 12
    assert all(inspect.isclass(c) and issubclass(c, errors.GraftworkError) for c in classes)
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)


def test_a_near_name_is_suggested_and_a_far_one_is_not() -> None:
    assert errors.did_you_mean("gredy", ["greedy", "random"]) == "; did you mean 'greedy'?"
    assert errors.did_you_mean("abacus", ["greedy", "random"]) == ""
