"""Components given to from_pretrained, diffusers' own idiom. Sources: huggingface/diffusers PR#1174 (safety_checker=None), #183, PR#7304. Right: what is given is what the pipeline has; None leaves a component out."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import torch, transformers as T; from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
import hfdiff
def base(**k): q = DiffusionPipeline.from_pretrained(card(), trust_remote_code=True, **k); q.set_progress_bar_config(disable=True); return q
p = base(); other = hfdiff.load_clip(dataset="cifar10")
for name, load_ in (("DiffusionPipeline", base), ("hfdiff.ClassStylePipeline", lambda **k: hfdiff.ClassStylePipeline.from_pretrained(card(), **k))):
    s = FlowMatchEulerDiscreteScheduler(); r, e = refused(load_, scheduler=s); check(f"{name}: scheduler given", e is None and r.scheduler is s, short(e) if e is not None else type(r.scheduler).__name__)
    r, e = refused(load_, unet=p.unet); check(f"{name}: unet given", e is None and r.unet is p.unet, short(e))
    r, e = refused(load_, clip_model=None, clip_processor=None); check(f"{name}: clip_model=None leaves it out", e is None and r.clip_model is None, short(e) if e is not None else f"has {type(r.clip_model).__name__}")
    r, e = refused(load_, clip_model=other[0], clip_processor=other[1]); check(f"{name}: another clip_model given is the one that it has", e is None and r.clip_model is other[0] and r.clip_processor is other[1], short(e) if e is not None else f"its own: {r.clip_model is other[0]}, {r.clip_processor is other[1]}")
    r, e = refused(load_, guide_unet=p.unet); check(f"{name}: guide_unet given", e is None and r.guide_unet is p.unet, short(e) if e is not None else f"has {type(r.guide_unet).__name__}")
    r, e = refused(load_, id2label={str(i): f"x{i}" for i in range(10)}); check(f"{name}: id2label given", e is None and r.class_names[0] == "x0", short(e) if e is not None else r.class_names[:1])
r, e = refused(base, clip_model=other[0], clip_processor=other[1]); a, e = refused(r, ["Bag"], num_candidates=3) if e is None else (None, e)
check("a CLIP of other images says that it does not know the class", e is not None and clean(e) and "bag" in str(e), short(e))
done()
