"""Memory: what tensors take, and a micro-batch that shrinks until it fits, with the same result."""

import subprocess
import sys

import psutil
import pytest
import torch

from hfdiff.core.errors import TrainingFailed
from hfdiff.training import memory
from hfdiff.training.build import build_unet
from hfdiff.training.memory import LiveBytes, available_bytes, bytes_of, fitting_micro_batches, more_micro_batches
from hfdiff.training.session import open_session

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


def trained(config, table, accelerator, most_rows=None, begin=0):
    """State and losses of a run whose UNet takes at most `most_rows` images, from step `begin` on."""
    session = open_session(config, (table, table), accelerator)
    state = session.state

    def limit(_, args) -> None:
        if most_rows is not None and state.step >= begin and len(args[0]) > most_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    accelerator.unwrap_model(state.unet).conv_in.register_forward_pre_hook(limit)
    losses = [step.loss.item() for step in session.steps()]
    return state, losses


def assert_same(results, expected):
    (state, losses), (whole, whole_losses) = results, expected
    assert losses == pytest.approx(whole_losses, rel=1e-4)
    for a, b in zip(state.unet.parameters(), whole.unet.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-4)


def test_live_bytes_are_those_of_tensors_alive_together():
    with LiveBytes() as memory:
        a = torch.zeros(1000)
        del a
        b = torch.zeros(500)
        b.add_(1)  # in place, a view, and the same again: nothing new
        c = b.view(5, 100)
        d = c + 1
    assert memory.peak == 4 * 1000
    assert memory.live == 4 * 1000
    del b, c, d
    assert memory.live == 0


def test_the_estimate_from_two_images_is_what_a_batch_takes(tiny_config, table, accelerator):
    unet = build_unet(tiny_config(patch_size=1), table).train()
    for parameter in unet.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def attempt(rows: int) -> None:
        unet(torch.zeros(rows, 1, 28, 28), torch.zeros(rows)).sample.mean().backward()

    with LiveBytes() as true:
        attempt(16)
    assert bytes_of(attempt, 16) == pytest.approx(true.peak, rel=0.05)


def test_a_container_may_have_less_than_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    whole = psutil.virtual_memory().available
    assert available_bytes() == pytest.approx(whole, rel=0.2)
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("anon 2000000\ninactive_file 1000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes() == pytest.approx(whole, rel=0.2)
    (tmp_path / "memory.max").write_text("5000000\n")
    assert available_bytes() == 3_000_000


def test_parts_grow_to_the_next_divisor():
    assert [more_micro_batches(num_micro_batches, 12, CPU) for num_micro_batches in (1, 2, 3, 4, 6)] == [2, 3, 4, 6, 12]
    assert more_micro_batches(1, 7, CPU) == 7
    with pytest.raises(TrainingFailed, match="not fit into the memory of cpu, even in micro-batches of one image"):
        more_micro_batches(7, 7, CPU)


def test_trying_before_the_first_step_moves_nothing(tiny_config, table, accelerator, monkeypatch, capsys):
    monkeypatch.setattr(memory, "ESTIMATED", ())  # as on a GPU
    config = tiny_config(max_train_images=40, dropout=0.1)
    session = open_session(config, (table, table), accelerator)
    state = session.state
    before = [value.clone() for group in state.tensors(accelerator).values() for value in group.values()]
    torch.manual_seed(7)
    rows = []

    def attempt(count: int) -> None:
        rows.append(count)
        torch.rand(3)
        state.unet(torch.zeros(count, 1, 28, 28), torch.zeros(count)).sample.sum().backward()
        if count > 2:
            raise torch.OutOfMemoryError("injected")

    assert fitting_micro_batches(1, 8, attempt, state.optimizer, accelerator) == 4
    assert rows == [8, 4, 2]
    assert torch.rand(3).equal(torch.rand(3, generator=torch.Generator().manual_seed(7)))
    after = [value for group in state.tensors(accelerator).values() for value in group.values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(parameter.grad is None for parameter in state.unet.parameters())
    assert "micro-batches of 8 images do not fit into the memory of cpu: going on with 2, 4 " in capsys.readouterr().out


@pytest.mark.parametrize("begin", [0, 1], ids=["before step 1", "in step 2"])
def test_a_step_out_of_memory_learns_the_same_in_more_parts(
    tiny_config, table, accelerator, monkeypatch, capsys, begin
):
    if not begin:
        monkeypatch.setattr(memory, "ESTIMATED", ())
    config = tiny_config(max_train_images=24, gradient_accumulation_steps=2)
    results = trained(config, table, accelerator, most_rows=1, begin=begin)
    assert results[0].num_micro_batches == 8
    assert config.gradient_accumulation_steps == 2
    assert "going on with 1, 8 for each step" in capsys.readouterr().out
    assert_same(results, trained(config, table, accelerator))


def test_a_cpu_with_little_memory_takes_smaller_micro_batches(tiny_config, table, accelerator, monkeypatch):
    config = tiny_config(max_train_images=16)
    expected = trained(config, table, accelerator)
    assert expected[0].num_micro_batches == 1
    seen = []
    monkeypatch.setattr(memory, "bytes_of", lambda attempt, rows: seen.append(rows) or rows * 2**20)
    monkeypatch.setattr(memory, "available_bytes", lambda: 2**22)
    results = trained(config, table, accelerator)
    assert seen == [8, 4, 2]
    assert_same(results, expected)


@pytest.mark.parametrize("begin", [0, 2])
def test_where_one_image_does_not_fit_the_run_ends(tiny_config, table, accelerator, begin):
    with pytest.raises(TrainingFailed, match="even in micro-batches of one image; take a smaller size"):
        trained(tiny_config(max_train_images=64), table, accelerator, most_rows=0, begin=begin)


def test_other_errors_are_not_taken_for_memory(tiny_config, table, accelerator):
    def attempt(rows: int) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    session = open_session(tiny_config(), (table, table), accelerator)

    state = session.state
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        fitting_micro_batches(1, 8, attempt, state.optimizer, accelerator)


TWO = """
import os

import torch
from accelerate import Accelerator
from hfdiff.training import memory
from hfdiff.core.errors import TrainingFailed

memory.ESTIMATED = ()
accelerator = Accelerator(cpu=True)
layer = torch.nn.Linear(4, 4)
model, optimizer = accelerator.prepare(layer, torch.optim.AdamW(layer.parameters()))
most = {0: 8, 1: 2}[accelerator.process_index]

def attempt(rows):
    layer(torch.zeros(rows, 4)).sum().backward()
    if rows > most:
        raise torch.OutOfMemoryError("injected")

parts = memory.fitting_micro_batches(1, 8, attempt, optimizer, accelerator)
model(torch.full((1, 4), 1.0 + accelerator.process_index)).sum().backward()
text = f"parts {parts} gradient {layer.weight.grad[0, 0].item()}\\n"
most = 8 if accelerator.is_main_process else 0
try:
    memory.fitting_micro_batches(1, 8, attempt, optimizer, accelerator)
except TrainingFailed:
    text += "both end\\n"
print(text, end="", flush=True)
accelerator.wait_for_everyone()
os._exit(0)  # gloo's threads now and then abort the interpreter's end
"""


def test_two_processes_agree_on_the_smaller_micro_batch(tmp_path):
    (tmp_path / "two.py").write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run([*launch, str(tmp_path / "two.py")], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parts 4 gradient 1.5") == 2  # and the gradients are averaged as ever
    assert done.stdout.count("both end") == 2
