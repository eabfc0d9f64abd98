"""The best of many candidates by CLIP, and what its scores mean: a score means nothing without the same score of
real, blurred and noisy images, and without a judge that did not choose."""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from kornia.filters import laplacian, sobel
from torch import Tensor
from torchmetrics.functional.regression import spearman_corrcoef
from tqdm import tqdm

from hfdiff.core.files import slug, write_file, write_json
from hfdiff.core.seeds import derive_seed
from hfdiff.data.table import ImageTable, to_bytes, to_unit_range
from hfdiff.evaluation.judge import Judge, predict, right_scores
from hfdiff.evaluation.reference_images import reference_images
from hfdiff.models.sampling import sample_tensors
from hfdiff.pipelines import (
    PLAIN,
    SCORE_WEIGHTS,
    SCORES,
    SURVIVING_SHARE,
    ClassStylePipeline,
    PromptTarget,
    Scorer,
    StyleSpec,
    prompt,
    score_images,
)

RANDOM = 4  # samples that the best are compared with
MAX_REFERENCE = 100  # real images of a class
EDGE = 0.1  # of the gradient of images in [0, 1], from which on a pixel is an edge
SCORE_NAMES = (*SCORES, "total")
KINDS = ("real", "blurred", "noise")


@dataclass(frozen=True)
class Candidates:
    """N candidates of one class in one style, of which n were finished; these come best first."""

    asked: PromptTarget
    class_name: str
    styles: dict[str, float]
    seeds: list[int]  # of all, in the order drawn
    order: list[int]  # (n,) their numbers, best first
    images: Tensor  # (n, C, H, W) float32 in [0, 1]
    scores: Tensor  # (n, len(SCORE_NAMES)) float32
    top_k: int
    number: int = 0  # of the class and style, in the order asked for

    @property
    def style(self) -> str:
        """As the grammar writes it."""
        return "+".join(f"{name}:{strength:g}" for name, strength in self.styles.items()) or PLAIN

    @property
    def name(self) -> str:
        return f"{self.class_name}, {self.style}"

    @property
    def all_finished(self) -> bool:
        """False where only those that looked well were: they tell nothing of the others."""
        return len(self.order) == len(self.seeds)

    @property
    def random(self) -> Tensor:
        """Rows of the first candidates drawn, whatever they scored; none where hopeless ones were not finished."""
        rows = [row for row, number in enumerate(self.order) if self.all_finished and number < RANDOM]
        return torch.tensor(rows, dtype=torch.int64)

    @property
    def high_quality(self) -> float | None:
        """The share that the positive prompts win."""
        return high_quality(self.scores) if self.all_finished else None

    def file(self, rank: int) -> str:
        return f"{self.number:03d}-{slug(self.class_name)}-{slug(self.style)}-{rank}.png"

    def records(self) -> list[dict[str, Any]]:
        """For each candidate: seed, styles, scores, rank from 1, and whether it was selected; by rank."""
        finished: list[dict[str, Any]] = [
            {
                "seed": self.seeds[number],
                "scores": dict(zip(SCORE_NAMES, row)),
                "rank": rank,
                "selected": rank <= self.top_k,
                "file": self.file(rank) if rank <= self.top_k else None,
            }
            for rank, (number, row) in enumerate(zip(self.order, self.scores.tolist()), start=1)
        ]
        stopped: list[dict[str, Any]] = [
            {"seed": seed, "scores": None, "rank": None, "selected": False, "file": None}
            for number, seed in enumerate(self.seeds)
            if number not in self.order
        ]
        return [{"styles": self.styles, **record} for record in (*finished, *stopped)]


def high_quality(scores: Tensor) -> float:
    """The share of images (n, len(SCORE_NAMES)) that the positive prompts win."""
    return (scores[:, SCORE_NAMES.index("quality")] > 0.5).double().mean().item()


def draw_candidates(
    pipeline: ClassStylePipeline,
    class_label: int | str,
    style: Any,
    seeds: Sequence[int],
    *,
    top_k: int,
    early_stopping: bool = False,
    **arguments: Any,
) -> Candidates:
    """Draw one candidate from each seed; with early stopping only the promising ones are finished."""
    kept = max(top_k, math.ceil(len(seeds) * SURVIVING_SHARE)) if early_stopping else len(seeds)
    out = sample_tensors(
        pipeline,
        [class_label],
        styles=style,
        num_candidates=len(seeds),
        top_k=kept,
        early_stopping=early_stopping,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **arguments,
    )
    class_id, styles = out.class_labels[0], out.styles[0]
    assert class_id is not None  # refused by the pipeline
    return Candidates(
        asked=pipeline.prompt_target(
            class_id, styles, **{k: v for k, v in arguments.items() if k == "quality_prompts"}
        ),
        class_name=pipeline.class_names[class_id],
        styles=styles,
        seeds=list(seeds),
        order=out.candidates,
        images=out.images,
        scores=torch.tensor([[row[name] for name in SCORE_NAMES] for row in out.scores]),
        top_k=top_k,
    )


@dataclass(frozen=True)
class Reference:
    """What the same scores say of real images of a class, as they are and damaged: (n, len(SCORE_NAMES)) each."""

    scores: dict[str, Tensor]

    def summary(self) -> dict[str, Any]:
        return {
            name: {
                "n": len(rows),
                "high_quality_share": high_quality(rows),
                "mean_scores": dict(zip(SCORE_NAMES, rows.mean(dim=0).tolist())),
            }
            for name, rows in self.scores.items()
        }


@torch.no_grad()
def reference(
    scorer: Scorer, asked: PromptTarget, real: ImageTable | None, weights: Mapping[str, float], seed: int = 0
) -> Reference | None:
    """Score held-out images of the class asked for, the same ones blurred, and noise of their size; None without."""
    if real is None or asked.class_id not in real.labels:
        return None
    images = to_unit_range(real.pixels[real.labels == asked.class_id][:MAX_REFERENCE])
    label = torch.zeros(len(images), dtype=torch.int64)
    parts = reference_images(images, seed).items()
    return Reference({name: score_images(scorer, part, [asked], label, weights) for name, part in parts})


def image_statistics(images: Tensor) -> dict[str, Tensor]:
    """What a score may secretly go with: statistics of images (n, C, H, W) in [0, 1]: (n,) each."""
    grey = images.mean(dim=1, keepdim=True)
    return {
        "contrast": grey.std(dim=(1, 2, 3)),
        "sharpness": laplacian(grey, 3).var(dim=(1, 2, 3)),
        "edge_density": (sobel(grey) > EDGE).float().mean(dim=(1, 2, 3)),
        "brightness": grey.mean(dim=(1, 2, 3)),
    }


def preferences(candidates: Candidates, judge: Judge | None) -> dict[str, dict[str, float | None]] | None:
    """Spearman's correlation of each score with each property of the images, and with the judge's confidence; None
    where only the best were finished."""
    if not candidates.all_finished:
        return None
    against = image_statistics(candidates.images)
    if judge is not None:
        output = predict(judge, to_bytes(candidates.images))
        against["judge"] = right_scores(output, torch.full((len(candidates.images),), candidates.asked.class_id))
    return {
        score: {name: _spearman(candidates.scores[:, column], values) for name, values in against.items()}
        for column, score in enumerate(SCORE_NAMES)
    }


def _spearman(a: Tensor, b: Tensor) -> float | None:
    """None where one of the two does not vary."""
    if len(a) < 2 or len(a.unique()) < 2 or len(b.unique()) < 2:
        return None
    return spearman_corrcoef(a, b).item()


@dataclass(frozen=True)
class SelectionReferences:
    """Who did not choose: real images that the scorer never saw, and a judge."""

    real: ImageTable | None
    judge: Judge | None


@dataclass(frozen=True)
class Selection:
    """The candidates of every class and style, and what they are compared with."""

    cells: list[Candidates]
    references: list[Reference | None]  # of each
    judge: Judge | None

    @cached_property
    def preferences(self) -> list[dict[str, dict[str, float | None]] | None]:
        """Of each cell."""
        return [preferences(cell, self.judge) for cell in self.cells]

    @cached_property
    def verdicts(self) -> list[dict[str, float | None]]:
        """Of each cell: the share of random and of the best images that the judge puts right, and their numbers."""
        kinds = [{"random": cell.random, "best": torch.arange(cell.top_k)} for cell in self.cells]
        return [
            {kind: self.share_right(cell, rows) for kind, rows in of.items()}
            | {f"n_{kind}": len(rows) for kind, rows in of.items()}
            for cell, of in zip(self.cells, kinds)
        ]

    def share_right(self, cell: Candidates, rows: Tensor) -> float | None:
        """The share of images in rows of a cell that the judge puts into the class asked for."""
        if self.judge is None or not len(rows):
            return None
        output = predict(self.judge, to_bytes(cell.images[rows]))
        return (output.classes == cell.asked.class_id).double().mean().item()

    def describe(self) -> str:
        """A table: random samples against the best, by CLIP's total and by the judge, with real images beside."""
        by_judge = f"; right by the judge, which is so on {self.judge.test_accuracy} of real ones" if self.judge else ""
        lines = [
            f"mean total score of {RANDOM} random samples and of the best{by_judge}",
            f"{'class, style':<28} "
            + " ".join(f"{name:>7}" for name in ("random", "best", *KINDS))
            + "    high quality: all, real",
        ]
        for cell, beside, right in zip(self.cells, self.references, self.verdicts):
            totals = [rows.mean().item() for rows in (cell.scores[cell.random, -1], cell.scores[: cell.top_k, -1])]
            known = beside.summary() if beside else {}
            totals += [known[name]["mean_scores"]["total"] if known else math.nan for name in KINDS]
            share = known["real"]["high_quality_share"] if known else math.nan
            line = f"{cell.name:<28.28} " + " ".join(map(_padded, totals))
            line += f"    {_padded(cell.high_quality, 2)}, {_padded(share, 2)}"
            if self.judge is not None:
                line += f"   right: random {_padded(right['random'], 2)}, best {_padded(right['best'], 2)}"
            lines.append(line)
        return "\n".join([*lines, *self.describe_preferences()])

    def describe_preferences(self) -> list[str]:
        """What the scores go with: a table of mean correlations over the classes and styles."""
        known = [table for table in self.preferences if table]
        if not known:
            return []
        columns = list(known[0]["total"])
        lines = ["", f"{'Spearman with':<28} " + " ".join(f"{name:>12}" for name in columns)]
        for score in SCORE_NAMES:
            values = [[table[score][name] for table in known if table[score][name] is not None] for name in columns]
            means = [sum(row) / len(row) if row else math.nan for row in values]  # type: ignore[arg-type]
            lines.append(f"{score:<28} " + " ".join(f"{_padded(mean, 2):>12}" for mean in means))
        return lines

    def report(self) -> dict[str, Any]:
        """selection.json, but for the settings."""
        classes: dict[str, Any] = {}
        for cell, beside, liked, right in zip(self.cells, self.references, self.preferences, self.verdicts):
            entry = classes.setdefault(cell.class_name, {"high_quality_share": None, "candidates": [], "by_style": {}})
            entry["candidates"] += cell.records()
            entry["by_style"][cell.style] = {
                "prompt": prompt(cell.asked.subject),
                "high_quality_share": cell.high_quality,
                "beside": beside.summary() if beside else None,
                "n": len(cell.order),
                "preferences": liked,
                "right": right,
            }
        for entry in classes.values():
            shares = [row["high_quality_share"] for row in entry["by_style"].values()]
            entry["high_quality_share"] = None if None in shares else sum(shares) / len(shares)
        prompts = {"quality": dict(self.cells[0].asked.quality_prompts)}
        judge = self.judge and {"trained_on": self.judge.trained_on, "accuracy_on_real": self.judge.test_accuracy}
        return {"prompts": prompts, "judge": judge, "classes": classes}

    def write(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """selection.json and the best images."""
        folder.mkdir(parents=True, exist_ok=True)
        for cell in self.cells:
            for rank, image in enumerate(cell.images[: cell.top_k], start=1):
                png = io.BytesIO()
                DiffusionPipeline.numpy_to_pil(image.permute(1, 2, 0).numpy())[0].save(png, "PNG")
                write_file(folder / cell.file(rank), png.getvalue())
        write_json(folder / "selection.json", {**settings, **self.report()})


def _padded(value: float | None, digits: int = 3) -> str:
    """A number for the table, a dash for none."""
    text = "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
    return f"{text:>{digits + 4}}"


def select(
    pipeline: ClassStylePipeline,
    class_labels: Sequence[int | str],
    styles: Sequence[StyleSpec],
    selection_references: SelectionReferences,
    *,
    num_candidates: int = 10,
    top_k: int = 3,
    seed: int = 0,
    **arguments: Any,
) -> Selection:
    """Draw the candidates of every class in every style, each from a seed of its own; score real images beside."""
    pairs = list(product(class_labels, styles))
    ids, strengths = pipeline.conditions([label for label, _ in pairs], [style for _, style in pairs])
    if len({(i, tuple(sorted(given.items()))) for i, given in zip(ids, strengths)}) < len(pairs):
        raise ValueError(f"{len(pairs)} classes and styles, some of them twice; valid: each once")
    templates = {key: value for key, value in arguments.items() if key == "quality_prompts"}
    pipeline.check_prompts([pipeline.prompt_target(*pair, **templates) for pair in zip(ids, strengths)])
    weights = arguments.get("score_weights", SCORE_WEIGHTS)
    cells, references = [], []
    for i, (label, style) in enumerate(tqdm(pairs, desc="drawing", unit="class")):
        seeds = [derive_seed(seed, "candidate", i, number) for number in range(num_candidates)]
        cell = replace(draw_candidates(pipeline, label, style, seeds, top_k=top_k, **arguments), number=i)
        cells.append(cell)
        references.append(reference(pipeline.scorer, cell.asked, selection_references.real, weights, seed))
    return Selection(cells, references, selection_references.judge)
