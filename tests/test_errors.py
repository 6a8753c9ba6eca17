"""The exception tree is small, and every user's mistake is an InputError."""

import inspect

from graftwork import errors


def test_every_exported_error_is_a_graftwork_error() -> None:
    classes = [getattr(errors, name) for name in errors.__all__]
    assert len(classes) == 12
    assert all(inspect.isclass(c) and issubclass(c, errors.GraftworkError) for c in classes)
    assert all(c.__name__ in (errors.__doc__ or "") for c in classes)
