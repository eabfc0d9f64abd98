"""16-bit greys. Sources: python-pillow/Pillow#2574, #5991, #1108. Right: every file of a 16-bit data set is scaled by the same rule (v/257), whatever its own brightest pixel."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
want = (ramp / 257).astype(int)
def near(got, want): return not isinstance(got, BaseException) and np.abs(got[0].astype(int) - want).max() <= 1
g = one(enc(Image.fromarray(ramp), "PNG"), ".png"); check("grey ramp PNG", near(g, want), "" if near(g, want) else short(g) if isinstance(g, BaseException) else g[0, -1, -3:])
for code in ("<u2", ">u2"):
    b = io.BytesIO(); im = Image.frombytes("I;16" if code[0] == "<" else "I;16B", (16, 16), ramp.astype(code).tobytes())
    r, e = refused(im.save, b, "TIFF"); g = one(b.getvalue(), ".tif") if e is None else e
    check(f"grey ramp TIFF {code}", near(g, want), "" if near(g, want) else short(g))
dark = np.full((16, 16), 200, np.uint16)     # nearly black: 200 of 65535
g = one(enc(Image.fromarray(dark), "PNG"), ".png"); check("a dark 16-bit picture (200 of 65,535) stays dark", near(g, dark // 257), short(g) if isinstance(g, BaseException) else f"reads as {int(g.max())}, right 0 or 1")
black_one = dark.copy(); black_one[0, 0] = 256
a, b = one(enc(Image.fromarray(dark), "PNG"), ".png"), one(enc(Image.fromarray(black_one), "PNG"), ".png")
check("one brighter pixel does not change all others", abs(int(a[0, 5, 5]) - int(b[0, 5, 5])) <= 1, f"{a[0,5,5]} against {b[0,5,5]}")
rgb = np.stack([ramp, ramp[::-1], ramp.T], -1); g = one(png16(rgb, 2), ".png"); ok = not isinstance(g, BaseException) and np.abs(g.transpose(1, 2, 0).astype(int) - (rgb / 257).astype(int)).max() <= 1
check("RGB 48-bit PNG", ok, "" if ok else short(g))
la = np.stack([np.full((16, 16), 10000, np.uint16), np.full((16, 16), 32768, np.uint16)], -1); w = (10000 / 257 * .5 + 255 * .5)
g = one(png16(la, 4), ".png"); ok = not isinstance(g, BaseException) and abs(int(g[0, 0, 0]) - w) <= 2; check("grey+alpha 16 bit over white", ok, short(g) if isinstance(g, BaseException) else f"{g[0,0,0]}, right {w:.0f}")
from hfdiff.pipelines import read_images
t = read_images("image", Image.fromarray(dark), 1, 16, 16); check("the pipeline's image= of a dark 16-bit picture", float(t.max()) < 0.01, f"max {float(t.max()):.3f}, right {200/65535:.4f}")
done()
