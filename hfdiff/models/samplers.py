"""Samplers: a diffusers scheduler for each kind of process, one row each.

A *process* is what a sampler must know of an objective: how images turn into noise, and what the model predicts. It
is read back from a saved scheduler, so a trained pipeline can be sampled in another way.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

from hfdiff.core.errors import BadInput
from hfdiff.core.names import unknown
from hfdiff.models.config import Spacing
from hfdiff.pipelines import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, MultistepScheduler, prediction_type

NUM_TIMESTEPS = 1000

Kind = Literal["discrete", "flow", "edm"]


@dataclass(frozen=True)
class Process:
    """How images turn into noise, and what the model predicts."""

    kind: Kind
    prediction_type: str  # an entry in the pipeline's `TARGETS`
    betas: tuple[float, ...] = ()  # of a discrete process, one for each timestep
    flow_shift: float = 1.0

    @property
    def blows_up(self) -> bool:
        """Does the process end in so little signal (alpha below 0.6%) that an error of the predicted noise there
        becomes an image of its own?"""
        return self.prediction_type == "epsilon" and math.prod(1 - beta for beta in self.betas) < 3.7e-5


def _discrete(p: Process, spacing: Spacing, spaced: bool = True, **settings: Any) -> dict[str, Any]:
    """Arguments of diffusers' schedulers with a table of betas."""
    if spaced:
        settings |= {"timestep_spacing": "trailing", "use_karras_sigmas": spacing == "karras"}
        settings |= {"use_exponential_sigmas": spacing == "exponential"}
    betas = list(p.betas)
    return {"num_train_timesteps": len(betas), "prediction_type": p.prediction_type, "trained_betas": betas, **settings}


def _flow(p: Process) -> dict[str, Any]:
    """Arguments of diffusers' multistep solvers for a flow."""
    return {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": p.flow_shift}


EDM = {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX, "sigma_data": SIGMA_DATA}  # spaced as Karras et al. 2022


def _fine(p: Process, spacing: Spacing) -> dict[str, Any]:
    """The same for the solvers of high order, whose error is that of the last, least noisy steps: "auto" makes these
    small (for the default sampler and 10 steps, benchmarks/samplers.py has the error halved)."""
    return _discrete(p, "exponential" if spacing == "auto" else spacing)


def _multistep(p: Process, spacing: Spacing) -> SchedulerMixin:
    settings: dict[Kind, dict[str, Any]] = {
        "discrete": {"num_train_timesteps": len(p.betas), "trained_betas": list(p.betas)},
        "flow": {"flow_shift": p.flow_shift},
        "edm": EDM,
    }
    # By keyword: diffusers forgets what is given by position when it builds one configuration from another.
    return MultistepScheduler(kind=p.kind, prediction_type=p.prediction_type, **settings[p.kind])


@dataclass(frozen=True)
class SamplerSpec:
    """How a sampler solves one kind of process."""

    build: Callable[[Process, Spacing], SchedulerMixin]
    spacings: tuple[Spacing, ...] = ("auto",)
    survives: bool = True  # does it come through a process that blows up?


SPACED: tuple[Spacing, ...] = ("auto", "karras", "exponential")

# Sampler -> kind of process -> how; a kind that is absent is invalid.
SAMPLERS: Mapping[str, Mapping[Kind, SamplerSpec]] = {
    "ddpm": {  # Ho et al. 2020, Algorithm 2
        "discrete": SamplerSpec(
            lambda p, s: DDPMScheduler(**_discrete(p, s, spaced=False, timestep_spacing="trailing"))
        ),
    },
    "ddim": {  # Song et al. 2021, Equation 12
        "discrete": SamplerSpec(
            lambda p, s: DDIMScheduler(**_discrete(p, s, spaced=False, timestep_spacing="trailing"))
        ),
    },
    "heun": {  # Karras et al. 2022, Algorithm 1
        "discrete": SamplerSpec(lambda p, s: HeunDiscreteScheduler(**_discrete(p, s)), SPACED, survives=False),
        "flow": SamplerSpec(lambda p, s: FlowMatchHeunDiscreteScheduler(shift=p.flow_shift)),
    },
    "dpmpp_2m": {  # Lu et al. 2022, Algorithm 2
        "discrete": SamplerSpec(lambda p, s: DPMSolverMultistepScheduler(**_fine(p, s)), SPACED),
        "flow": SamplerSpec(lambda p, s: DPMSolverMultistepScheduler(**_flow(p))),
        "edm": SamplerSpec(lambda p, s: EDMDPMSolverMultistepScheduler(**EDM)),
    },
    "unipc": {  # Zhao et al. 2023
        "discrete": SamplerSpec(lambda p, s: UniPCMultistepScheduler(**_fine(p, s)), SPACED),
        "flow": SamplerSpec(lambda p, s: UniPCMultistepScheduler(**_flow(p))),
    },
    "euler": {
        "discrete": SamplerSpec(lambda p, s: EulerDiscreteScheduler(**_discrete(p, s)), SPACED, survives=False),
        "flow": SamplerSpec(lambda p, s: FlowMatchEulerDiscreteScheduler(shift=p.flow_shift)),
        "edm": SamplerSpec(lambda p, s: EDMEulerScheduler(**EDM)),
    },
    "ipndm": {  # Zhang & Chen 2023, with EDM's spacing
        "discrete": SamplerSpec(_multistep),
        "flow": SamplerSpec(_multistep),
        "edm": SamplerSpec(_multistep),
    },
}


def valid_samplers(process: Process) -> list[str]:
    """The samplers that solve this process."""
    rows = {name: kinds[process.kind] for name, kinds in SAMPLERS.items() if process.kind in kinds}
    return [name for name, row in rows.items() if row.survives or not process.blows_up]


def make_scheduler(process: Process, sampler: str = "auto", spacing: Spacing = "auto") -> SchedulerMixin:
    """The diffusers scheduler of a sampler ("auto": DPM-Solver++ 2M); BadInput lists what is valid."""
    name = "dpmpp_2m" if sampler == "auto" else sampler
    if name not in SAMPLERS:
        raise unknown("sampler", sampler, SAMPLERS)
    valid = valid_samplers(process)
    if name not in valid:
        raise BadInput(
            f"sampler {sampler!r} does not go with the {process.kind} process of a model that predicts "
            f"{process.prediction_type!r}{' down to no signal' if process.blows_up else ''}; valid: {', '.join(valid)}"
        )
    row = SAMPLERS[name][process.kind]
    if spacing not in row.spacings:
        raise BadInput(
            f"spacing {spacing!r} does not go with sampler {name!r} on the process {process.kind!r}; "
            f"valid: {', '.join(row.spacings)}"
        )
    return row.build(process, spacing)


def process_of(scheduler: SchedulerMixin) -> Process:
    """The process that a saved scheduler reverses; BadInput where its model predicts what nobody knows."""
    try:
        predicted = prediction_type(scheduler)
    except ValueError as error:
        raise BadInput(str(error)) from error
    config = scheduler.config
    if predicted == "flow_prediction":
        return Process("flow", predicted, flow_shift=float(config.get("flow_shift", config.get("shift", 1.0))))
    if predicted == "edm":
        return Process("edm", predicted)
    betas = config.get("trained_betas") or scheduler.betas.tolist()
    return Process("discrete", predicted, betas=tuple(map(float, betas)))


def sampler_of(scheduler: SchedulerMixin) -> str:
    """The row that a saved scheduler comes from; "auto" for one of another kind."""
    process = process_of(scheduler)
    built = {name: type(make_scheduler(process, name)) for name in valid_samplers(process)}
    return next((name for name, kind in built.items() if kind is type(scheduler)), "auto")
