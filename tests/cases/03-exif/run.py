"""Phone photos. Sources: huggingface/datasets#6252, PR#6739, #7668; python-pillow/Pillow#8965, #8348, #4665. Right: what `datasets` itself decodes; a broken EXIF does not stop the reading, or is refused by file name."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import datasets
a = np.zeros((16, 16, 3), np.uint8); a[:8, :8] = 255; a[8:, :8] = 120; im = Image.fromarray(a)
def ref(b): return np.asarray(datasets.Image().decode_example({"bytes": b, "path": None}).convert("RGB")).transpose(2, 0, 1).astype(int)
for fmt, suf, kw in (("JPEG", ".jpg", dict(quality=95)), ("WEBP", ".webp", dict(lossless=True)), ("PNG", ".png", {}), ("TIFF", ".tif", {})):
    wrong = []
    for o in range(1, 9):
        e = Image.Exif(); e[0x0112] = o; b = enc(im, fmt, exif=e, **kw); g = one(b, suf)
        if isinstance(g, BaseException) or np.abs(np.broadcast_to(g, (3, 16, 16)).astype(int) - ref(b)).max() > 6: wrong.append(o)
    check(f"{fmt} orientations 1..8 as datasets reads them", not wrong, f"differs at {wrong}" if wrong else "")
e = Image.Exif(); e[0x0112] = 6; good_exif = e.tobytes()
from PIL import TiffImagePlugin
def jpg(exif): return enc(im, "JPEG", quality=95, exif=exif)
e2 = Image.Exif(); e2[0x0112] = 6; e2[282] = TiffImagePlugin.IFDRational(1, 1); raw = bytearray(e2.tobytes())
i = raw.find(struct.pack("<II", 1, 1)); i = i if i >= 0 else raw.find(struct.pack(">II", 1, 1))
neg = bytes(raw[:i]) + struct.pack("<iI", -1, 0) + bytes(raw[i+8:]) if i >= 0 else bytes(raw)
kinds = {"rational (-1, 0)": neg, "double header": b"Exif\0\0" + good_exif, "blank": b"Exif\0\0", "cut in half": good_exif[: len(good_exif) // 2], "garbage": b"Exif\0\0" + b"\xff" * 40, "invalid text tag": None}
e3 = Image.Exif(); e3[0x0112] = 6; e3[0x010E] = "abc"; t = e3.tobytes().replace(b"abc", b"\xff\xfe\xa8"); kinds["invalid text tag"] = t
for name, exif in kinds.items():
    g = one(jpg(exif), ".jpg"); ok = not isinstance(g, BaseException) or clean(g); check(f"broken EXIF: {name}", ok, short(g) if isinstance(g, BaseException) else "read")
done()
