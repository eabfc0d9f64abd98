"""Shared by the cases: counts what is right, ends with 0 only if all is. PY's hfdiff is what is tested."""
import io, os, sys, tempfile, traceback, struct, zlib, atexit, shutil, subprocess
from pathlib import Path
os.environ.setdefault("OMP_NUM_THREADS", "1"); os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", ""); os.environ.setdefault("TQDM_DISABLE", "1")
CACHE = Path(tempfile.mkdtemp(prefix="hfdiff-case-")); atexit.register(shutil.rmtree, CACHE, True)
os.environ["HF_DATASETS_CACHE"] = str(CACHE / "datasets"); os.environ["HF_MODULES_CACHE"] = str(CACHE / "modules")
import warnings; warnings.simplefilter("ignore")
import numpy as np
from PIL import Image
W = CACHE / "w"; W.mkdir()
bad, good = [], []
def check(name, ok, seen=""):
    (good if ok else bad).append(name)
    print(f"{'right' if ok else 'WRONG'}  {name}" + (f"  | {seen}" if seen != "" else ""), flush=True)
def refused(f, *a, **k):
    """(result, None) or (None, error); the error is a clean refusal when it is BadInput or ValueError."""
    try: return f(*a, **k), None
    except BaseException as e: return None, e
def clean(e): 
    from hfdiff.core.errors import BadInput
    return isinstance(e, (BadInput, ValueError)) and not isinstance(e, UnicodeError)
def short(e): return f"{type(e).__name__}: {str(e).splitlines()[0][:230] if str(e) else ''}" if isinstance(e, BaseException) else str(e)[:230]
def done():
    print(f"{len(good)} right, {len(bad)} wrong" + (": " + "; ".join(bad) if bad else "")); sys.stdout.flush(); sys.exit(1 if bad else 0)
def flat(v, size=(16, 16), mode="RGB"): 
    return Image.fromarray(np.full((size[1], size[0]) + ((3,) if mode == "RGB" else ()), v, np.uint8))
def folder(name, classes, n=3, size=(16, 16), mode="RGB"):
    d = W / name
    for i, c in enumerate(classes):
        (d / c).mkdir(parents=True, exist_ok=True)
        for k in range(n): flat((10 + 20 * i + k) % 256, size, mode).save(d / c / f"{k:02d}.png")
    return d
def load(d, **k):
    from hfdiff.data.config import ReadOptions
    from hfdiff.data.loading import load_training_data
    import torch
    t, v = load_training_data(str(d), ReadOptions(**k))
    if t is v: return t.pixels.numpy(), [t.class_names[i] for i in t.labels.tolist()], t
    px = torch.cat([t.pixels, v.pixels]).numpy(); return px, [t.class_names[i] for i in torch.cat([t.labels, v.labels]).tolist()], t
def one(img_bytes, suffix, channels=None):
    """How one file of class `a` is read, beside white RGB pictures of its size in class `b`: CHW uint8 (or the error)."""
    d = Path(tempfile.mkdtemp(dir=W)); (d / "a").mkdir(); (d / "b").mkdir()
    (d / "a" / f"x{suffix}").write_bytes(img_bytes)
    r, e = refused(load, d)
    if e is not None: return e
    return r[0][r[1].index("a")]
def enc(im, fmt, **k): b = io.BytesIO(); im.save(b, fmt, **k); return b.getvalue()
def png16(arr, color):  # color: 0 grey, 2 RGB, 4 grey+alpha, 6 RGBA; arr (H,W,C) uint16
    h, w = arr.shape[:2]; raw = b"".join(b"\0" + arr[y].astype(">u2").tobytes() for y in range(h))
    ch = lambda t, d: struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d))
    return b"\x89PNG\r\n\x1a\n" + ch(b"IHDR", struct.pack(">IIBBBBB", w, h, 16, color, 0, 0, 0)) + ch(b"IDAT", zlib.compress(raw)) + ch(b"IEND", b"")
def root():
    import hfdiff; return Path(hfdiff.__file__).resolve().parents[1]
def card(): return str(root() / "model_cards/fashion_mnist")
def hf(*words, env=None, timeout=600, text=True):
    e = os.environ | (env or {})
    return subprocess.run([sys.executable, "-m", "hfdiff.cli", *map(str, words)], capture_output=True, text=text, env=e, timeout=timeout, errors="replace" if text else None)
def train(*words, timeout=900, env=None):
    return subprocess.run([sys.executable, str(root() / "train_scripts/train.py"), *map(str, words)], capture_output=True, text=True, errors="replace", env=os.environ | (env or {}), timeout=timeout)
def last(p): 
    t = (p.stderr.strip() or p.stdout.strip()).splitlines(); return f"rc {p.returncode}: {t[-1][:240] if t else ''}"
