"""32-bit TIFFs (microscopes, maps). Sources: python-pillow/Pillow#3159-kind (F to L clips), #1099. Right: values scaled, or refused as hfdiff sample does; never silently black or white."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
g = one(enc(Image.fromarray(ramp), "TIFF"), ".tif"); ok = (isinstance(g, BaseException) and clean(g)) or (not isinstance(g, BaseException) and np.abs(g[0] - ramp * 255).max() <= 1)
check("float TIFF 0..1", ok, short(g) if isinstance(g, BaseException) else f"values {sorted(set(g[0].ravel().tolist()))[:4]}: the whole picture lost")
g = one(enc(Image.fromarray(ramp * 255), "TIFF"), ".tif"); ok = (isinstance(g, BaseException) and clean(g)) or np.abs(g[0].astype(float) - ramp * 255).max() <= 1
check("float TIFF 0..255", ok, short(g) if isinstance(g, BaseException) else "")
g = one(enc(Image.fromarray(np.full((16, 16), -5.0, np.float32)), "TIFF"), ".tif"); print("   info: float TIFF -5:", short(g) if isinstance(g, BaseException) else int(g.max()))
g = one(enc(Image.fromarray(np.full((16, 16), np.nan, np.float32)), "TIFF"), ".tif"); check("float TIFF of NaN is refused", isinstance(g, BaseException) and clean(g), short(g) if isinstance(g, BaseException) else f"read as {int(g.max())}")
i32 = (np.linspace(0, 2**31 - 1, 256)).astype(np.int32).reshape(16, 16)
g = one(enc(Image.fromarray(i32), "TIFF"), ".tif"); ok = (isinstance(g, BaseException) and clean(g)) or np.abs(g[0].astype(float) - i32 / (2**31 - 1) * 255).max() <= 2
check("32-bit whole-number TIFF", ok, short(g) if isinstance(g, BaseException) else f"{(g[0] == 255).mean():.3f} of the pixels white, right 0.004")
done()
