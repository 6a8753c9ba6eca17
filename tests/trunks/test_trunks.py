"""What ``--trunk`` names becomes a frozen network from images to feature maps; nothing is run or fetched unasked."""

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graftwork.errors import ConfigError
from graftwork.session import Problem, SearchConfig
from graftwork.trunks import Trunk, located, open_trunk


def images(count: int = 3, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 8, 8, channels), generator=generator, dtype=torch.uint8)


def test_a_network_of_transformers_gives_the_map_of_its_patches(vit: Path) -> None:
    trunk = open_trunk(f"hf:{vit}")
    found = trunk.features(images())
    assert found.shape == (3, 4, 4, 12)
    pixels = images().permute(0, 3, 1, 2).expand(-1, 3, -1, -1) / 255
    tokens = trunk.module(pixel_values=(pixels - 0.5) / 0.5).last_hidden_state[:, 1:]
    torch.testing.assert_close(found.flatten(1, 2), tokens)


def test_the_normalisation_of_the_folder_is_taken(vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(vit, folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}))
    trunk, plain = open_trunk(f"hf:{folder}"), open_trunk(f"hf:{vit}")
    pixels = images(channels=3).permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(trunk(pixels), plain(((pixels - 0.1) / 0.2) * 0.5 + 0.5), atol=1e-5, rtol=1e-4)
    assert trunk.sha256 != plain.sha256


def test_a_trunk_is_frozen_and_leaves_the_random_numbers_alone(code: Path) -> None:
    before = torch.get_rng_state()
    trunk = open_trunk(f"{code}:build", run_code=True).train()
    assert torch.equal(torch.get_rng_state(), before)
    assert not trunk.training
    assert not any(parameter.requires_grad for parameter in trunk.parameters())
    assert trunk.features(images()).shape == (3, 4, 4, 10)


def test_the_hash_follows_weights_and_code(code: Path) -> None:
    first = open_trunk(f"{code}:build", run_code=True)
    assert open_trunk(f"{code}:build", run_code=True).sha256 == first.sha256
    code.write_text(code.read_text() + "# a remark\n")
    assert open_trunk(f"{code}:build", run_code=True).sha256 != first.sha256
    moved = nn.Linear(2, 2)
    one = Trunk("x", moved, origin=b"").sha256
    with torch.no_grad():
        moved.bias[0] += 1
    assert Trunk("x", moved, origin=b"").sha256 != one


def test_code_is_run_only_when_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(ConfigError, match="on the command itself"):
        open_trunk(f"{tmp_path / 'evil.py'}:build")
    assert not (tmp_path / "ran").exists()


def test_a_folder_can_bring_no_code_and_no_pickle(vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strange"
    shutil.copytree(vit, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "strange", "auto_map": {"AutoConfig": "code.C", "AutoModel": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    with pytest.raises(ConfigError, match="to open"):
        open_trunk(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()
    shutil.copytree(vit, tmp_path / "pickled")
    weights = tmp_path / "pickled" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(ConfigError, match="to open"):
        open_trunk(f"hf:{tmp_path / 'pickled'}")


def test_weights_that_are_missing_are_not_made_up(vit: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "partial"
    shutil.copytree(vit, folder)
    weights = load_file(vit / "model.safetensors")
    gone = next(name for name in weights if "bias" in name)
    save_file({name: value for name, value in weights.items() if name != gone}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match="expected every weight"):
        open_trunk(f"hf:{folder}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "trunk: expected timm:NAME"),
        ("hf:", "trunk: expected timm:NAME"),
        ("hf:nowhere", "expected a folder with config.json"),
        ("nowhere.py:build", "expected a Python file, got nowhere.py"),
        ("x.py:not a name", "trunk: expected timm:NAME"),
    ],
)
def test_what_names_no_trunk_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_trunk(name, run_code=True)


@pytest.mark.parametrize("body", ["1 / 0", "def other(): pass", "def build(): return 3"])
def test_code_that_gives_no_module_is_one_clear_error(code: Path, body: str) -> None:
    code.write_text(body)
    with pytest.raises(ConfigError, match="trunk: expected"):
        open_trunk(f"{code}:build", run_code=True)


def test_images_of_another_size_than_it_takes_are_named(vit: Path) -> None:
    with pytest.raises(ConfigError, match=r"to take images of 9×8 pixels.*--image-size"):
        open_trunk(f"hf:{vit}").features(torch.zeros(1, 9, 8, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Flatten(), (2, 1, 1, 192)),
        (nn.Identity(), (2, 8, 8, 3)),
        (nn.Sequential(nn.Flatten(2), nn.Linear(64, 5)), (2, 1, 1, 5)),
    ],
)
def test_vectors_maps_and_tokens_become_maps(module: nn.Module, shape: tuple[int, ...]) -> None:
    assert Trunk("x", module, origin=b"").features(images(2, 3)).shape == shape


def test_channels_that_stand_last_are_put_first() -> None:
    class Last(nn.Module):
        output_fmt = "NHWC"

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.permute(0, 2, 3, 1)

    x = images(2, 3)
    torch.testing.assert_close(Trunk("x", Last(), origin=b"").features(x), x / 255)


def test_names_are_located_for_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert located("hf:a") == f"hf:{tmp_path / 'a'}"
    assert located("mine.py:build") == f"{tmp_path / 'mine.py'}:build"
    assert located("timm:resnet18@w.safetensors") == f"timm:resnet18@{tmp_path / 'w.safetensors'}"
    assert located("timm:resnet18") == "timm:resnet18"
    assert located(located("hf:a")) == located("hf:a")


def test_a_network_of_timm_takes_weights_from_disk_and_fetches_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        import timm
    except Exception as error:
        pytest.skip(f"timm does not import: {error}")
    from safetensors.torch import save_file

    def refuse(*_: Any) -> None:
        raise AssertionError("nothing is fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    module = timm.create_model("test_resnet", pretrained=False)
    save_file(module.state_dict(), tmp_path / "w.safetensors")
    trunk = open_trunk(f"timm:test_resnet@{tmp_path / 'w.safetensors'}")
    x = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(module.pretrained_cfg[key]).view(-1, 1, 1) for key in ("mean", "std"))
    expected = module.eval().forward_features((x.permute(0, 3, 1, 2) / 255 - mean) / std)
    torch.testing.assert_close(trunk.features(x).permute(0, 3, 1, 2), expected)
    with pytest.raises(ConfigError, match="nothing is downloaded"):
        open_trunk("timm:test_resnet")


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("config.json", {"num_hidden_layers": 10**7}, "at most as many layers as the"),
        ("config.json", [], "expected a table of values"),
        ("preprocessor_config.json", {"image_mean": [float("nan")] * 3, "image_std": [1] * 3}, "finite means"),
        ("preprocessor_config.json", {"image_mean": [0] * 3, "image_std": [1, 1, 0]}, "deviations > 0"),
    ],
)
def test_values_that_no_trunk_has_are_refused_before_it_is_built(
    file: str, values: Any, message: str, vit: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "strange"
    shutil.copytree(vit, folder)
    path = folder / file
    stored = json.loads(path.read_text()) if path.exists() and values else {}
    path.write_text(json.dumps({**stored, **values} if values else values))
    with pytest.raises(ConfigError, match=message):
        open_trunk(f"hf:{folder}")


def test_features_that_are_not_finite_are_refused_before_the_first_step(code: Path) -> None:
    code.write_text(code.read_text() + "\n_build = build\n\ndef build():\n    made = _build()\n")
    code.write_text(code.read_text() + "    made[0].weight.data.fill_(float('nan'))\n    return made\n")
    trunk = open_trunk(f"{code}:build", run_code=True)
    with pytest.raises(ConfigError, match="expected finite features"):
        Problem.load(SearchConfig(trunk=f"{code}:build"), trunk=trunk)
