"""Do the 95% intervals of the metrics hold in 95%? Real images in place of samples, drawn again and again, beside one
reference: how often the interval of a draw holds the mean over all draws.

python benchmarks/intervals.py --dataset ../data/fashion_mnist
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from hfdiff.core.config import command_line
from hfdiff.core.errors import run_program
from hfdiff.data.loading import load_test_data, load_training_data
from hfdiff.evaluation.clip import load_clip
from hfdiff.evaluation.judge import load_judge
from hfdiff.evaluation.metric import MetricInputs
from hfdiff.evaluation.metrics import METRICS
from hfdiff.evaluation.reference_images import JudgedImages, ReferenceSet
from hfdiff.pipelines import Scorer

# Not measured on plain samples; needs the scorer for each draw.
LEFT_OUT = ("style_fidelity", "memorisation", "clip_score")


@dataclass(frozen=True)
class Arguments:
    dataset: str = "fashion_mnist"
    """Its training images that neither model saw stand for samples, its test images are the reference."""
    models: str = "fashion_mnist_12k"
    """The dataset whose embedded judge and CLIP model look at them."""
    num_images: int = 1000
    redraws: int = 1000
    seed: int = 0


def pools(real: ReferenceSet, n: int) -> tuple[ReferenceSet, JudgedImages]:
    """n of the other real images stay, the rest is what samples are drawn from; CLIP's are images of its own."""
    clip_reference = real.clip_reference
    assert clip_reference is not None
    count = min(len(real.others), len(clip_reference.others))
    pool = replace(real.others[n:count], clip=clip_reference.others[n:count])
    kept = replace(
        real, others=real.others[:n], clip_reference=replace(clip_reference, others=clip_reference.others[:n])
    )
    return kept, pool


def draws(
    real: ReferenceSet, pool: JudgedImages, n: int, redraws: int, seed: int
) -> dict[str, list[tuple[float, float, float]]]:
    """Metric -> value and interval of every draw."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    names = [name for name, row in METRICS.items() if row.default and name not in LEFT_OUT]
    for _ in range(redraws):
        inputs = MetricInputs(real, pool[torch.randperm(len(pool), generator=generator)[:n]])
        for name in names:
            result = METRICS[name].measure(inputs)
            assert result.ci95 is not None
            found[name].append((result.value, *result.ci95))
            if "infinite" in result.details:
                found[f"{name}, infinite"].append((result.details["infinite"], *result.details["infinite_ci95"]))
    return found


def table(found: dict[str, list[tuple[float, float, float]]]) -> str:
    lines = ["| metric | mean | standard deviation | interval's half-width / 1.96 | held |", "|---|---|---|---|---|"]
    for name, rows in found.items():
        values, low, high = torch.tensor(rows, dtype=torch.float64).T
        held = ((low <= values.mean()) & (values.mean() <= high)).double().mean()
        width = ((high - low).mean() / 2 / 1.96).item()
        lines.append(f"| `{name}` | {values.mean():.4g} | {values.std():.3g} | {width:.3g} | {held:.1%} |")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    given = command_line(Arguments, argv, __doc__ or "")
    judge, scorer = load_judge(given.models), Scorer(*load_clip(dataset=given.models))
    training, held_out = load_training_data(given.dataset)[0], load_test_data(given.dataset)
    real, pool = pools(ReferenceSet.of(judge, training, held_out, given.seed, scorer=scorer), given.num_images)
    print(f"n = {given.num_images}, {given.redraws} draws from {len(pool)} images, seed {given.seed}\n")
    print(table(draws(real, pool, given.num_images, given.redraws, given.seed)))
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
