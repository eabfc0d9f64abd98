"""The table of a study, for a screen and a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from hfdiff.evaluation.metrics import METRICS
from hfdiff.study.config import Study, budget_of
from hfdiff.study.judging import DISTANCE, SEED, StudyJudge
from hfdiff.study.results import Estimate, Row, ratio_of, recommended, undecided


def table(rows: Sequence[Row], judge: StudyJudge) -> str:
    """Markdown: a line for each variant, means over seeds with 95% intervals, real images last."""
    names = list(judge.names)
    head = ["variant", "seeds", "guidance", *names, "distance, of the base's", "images", "CPU s", "verdict"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        share = "" if row.share == 1 else f" (at {row.share:.2g} of the budget)"
        lines.append(
            [
                row.variant.name.replace("|", r"\|") + share,
                str(len(row.seeds)),
                "" if row.guidance_scale is None else f"{row.guidance_scale:g}",
                *(shown(row.values.get(name), name) for name in names),
                "" if row.ratio is None else ratio_of(row.ratio),
                *(f"{row.values[key].mean:,.0f}" if row.values else "" for key in ("images", "cpu_seconds")),
                row.verdict,
            ]
        )
    real = [f"{judge.reference[name]:.3g}" if name in judge.reference else "" for name in names]
    lines.append(["real images", "", "", *real, "", "", "", ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(estimate: Estimate | None, name: str) -> str:
    if estimate is None:
        return ""
    form = ".2f" if name == DISTANCE else ".3f"
    return f"{estimate.mean:{form}}" + ("" if estimate.half is None else f" ± {estimate.half:{form}}")


def describe(study: Study, rows: Sequence[Row], judge: StudyJudge) -> str:
    """The whole report in Markdown."""
    name, budget = budget_of(study.config)
    config = study.config
    texts = [
        f"# A study of {', '.join(config.factors)}",
        f"{len(study.variants)} variants, seeds {', '.join(map(str, config.seeds))}, each run with {name} {budget:g}; "
        f"n = {config.num_images:,} plain samples, seed {SEED}, at each guidance scale of "
        f"{', '.join(f'{scale:g}' for scale in config.guidance_scale)}, of which a variant shows the one of its least "
        f"mean distance. Judge and {len(judge.real.reference):,} training images that it never saw of "
        f"{judge.real.training.name}; ± and [ ] are 95% intervals over seeds (Student's t), ratios are paired by seed. "
        f"Of many variants, one in forty looks better by chance.",
        table(rows, judge),
    ]
    if open_questions := undecided(rows):
        texts += ["## Not decided", "\n".join(f"- {line}" for line in open_questions)]
    if failures := [f"- {row.variant.name}, {failure}" for row in rows for failure in row.failures]:
        texts += ["## Failed runs", "\n".join(failures)]
    return "\n\n".join(texts) + "\n"


def recommendation(study: Study, rows: Sequence[Row]) -> str:
    """The YAML of the configuration that the study recommends."""
    keys = recommended(study, rows)
    changed = {key: value for key, value in keys.items() if study.base.get(key) != value or key not in study.base}
    gains = [
        row
        for row in rows
        if row.verdict == "better" and row.share == 1 and row.variant.changes.items() <= keys.items()
    ]
    said = "; ".join(f"{row.variant.name}: distance {ratio_of(row.ratio)} of the base's" for row in gains if row.ratio)
    if not changed:
        said = "nothing was decidedly better than the base"
    elif len(gains) > 1:
        said += ". Each was measured alone: measure them together"
    return f"# Recommended by a study. {said}.\n" + yaml.safe_dump(keys, sort_keys=False)


def record(study: Study, rows: Sequence[Row], judge: StudyJudge) -> Mapping[str, Any]:
    """The same as plain values for JSON; intervals as [low, high], null of one seed."""

    def plain(estimate: Estimate | None) -> Any:
        if estimate is None:
            return None
        ci95 = None if estimate.half is None else [estimate.low, estimate.high]
        return {"mean": estimate.mean, "ci95": ci95}

    return {
        "budget": dict([budget_of(study.config)]),
        "num_images": study.config.num_images,
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
                "log_ratio": plain(row.ratio),
                "recall_gain": plain(row.recall),
                "verdict": row.verdict,
                "failures": list(row.failures),
            }
            for row in rows
        ],
    }
