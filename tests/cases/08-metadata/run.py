"""metadata.csv as spreadsheets write it. Sources: huggingface/datasets PR#4069; OasisLMF#307 and pandas-dev/pandas#32084 (NA, None, null are texts); workflow-use PR#174 (leading zeros); quilt1m#23, derm7pt#11, Major-TOM#17 (missing and double rows). Right: every class as written, every picture with its own class, or a refusal; independent reading by the csv module."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
def meta(name, rows, header="file_name,label", enc_="utf-8", n=6, eol="\n", sub=""):
    d = W / name / sub; d.mkdir(parents=True)
    for k in range(n): flat(20 * k + 1).save(d / f"{k}.png")
    (d / "metadata.csv").write_bytes((eol.join([header, *rows]) + eol).encode(enc_)); return W / name
def want(name, d, expect, may_refuse=True, **k):
    """expect: {picture number: class}"""
    r, e = refused(load, d, **k)
    if e is not None: check(name, may_refuse and clean(e), "refused: " + short(e)); return
    got = {(int(p.max()) - 1) // 20: c for p, c in zip(r[0], r[1])}; check(name, got == expect and len(r[1]) == len(expect), f"{got}" if got != expect else "" if len(r[1]) == len(expect) else f"{len(r[1])} rows")
cd = {k: "cat" if k < 3 else "dog" for k in range(6)}; rows = [f"{k}.png,{c}" for k, c in cd.items()]
want("plain", meta("m0", rows), cd, False)
want("BOM", meta("m1", rows, enc_="utf-8-sig"), cd, False)
want("CRLF", meta("m2", rows, eol="\r\n"), cd, False)
want("quotes", meta("m3", [f'"{k}.png","{c}"' for k, c in cd.items()], header='"file_name","label"'), cd, False)
want("semicolons", meta("m4", [r.replace(",", ";") for r in rows], header="file_name;label"), cd)
want("UTF-16 of Excel", meta("m5", rows, enc_="utf-16"), cd)
want("latin-1", meta("m6", [r.replace("dog", "café") for r in rows], enc_="latin-1"), {k: v.replace("dog", "café") for k, v in cd.items()})
want("a space after the comma", meta("m7", [r.replace(",", ", ") for r in rows], header="file_name, label"), cd)
want("class called NA", meta("m8", [r.replace("dog", "NA") for r in rows]), {k: v.replace("dog", "NA") for k, v in cd.items()})
want("class called None", meta("m9", [r.replace("dog", "None") for r in rows]), {k: v.replace("dog", "None") for k, v in cd.items()})
want("all classes of the kind: NA and null", meta("m9b", [r.replace("dog", "null").replace("cat", "NA") for r in rows]), {k: v.replace("dog", "null").replace("cat", "NA") for k, v in cd.items()})
want("classes 007 and 7", meta("m10", [r.replace("cat", "007").replace("dog", "7") for r in rows]), {k: v.replace("cat", "007").replace("dog", "7") for k, v in cd.items()})
want("classes 01 and 02", meta("m11", [r.replace("cat", "01").replace("dog", "02") for r in rows]), {k: v.replace("cat", "01").replace("dog", "02") for k, v in cd.items()})
want("classes true and false", meta("m12", [r.replace("cat", "true").replace("dog", "false") for r in rows]), {k: v.replace("cat", "true").replace("dog", "false") for k, v in cd.items()})
want("classes yes and no", meta("m13", [r.replace("cat", "yes").replace("dog", "no") for r in rows]), {k: v.replace("cat", "yes").replace("dog", "no") for k, v in cd.items()}, False)
want("classes 1.0 and 2.5", meta("m14", [r.replace("cat", "1.0").replace("dog", "2.5") for r in rows]), {k: v.replace("cat", "1.0").replace("dog", "2.5") for k, v in cd.items()})
want("whole numbers, one missing (so pandas makes floats)", meta("m15", [f"{k}.png,{'' if k == 5 else k // 3}" for k in range(6)]), None)
want("classes 1e3 and 1000", meta("m16", [r.replace("cat", "1e3").replace("dog", "1000") for r in rows]), {k: v.replace("cat", "1e3").replace("dog", "1000") for k, v in cd.items()})
want("a missing row", meta("m17", rows[:5]), cd)
want("a row twice with two classes", meta("m18", [*rows, "5.png,cat"]), cd)
want("a row for a file that is not there", meta("m19", [*rows, "9.png,cat"]), cd)
want("backslash paths", meta("m20", [f"sub\\{k}.png,{c}" for k, c in cd.items()]), cd)
want("./ before the names", meta("m21", [f"./{r}" for r in rows]), cd)
want("a class with a comma, quoted", meta("m22", [r.replace("dog", '"dog, small"') for r in rows]), {k: v.replace("dog", "dog, small") for k, v in cd.items()}, False)
want("a class with a line break, quoted", meta("m23", [r.replace("dog", '"dog\nsmall"') for r in rows]), {k: v.replace("dog", "dog\nsmall") for k, v in cd.items()})
want("Cat and cat are two classes", meta("m24", [r.replace("dog", "Cat") for r in rows]), {k: v.replace("dog", "Cat") for k, v in cd.items()}, False)
want("captions: a text for every picture", meta("m25", [f"{k}.png,a photo of thing number {k}" for k in range(6)], header="file_name,text"), None)
want("class and an id column", meta("m26", [f"{k}.png,{c},{k}" for k, c in cd.items()], header="file_name,label,id"), cd)
want("train/ and test/ with metadata each", (meta("m27", rows, sub="train"), meta("m27", rows, sub="test"))[0], cd, False)
d = W / "m28"
for c in ("cat", "dog"):
    (d / c).mkdir(parents=True)
    for k in range(3): flat(20 * (k + 3 * (c == "dog")) + 1).save(d / c / f"{k}.png")
(d / "metadata.csv").write_text("file_name,furry\n" + "".join(f"{c}/{k}.png,0.5\n" for c in ("cat", "dog") for k in range(3)))
want("class folders, and metadata.csv with a style only", d, cd)
done()
