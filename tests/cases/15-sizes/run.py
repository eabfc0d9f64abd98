"""Odd picture sizes, by training 64 pictures and drawing. Sources: fastai2#6, milesial/Pytorch-UNet#32, qubvel segmentation_models#93, pix2pix#1142. Right: trained and drawn at that size, or refused in one line before training."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
from concurrent.futures import ThreadPoolExecutor
def go(size):
    w, h = size; d = folder(f"s{w}x{h}", ["a", "b"], n=6, size=size); o = W / f"r{w}x{h}"
    r = train("--dataset", d, "--size", "tiny", "--max_train_images", 16, "--batch_size", 8, "--styles", "thick", "--output_dir", o)
    if r.returncode: return size, r.returncode == 2 and "Traceback" not in r.stderr, last(r)
    s = hf("sample", o, "--class_labels", "a", "--num_images", 1, "--output_dir", W / f"o{w}x{h}")
    im = next(iter((W / f"o{w}x{h}").glob("0000*.png")), None); ok = s.returncode == 0 and im and Image.open(im).size == size
    return size, ok, last(s) if not ok else "drawn"
with ThreadPoolExecutor(1) as ex:
    for size, ok, seen in ex.map(go, ((27, 31), (1, 1), (16, 512), (2, 2), (3, 64), (33, 32))): check(f"{size[0]}x{size[1]}", ok, seen)
done()
