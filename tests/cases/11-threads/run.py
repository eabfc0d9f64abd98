"""One pipeline, several threads (a server). Sources: huggingface/diffusers#3672, #1606, #7851, #9362; QwenLM/Qwen-Image#236. Right: each call's own pictures, or an error; never another's in silence."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import torch, threading; from diffusers import DiffusionPipeline
torch.set_num_threads(1)
p = DiffusionPipeline.from_pretrained(card(), trust_remote_code=True); p.set_progress_bar_config(disable=True)
def draw(i, steps): return p(class_labels=[i], generator=torch.Generator().manual_seed(i), num_inference_steps=steps, output_type="np", guidance_scale=1., style_guidance_scale=1.).images
for name, steps in (("same steps", [8, 8, 8]), ("other steps", [8, 4, 12])):
    ref = [draw(i, s) for i, s in enumerate(steps)]; wrong = silent = errors = 0
    for trial in range(4):
        out = [None] * 3
        def w(i):
            try: out[i] = draw(i, steps[i])
            except BaseException as e: out[i] = e
        ts = [threading.Thread(target=w, args=(i,)) for i in range(3)]; [t.start() for t in ts]; [t.join() for t in ts]
        errors += sum(isinstance(o, BaseException) for o in out); silent += sum(not isinstance(o, BaseException) and np.abs(o - r).max() > 1e-3 for o, r in zip(out, ref))
        first = next((short(o) for o in out if isinstance(o, BaseException)), "")
    check(f"3 threads, {name}: no wrong picture in silence", silent == 0, f"{silent} of 12 silently wrong, {errors} errors {first}"); check(f"3 threads, {name}: no foreign crash", errors == 0, f"{errors} of 12: {first}")
done()
