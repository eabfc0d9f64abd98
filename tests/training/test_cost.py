"""What training costs, against an account of its own."""

import pytest
import torch
from diffusers.models.attention_processor import Attention

from hfdiff.data.loading import load_training_data
from hfdiff.figures.grids import overview
from hfdiff.training.build import build_unet
from hfdiff.training.cost import measure


def drawn(pipeline, seed):
    return overview(pipeline, seed, num_inference_steps=1)


def products(unet, size: int) -> int:
    """Floating-point operations of one image's way through convolutions, linear layers and attention."""
    total = []

    def layer(module, _, out) -> None:
        total.append(2 * out.numel() * module.weight[0].numel())

    def attention(module, args, _) -> None:
        channels, length = args[0].shape[1], args[0].shape[2] * args[0].shape[3]
        total.append(2 * 2 * length**2 * channels)  # queries by keys, and weights by values

    for module in unet.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(layer)
        elif isinstance(module, Attention):
            module.register_forward_hook(attention)
    unet(torch.zeros(1, 1, size, size), torch.zeros(1))
    return sum(total)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": True}, {"objective": "epsilon", "augment": 0.1}])
def test_the_cost_is_that_of_the_model(tiny_config, monkeypatch, tmp_path, changes):
    monkeypatch.setattr("hfdiff.training.cost.TIMED_SECONDS", 0.0)
    config = tiny_config(patch_size=2, **changes)
    cost = measure(config, drawn)
    unet = build_unet(config, load_training_data(config.dataset)[0])
    assert cost.parameters == unet.num_parameters()
    assert cost.forward_gflops == pytest.approx(products(unet, 28) / 1e9, rel=1e-6)
    passes = 4 if config.gradient_checkpointing else 3  # forward, and twice as much backward; and forward again
    assert (passes - 0.5) * cost.forward_gflops < cost.step_gflops <= passes * cost.forward_gflops
    assert cost.images_per_second > 0
    assert cost.peak_memory_gib > 0.1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_plan_counts_the_micro_batches_that_are_taken(tiny_config, monkeypatch):
    monkeypatch.setattr("hfdiff.training.cost.TIMED_SECONDS", 0.0)
    monkeypatch.setattr("hfdiff.training.memory.bytes_of", lambda attempt, rows: rows * 2**20)
    monkeypatch.setattr("hfdiff.training.memory.available_bytes", lambda: 5 * 2**20)
    cost = measure(tiny_config(gradient_accumulation_steps=2), drawn)
    assert cost.num_micro_batches == 4
    assert "batches of 8 in micro-batches of 2" in cost.describe()
