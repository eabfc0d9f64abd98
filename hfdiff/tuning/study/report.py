"""What a study leaves: a table, the same as JSON, and the configuration that it recommends."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
import yaml

from hfdiff.core.config import to_mapping
from hfdiff.evaluation.metrics import METRICS
from hfdiff.training.config import TrainConfig
from hfdiff.training.log import device_name, versions
from hfdiff.tuning.measure import DISTANCE
from hfdiff.tuning.study.config import BUDGETS, KEYS, Study, budget_of, rungs
from hfdiff.tuning.study.judging import SEED, StudyJudge
from hfdiff.tuning.study.results import Estimate, Row, ratio_of, recommended, undecided


def table(rows: Sequence[Row], judge: StudyJudge) -> str:
    """Markdown: a line for each variant, means over seeds with 95% intervals, real images last."""
    names = list(judge.names)
    head = ["variant", "seeds", "guidance", *names, "distance / base's", "pairs", "images", "CPU s", "verdict"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        lines.append(
            [
                row.variant.name.replace("|", r"\|"),
                str(len(row.seeds)),
                "" if row.guidance_scale is None else f"{row.guidance_scale:g}",
                *(shown(row.values.get(name), name) for name in names),
                "" if row.ratio is None else ratio_of(row.ratio),
                "" if row.ratio is None else str(row.num_pairs),
                *(f"{row.values[key].mean:,.0f}" if row.values else "" for key in ("images", "cpu_seconds")),
                row.verdict,
            ]
        )
    real = [f"{judge.reference[name]:.3g}" if name in judge.reference else "" for name in names]
    lines.append(["real images", "", "", *real, "", "", "", "", ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(estimate: Estimate | None, name: str) -> str:
    if estimate is None:
        return ""
    form = ".2f" if name == DISTANCE else ".3f"
    return f"{estimate.mean:{form}}" + ("" if estimate.half is None else f" ± {estimate.half:{form}}")


def describe(study: Study, rows: Sequence[Row], judge: StudyJudge, device: torch.device) -> str:
    """The whole report in Markdown."""
    (name, budget), config = budget_of(study.config), study.config
    stages, scales = rungs(config, len(study.variants) - 1), ", ".join(f"{scale:g}" for scale in config.guidance_scale)
    halving = ", ".join(f"{count + 1} at {share:.2g}" for share, count in stages)
    texts = [
        f"# A study of {', '.join(config.factors)}",
        f"{len(study.variants)} variants, seeds {', '.join(map(str, config.seeds))}, {name} {budget:g} for each run"
        + (f" ({halving} of it)" if len(stages) > 1 else "")
        + f"; {device_name(device)}, {config.at_once} at once. n = {config.num_images:,} plain samples, seed {SEED}, "
        f"at each guidance scale of {scales}; a variant shows the one of its least mean distance. Beside "
        f"{len(judge.real.reference):,} training images of {judge.real.training.name} that the judge never saw, but "
        "the runs did: a report by hfdiff evaluate tells how near to test images they come, and whether they copy. "
        "± and [ ] are 95% intervals over seeds (Student's t); ratios are of runs of one seed.",
        table(rows, judge),
        "Every ratio has the base's runs in it, so errors come together, and the best of many is a little too good: "
        "measure what is recommended with new seeds.",
    ]
    if open_questions := undecided(rows):
        texts += ["## Not decided", "\n".join(f"- {line}" for line in open_questions)]
    if failures := [f"- {row.variant.name}, {failure}" for row in rows for failure in row.failures]:
        texts += ["## Failed runs", "\n".join(failures)]
    return "\n\n".join(texts) + "\n"


def recommendation(study: Study, rows: Sequence[Row]) -> str:
    """The YAML of the configuration that the study recommends, of the study's budget."""
    config, chosen = recommended(study, rows)
    lines = [f"{row.variant.name}: distance {ratio_of(row.ratio)} of the base's" for row in chosen if row.ratio]
    if not rows[0].values:
        lines = ["Nothing was decided: no run of the base was measured."]
    elif not chosen:
        lines = ["Nothing was decidedly better than the base."]
    elif len(chosen) > 1:
        lines.append("Each was measured alone: measure them together.")
    best = chosen[0] if chosen else rows[0]
    if best.guidance_scale is not None:
        lines.append(f"Best guidance of class and style: {best.guidance_scale:g}.")
    default = to_mapping(TrainConfig())
    own = KEYS | set(BUDGETS.values())
    keys = {key: value for key, value in to_mapping(config).items() if key in own and value != default[key]}
    return "".join(f"# {line}\n" for line in ["Recommended by a study, for its budget.", *lines]) + yaml.safe_dump(
        keys, sort_keys=False
    )


def record(study: Study, rows: Sequence[Row], judge: StudyJudge, device: torch.device) -> Mapping[str, Any]:
    """The same as plain values for JSON; intervals as [low, high], null of one seed."""

    def plain(estimate: Estimate | None) -> Any:
        if estimate is None:
            return None
        ci95 = None if estimate.half is None else [estimate.low, estimate.high]
        return {"mean": estimate.mean, "ci95": ci95}

    return {
        "study": asdict(study.config),
        "seed": SEED,
        "judge": {"half_seen": judge.real.judge.half_seen, "accuracy": judge.real.judge.test_accuracy},
        "reference_n": len(judge.real.reference),
        "device": device_name(device),
        "machine": platform.machine(),
        "versions": versions(),
        "better": {name: METRICS[name].better for name in judge.names},
        "real": judge.reference,
        "variants": [
            {
                "name": row.variant.name,
                "changes": dict(row.variant.changes),
                "share": row.share,
                "seeds": list(row.seeds),
                "guidance_scale": row.guidance_scale,
                "values": {name: plain(value) for name, value in row.values.items()},
                "pairs": row.num_pairs,
                "log_ratio": plain(row.ratio),
                "recall_gain": plain(row.recall),
                "verdict": row.verdict,
                "failures": list(row.failures),
            }
            for row in rows
        ],
    }
