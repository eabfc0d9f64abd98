"""What a metric is, what it looks at, and what it gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from hfdiff.evaluation.reference_images import JudgedImages, ReferenceSet


@dataclass(frozen=True)
class Result:
    """One measured number."""

    value: float
    n: int  # images that it comes from
    real: float | None  # the same of other real images
    ci95: tuple[float, float] | None
    extractor: str
    real_n: int | None = None  # real images that it comes from, where those are not n
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the details beside the number."""
        own = {key: value for key, value in vars(self).items() if key != "details"}
        own["real_n"] = self.n if self.real_n is None else self.real_n
        return own | {"ci95": None if self.ci95 is None else list(self.ci95)} | self.details


@dataclass(frozen=True)
class MetricInputs:
    """All that a metric may look at."""

    real: ReferenceSet
    samples: JudgedImages  # plain drawings, of the classes of real images
    styled: JudgedImages | None = None  # drawings in styles
    seed: int = 0  # decides which samples are taken where a metric takes a part of them
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def kept(self, name: str, compute: Callable[[], Any]) -> Any:
        """What `compute` gives, computed once for all metrics that share it."""
        if name not in self._kept:
            self._kept[name] = compute()
        return self._kept[name]


@dataclass(frozen=True)
class Metric:
    """An entry in the table: how it is computed, and how many images of each kind it needs."""

    about: str
    better: Literal["higher", "lower", "as real"]
    measure: Callable[[MetricInputs], Result]
    least: int
    per_class: int = 0  # the same for each class
    per_style: int = 0  # the same for each style that the judge predicts
    styled: bool = False  # is it measured on the drawings in styles?
    clip: bool = False  # does it need a CLIP model?
    beside: bool = True  # does it need as many real images that the judge never saw?
    default: bool = True
    depends_on_n: bool = False  # do values at different n differ for the same model?
