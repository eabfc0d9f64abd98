"""The evaluation of a trained model: draw its samples, measure them, and write one JSON.

Each picture has its own noise, a function of (seed, number of the picture), so that the number of processes and the
size of batches change nothing.
"""

import contextlib
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from tqdm import tqdm

from hfdiff.core.errors import BadInput
from hfdiff.core.seeds import seed_of
from hfdiff.data.columns import Reading
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.data.table import ImageTable, alike, to_bytes
from hfdiff.evaluation import METRICS, Evidence, Judged, Real, judge_pictures, right
from hfdiff.judge import Judge
from hfdiff.models.loading import weights_fingerprint
from hfdiff.models.samplers import sampler_of
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.training.run_folder import run_config

BATCH = 100  # pictures drawn at once
PROBE = 20  # pictures that tell what one costs
# Arguments of the pipeline that a report states.
SETTINGS = (
    "num_inference_steps",
    "guidance_scale",
    "style_guidance_scale",
    "autoguidance_scale",
    "guidance_rescale",
    "guidance_interval",
)


@dataclass(frozen=True)
class Request:
    """Pictures to draw: what each should show."""

    labels: Tensor  # (N,) int64
    styles: tuple[dict[str, float], ...]  # of each

    def __len__(self) -> int:
        return len(self.labels)


def plain_request(real: Real, n: int) -> Request:
    """The classes of real pictures, in no style but those that the data itself names: drawings that match, one by one,
    the real pictures that stand beside them."""
    rows = torch.arange(n) % len(real.others)
    own = [(real.judge.style_names.index(name), name) for name in real.training.style_names]
    strengths = real.others.strengths[rows].tolist()
    styles = tuple({name: row[i] for i, name in own if row[i] > 0} for row in strengths)
    return Request(real.others.labels[rows], styles)


def styled_request(pipeline: ClassStylePipeline, n: int, seed: int) -> Request:
    """Every class in every style and in every pair of styles that do not exclude each other, in random order; the
    strengths uniform in (0, 1]."""
    groups = {name: pipeline.config.styles[name].get("group") or name for name in pipeline.style_names}
    pairs = [pair for pair in combinations(groups, 2) if groups[pair[0]] != groups[pair[1]]]
    kinds: list[tuple[str, ...]] = [*((name,) for name in groups), *pairs]
    cells = [(label, kind) for label in range(len(pipeline.class_names)) for kind in kinds]
    generator = torch.Generator().manual_seed(seed_of(seed, "styles"))
    order = torch.randperm(len(cells), generator=generator).tolist()
    chosen = [cells[order[i % len(cells)]] for i in range(n)]
    strengths = (1 - torch.rand((n, 2), generator=generator)).tolist()
    styles = tuple(dict(zip(kind, row)) for (_, kind), row in zip(chosen, strengths))
    return Request(torch.tensor([label for label, _ in chosen], dtype=torch.int64), styles)


def draw(
    pipeline: ClassStylePipeline,
    request: Request,
    seed: int,
    tick: Callable[[int], object] = lambda count: None,
    **given: Any,
) -> Tensor:
    """Pixels (N, C, H, W) uint8 on the CPU, the processes taking batches in turn; `tick` counts those of this one."""
    state = PartialState()
    starts = range(0, len(request), BATCH)
    mine: list[tuple[int, Tensor]] = []
    for start in starts[state.process_index :: state.num_processes]:
        rows = range(start, min(start + BATCH, len(request)))
        images = sample_tensors(
            pipeline,
            class_labels=request.labels[rows.start : rows.stop].tolist(),
            styles=[request.styles[row] for row in rows],
            generator=[torch.Generator().manual_seed(seed_of(seed, "picture", row)) for row in rows],
            **given,
        ).images
        mine.append((start, to_bytes(images)))
        tick(len(rows))
    parts = dict(gather_object(mine))
    return torch.cat([parts[start] for start in starts])


def strengths_of(request: Request, judge: Judge) -> Tensor:
    """Strengths (N, S) asked for, in the order of the judge's styles."""
    rows = [[given.get(name, 0.0) for name in judge.style_names] for given in request.styles]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(request), len(judge.style_names))


def check_fits(pipeline: ClassStylePipeline, table: ImageTable) -> None:
    """BadInput where the model cannot be held against these pictures."""
    if not pipeline.class_names:
        raise BadInput("the model knows no classes, so nothing can be asked of it; valid: a model trained with classes")
    if tuple(map(str.lower, pipeline.class_names)) != tuple(map(str.lower, table.class_names)):
        names = [", ".join(names[:12]) for names in (pipeline.class_names, table.class_names)]
        if sorted(map(str.lower, pipeline.class_names)) == sorted(map(str.lower, table.class_names)):
            names[1] += ": the same in another order, where class folders or a ClassLabel column can give the model's"
        raise BadInput(f"the model draws the classes {names[0]}; data set {table.name!r} has {names[1]}")
    config = pipeline.unet.config
    side = config.sample_size
    size = (side, side) if isinstance(side, int) else tuple(side)
    if (config.in_channels, size) != (table.channels, table.size):
        drawn, real = (
            f"{h}x{w} with {c} channels" for c, (h, w) in ((config.in_channels, size), (table.channels, table.size))
        )
        advice = f"; give --resolution {size[0]}" if size[0] == size[1] and size != table.size else ""
        raise BadInput(f"the model draws pictures of {drawn}, data set {table.name!r} holds {real}{advice}")


@dataclass(frozen=True)
class Protocol:
    """How the samples of a report are drawn."""

    n: int
    num_styled: int
    seed: int
    given: dict[str, Any]  # arguments of the pipeline; its own defaults hold for the others


def seconds_per_picture(pipeline: ClassStylePipeline, **given: Any) -> float:
    """What a plain picture costs, by the clock of a small batch in one process."""
    request = Request(torch.arange(PROBE) % len(pipeline.class_names), ({},) * PROBE)
    for _ in range(2):  # the first is slower
        started = time.perf_counter()
        draw(pipeline, request, seed=0, **given)
        seconds = time.perf_counter() - started
    return broadcast_object_list([seconds])[0] / PROBE


def within(minutes: float, pipeline: ClassStylePipeline, protocol: Protocol) -> Protocol:
    """As many pictures as can be drawn in four fifths of the time, at most those of the protocol."""
    seconds = seconds_per_picture(pipeline, **protocol.given) / PartialState().num_processes
    share = 0.8 * 60 * minutes / seconds / (protocol.n + protocol.num_styled)
    n, num_styled = (min(most, max(1, int(share * most))) for most in (protocol.n, protocol.num_styled))
    return replace(protocol, n=n, num_styled=num_styled)


@dataclass(frozen=True)
class Pictures:
    """The real pictures of an evaluation."""

    training: ImageTable
    held_out: ImageTable
    copied: ImageTable  # what the model was trained on, where its run tells and it can be read; else `training`
    resolution: int | None  # that they were resized to


def real_pictures(model: str, dataset: str | None, resolution: int | None) -> Pictures:
    """The pictures of a data set; by default the one that MODEL's run was trained on."""
    config = run_config(model)
    if dataset is None and config is None:
        raise BadInput(f"{model} is no run's folder, which would tell its data set; give --dataset")
    reading = Reading(resolution)
    if config and dataset in (None, config.dataset):
        dataset = config.dataset
        reading = replace(config.reading, resolution=resolution or config.resolution)
    assert dataset is not None
    training, held_out = alike(load_training_data(dataset, reading)[0], load_test_data(dataset, reading))
    copied = training
    if config and dataset != config.dataset:
        with contextlib.suppress(BadInput):  # its data is gone
            copied = load_training_data(config.dataset, replace(config.reading, resolution=config.resolution))[0]
    return Pictures(training, held_out, copied, reading.resolution)


@dataclass(frozen=True)
class Drawn:
    """The samples of a report, as the judge saw them, and the seconds that they took."""

    samples: Judged
    styled: Judged | None
    seconds: float


def draw_samples(pipeline: ClassStylePipeline, real: Real, protocol: Protocol, quiet: bool = False) -> Drawn:
    """Draw what the protocol says and let the judge see it: plain samples, and samples in styles."""
    started = time.perf_counter()
    requests = [plain_request(real, protocol.n), styled_request(pipeline, protocol.num_styled, protocol.seed)]
    state, scorer = PartialState(), real.scored.scorer if real.scored else None
    total = -(-sum(map(len, requests)) // state.num_processes)
    pictures: list[Judged] = []
    with tqdm(total=total, unit="img", desc="drawing", disable=quiet or not state.is_main_process) as bar:
        for number, request in enumerate(filter(len, requests)):
            pixels = draw(pipeline, request, seed_of(protocol.seed, number), bar.update, **protocol.given)
            strengths = strengths_of(request, real.judge)
            pictures.append(judge_pictures(real.judge, pixels, request.labels, strengths, scorer))
    return Drawn(pictures[0], pictures[1] if len(pictures) > 1 else None, time.perf_counter() - started)


def report_of(
    pipeline: ClassStylePipeline,
    real: Real,
    protocol: Protocol,
    drawn: Drawn,
    names: Sequence[str],
    **about: Any,
) -> dict[str, Any]:
    """The JSON of an evaluation; `about` joins its protocol. The samples were drawn blindly: none was chosen."""
    evidence = Evidence(real, drawn.samples, drawn.styled)
    metrics, seconds = {}, {"drawing": drawn.seconds}
    for name in names:
        started = time.perf_counter()
        metrics[name] = METRICS[name].measure(evidence).as_dict()
        seconds[name] = time.perf_counter() - started
    judge, reference = real.judge, real.reference
    parameters = inspect.signature(pipeline.__call__).parameters
    settings = {key: protocol.given.get(key, parameters[key].default) for key in SETTINGS}
    settings["guidance_interval"] = [
        str(level) if math.isinf(level) else level for level in settings["guidance_interval"]
    ]
    protocol_json = {
        "n": protocol.n,
        "num_styled": protocol.num_styled,
        "seed": protocol.seed,
        "weights": weights_fingerprint(pipeline.unet),
        "selection": "none",
        **about,
        "dataset": real.training.name,
        "split": real.split,
        "reference_n": len(reference),
        "size": list(real.training.size),
        "sampler": sampler_of(pipeline.scheduler),
        **settings,
        "judge": {
            "accuracy": right(reference),
            "trained_on": judge.trained_on,
            "half_seen": judge.half_seen,
            "fingerprint": judge.fingerprint,
        },
    }
    return {"protocol": protocol_json, "metrics": metrics, "seconds": seconds}


def chosen_by(protocol: Mapping[str, Any]) -> list[str]:
    """What a reader must know of how the weights were chosen, where that was not apart from this report."""
    if protocol["best_by"] == "frechet_judge":
        return ["the weights are those of the run's that were nearest by this judge"]
    if protocol["best_by"] and protocol["split"] != "test":
        return [f"the weights are those of the run's that were best by {protocol['best_by']} on a split like this one"]
    return []


def describe_report(report: dict[str, Any]) -> str:
    """A short table for the screen."""
    protocol, judge = report["protocol"], report["protocol"]["judge"]
    lines = [
        f"{protocol['n']:,} plain samples and {protocol['num_styled']:,} in styles, seed {protocol['seed']}, "
        f"{protocol['sampler']}, {protocol['num_inference_steps']} steps, against {protocol['reference_n']:,} pictures "
        f"of {protocol['dataset']} ({protocol['split']}); the judge names {judge['accuracy']:.3f} of those right",
        *chosen_by(protocol),
        "",
        f"{'metric':<18} {'value':>8}  {'95% interval':^19} {'real':>8} {'n':>7}  features",
    ]
    for name, metric in report["metrics"].items():
        interval = "" if metric["ci95"] is None else "{:8.3f} to {:<8.3f}".format(*metric["ci95"])
        floor = "" if metric["floor"] is None else f"{metric['floor']:.3f}"
        lines.append(
            f"{name:<18} {metric['value']:>8.3f}  {interval:<19} {floor:>8} {metric['n']:>7,}  {metric['extractor']}"
        )
    return "\n".join(lines)
