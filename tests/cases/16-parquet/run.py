"""Parquet as people write it. Sources: huggingface/datasets PR#5921, #4292; Roblox/FAI-RL PR#81; huggingface/jat PR#123; datasets#7976. Right: pictures with their own classes, checked against what was written, or a refusal that names the column."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import pyarrow as pa, pyarrow.parquet as pq, datasets
N = 12; names = ["cat", "dog"]
def png(v, fmt="PNG"): return enc(flat(v), fmt, **({"lossless": True} if fmt == "WEBP" else {}))
def col(fmt="PNG", path=lambda k: None): return pa.array([{"bytes": png(20 * k + 1, fmt), "path": path(k)} for k in range(N)], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
def write(name, files, **k):
    d = W / name
    for f, t in files.items(): (d / f).parent.mkdir(parents=True, exist_ok=True); pq.write_table(t, d / f, **k)
    return d
def want(name, d, expect, may=True, **k):
    if d.name.startswith("p") and d.name != "p0": k.setdefault("image_column", "image")
    r, e = refused(load, d, **k)
    if e is not None: check(name, may and clean(e), "refused: " + short(e)); return
    got = {round((int(p.max()) - 1) / 20): c for p, c in zip(r[0], r[1])}; check(name, got == expect, "" if got == expect else str(got)[:200])
T = "data/train-00000-of-00001.parquet"; cd = {k: names[k % 2] for k in range(N)}; ci = {k: str(k % 2) for k in range(N)}
lab = pa.array([names[k % 2] for k in range(N)]); num = pa.array([k % 2 for k in range(N)])
want("struct of bytes and path, text labels, no HF metadata", write("p0", {T: pa.table({"image": col(), "label": lab})}), cd)
want("the same, --image_column image", write("p0b", {T: pa.table({"image": col(), "label": lab})}), cd, image_column="image")
want("bytes alone, no struct", write("p1", {T: pa.table({"image": pa.array([png(20 * k + 1) for k in range(N)]), "label": lab})}), cd, image_column="image")
want("dictionary-encoded text labels", write("p2", {T: pa.table({"image": col(), "label": lab.dictionary_encode()})}), cd)
want("int8 labels", write("p3", {T: pa.table({"image": col(), "label": num.cast(pa.int8())})}), ci)
want("uint64 labels", write("p4", {T: pa.table({"image": col(), "label": num.cast(pa.uint64())})}), ci)
want("float labels 0.0/1.0", write("p5", {T: pa.table({"image": col(), "label": num.cast(pa.float64())})}), ci)
want("the same, --label_column label", write("p5b", {T: pa.table({"image": col(), "label": num.cast(pa.float64())})}), ci, label_column="label")
want("bool labels", write("p6", {T: pa.table({"image": col(), "label": pa.array([bool(k % 2) for k in range(N)])})}), {k: str(bool(k % 2)) for k in range(N)})
want("bool labels, --label_column", write("p6b", {T: pa.table({"image": col(), "label": pa.array([bool(k % 2) for k in range(N)])})}), {k: str(bool(k % 2)) for k in range(N)}, label_column="label")
want("list of one label", write("p7", {T: pa.table({"image": col(), "label": pa.array([[names[k % 2]] for k in range(N)])})}), cd)
want("large_string labels", write("p8", {T: pa.table({"image": col(), "label": lab.cast(pa.large_string())})}), cd)
want("string_view labels", write("p8b", {T: pa.table({"image": col(), "label": lab.cast(pa.string_view())})}), cd)
want("decimal labels", write("p8c", {T: pa.table({"image": col(), "label": num.cast(pa.decimal128(38, 0))})}), ci)
want("one null label", write("p9", {T: pa.table({"image": col(), "label": pa.array([None if k == 3 else k % 2 for k in range(N)])})}), None)
want("a picture missing (null)", write("p10", {T: pa.table({"image": pa.array([None if k == 3 else {"bytes": png(20 * k + 1), "path": None} for k in range(N)], pa.struct([("bytes", pa.binary()), ("path", pa.string())])), "label": lab})}), None)
want("empty bytes", write("p11", {T: pa.table({"image": pa.array([{"bytes": b"" if k == 3 else png(20 * k + 1), "path": None} for k in range(N)], pa.struct([("bytes", pa.binary()), ("path", pa.string())])), "label": lab})}), None)
F = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
def hfds(n=N, feats=F, label=lambda k: k % 2, fmt=None): return datasets.Dataset.from_dict({"image": [flat(20 * k + 1) for k in range(n)], "label": [label(k) for k in range(n)]}, features=feats)
def topq(name, **splits):
    d = W / name; d.mkdir()
    for s, ds in splits.items(): ds.to_parquet(str(d / f"{s}-00000-of-00001.parquet"))
    return d
want("as datasets writes it", topq("h0", train=hfds()), cd, False)
want("ClassLabel of another order than the alphabet", topq("h1", train=hfds(feats=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}))), {k: ["dog", "cat"][k % 2] for k in range(N)}, False)
want("ClassLabel with a class that no picture has", topq("h2", train=hfds(feats=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog", "eel"])}))), cd, False)
want("ClassLabel with -1 for unknown", topq("h3", train=hfds(label=lambda k: -1 if k == 3 else k % 2)), None)
want("an empty test split beside", topq("h4", train=hfds(), test=hfds(0)), cd, False)
want("an empty train split", topq("h5", train=hfds(0), test=hfds()), None)
want("an empty validation split", topq("h6", train=hfds(), validation=hfds(0)), cd)
want("train and test with ClassLabels of other orders", topq("h7", train=hfds(), test=hfds(feats=datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])}))), cd)
want("two pictures columns", write("p12", {T: pa.table({"image": col(), "mask": col(), "label": lab})}), cd, image_column="image")
want("webp and jpg in one column", write("p13", {T: pa.table({"image": pa.array([{"bytes": png(20 * k + 1, ("WEBP", "PNG", "BMP")[k % 3]), "path": f"{k}.jpg"} for k in range(N)], pa.struct([("bytes", pa.binary()), ("path", pa.string())])), "label": lab})}), cd, image_column="image")
want("struct's fields in the other order", write("p14", {T: pa.table({"image": pa.array([{"path": None, "bytes": png(20 * k + 1)} for k in range(N)], pa.struct([("path", pa.string()), ("bytes", pa.binary())])), "label": lab})}), cd, image_column="image")
want("two shards", write("p15", {"train-00000-of-00002.parquet": pa.table({"image": col(), "label": lab}).slice(0, 6), "train-00001-of-00002.parquet": pa.table({"image": col(), "label": lab}).slice(6)}), cd, image_column="image")
want("labels int in one shard, text in the other", write("p16", {"train-00000-of-00002.parquet": pa.table({"image": col(), "label": num}).slice(0, 6), "train-00001-of-00002.parquet": pa.table({"image": col(), "label": lab}).slice(6)}), None, image_column="image")
want("fine and coarse labels: --label_column chooses", topq("h8", train=datasets.Dataset.from_dict({"image": [flat(20 * k + 1) for k in range(N)], "coarse": [0] * N, "fine": [k % 2 for k in range(N)]}, features=datasets.Features({"image": datasets.Image(), "coarse": datasets.ClassLabel(names=["animal"]), "fine": datasets.ClassLabel(names=names)}))), cd, False, label_column="fine")
DC = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
from hfdiff.data.loading import load_test_data
def test_of(name, d, truth):
    r, e = refused(load_test_data, str(d))
    if e is not None: check(name, clean(e), "refused: " + short(e)); return
    got = {round((int(p.max()) - 1) / 20): r.class_names[i] for p, i in zip(r.pixels.numpy(), r.labels.tolist())}; check(name, got == truth, "" if got == truth else str(got)[:160])
test_of("test pictures, ClassLabels in the order of train", topq("h7a", train=hfds(), test=hfds()), cd)
test_of("test pictures, ClassLabels in another order than train", topq("h7b", train=hfds(), test=hfds(feats=DC)), {k: ["dog", "cat"][k % 2] for k in range(N)})
d = topq("h7c", train=hfds(), validation=hfds(feats=DC)); from hfdiff.data.loading import load_training_data
r, e = refused(load_training_data, str(d)); ok = e is not None and clean(e)
if e is None: v = r[1]; got = {round((int(p.max()) - 1) / 20): v.class_names[i] for p, i in zip(v.pixels.numpy(), v.labels.tolist())}; ok = got == {k: ["dog", "cat"][k % 2] for k in range(N)}
check("validation pictures, ClassLabels in another order than train", ok, short(e) if e is not None else "labels exchanged" if not ok else "")
d = W / "h7d"; d.mkdir(); hfds().to_parquet(str(d / "train-00000-of-00002.parquet")); hfds(feats=DC).to_parquet(str(d / "train-00001-of-00002.parquet")); r, e = refused(load, d); ok = e is not None and clean(e)
if e is None: pairs = sorted((round((int(p.max()) - 1) / 20), c) for p, c in zip(r[0], r[1])); ok = pairs == sorted([(k, names[k % 2]) for k in range(N)] + [(k, ["dog", "cat"][k % 2]) for k in range(N)])
check("two shards with ClassLabels of other orders", ok, short(e) if e is not None else "labels exchanged" if not ok else "")
d = W / "s2d"; hfds().save_to_disk(str(d)); r, e = refused(load, d); check("save_to_disk folder: read, or refused with what to do", e is None or ("save_to_disk" in str(e) or "to_parquet" in str(e) or "arrow" in str(e)), short(e))
d = W / "s2dd"; datasets.DatasetDict({"train": hfds()}).save_to_disk(str(d)); r, e = refused(load, d); check("save_to_disk of a DatasetDict: the same", e is None or ("save_to_disk" in str(e) or "to_parquet" in str(e) or "arrow" in str(e)), short(e))
z = W / "zip"; z.mkdir(); shutil.make_archive(str(z / "data"), "zip", folder("forzip", names)); r, e = refused(load, z); check("a folder with a zip: read, or refused with what to do", e is None or "zip" in str(e) or "unpack" in str(e), short(e))
d = topq("h9", train=hfds()); flat(3).save(d / "preview.png"); want("a stray picture beside the parquet", d, cd)
d = topq("h10", train=hfds()); (d / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: train-*\n---\n# hi\n"); want("README.md with its configs", d, cd, False)
d = W / "h11"; d.mkdir(); hfds().to_parquet(str(d / "data.parquet")); want("one file called data.parquet", d, cd, False)
d = W / "h12"; d.mkdir(); hfds().to_parquet(str(d / "mytest.parquet")); want("one file called mytest.parquet", d, cd, True)
done()
