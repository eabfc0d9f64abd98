"""Training: the draws, the schedules, precision, accumulation and averaging, each against an independent account."""

import dataclasses
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from hfdiff.core.errors import BadInput, TrainingFailed
from hfdiff.data.table import to_unit_range
from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.loading import export_pipeline, load_pipeline
from hfdiff.models.objectives import LOSS_WEIGHTS, OBJECTIVES, SCHEDULES, Noised, make_objective
from hfdiff.models.samplers import SAMPLERS
from hfdiff.training import loop
from hfdiff.training.batch import draw_batch, make_inputs
from hfdiff.training.build import build_unet
from hfdiff.training.checks import check_config
from hfdiff.training.precision import attention_kernel, choose_precision
from hfdiff.training.progress import elapsed, lr_factor
from hfdiff.training.session import open_session
from hfdiff.training.state import check_finite

CPU = torch.device("cpu")


def weights_after(config, table, accelerator, steps=None):
    """Train and return the state and the losses."""
    session = open_session(config, (table, table), accelerator)
    state = session.state
    losses = []
    for step in session.steps():
        losses.append(step.loss.item())
        if step.step == steps:
            break
    return state, losses


def same(a, b, **tolerance) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.allclose(x, y, **tolerance) if tolerance else torch.equal(x, y) for x, y in pairs)


def test_a_step_is_decided_by_seed_and_number(tiny_config, table):
    config = tiny_config(flip=True)

    def draw(seed, step):
        return draw_batch(dataclasses.replace(config, seed=seed), table, 8, step, CPU)

    a, b = vars(draw(0, 3)), vars(draw(0, 3))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(draw(0, 4).noise, draw(0, 3).noise)
    assert not torch.equal(draw(1, 3).noise, draw(0, 3).noise)


def test_conditions_are_dropped_alone_and_together(tiny_config, table):
    config = tiny_config(drop_class=0.2, drop_style=0.3, drop_both=0.1)
    draw = draw_batch(config, table, 20_000, 0, CPU)
    no_class, no_styles = ~draw.keep_class, ~draw.keep_styles
    shares = [(no_class & ~no_styles), (no_styles & ~no_class), (no_class & no_styles)]
    assert [round(share.double().mean().item(), 1) for share in shares] == [0.2, 0.3, 0.1]


def test_inputs_are_the_images_with_their_conditions(tiny_config, table):
    config = tiny_config(drop_class=0.5, drop_style=0.0, drop_both=0.25, style_share=0.5)
    objective = make_objective(ObjectiveConfig())
    draw = draw_batch(config, table, 64, 0, CPU)
    inputs = make_inputs(config, table, objective, draw)
    clean = objective.clean(inputs.noised.sample, inputs.noised.target, inputs.noised.timestep)
    plain = ~draw.strengths.any(dim=1)
    expected = to_unit_range(table.pixels[draw.rows]) * 2 - 1
    assert torch.allclose(clean[plain], expected[plain], atol=1e-4)
    assert not torch.allclose(clean[~plain], expected[~plain], atol=1e-2)
    labels, weights = inputs.conditions["class_labels"], inputs.conditions["style_weights"]
    assert torch.equal(labels[draw.keep_class], table.labels[draw.rows][draw.keep_class])
    assert (labels[~draw.keep_class] == len(table.class_names)).all()
    assert torch.equal(weights[draw.keep_styles], draw.strengths[draw.keep_styles])
    assert (weights[~draw.keep_styles] == -1).all()


def test_styles_of_the_data_come_before_those_of_the_table(tiny_config, table):
    told = dataclasses.replace(table, style_weights=torch.rand(len(table), 2), style_names=("a", "b"))
    config = tiny_config(drop_class=0, drop_style=0, drop_both=0)
    draw = draw_batch(config, told, 16, 0, CPU)
    weights = make_inputs(config, told, make_objective(ObjectiveConfig()), draw).conditions["style_weights"]
    assert torch.equal(weights, torch.cat([told.style_weights[draw.rows], draw.strengths], dim=1))


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear", "step"])
def test_learning_rate_is_a_function_of_images_seen(tiny_config, schedule):
    config = tiny_config(
        lr_schedule=schedule, max_train_images=800, batch_size=8, lr_warmup_images=80, lr_decay_share=0.4
    )
    closed = {
        "constant": lambda x: 1.0,
        "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
        "linear": lambda x: min(1.0, (1 - x) / 0.4),
        "step": lambda x: 1.0 if x < 0.6 else 0.1 if x < 0.85 else 0.01,
    }[schedule]
    for step in range(100):
        expected = min(1, (step + 1) / 10) * closed(step / 100)
        assert lr_factor(config, step * 8) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_learning_rate_of_every_step_knows_nothing_of_micro_batches(tiny_config, table, accelerator, parts):
    config = tiny_config(max_train_images=80, lr_warmup_images=24, gradient_accumulation_steps=parts)
    session = open_session(config, (table, table), accelerator)
    rates = [step.learning_rate for step in session.steps()]
    assert rates == [config.learning_rate * lr_factor(config, 8 * step) for step in range(10)]


def test_the_clock_brings_the_learning_rate_down(tiny_config):
    config = tiny_config(max_minutes=10.0, max_train_images=10**9, lr_warmup_images=0, lr_decay_share=0.4)
    factors = [lr_factor(config, 1000, seconds, decays_by_time=True) for seconds in (0, 360, 480, 600)]
    assert factors == pytest.approx([1, 1, 0.5, 0])
    assert lr_factor(config, 1000, 600, decays_by_time=False) == 1


@pytest.mark.parametrize(
    ("requested", "device", "capability", "cpu_bf16", "expected"),
    [
        ("auto", "cuda", (9, 0), False, "bf16"),
        ("auto", "cuda", (8, 0), False, "bf16"),
        ("auto", "cuda", (7, 5), False, "fp16"),  # a T4, which torch calls able
        ("auto", "cuda", (6, 1), True, "fp16"),
        ("auto", "cpu", None, True, "bf16"),
        ("auto", "cpu", None, False, "no"),
        ("auto", "mps", None, False, "no"),
        ("no", "cuda", (9, 0), False, "no"),
        ("fp16", "cuda", (9, 0), False, "fp16"),
        ("bf16", "cpu", None, False, "bf16"),
    ],
)
def test_precision(requested, device, capability, cpu_bf16, expected):
    precision, reason = choose_precision(requested, device, capability, cpu_bf16)
    assert precision == expected
    assert reason


def test_fp16_on_a_cpu_is_refused():
    with pytest.raises(BadInput, match="'fp16' needs a GPU.*valid here: auto, no, bf16"):
        choose_precision("fp16", "cpu")


@pytest.mark.slow
def test_fp16_trains_with_autocast_and_scaler(tiny_config, table, fp16_on_cpu):
    config = tiny_config(max_train_images=400, learning_rate=3e-3, lr_warmup_images=0)
    seen = set()
    session = open_session(config, (table, table), fp16_on_cpu)
    state = session.state
    fp16_on_cpu.unwrap_model(state.unet, keep_fp32_wrapper=False).conv_in.register_forward_hook(
        lambda _, __, out: seen.add(out.dtype)
    )
    losses = [step.loss for step in session.steps()]
    assert seen == {torch.float16}
    assert all(loss.dtype == torch.float32 for loss in losses)
    assert state.numbers()["scaler"]["scale"] > 1
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.slow
def test_an_overflow_moves_nothing(tiny_config, table, fp16_on_cpu):
    config = tiny_config(max_train_images=32)
    session = open_session(config, (table, table), fp16_on_cpu)
    state = session.state
    fp16_on_cpu.scaler._init_scale = 2.0**100
    before = [p.detach().clone() for p in state.ema_unet.parameters()]
    steps = iter(session.steps())
    with pytest.raises(TrainingFailed, match="not finite at any loss scale"):
        next(steps)  # forty halvings of 2^100 are not enough
    assert state.step == 0
    assert all(torch.equal(a, b) for a, b in zip(before, state.ema.weights, strict=True))
    after = fp16_on_cpu.unwrap_model(state.unet).parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_after_overflows_the_same_batch_is_taken_again(tiny_config, table, fp16_on_cpu):
    config = tiny_config(max_train_images=16)
    session = open_session(config, (table, table), fp16_on_cpu)
    state = session.state
    fp16_on_cpu.scaler._init_scale = 2.0**30
    steps = [step.step for step in session.steps()]
    assert steps == [1, 2]
    assert state.numbers()["scaler"]["scale"] < 2.0**30


@pytest.mark.slow
def test_accumulation_is_the_same_step(tiny_config, table, accelerator):
    results = [
        weights_after(tiny_config(max_train_images=400, gradient_accumulation_steps=parts), table, accelerator)
        for parts in (1, 2, 4)
    ]
    whole, losses = results[0]
    for other, other_losses in results[1:]:
        assert other_losses == pytest.approx(losses, rel=1e-4)
        assert same(whole.unet, other.unet, atol=2e-4)


def test_checkpointing_computes_again_and_learns_the_same(tiny_config, table, accelerator):
    def calls(checkpointing: bool) -> tuple[int, torch.nn.Module]:
        config = tiny_config(max_train_images=16, gradient_checkpointing=checkpointing, dropout=0.1)
        session, count = open_session(config, (table, table), accelerator), [0]
        unet = session.state.unet
        unet.down_blocks[0].resnets[0].register_forward_pre_hook(lambda *_: count.append(count.pop() + 1))
        list(session.steps())
        return count[0], unet

    kept, plain = calls(False)
    computed, other = calls(True)
    assert computed == 2 * kept
    assert same(plain, other)


@pytest.mark.slow
def test_training_lowers_the_loss_and_repeats_exactly(tiny_config, table, accelerator):
    config = tiny_config(max_train_images=600, learning_rate=3e-3, lr_warmup_images=80, dropout=0.1)
    first, losses = weights_after(config, table, accelerator)
    second, again = weights_after(config, table, accelerator)
    assert losses == again
    assert same(first.unet, second.unet)
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


def test_ema_weights_follow_the_power_function(tiny_config, table, accelerator):
    """Karras et al. 2024, Equation 127, with its weights summed in float64."""
    config = tiny_config(max_train_images=160, ema_share=0.1)
    session = open_session(config, (table, table), accelerator)
    state = session.state
    history = []
    for _ in session.steps():
        history.append(accelerator.unwrap_model(state.unet).conv_out.weight.detach().double().clone())
    average = history[0]
    for number, weight in enumerate(history[1:], start=2):
        beta = 1 - 1 / (1 + (number - 1) / 9)  # mean age 0.1 of the run
        average = beta * average + (1 - beta) * weight
    assert torch.allclose(state.ema_model().conv_out.weight.double(), average, atol=1e-6)


def test_averaging_leaves_the_trained_weights_alone(tiny_config, table, accelerator):
    state, _ = weights_after(tiny_config(max_train_images=80), table, accelerator)
    before = [p.detach().clone() for p in state.unet.parameters()]
    ema_model = state.ema_model()
    assert all(torch.equal(a, b) for a, b in zip(before, state.unet.parameters(), strict=True))
    assert not same(ema_model, accelerator.unwrap_model(state.unet))


@pytest.mark.slow
def test_validation_is_fixed_and_watching_changes_nothing(tiny_config, table, accelerator):
    config = tiny_config(max_train_images=80)
    unwatched, _ = weights_after(config, table, accelerator)
    session = open_session(config, (table, table), accelerator)
    for _ in session.steps():
        torch.rand(1)
        losses = [session.validate() for _ in range(2)]
        assert losses[0] == losses[1]
    assert same(unwatched.unet, session.state.unet)


def test_loss_or_weights_that_are_not_finite_stop_the_run(tiny_config, table, accelerator):
    state, _ = weights_after(tiny_config(max_train_images=8), table, accelerator)
    check_finite(state, torch.tensor(1.0))
    with pytest.raises(TrainingFailed, match="the loss is nan; nothing of it is saved"):
        check_finite(state, torch.tensor(float("nan")))
    next(state.unet.parameters()).data.fill_(float("inf"))
    with pytest.raises(TrainingFailed, match="the weights are not finite"):
        check_finite(state, torch.tensor(1.0))


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["max_minutes", "max_cpu_minutes"])
def test_the_clock_ends_the_run(tiny_config, table, accelerator, clock):
    config = tiny_config(max_train_images=10**9, **{clock: 0.05})
    state, losses = weights_after(config, table, accelerator)
    assert elapsed(config, state) >= 3
    assert 0 < len(losses) < 10**6
    assert state.decays_by_time
    assert state.optimizer.param_groups[0]["lr"] < 0.2 * config.learning_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 8, "gradient_accumulation_steps": 3}, "batch_size 8 is not divisible by .* 1 x 3"),
        ({"batch_size": 0}, "batch_size is 0; valid: 1 to 1000000"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; valid: 1e-12 to 10"),
        ({"drop_class": 1.5}, "drop_class is 1.5; valid: 0 to 1"),
        ({"drop_class": 0.5, "drop_both": 0.6}, "add up to more than 1"),
        ({"max_minutes": 0.0}, "max_minutes is 0.0"),
        ({"max_minutes": 1.0, "max_cpu_minutes": 2.0}, "max_minutes 1 and max_cpu_minutes 2 exclude each other"),
        ({"ema_share": 1.0}, "ema_share is 1.0"),
        ({"schedule": "cosine"}, "schedule 'cosine' does not go with objective 'flow'"),
        ({"resolution": 1}, "resolution is 1; valid: 4 to 1024"),
        ({"block_out_channels": ()}, "block_out_channels is empty"),
        ({"norm_num_groups": 0}, "norm_num_groups is 0; valid: 1 to 8192"),
        ({"patch_size": 0}, "patch_size 0; valid: 1, 2, 4"),
        ({"norm_num_groups": 3}, "width 8 of .* is not divisible by norm_num_groups 3"),
        ({"attention_head_dim": 5}, "attention_head_dim 5 does not divide the width 16"),
        ({"patch_size": 3}, "patch_size 3; valid: 1, 2, 4"),
        ({"adam_beta2": 1.5}, "adam_beta2 is 1.5; valid: 1e-06 to 0.999999"),
        ({"weight_decay": -1.0}, "weight_decay is -1.0; valid: 0 to 10"),
    ],
)
def test_mistakes_are_named_before_data_is_loaded(tiny_config, changes, message):
    with pytest.raises(BadInput, match=message):
        check_config(replace(tiny_config(), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_num_groups": 3}, "width 8 .* not divisible by norm_num_groups 3"),
        ({"patch_size": 3}, "patch_size 3; valid: 1, 2, 4"),
        ({"down_block_types": ("DownBlock2D", "NoBlock2D")}, "NoBlock2D"),
        ({"down_block_types": ("DownBlock2D",)}, "down_block_types"),
    ],
)
def test_a_unet_that_cannot_be_built_is_named(tiny_config, table, changes, message):
    with pytest.raises(BadInput, match=message):
        build_unet(tiny_config(**changes), table)


DISCRETE = [name for name, row in OBJECTIVES.items() if row.kind == "discrete"]
CHOICES = [
    *({"objective": name, "schedule": schedule} for name in DISCRETE for schedule in (*SCHEDULES, "learned")),
    {"objective": "edm"},
    {"flow_shift": 3.0},
    {"objective": "v_prediction", "zero_terminal_snr": True},
    *({"objective": "v_prediction", "loss_weight": name} for name in LOSS_WEIGHTS),
    {"time_sampling": "uniform", "stratified": True},
    {"objective": "epsilon", "time_sampling": "logit_normal"},
    {"objective": "edm", "time_sampling": "uniform"},
    *(  # they change what is saved, not what is learned
        pytest.param({"objective": "v_prediction", key: name}, marks=pytest.mark.long)
        for key, names in (("sampler", SAMPLERS), ("spacing", ("karras", "exponential")))
        for name in names
    ),
    {"skip_connections": False},
    {"time_conditioning": False},
    {"gradient_checkpointing": True},
]


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(map(str, choice.values())))
def test_every_choice_learns_and_gives_a_pipeline(tiny_config, fashion, accelerator, tmp_path, choice):
    config = tiny_config(max_train_images=16 * 70, batch_size=16, lr_warmup_images=64, learning_rate=4e-3, **choice)
    table = fashion[0]
    session = open_session(config, (table, table), accelerator)
    losses = torch.stack([step.loss for step in session.steps()])
    # A schedule that is learned moves towards the times that are hard while the loss falls at each of them.
    least = 1.0 if config.schedule == "learned" else 0.9
    assert losses[-20:].mean() < least * losses[:10].mean()
    pipeline = session.pipeline()
    export_pipeline(pipeline, tmp_path / "pipeline")
    loaded = load_pipeline(str(tmp_path / "pipeline"))
    request = {"class_labels": "bag", "styles": "thick", "num_inference_steps": 4, "output_type": "pt"}
    images = [pipe(**request, generator=torch.Generator().manual_seed(0)).images for pipe in (pipeline, loaded)]
    assert torch.isfinite(images[0]).all()
    assert torch.allclose(*images, atol=1e-4)  # weights that are read from a file lie elsewhere in memory


@pytest.mark.long
def test_a_learned_schedule_evens_the_loss_out(tiny_config, fashion, accelerator):
    """The variance over time of the variational bound's loss, gamma'(t) |e - e_hat(gamma)|^2 / 2, on real images:
    lower under the learned schedule than under cosine's and linear's, and than under the crooked one that it began as,
    all between the same noise levels."""
    config = tiny_config(
        objective="epsilon", schedule="learned", batch_size=32, max_train_images=32 * 250, learning_rate=4e-3
    )
    session = open_session(config, (fashion[0], fashion[0]), accelerator)
    state, objective = session.state, session.objective
    with torch.no_grad():
        objective.learned.heights.copy_(torch.linspace(-3, 0, len(objective.learned.heights)))
    beginning = objective.learned.table().detach()
    list(session.steps())
    noise_levels, errors = noise_errors(fashion[1].part(slice(0, 64)), state.ema_model(), objective)

    def variance(gamma: torch.Tensor) -> float:
        inside = gamma[(gamma > noise_levels[0]) & (gamma < noise_levels[-1])].numpy()
        loss = torch.tensor(np.interp((inside[1:] + inside[:-1]) / 2, noise_levels, errors) * np.diff(inside)) / 2
        return float(loss.var() / loss.mean() ** 2)

    by_schedule = {
        name: variance(gammas_of(make_objective(ObjectiveConfig(objective="epsilon", schedule=name)).process().betas))
        for name in ("cosine", "linear")
    }
    learned = variance(objective.learned.table().detach())
    assert learned < 0.2 * min(by_schedule.values())
    assert learned < 0.2 * variance(beginning)


def noise_errors(table, unet, objective) -> tuple[np.ndarray, np.ndarray]:
    """gamma, and the error of the predicted noise there, at every tenth timestep."""
    clean = to_unit_range(table.pixels) * 2 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    errors = []
    timesteps = torch.arange(4, 1000, 10)
    for t in timesteps:
        noised = objective.noise(clean, noise, torch.full((len(clean),), float(t)))
        with torch.no_grad():
            prediction = unet(noised.sample, noised.timestep, table.labels, torch.zeros(len(clean), 3)).sample
        errors.append((prediction - noise).square().mean().item())
    return objective.learned.table().detach()[timesteps + 1].numpy(), np.array(errors)


def gammas_of(betas: tuple[float, ...]) -> torch.Tensor:
    """-ln SNR (T,) of a table of betas, in float64."""
    alpha_bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)
    return ((1 - alpha_bar) / alpha_bar).log()


def test_a_learned_schedule_is_exported(tiny_config, fashion, accelerator, tmp_path):
    config = tiny_config(objective="epsilon", schedule="learned", max_train_images=8 * 20)
    session = open_session(config, (fashion[0], fashion[0]), accelerator)
    objective = session.objective
    list(session.steps())
    objective.scheduler().save_pretrained(tmp_path)
    saved = DPMSolverMultistepScheduler.from_pretrained(tmp_path)
    learned = objective.learned.table().detach()[1:]
    assert torch.allclose(gammas_of(saved.config.trained_betas), learned, atol=1e-4)
    # The scheduler itself multiplies in float32, where 1 - alpha_bar = 1e-4 has three digits.
    assert torch.allclose(-2 * saved.lambda_t.double(), learned, atol=2e-3)


def test_the_learned_schedules_gradient_is_that_of_the_second_moment(tiny_config, fashion, accelerator):
    """Against central differences of E[l^2], through the UNet, for two of the network's weights."""
    config = tiny_config(objective="v_prediction", schedule="learned", batch_size=16)
    table = fashion[0]
    session = open_session(config, (table, table), accelerator)
    objective = session.objective
    learned = objective.learned
    with torch.no_grad():
        learned.heights.copy_(torch.linspace(-3, 0, len(learned.heights)))
    unet = session.state.ema_unet.double()
    for weight in unet.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    timesteps = torch.arange(20, 1000, 61).float()
    clean = (to_unit_range(table.pixels[: len(timesteps)]) * 2 - 1).double()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def errors() -> tuple[Noised, torch.Tensor]:
        noised = objective.noise(clean, noise, timesteps)
        prediction = unet(noised.sample, timesteps, table.labels[: len(timesteps)]).sample
        return noised, (prediction - noised.target).square().flatten(1).mean(dim=1)

    def second_moment() -> float:
        values = learned.table().detach()
        index = timesteps.long()
        rate, alpha = (values[index + 1] - values[index]) * 1000, (-values[index + 1]).sigmoid().sqrt()
        with torch.no_grad():  # an error of v counts alpha times in the noise
            return ((rate * alpha**2 * errors()[1] / 2) ** 2).mean().item()

    noised, values = errors()
    values.mean().backward()
    objective.learn(noised, values.detach(), 1 / len(timesteps), 1.0)
    for index in (3, 20):
        slope = learned.heights.grad[index].item()
        ends = []
        for step in (1e-2, -1e-2):
            with torch.no_grad():
                learned.heights[index] += step
                ends.append(second_moment())
                learned.heights[index] -= step
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-2, rel=2e-2)


def test_a_skipped_step_leaves_no_trace_in_a_learned_schedule(tiny_config, table, accelerator, monkeypatch):
    config = tiny_config(objective="epsilon", schedule="learned", max_train_images=40)

    def train_once() -> torch.Tensor:
        session = open_session(config, (table, table), accelerator)
        list(session.steps())
        return session.objective.learned.table().detach()

    undisturbed, calls = train_once(), []

    def overflow_once(state, original=loop._optimizer_step):
        calls.append(state)
        if len(calls) != 2:
            return original(state)
        for weight in state.learned.parameters():
            weight.grad.fill_(math.nan)
        state.optimizer.zero_grad()
        return False

    monkeypatch.setattr(loop, "_optimizer_step", overflow_once)
    assert torch.equal(train_once(), undisturbed)
    assert len(calls) == 6


@pytest.mark.parametrize(
    ("device", "precision", "fused"), [("cpu", "bf16", False), ("cpu", "no", True), ("cuda", "bf16", True)]
)
def test_attention_is_not_fused_where_that_is_slow(device, precision, fused):
    accelerator = SimpleNamespace(device=torch.device(device), mixed_precision=precision)
    with attention_kernel(accelerator):
        assert torch.backends.cuda.flash_sdp_enabled() is fused
    assert torch.backends.cuda.flash_sdp_enabled()
