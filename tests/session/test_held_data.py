"""A search on what a program holds, without a file."""

import numpy as np

import graftwork as gw


def test_a_search_is_prepared_on_arrays_that_the_program_holds() -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3), dtype=np.uint8)
    labels = np.array(["night", "day", "dusk"] * 20)
    options = {"precision": "float32", "passes": "torch", "threads": 1, "budget": "2steps", "num_generations": 0}
    setup = gw.prepare(data=(images, labels), recipe="paper", **options)
    again = gw.prepare(data=gw.load_dataset({"train": (images, labels)}), recipe="paper", **options)
    assert setup.problem.dataset.class_names == ("day", "dusk", "night")
    assert np.array_equal(np.asarray(setup.problem.dataset.images), images)
    assert setup.problem.dataset.fingerprint == again.problem.dataset.fingerprint
    (generation,) = gw.search(setup.state, **setup.parts)
    assert generation.survivors
