"""The bar of a search: in a notebook by itself, elsewhere where it is asked for, and never in the way."""

import sys
from types import SimpleNamespace

import pytest

from graftwork.evolution._bar import watched

STATE = SimpleNamespace(
    finished=False, generation=0, step=1200, population=range(3), accuracies={"m0": 0.5, "m1": 0.75}
)


class Cell:
    """What IPython shows of a cell: one output and its updates."""

    def __init__(self, *, kernel: bool) -> None:
        self.outputs: list[dict[str, str]] = []
        self.display = SimpleNamespace(display=self._display)
        self._shell = SimpleNamespace(kernel=None) if kernel else SimpleNamespace()

    def get_ipython(self) -> SimpleNamespace:
        return self._shell

    def _display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> SimpleNamespace:
        self.outputs.append(data)
        return SimpleNamespace(update=lambda data, raw: self.outputs.append(data))


@pytest.fixture
def heard() -> list[tuple[object, ...]]:
    return []


def run(heard: list[tuple[object, ...]], shown: bool | None) -> None:
    with watched(lambda *what: heard.append(what), shown) as observe:
        assert observe is not None
        observe(STATE, "m1", 0.25, 0.5)
        observe(STATE, "m1", float("nan"), 1.0)


@pytest.mark.parametrize(("kernel", "shown", "looks"), [(True, None, 2), (True, False, 0), (False, None, 0)])
def test_a_notebook_shows_a_bar_by_itself(
    kernel: bool, shown: bool | None, looks: int, heard: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Cell(kernel=kernel)
    monkeypatch.setitem(sys.modules, "IPython", cell)
    run(heard, shown)
    assert len(cell.outputs) == looks
    assert [what[3] for what in heard] == [0.5, 1.0]
    if looks:
        assert cell.outputs[0]["text/plain"] == "50%, round 1, update 1,200, 3 members, loss 0.250, best 0.7500"
        assert cell.outputs[-1]["text/html"].startswith('<progress value="1.000"')


def test_a_terminal_shows_a_bar_where_it_is_asked_for(
    heard: list[tuple[object, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    run(heard, None)
    assert capsys.readouterr().err == ""
    run(heard, True)
    said = capsys.readouterr()
    assert "best 0.7500" in said.err
    assert said.out == ""


def test_a_bar_is_closed_where_an_observer_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell(kernel=True)
    monkeypatch.setitem(sys.modules, "IPython", cell)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def search() -> None:
        with watched(stop, None) as observe:
            assert observe is not None
            observe(STATE, "m0", 0.5, 0.1)

    with pytest.raises(KeyboardInterrupt):
        search()
    assert len(cell.outputs) == 2
