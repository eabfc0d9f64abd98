"""The schedulers that a pipeline is tried with."""

import pytest
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

from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.objectives import make_objective
from hfdiff.models.samplers import make_scheduler


def ipndm(objective: str) -> SchedulerMixin:
    return make_scheduler(make_objective(ObjectiveConfig(objective=objective)).process(), "ipndm")


FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
SCHEDULERS = {
    "dpm_epsilon": DPMSolverMultistepScheduler,
    "dpm_flow": lambda: DPMSolverMultistepScheduler(**FLOW, final_sigmas_type="zero"),
    "unipc_epsilon": UniPCMultistepScheduler,
    "unipc_flow": lambda: UniPCMultistepScheduler(**FLOW),
    "ddim_v": lambda: DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing"),
    "ddpm_sample": lambda: DDPMScheduler(prediction_type="sample"),
    "heun_epsilon": HeunDiscreteScheduler,
    "heun_karras": lambda: HeunDiscreteScheduler(use_karras_sigmas=True),
    "euler_v": lambda: EulerDiscreteScheduler(prediction_type="v_prediction"),
    "flow_euler": FlowMatchEulerDiscreteScheduler,
    "flow_euler_shift": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow_heun": FlowMatchHeunDiscreteScheduler,
    "edm_euler": EDMEulerScheduler,
    "edm_dpm": EDMDPMSolverMultistepScheduler,
    "flow_ipndm": lambda: ipndm("flow"),
    "ipndm_epsilon": lambda: ipndm("epsilon"),
    "ipndm_v": lambda: ipndm("v_prediction"),
    "ipndm_sample": lambda: ipndm("sample"),
    "edm_ipndm": lambda: ipndm("edm"),
}
each_scheduler = pytest.mark.parametrize("name", SCHEDULERS)
