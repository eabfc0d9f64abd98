"""Animations: the first frame is the picture. Sources: huggingface/datasets imagefolder takes .gif/.webp/.apng; PIL first frame."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
for fmt, suf, kw in (("GIF", ".gif", {}), ("WEBP", ".webp", dict(lossless=True)), ("PNG", ".png", {}), ("TIFF", ".tif", {})):
    g = one(enc(flat(200), fmt, save_all=True, append_images=[flat(10), flat(90)], **kw), suf); ok = not isinstance(g, BaseException) and abs(int(g.min()) - 200) <= 2 and abs(int(g.max()) - 200) <= 2
    check(f"{fmt} of three frames", ok, short(g) if isinstance(g, BaseException) else "")
d = W / "apng"; (d / "a").mkdir(parents=True); (d / "b").mkdir(); (d / "a" / "x.apng").write_bytes(enc(flat(200), "PNG", save_all=True, append_images=[flat(10)])); flat(9).save(d / "b" / "y.png")
r, e = refused(load, d); check(".apng beside .png is read", e is None and len(r[1]) == 2, short(e) if e else len(r[1]))
import datasets
from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
for suf, fmt in ((".jfif", "JPEG"), (".jpe", "JPEG"), (".apng", "PNG"), (".ppm", "PPM"), (".tga", "TGA"), (".dib", "DIB"), (".avif", "AVIF"), (".jp2", "JPEG2000"), (".pgm", "PPM"), (".ico", "ICO")):
    d = W / ("only" + suf); known = suf in ImageFolder.EXTENSIONS
    r, e = refused(enc, flat(200), fmt)
    if e: print("   info: Pillow here cannot write", fmt); continue
    for c in "ab": (d / c).mkdir(parents=True); [(d / c / f"{k}{suf}").write_bytes(r) for k in range(3)]
    got, err = refused(load, d)
    if known: check(f"a folder of {suf} alone, which imagefolder knows", err is None and len(got[1]) == 6, short(err) if err else "")
    else: print(f"   info: {suf}, not imagefolder's: {short(err) if err else len(got[1])}")
    d2 = W / ("mixed" + suf); [(d2 / c).mkdir(parents=True) for c in "ab"]; [flat(5).save(d2 / c / "0.png") for c in "ab"]; (d2 / "a" / f"1{suf}").write_bytes(r)
    got, err = refused(load, d2); n = len(got[1]) if not err else short(err)
    check(f"{suf} among .png: read, refused or told, not dropped in silence", err is not None or n == 3, f"{n} of 3 pictures")
done()
