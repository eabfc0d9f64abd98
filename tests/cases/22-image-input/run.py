"""Pictures given to draw from. Sources: huggingface/datasets#6252 (EXIF), immich PR#122 (channel order), Pillow#2574. Right: as numpy and PIL say, through the API and through hfdiff sample --image."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import torch; from diffusers import DiffusionPipeline
torch.set_num_threads(1)
p = DiffusionPipeline.from_pretrained(card(), trust_remote_code=True, clip_model=None, clip_processor=None); p.set_progress_bar_config(disable=True)
def kept(im, **k):  # a mask of zeros keeps the picture exactly: what the pipeline made of it
    return p(class_labels=[1], image=im, mask=np.zeros((28, 28), np.float32), num_inference_steps=1, guidance_scale=1., style_guidance_scale=1., output_type="np", generator=torch.Generator().manual_seed(0), **k).images[0, :, :, 0]
g = (np.arange(784).reshape(28, 28) * 255 / 783).astype(np.uint8)
def eq(name, im, want=g / 255, tol=2 / 255):
    r, e = refused(kept, im); check(name, (e is None and np.abs(r - want).max() <= tol), short(e) if e is not None else f"differs by {np.abs(r - want).max():.3f}" if np.abs(r - want).max() > tol else "")
eq("PIL L", Image.fromarray(g)); eq("PIL RGB", Image.fromarray(g).convert("RGB")); eq("PIL I;16", Image.fromarray(g.astype(np.uint16) * 257)); eq("PIL P", Image.fromarray(g).convert("P"))
eq("uint8 HW", g); eq("uint8 HWC", g[..., None]); eq("float HWC", g[..., None] / 255.); eq("float64 HW", g / 255.); eq("float16 CHW torch", torch.from_numpy(g / 255.).half()[None]); eq("torch NCHW", torch.from_numpy(g / 255.)[None, None].float()); eq("list of PIL", [Image.fromarray(g)]); eq("tuple of arrays", (g,))
for name, v in {"int64 0..255": g.astype(np.int64), "uint16": g.astype(np.uint16) * 257, "bool": g > 99, "in [-1, 1]": g / 127.5 - 1, "float 0..255": g.astype(np.float32), "NCHW numpy": g[None, None] / 255., "NHWC torch": torch.from_numpy(g / 255.)[None, :, :, None].float(), "NaN": np.full((28, 28), np.nan), "empty": np.zeros((0, 28)), "a path": "x.png", "None in a list": [None], "0 and 1 as int64": (g > 99).astype(np.int64)}.items():
    r, e = refused(kept, v); want = {"bool": (g > 99).astype(float), "0 and 1 as int64": (g > 99).astype(float), "int64 0..255": g / 255, "uint16": g / 255, "float 0..255": g / 255, "NCHW numpy": g / 255, "NHWC torch": g / 255, "in [-1, 1]": g / 255}.get(name)
    check(f"{name}: right or refused", clean(e) if e is not None else want is not None and np.abs(r - want).max() < 0.02, short(e) if e is not None else "read" if want is not None and np.abs(r - want).max() < 0.02 else "silently wrong")
top = np.zeros((28, 28, 3), np.uint8); top[:14] = 255; ex = Image.Exif(); ex[0x0112] = 3; b = enc(Image.fromarray(top), "JPEG", quality=95, exif=ex); f = W / "phone.jpg"; f.write_bytes(b)
r = kept(Image.open(f)); check("a phone's JPEG (upside down by EXIF) given as PIL is turned as in training", r[:14].mean() < 0.1, f"top half {r[:14].mean():.2f}, in training 0")
for name, im in {"transparent PNG": Image.fromarray(np.dstack([np.zeros((28, 28, 3), np.uint8), np.zeros((28, 28), np.uint8)])), "1x1": Image.new("L", (1, 1), 200), "5000x2": Image.new("L", (5000, 2), 200), "CMYK": Image.new("CMYK", (28, 28), (0, 0, 0, 255))}.items():
    w = {"transparent PNG": 1., "1x1": 200 / 255, "5000x2": 200 / 255, "CMYK": 0.}[name]; eq(name, im, np.full((28, 28), w))
eq("F mode 0..1 is right or refused", Image.fromarray((g / 255).astype(np.float32))) if False else None
r, e = refused(kept, Image.fromarray((g / 255).astype(np.float32))); check("PIL F", clean(e) if e is not None else np.abs(r - g / 255).max() < .02, short(e))
Image.new("L", (28, 28), 0).save(W / "m.png"); s = hf("sample", card(), "--class_labels", "bag", "--image", f, "--mask", W / "m.png", "--num_images", 1, "--output_dir", W / "o"); o = next(iter((W / "o").glob("0*.png")), None)
check("the same by hfdiff sample --image", o is not None and np.asarray(Image.open(o).convert("L"))[:14].mean() < 25, last(s))
done()
