"""Arguments as people pass them. Sources: huggingface/diffusers#13988/#13394 (steps), PR#1835, PR#264; generator lists. Right: as the same call with plain lists, or a ValueError in one line; never a foreign exception, never other pictures."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import torch; from diffusers import DiffusionPipeline
torch.set_num_threads(1)
p = DiffusionPipeline.from_pretrained(card(), trust_remote_code=True); p.set_progress_bar_config(disable=True)
G = lambda s=0: torch.Generator().manual_seed(s); k = dict(num_inference_steps=2, output_type="np", guidance_scale=1.0, style_guidance_scale=1.0)
A = p(class_labels=[1, 2], generator=G(), **k).images
def same(name, f, want=A):
    r, e = refused(f)
    if e is not None: check(name, type(e) is ValueError or (clean(e)), "refused: " + short(e)); return
    r = getattr(r, "images", r); check(name, np.shape(r) == np.shape(want) and np.abs(np.asarray(r) - want).max() < 1e-5, f"shape {np.shape(r)}, differs by {np.abs(np.asarray(r) - want).max():.3f}" if np.shape(r) == np.shape(want) else f"shape {np.shape(r)}")
for name, v in {"tensor": torch.tensor([1, 2]), "tensor int32": torch.tensor([1, 2], dtype=torch.int32), "array": np.array([1, 2]), "tuple": (1, 2), "np.int64 list": [np.int64(1), np.int64(2)], "range": range(1, 3), "dict keys": {1: 0, 2: 0}.keys(), "float list": [1.0, 2.0], "float tensor": torch.tensor([1., 2.]), "generator expression": (i for i in (1, 2)), "texts '1' '2'": ["1", "2"], "array of texts": np.array(["Trouser", "Pullover"]), "upper case": ["TROUSER", " pullover "], "list of lists": [[1], [2]], "one tensor of one each": [torch.tensor(1), torch.tensor(2)], "one-hot": torch.eye(10)[[1, 2]], "bytes": [b"Trouser", b"Pullover"]}.items():
    same(f"class_labels as {name}", lambda: p(class_labels=v, generator=G(), **k))
B = p(class_labels=[3], generator=G(), **k).images
for name, v in {"3": 3, "np.int64(3)": np.int64(3), "0-dim tensor": torch.tensor(3), "0-dim array": np.array(3), "3.0": 3.0, "'Dress'": "Dress", "b'Dress'": b"Dress", "True for 1": True}.items():
    same(f"one label, {name}", lambda: p(class_labels=v, generator=G(), **k), B if "True" not in name else p(class_labels=[1], generator=G(), **k).images)
C = p(class_labels=[1, 2], generator=[G(1), G(2)], **k).images
for name, v in {"tuple of generators": (G(1), G(2)), "list of seeds": [1, 2], "a seed": 1, "one generator in a list": [G(1)], "generators of a generator expression": (G(i) for i in (1, 2))}.items(): same(name, lambda: p(class_labels=[1, 2], generator=v, **k), C)
for name, kw in {"num_images_per_label 0": dict(num_images_per_label=0), "2.0": dict(num_images_per_label=2.0), "'2'": dict(num_images_per_label="2"), "-1": dict(num_images_per_label=-1)}.items():
    r, e = refused(lambda: p(class_labels=[1], generator=G(), **{**k, **kw})); check(f"num_images_per_label {name}", (e is None and len(r.images) == 2) or clean(e) , short(e) if e is not None else len(r.images))
for v in (0, -1, 2.0, 2.5, "2", None, True, np.int64(2), 1001, float("nan"), float("inf")):
    r, e = refused(lambda: p(class_labels=[1, 2], generator=G(), **{**k, "num_inference_steps": v})); ok = clean(e) if e is not None else (not isinstance(v, str) and v == 2 and np.abs(r.images - A).max() < 1e-5)
    check(f"num_inference_steps {v!r}", ok, short(e) if e is not None else f"drew, differs from 2 steps by {np.abs(r.images - A).max():.3f}")
for v in (None, float("nan"), float("inf"), "3", np.float32(1.0), torch.tensor(1.0), [1.0, 1.0], True):
    r, e = refused(lambda: p(class_labels=[1, 2], generator=G(), **{**k, "guidance_scale": v})); ok = clean(e) if e is not None else np.isfinite(r.images).all() and (not isinstance(v, str))
    check(f"guidance_scale {v!r}", ok, short(e) if e is not None else "drew")
for v in (1, 2.5, 0, -3, "4", None, np.int64(1), float("inf")):
    r, e = refused(lambda: p(class_labels=[1, 2], generator=G(), max_batch_size=v, **k)); check(f"max_batch_size {v!r}", clean(e) if e is not None else np.abs(r.images - A).max() < 1e-4, short(e) if e is not None else "drew the same" if np.abs(r.images - A).max() < 1e-4 else "drew others")
for name, v in {"np.float32": {"thick": np.float32(.5)}, "tensor": {"thick": torch.tensor(.5)}, "tuple of texts": ("thick", "plain"), "array of texts": np.array(["thick", "plain"]), "set": {"thick"}, "list in list": [["thick"], ["plain"]], "NaN": {"thick": float("nan")}, "True": {"thick": True}, "'thick:0,5'": "thick:0,5", "'thick:'": "thick:", "'thick+thin:0'": "thick+thin:0", "thick 1.0000001": {"thick": 1.0000001}, "[]": [], "{}": {}, "0": 0, "generator": (s for s in ("thick", "plain"))}.items():
    r, e = refused(lambda: p(class_labels=[1, 2], styles=v, generator=G(), **k)); check(f"styles as {name}", clean(e) if e is not None else True, short(e) if e is not None else f"drew {r.styles}")
for v in ("latent", "PIL", "numpy", None, "tensor"):
    r, e = refused(lambda: p(class_labels=[1], **{**k, "output_type": v})); check(f"output_type {v!r} is refused or known", e is None or clean(e), short(e))
r, e = refused(lambda: p(prompt="a shoe", **k)); check("a prompt is refused", e is not None, short(e))
done()
