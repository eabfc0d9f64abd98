"""Folders inside class folders. Sources: pytorch/vision#2605, huggingface/datasets PR#2830, jolibrain/deepdetect PR#503, torchvision#3130. Right: the class is the top folder, or the layout is refused; never another class in silence."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
def build(name, paths):
    d = W / name
    for i, p in enumerate(paths): f = d / p; f.parent.mkdir(parents=True, exist_ok=True); flat(10 + i).save(f)
    return d
def verdict(name, d, want):
    r, e = refused(load, d)
    if e is not None: check(name, clean(e), "refused: " + short(e)); return
    got = sorted(set(r[1])); check(name, got == want, f"classes {got}")
verdict("cats/s1, cats/s2, dogs/s1, dogs/s2", build("n1", [f"{c}/{s}/{k}.png" for c in ("cats", "dogs") for s in ("s1", "s2") for k in range(2)]), ["cats", "dogs"])
verdict("cats/*.png with one stray cats/old/*.png", build("n2", [f"{c}/{k}.png" for c in ("cats", "dogs") for k in range(3)] + ["cats/old/9.png"]), ["cats", "dogs"])
verdict("train/cats/s1 and test/cats/s1", build("n3", [f"{p}/{c}/{s}/{k}.png" for p in ("train", "test") for c in ("cats", "dogs") for s in ("s1",) for k in range(2)]), ["cats", "dogs"])
verdict("one wrapping folder: archive/cats, archive/dogs", build("n4", [f"archive/{c}/{k}.png" for c in ("cats", "dogs") for k in range(3)]), ["cats", "dogs"])
verdict("cats/.thumbnails are left out", build("n5", [f"{c}/{k}.png" for c in ("cats", "dogs") for k in range(3)] + ["cats/.thumbnails/9.png"]), ["cats", "dogs"])
verdict("cats/__MACOSX are left out", build("n6", [f"{c}/{k}.png" for c in ("cats", "dogs") for k in range(3)] + ["__MACOSX/cats/._0.png"]), ["cats", "dogs"])
verdict("masks beside images: images/cats, masks/cats", build("n7", [f"{p}/{c}/{k}.png" for p in ("images", "masks") for c in ("cats", "dogs") for k in range(2)]), ["cats", "dogs"])
d = build("n8", [f"{c}/{k}.png" for c in ("cats", "dogs") for k in range(3)]); (d / "cats/desktop.ini").write_text("x"); (d / "cats/Thumbs.db").write_bytes(b"x"); (d / ".DS_Store").write_bytes(b"x")
verdict("Thumbs.db, desktop.ini, .DS_Store", d, ["cats", "dogs"])
done()
