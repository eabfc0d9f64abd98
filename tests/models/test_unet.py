"""The UNet: any size, any condition, and a folder that loads without a warning."""

import copy
import inspect
import warnings

import pytest
import torch
from conftest import tiny_unet
from diffusers import UNet2DModel
from diffusers.utils import logging

from hfdiff.models.unet import ClassStyleUNet2DModel


@pytest.mark.parametrize(
    ("size", "widths", "patch_size"),
    [
        ((28, 28), (8, 8, 8, 8), 1),
        ((28, 28), (8, 16), 2),
        ((28, 28), (8, 16), 4),
        ((30, 26), (8, 8, 8), 2),
        ((9, 7), (8, 8), 4),
        ((32, 32), (8,), 1),
    ],
)
def test_any_size_goes_in_and_comes_out(size, widths, patch_size):
    blocks = len(widths)
    unet = tiny_unet(
        sample_size=size,
        in_channels=3,
        out_channels=3,
        block_out_channels=widths,
        patch_size=patch_size,
        down_block_types=("DownBlock2D",) * blocks,
        up_block_types=("UpBlock2D",) * blocks,
    )
    sample = torch.randn(2, 3, *size)
    assert unet(sample, 0.5).sample.shape == sample.shape


@pytest.mark.parametrize("conditioning", ["add", "concat"])
@pytest.mark.parametrize("class_embedding", ["table", "one_hot_mlp"])
def test_every_condition_is_heard(conditioning, class_embedding):
    unet = tiny_unet(conditioning=conditioning, class_embedding=class_embedding)
    sample = torch.randn((1, 1, 28, 28), generator=torch.Generator().manual_seed(1))
    conditions = {
        (label, styles): unet(sample, 300.0, torch.tensor([label]), torch.tensor([styles])).sample
        for label in (0, 1, 3)
        for styles in ((-1.0, -1.0), (0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (0.0, 1.0))
    }
    outputs = torch.cat(list(conditions.values())).flatten(1)
    distances = torch.cdist(outputs, outputs) + torch.eye(len(outputs))
    assert distances.min() > 1e-5
    unspecified = conditions[3, (-1.0, -1.0)]
    assert torch.equal(unet(sample, 300.0).sample, unspecified)


def test_forward_is_the_parents_with_the_condition_added():
    unet = tiny_unet(sample_size=16, block_out_channels=(8, 8))
    known = inspect.signature(UNet2DModel.__init__).parameters
    config = {key: value for key, value in unet.config.items() if key in known}
    parent = UNet2DModel(**{**config, "class_embed_type": "identity"}).eval()
    parent.load_state_dict(unet.state_dict(), strict=False)
    sample, labels, styles = torch.randn(2, 1, 16, 16), torch.tensor([0, 2]), torch.tensor([[1.0, 0.0], [0.0, 0.3]])
    time = torch.tensor([10.0, 500.0])
    condition = unet.class_embed(labels) + unet.style_embed(torch.cat([styles, torch.ones(2, 1)], dim=1))
    expected = parent(sample, time, class_labels=condition).sample
    assert torch.equal(unet(sample, time, labels, styles).sample, expected)


def test_patches_fold_and_unfold_without_mixing_up_pixels(monkeypatch):
    """With the identity in place of all layers, folding, padding and cropping give the image back."""
    folded = []
    monkeypatch.setattr(UNet2DModel, "forward", lambda self, x, *_, **__: folded.append(x.shape) or (x,))
    sample = torch.randn(1, 1, 10, 14)
    assert torch.equal(tiny_unet(sample_size=(10, 14), patch_size=2)(sample, 1.0).sample, sample)
    assert folded == [(1, 4, 6, 8)]


def test_fractions_of_a_timestep_count():
    unet = tiny_unet()
    sample = torch.randn(1, 1, 28, 28)
    assert not torch.equal(unet(sample, 0.5).sample, unet(sample, 0.0).sample)
    assert torch.equal(unet(sample, 0.5).sample, unet(sample, torch.tensor([0.5])).sample)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"patch_size": 2, "conditioning": "concat", "class_embedding": "one_hot_mlp", "num_augments": 6},
        {"num_styles": 0, "sample_size": (30, 26)},
        {"skip_connections": False, "time_conditioning": False},
    ],
)
def test_round_trip_is_exact_and_silent(tmp_path, changes, caplog):
    unet = tiny_unet(**changes)
    unet.save_pretrained(tmp_path)
    logging.enable_propagation()
    with warnings.catch_warnings(), caplog.at_level("WARNING"):
        warnings.simplefilter("error")
        loaded = ClassStyleUNet2DModel.from_pretrained(tmp_path)
    logging.disable_propagation()
    assert not caplog.records
    assert loaded.config.in_channels == 1
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in unet.state_dict().items())
    sample, label = torch.randn(1, 1, 30, 26), torch.tensor([1])
    # Weights that were read from a file lie elsewhere in memory, where some CPUs round otherwise.
    assert torch.allclose(loaded(sample, 5.0, label).sample, unet(sample, 5.0, label).sample, atol=1e-5)


def test_every_parameter_gets_a_gradient_in_every_step():
    """Distributed training fails on a parameter that no sample of a batch uses."""
    unet = tiny_unet(num_augments=6, conditioning="concat").train()
    unet(torch.randn(2, 1, 28, 28), torch.tensor([1.0, 2.0])).sample.sum().backward()
    assert all(parameter.grad is not None for parameter in unet.parameters())


@pytest.mark.parametrize("skips", [True, False])
def test_what_the_way_down_saw_reaches_the_way_up_through_skips_alone(skips):
    """With the coarsest level silenced, only skips carry the image; a copy behaves as the original does."""
    for unet in (tiny_unet(skip_connections=skips), copy.deepcopy(tiny_unet(skip_connections=skips))):
        unet.mid_block.register_forward_hook(lambda _, __, out: torch.zeros_like(out))
        a, b = (unet(torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(s)), 1.0).sample for s in (0, 1))
        assert torch.equal(a, b) != skips


def test_without_skips_the_layers_are_the_same_and_all_learn():
    whole, cut = tiny_unet(), tiny_unet(skip_connections=False).train()
    assert {k: v.shape for k, v in whole.state_dict().items()} == {k: v.shape for k, v in cut.state_dict().items()}
    cut(torch.randn(2, 1, 28, 28), torch.tensor([1.0, 2.0])).sample.sum().backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())


def test_without_time_every_time_is_zero():
    unet, told = tiny_unet(time_conditioning=False), tiny_unet()
    sample = torch.randn(2, 1, 28, 28)
    expected = told(sample, 0.0).sample
    for time in (0.0, 700, torch.tensor([3.0, 999.0])):
        assert torch.equal(unet(sample, time).sample, expected)


def test_checkpointing_leaves_the_gradients_alone():
    def gradients(checkpointing: bool) -> list[torch.Tensor]:
        unet = tiny_unet(layers_per_block=2).train()
        if checkpointing:
            unet.enable_gradient_checkpointing()
        sample = torch.randn((2, 1, 28, 28), generator=torch.Generator().manual_seed(0))
        unet(sample, torch.tensor([1.0, 2.0]), torch.tensor([0, 1])).sample.square().mean().backward()
        return [parameter.grad for parameter in unet.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(gradients(False), gradients(True), strict=True))


def test_a_copy_is_independent():
    unet = tiny_unet()
    clone = copy.deepcopy(unet)
    clone.class_embed.weight.data.zero_()
    assert unet.class_embed.weight.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, "patch_size 3; valid: 1, 2, 4"),
        ({"norm_num_groups": 0}, "not divisible by norm_num_groups 0"),
        ({"attention_head_dim": 0}, "attention_head_dim 0 does not divide"),
        ({"conditioning": "sum"}, "conditioning 'sum'; valid: add, concat"),
        ({"class_embedding": "x"}, "class_embedding 'x'; valid: table, one_hot_mlp"),
        ({"attention_head_dim": 32}, "attention_head_dim 32 does not divide the width 16 of a level"),
        ({"class_embed_type": "timestep"}, "class_embed_type 'timestep'; valid: identity"),
        ({"block_out_channels": (8, 18)}, r"width 18 .* is not divisible by norm_num_groups 4"),
    ],
)
def test_mistakes_of_shapes_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_unet(**changes)
