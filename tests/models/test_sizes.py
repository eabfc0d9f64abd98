"""The sizes: what they are, that each can be built, and that a configuration overrides them key by key."""

import dataclasses

import pytest
import torch

from hfdiff.core.errors import BadInput
from hfdiff.models.sizes import SIZES, describe_shape
from hfdiff.training.build import build_unet
from hfdiff.training.checks import check_config, with_shape
from hfdiff.training.config import SHAPE_KEYS, TrainConfig


def test_small_is_what_a_configuration_without_a_size_means():
    config = with_shape(TrainConfig())
    assert config.block_out_channels == (64, 128)
    assert config.down_block_types == ("DownBlock2D", "AttnDownBlock2D")
    assert (config.layers_per_block, config.norm_num_groups, config.attention_head_dim) == (1, 8, 32)
    assert config.patch_size == 2
    assert describe_shape(config) == "size small"


def test_a_size_decides_keys_that_a_trained_model_decides_too():
    for size in SIZES.values():
        assert vars(size).keys() <= set(SHAPE_KEYS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [28, 32])
def test_every_size_makes_images_of_the_size_it_gets(size, side, table):
    with torch.device("meta"):  # shapes alone: no weight is made
        unet = build_unet(with_shape(TrainConfig(size=size)), table)
        sample = torch.empty(2, 1, side, side)
        assert unet(sample, torch.zeros(2)).sample.shape == sample.shape


def test_the_sizes_grow(table):
    with torch.device("meta"):
        counts = [build_unet(with_shape(TrainConfig(size=size)), table).num_parameters() for size in SIZES]
    assert counts == sorted(counts)
    assert counts[0] < 500_000
    assert counts[-1] > 50_000_000


def test_base_attends_at_16_and_8(table):
    """On 28 pixels, which are padded to 32, on the way down and up."""
    seen = set()
    with torch.device("meta"):
        unet = build_unet(with_shape(TrainConfig(size="base")), table)
        for block in [*unet.down_blocks, *unet.up_blocks]:
            for attention in getattr(block, "attentions", []):
                attention.register_forward_pre_hook(lambda _, args: seen.add(args[0].shape[-1]))
        unet(torch.empty(1, 1, 28, 28), torch.zeros(1))
    assert seen == {16, 8}


def test_keys_override_the_size_one_by_one():
    config = with_shape(TrainConfig(size="tiny", patch_size=1, block_out_channels=(8, 24)))
    expected = {**vars(SIZES["tiny"]), "patch_size": 1, "block_out_channels": (8, 24)}
    assert {key: getattr(config, key) for key in expected} == expected
    assert describe_shape(config) == "size tiny but for block_out_channels (8, 24), patch_size 1"
    assert with_shape(config) == config
    assert with_shape(dataclasses.replace(config, size="large")).norm_num_groups == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "smal"}, r"unknown size 'smal' \(did you mean 'small'\?\); valid: tiny, small, base, large"),
        (
            {"block_out_channels": (8, 16, 32)},
            r"block_out_channels \[8, 16, 32\] and down_block_types .* differ in length \(size 'small' gives",
        ),
        ({"size": "base", "down_block_types": ("DownBlock2D",)}, "differ in length .*valid: one block for each width"),
    ],
)
def test_mistakes_of_sizes_are_named(changes, message):
    with pytest.raises(BadInput, match=message) as caught:
        check_config(TrainConfig(**changes))
    assert "\n" not in str(caught.value)
