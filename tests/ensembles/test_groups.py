"""Examples of one group are on one side of cross-fitting, and count once."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graftwork.ensembles import fit_combiner, labels_of_groups
from graftwork.ensembles._folds import deal_folds
from graftwork.errors import ConfigError, InputError
from graftwork.session import methods_for


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grouped(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of three members on 12 groups of ten: what tells a group's images from others is not what they show."""
    groups = torch.arange(120) // 10 * 7
    labels = groups // 7 % 3
    tint = 4 * torch.randn(12, 3, 3, generator=generator(seed))[groups // 7]
    return tint + 0.1 * torch.randn(120, 3, 3, generator=generator(seed + 1)), labels, groups


def test_a_group_is_in_one_fold_and_a_class_of_two_groups_in_the_rest_of_every_fold() -> None:
    sizes = torch.tensor([1, 9, 4, 4, 2, 7, 3])
    groups = torch.repeat_interleave(torch.tensor([5, 3, 8, 0, 2, 9, 1]), sizes)
    labels = torch.repeat_interleave(torch.tensor([0, 0, 1, 1, 1, 2, 2]), sizes)
    for seed in range(20):
        mixed = torch.randperm(len(labels), generator=generator(seed))
        folds = deal_folds(labels[mixed], generator(seed), groups=groups[mixed])
        for group in groups.unique():
            assert len(folds[groups[mixed] == group].unique()) == 1
        for label in range(3):
            assert len(folds[labels[mixed] == label].unique()) >= 2


def test_without_groups_each_example_is_one_of_its_own() -> None:
    labels = torch.arange(30) % 4
    assert torch.equal(deal_folds(labels, generator()), deal_folds(labels, generator(), groups=torch.arange(30)))


@pytest.mark.parametrize("method", ["stacked", "stacked-network"])
def test_a_stacker_that_tells_groups_looks_good_only_where_groups_are_not_known(method: str) -> None:
    outputs, labels, groups = grouped()
    mean = float(F.nll_loss(F.log_softmax(outputs, 2).exp().mean(1).log(), labels))
    blind = fit_combiner(method, outputs, labels, generator=generator()).held_out_nll(labels)
    seeing = fit_combiner(method, outputs, labels, generator=generator(), groups=groups).held_out_nll(labels)
    assert blind < 0.1 * mean
    assert seeing > 0.3 * mean


def test_images_of_one_group_count_once() -> None:
    labels = torch.arange(120) % 3
    assert "stacked" in methods_for(labels, 3, 4)
    assert methods_for(labels, 3, 4, groups=torch.arange(120) % 12) == ["mean"]
    assert "stacked" in methods_for(labels, 3, 4, groups=torch.arange(120) % 30)
    alone = torch.where(labels == 2, 1000, torch.arange(120))  # the third class has one group
    assert "greedy" in methods_for(labels, 3, 4, groups=alone)
    assert "stacked" not in methods_for(labels, 3, 4, groups=alone)


@pytest.mark.parametrize("method", ["stacked", "stacked-network"])
def test_a_class_of_one_group_is_not_stacked(method: str) -> None:
    outputs, labels, groups = grouped()
    groups = torch.where(labels == 2, 1000, groups)
    with pytest.raises(ConfigError, match="two examples of each at least \\(groups, if any\\)"):
        fit_combiner(method, outputs, labels, generator=generator(), groups=groups)


def test_one_group_is_too_few_to_fit_on_and_groups_have_to_fit_the_examples() -> None:
    outputs, labels, groups = grouped()
    with pytest.raises(ConfigError, match=r"two examples at least, got 1 \(groups, if any\)"):
        fit_combiner("greedy", outputs, labels, generator=generator(), groups=torch.zeros_like(groups))
    for wrong in (groups[1:], groups.double()):
        with pytest.raises(InputError, match="groups: expected one whole number for each of 120 examples"):
            labels_of_groups(labels, wrong)
