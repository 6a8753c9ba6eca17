"""Small Hugging Face models in double precision; what imports them is skipped where transformers is not installed."""

import copy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

IDS = torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(0))
TEXT = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
TEXT |= {"max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
USES = {"use_cache=True", "use_cache=False", "prefill and steps with the cache", "left padding", "right padding"}


def build(kind: str, config: str, options: dict[str, Any], dtype: torch.dtype = torch.float64) -> Any:
    """A model whose parameters are all random: none is zero or one as at first."""
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        model = getattr(transformers, kind)(getattr(transformers, config)(**options)).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def logits(model: Any, **inputs: Any) -> torch.Tensor:
    """What a model says of its inputs, or of `IDS`."""
    with torch.no_grad():
        return model(**(inputs or {"input_ids": IDS})).logits  # type: ignore[no-any-return]


def again(model: Any, folder: Path) -> Any:
    """The model that its own files build: the same names, in the same order."""
    model.save_pretrained(folder)
    built = type(model).from_pretrained(folder, dtype=model.dtype).eval()
    assert list(built.state_dict()) == list(model.state_dict())
    # A copy: weights that are read from a file may lie unaligned, and products then round otherwise.
    return copy.deepcopy(built)


def measured(growth: str, patch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Name, architecture and outcome of a growth, for all of the benchmark that have what it grows."""
    patch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    import ecosystem
    from zoo._stacks import STACKED

    for name, one in STACKED.items():
        if not name.startswith(("pytorchcv", "vit-pytorch")):
            found = ecosystem.measure(one, [growth])["growths"]
            yield from ((name, one, row) for row in found.values())
    sys.modules.pop("ecosystem")
