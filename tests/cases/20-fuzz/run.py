"""Damaged picture files, 400 of them. Sources: python-pillow/Pillow#8348, #8790, #518, #3973; datasets#7668. Right: read, or a BadInput with the file's name: no other exception."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import random, collections
from hfdiff.data.decoding import decode_pixels
import datasets, torch
rng = np.random.default_rng(0); a = rng.integers(0, 256, (24, 24, 3), np.uint8); e = Image.Exif(); e[0x0112] = 6; e[0x010E] = "x" * 20; e[282] = 72.0
pal = Image.fromarray(a).quantize(32)
src = {"png": enc(Image.fromarray(a), "PNG", exif=e), "pal.png": enc(pal, "PNG", transparency=3), "jpg": enc(Image.fromarray(a), "JPEG", exif=e), "gif": enc(pal, "GIF", save_all=True, append_images=[pal.rotate(90)]), "webp": enc(Image.fromarray(a), "WEBP", exif=e), "bmp": enc(Image.fromarray(a), "BMP"), "tif": enc(Image.fromarray(a), "TIFF", exif=e), "lzw.tif": enc(Image.fromarray(a), "TIFF", compression="tiff_lzw"), "16.png": png16(rng.integers(0, 65536, (24, 24, 1)).astype(np.uint16), 0)}
random.seed(0); kinds = collections.Counter(); foreign = {}
for suf, b in src.items():
    for trial in range(150):
        c = bytearray(b); how = trial % 5
        if how == 0: c = c[: random.randrange(len(c))]
        elif how == 1: c[random.randrange(len(c))] ^= 1 << random.randrange(8)
        elif how == 2: i = random.randrange(len(c)); c[i: i + 8] = os.urandom(8)
        elif how == 3: i = random.randrange(min(60, len(c))); c[i] = random.randrange(256)
        else: i = random.randrange(len(c)); c = c[:i] + c[i + random.randrange(1, 30):]
        ds = datasets.Dataset.from_dict({"image": [{"bytes": bytes(c), "path": None}]}, features=datasets.Features({"image": datasets.Image(decode=False)}))
        r, err = refused(decode_pixels, ds, "image", 8, torch.tensor([0]), [W])
        if err is None: kinds["read"] += 1
        elif clean(err): kinds["refused"] += 1
        else: kinds["foreign"] += 1; foreign.setdefault(f"{suf}: {type(err).__name__}", (short(err), bytes(c)))
print(dict(kinds))
for i, (k, (m, c)) in enumerate(foreign.items()): (Path(__file__).parent / f"found-{i}.{k.split(':')[0].split('.')[-1]}").write_bytes(c)
check("no foreign exception for a damaged picture", not foreign, "; ".join(f"{k}: {m}"[:150] for k, (m, c) in foreign.items()))
done()
