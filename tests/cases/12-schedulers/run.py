"""Schedulers put on the pipeline. Sources: huggingface/diffusers#10675, #13243 (flow shift), #3280, #183, TheLastBen/fast-stable-diffusion#815. Right: pictures as the model's own sampler draws them (correlation > 0.8 at 30 steps from the same noise), or an error; never noise in silence."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import torch, diffusers; from diffusers import DiffusionPipeline
torch.set_num_threads(1)
p = DiffusionPipeline.from_pretrained(card(), trust_remote_code=True, clip_model=None, clip_processor=None); p.set_progress_bar_config(disable=True); own = p.scheduler
print("own:", type(own).__name__, {k: own.config.get(k) for k in ("prediction_type", "flow_shift", "shift", "use_flow_sigmas")})
def draw(**k): return p(class_labels=list(range(10)), generator=torch.Generator().manual_seed(0), output_type="np", guidance_scale=1., style_guidance_scale=1., **{**dict(num_inference_steps=30), **k}).images
A = draw()
for name in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverSinglestepScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler", "KDPM2DiscreteScheduler", "LCMScheduler", "TCDScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "EDMEulerScheduler", "SASolverScheduler", "DDIMInverseScheduler", "IPNDMScheduler", "DPMSolverSDEScheduler"):
    cls = getattr(diffusers, name, None)
    if cls is None: continue
    s, e = refused(cls.from_config, own.config)
    if e is not None: check(f"{name}.from_config", True, "refused at from_config: " + short(e)[:120]); continue
    p.scheduler = s; r, e = refused(draw)
    stochastic = name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler", "TCDScheduler", "SASolverScheduler", "FlowMatchLCMScheduler", "DPMSolverSDEScheduler")
    if e is not None: check(f"{name}", True, "error: " + short(e)[:140]); continue
    c = np.corrcoef(r.ravel(), A.ravel())[0, 1]; check(f"{name}: as its own sampler, or an error", c > (0.4 if stochastic else 0.8) and abs(r.std() - A.std()) < 0.1, f"correlation {c:.2f}, std {r.std():.2f} against {A.std():.2f}")
p.scheduler = own
B = draw(num_inference_steps=1); check("one step is finite", np.isfinite(B).all())
C = draw(num_inference_steps=1000) if False else None
done()
