"""``graftwork bench`` measures what it is asked for, and says what is wrong with a wrong request."""

import json
from pathlib import Path

import pytest
import torch

from graftwork.cli import main
from graftwork.networks.execution import get_kernels
from graftwork.networks.genome import seed_genome

SHORT = ["--seconds", "0.01", "--batch-size", "4", "--threads", "1"]


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["bench", *arguments])
    out, err = capsys.readouterr()
    return int(exit_.value.code or 0), out, err


@pytest.mark.slow
def test_bench_tells_peaks_and_steps_of_a_genome_in_each_precision(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "small.json"
    path.write_text(seed_genome("poster", (1, 8, 8), 4).to_json())
    code, out, _ = _run(capsys, str(path), *SHORT, "--passes", "torch", "--json")
    assert code == 0
    found = json.loads(out)
    assert set(found["peaks"]) == {"float32", "bfloat16"}
    assert all(peak["best"] == max(peak["product"], peak["convolution"]) > 0 for peak in found["peaks"].values())
    assert [(row["network"], row["precision"]) for row in found["steps"]] == [
        ("small", "float32"),
        ("small", "bfloat16"),
    ]
    assert all(0 < row["share_of_peak"] < 1 and row["steps_per_second"] > 0 for row in found["steps"])
    assert get_kernels() is None
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no-such-thing"], "expected poster, base, default"),
        (["poster", "--passes", "fast"], "expected auto, compiled or torch"),
        (["poster", "--threads", "0"], "expected an integer >= 1"),
        (["poster", "--device", "nowhere"], "device: expected one that works here, got 'nowhere'"),
        (["poster", "--recipe", "defualt"], "did you mean 'default'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    code, _, err = _run(capsys, *arguments)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err


def test_compiled_passes_without_a_compiler_are_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    code, _, err = _run(capsys, "poster", "--passes", "compiled")
    assert code == 2
    assert "expected a C compiler" in err
