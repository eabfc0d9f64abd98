"""What an evaluation draws, and how.

Each image has its own noise, a function of (seed, number of the image), so that the number of processes and the
size of batches change nothing. The samples are measured in an order that their content and the seed decide.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, TypeAlias

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor
from tqdm import tqdm

from hfdiff.core.seeds import derive_seed
from hfdiff.data.styles import LEVELS
from hfdiff.data.table import to_bytes
from hfdiff.evaluation.features import content_order
from hfdiff.evaluation.judge import Judge
from hfdiff.evaluation.reference_images import JudgedImages, ReferenceSet, judge_images
from hfdiff.models.sampling import generators, sample_tensors
from hfdiff.pipelines import SAMPLING_DEFAULTS, ClassStylePipeline

BATCH = 100  # images drawn at once
PROBE = 20  # images that tell what one costs
Cell: TypeAlias = tuple[int, tuple[str, ...]]  # a class id, and the styles of an image
# Arguments of the pipeline that a report states.
SETTINGS = tuple(SAMPLING_DEFAULTS)


@dataclass(frozen=True)
class Request:
    """Images to draw: what each should show."""

    labels: Tensor  # (N,) int64
    styles: tuple[dict[str, float], ...]  # of each

    def __len__(self) -> int:
        return len(self.labels)


def plain_request(real: ReferenceSet, n: int) -> Request:
    """The classes of real images, in no style but those that the data itself names: drawings that match, one by one,
    the real images that stand beside them."""
    rows = torch.arange(n) % len(real.others)
    own = [(real.judge.style_names.index(name), name) for name in real.training.style_names]
    strengths = real.others.strengths[rows].tolist()
    styles = tuple({name: row[i] for i, name in own if row[i] > 0} for row in strengths)
    return Request(real.others.labels[rows], styles)


def styled_request(pipeline: ClassStylePipeline, n: int, seed: int) -> Request:
    """Every class, by turns in a style alone and in a pair of styles that do not exclude each other, in random order,
    at the strengths above 0 of `LEVELS`."""
    groups = {name: pipeline.config.styles[name].get("group") or name for name in pipeline.style_names}
    pairs = [pair for pair in combinations(groups, 2) if groups[pair[0]] != groups[pair[1]]]
    generator = torch.Generator().manual_seed(derive_seed(seed, "styles"))
    singles = _shuffled([(label, (name,)) for label in range(len(pipeline.class_names)) for name in groups], generator)
    both = _shuffled([(label, pair) for label in range(len(pipeline.class_names)) for pair in pairs], generator)
    turns = [cells for cells in (singles, both) if cells]
    chosen = [turns[i % len(turns)][i // len(turns) % len(turns[i % len(turns)])] for i in range(n)]
    strengths = torch.tensor(LEVELS[1:])[torch.randint(len(LEVELS) - 1, (n, 2), generator=generator)].tolist()
    styles = tuple(dict(zip(kind, row)) for (_, kind), row in zip(chosen, strengths))
    return Request(torch.tensor([label for label, _ in chosen], dtype=torch.int64), styles)


def _shuffled(cells: list[Cell], generator: torch.Generator) -> list[Cell]:
    return [cells[i] for i in torch.randperm(len(cells), generator=generator).tolist()]


def draw_request(
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
            generator=generators(rows, seed, "picture"),
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


@dataclass(frozen=True)
class Protocol:
    """How the samples of a report are drawn."""

    n: int
    num_styled: int
    seed: int
    given: dict[str, Any]  # arguments of the pipeline; its own defaults hold for the others


def seconds_per_image(pipeline: ClassStylePipeline, **given: Any) -> float:
    """What a plain image costs, by the clock of a small batch in one process."""
    request = Request(torch.arange(PROBE) % len(pipeline.class_names), ({},) * PROBE)
    for _ in range(2):  # the first is slower
        started = time.perf_counter()
        draw_request(pipeline, request, seed=0, **given)
        seconds = time.perf_counter() - started
    return broadcast_object_list([seconds])[0] / PROBE


def within(minutes: float, pipeline: ClassStylePipeline, protocol: Protocol) -> Protocol:
    """As many images as can be drawn in four fifths of the time, at most those of the protocol."""
    seconds = seconds_per_image(pipeline, **protocol.given) / PartialState().num_processes
    share = 0.8 * 60 * minutes / seconds / (protocol.n + protocol.num_styled)
    n, num_styled = (min(most, max(1, int(share * most))) for most in (protocol.n, protocol.num_styled))
    return replace(protocol, n=n, num_styled=num_styled)


@dataclass(frozen=True)
class EvaluationSamples:
    """The samples of a report, as the judge saw them, plain ones in `content_order`, and the seconds that they took."""

    samples: JudgedImages
    styled: JudgedImages | None
    seconds: float


def draw_samples(
    pipeline: ClassStylePipeline, real: ReferenceSet, protocol: Protocol, quiet: bool = False
) -> EvaluationSamples:
    """Draw what the protocol says and let the judge see it: plain samples, and samples in styles."""
    started = time.perf_counter()
    requests = [plain_request(real, protocol.n), styled_request(pipeline, protocol.num_styled, protocol.seed)]
    state, scorer = PartialState(), real.clip_reference.scorer if real.clip_reference else None
    total = -(-sum(map(len, requests)) // state.num_processes)
    images: list[JudgedImages] = []
    with tqdm(total=total, unit="img", desc="drawing", disable=quiet or not state.is_main_process) as bar:
        for number, request in enumerate(filter(len, requests)):
            pixels = draw_request(pipeline, request, derive_seed(protocol.seed, number), bar.update, **protocol.given)
            strengths = strengths_of(request, real.judge)
            images.append(judge_images(real.judge, pixels, request.labels, strengths, scorer))
    plain = images[0][content_order(images[0].pixels, images[0].labels, protocol.seed)]
    return EvaluationSamples(plain, images[1] if len(images) > 1 else None, time.perf_counter() - started)
