"""The best of many candidates by CLIP, and what its scores mean: a score means nothing without the same score of
real, blurred and noisy images, and without a judge that did not choose. The best have the highest scores whatever these
mean: of the choice only the judge's word is evidence."""

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
from torch import Tensor
from tqdm import tqdm

from hfdiff.core.files import slug, write_file, write_json
from hfdiff.core.seeds import derive_seed
from hfdiff.data.table import ImageTable, to_bytes, to_unit_range
from hfdiff.evaluation.judge import Judge, JudgeOutput, predict, right_scores
from hfdiff.evaluation.preferences import Correlations, image_properties, mean_correlations
from hfdiff.evaluation.reference_images import reference_images
from hfdiff.evaluation.statistics import gain_of_choice, share_true, wilson
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

MAX_REFERENCE = 100  # real images of a class
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
    def high_quality(self) -> Tensor | None:
        """Which the positive prompts win: (N,) bool."""
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


def high_quality(scores: Tensor) -> Tensor:
    """Which images the positive prompts win, of their scores (n, len(SCORE_NAMES)): (n,) bool."""
    return scores[:, SCORE_NAMES.index("quality")] > 0.5


def share_of_quality(hits: Sequence[Tensor | None]) -> dict[str, Any]:
    """The share of all, with its 95% interval; None where it is not known of some."""
    known = [part for part in hits if part is not None]
    if len(known) < len(hits):
        return {"high_quality_share": None, "high_quality_ci95": None}
    every = torch.cat(known)
    return {"high_quality_share": share_true(every), "high_quality_ci95": list(wilson(every))}


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
                **share_of_quality([high_quality(rows)]),
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


def preferences(candidates: Candidates, output: JudgeOutput | None, generator: torch.Generator) -> Correlations | None:
    """What each score goes with: properties of the images, and the judge's confidence; None where only the best were
    finished."""
    if not candidates.all_finished:
        return None
    against = image_properties(candidates.images)
    if output is not None:
        against["judge"] = right_scores(output, torch.full((len(candidates.images),), candidates.asked.class_id))
    return Correlations.of(dict(zip(SCORE_NAMES, candidates.scores.T)), against, generator)


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
    def judged(self) -> list[JudgeOutput | None]:
        """Of each cell, what the judge says of its images."""
        return [self.judge and predict(self.judge, to_bytes(cell.images)) for cell in self.cells]

    @cached_property
    def preferences(self) -> list[Correlations | None]:
        """Of each cell."""
        generator = torch.Generator().manual_seed(0)
        return [preferences(cell, output, generator) for cell, output in zip(self.cells, self.judged)]

    @cached_property
    def mean_preferences(self) -> Correlations | None:
        known = [table for table in self.preferences if table]
        return mean_correlations(known) if known else None

    @cached_property
    def hits(self) -> list[Tensor | None]:
        """Of each cell, which of its images (n,) the judge puts into the class asked for."""
        pairs = zip(self.cells, self.judged)
        return [None if output is None else output.classes == cell.asked.class_id for cell, output in pairs]

    @cached_property
    def verdicts(self) -> list[dict[str, float | None]]:
        """Of each cell: the share of all images, which a random choice has, and of the best that the judge puts right,
        and their numbers: too few for more than a detail."""
        return [_verdict(cell, hits) for cell, hits in zip(self.cells, self.hits)]

    @cached_property
    def verdict(self) -> dict[str, Any] | None:
        """Of all cells: the same, and the difference with its 95% interval; None where there is nothing to compare."""
        known = [hits for cell, hits in zip(self.cells, self.hits) if hits is not None and cell.all_finished]
        top_k = self.cells[0].top_k
        if len(known) < len(self.cells) or top_k == len(known[0]):
            return None
        hits = torch.stack(known)
        difference, interval = gain_of_choice(hits, top_k)
        return {
            "random": share_true(hits),
            "best": share_true(hits[:, :top_k]),
            "difference": difference,
            "ci95": list(interval),
            "n_random": hits.numel(),
            "n_best": hits[:, :top_k].numel(),
            "cells": len(hits),
        }

    def describe(self) -> str:
        """A table: the candidates beside real images by CLIP's total; what the judge says of the best; and what the
        scores go with."""
        lines = [
            "mean total score of all candidates, of real images, of these blurred, and of noise; high quality: the",
            "share that the positive prompts win, with its 95% interval, and that of real images",
            f"{'class, style':<28} " + " ".join(f"{name:>7}" for name in ("all", *KINDS)) + "    high quality, of real",
        ]
        for cell, beside, right in zip(self.cells, self.references, self.verdicts):
            known = beside.summary() if beside else {}
            totals = [cell.scores[:, -1].mean().item() if cell.all_finished else None]
            totals += [known[name]["mean_scores"]["total"] if known else None for name in KINDS]
            line = f"{cell.name:<28.28} " + " ".join(map(_padded, totals)) + f"    {_quality(cell.high_quality)}"
            line += f", {_padded(known['real']['high_quality_share'] if known else None, 2)}"
            if self.judge is not None:
                line += f"   right: all {_padded(right['random'], 2)}, best {_padded(right['best'], 2)}"
            lines.append(line)
        return "\n".join([*lines, *self.describe_verdict(), *self.describe_preferences()])

    def describe_verdict(self) -> list[str]:
        """What the judge says of the choice."""
        found = self.verdict
        if self.judge is None or found is None:
            return []
        low, high = found["ci95"]
        return [
            "",
            f"right by the judge, which is so on {self.judge.test_accuracy} of real images: {found['best']:.3f} of the "
            f"{found['n_best']} best, {found['random']:.3f} of the {found['n_random']} candidates",
            f"that they were chosen from: {found['difference']:+.3f}, 95% interval {low:+.3f} to {high:+.3f}",
        ]

    def describe_preferences(self) -> list[str]:
        """What the scores go with: a table of mean correlations over the classes and styles."""
        found = self.mean_preferences
        if found is None:
            return []
        lines = ["", f"{'Spearman with':<28} " + " ".join(f"{name:>12}" for name in found.properties)]
        for score, row in found.table.items():
            lines.append(f"{score:<28} " + " ".join(f"{_padded(value, 2):>12}" for value in row.values()))
        if found.chance95 is not None:
            lines.append(
                f"by chance alone the largest, of either sign, is at most {found.chance95:.2f} in 95% of shuffles"
            )
        return lines

    def report(self) -> dict[str, Any]:
        """selection.json, but for the settings."""
        classes: dict[str, Any] = {}
        for cell, beside, liked, right in zip(self.cells, self.references, self.preferences, self.verdicts):
            entry = classes.setdefault(cell.class_name, {**share_of_quality([None]), "candidates": [], "by_style": {}})
            entry["candidates"] += cell.records()
            entry["by_style"][cell.style] = {
                "prompt": prompt(cell.asked.subject),
                **share_of_quality([cell.high_quality]),
                "beside": beside.summary() if beside else None,
                "n": len(cell.order),
                "preferences": liked and liked.table,
                "preferences_chance95": liked and liked.chance95,
                "right": right,
            }
        for name, entry in classes.items():
            entry |= share_of_quality([cell.high_quality for cell in self.cells if cell.class_name == name])
        prompts = {"quality": dict(self.cells[0].asked.quality_prompts)}
        judge = self.judge and {"trained_on": self.judge.trained_on, "accuracy_on_real": self.judge.test_accuracy}
        found = self.mean_preferences
        means = found and {"mean": found.table, "chance95": found.chance95, "cells": len(self.cells)}
        return {"prompts": prompts, "judge": judge, "right": self.verdict, "preferences": means, "classes": classes}

    def write(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """selection.json and the best images."""
        folder.mkdir(parents=True, exist_ok=True)
        for cell in self.cells:
            for rank, image in enumerate(cell.images[: cell.top_k], start=1):
                png = io.BytesIO()
                DiffusionPipeline.numpy_to_pil(image.permute(1, 2, 0).numpy())[0].save(png, "PNG")
                write_file(folder / cell.file(rank), png.getvalue())
        write_json(folder / "selection.json", {**settings, **self.report()})


def _verdict(cell: Candidates, hits: Tensor | None) -> dict[str, float | None]:
    every = hits if cell.all_finished else None
    return {
        "random": None if every is None else share_true(every),
        "best": None if hits is None else share_true(hits[: cell.top_k]),
        "n_random": len(cell.order) if cell.all_finished else 0,
        "n_best": cell.top_k,
    }


def _quality(hits: Tensor | None) -> str:
    """A share and its 95% interval for the table, a dash for none."""
    return "-" if hits is None else "{:.2f} ({:.2f} to {:.2f})".format(share_true(hits), *wilson(hits))


def _padded(value: float | None, digits: int = 3) -> str:
    """A number for the table, a dash for none."""
    text = "-" if value is None else f"{value:.{digits}f}"
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
