"""The pipeline as an object. Sources: huggingface/diffusers#2709, #5617 (compiled, saved), PR#7241 (from_pipe), PR#7304 and #5472 (custom components), #1740 and transformers#34303 (spawn, pickle). Right: the same pictures as the pipeline itself."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import torch, copy, pickle; from diffusers import DiffusionPipeline
torch.set_num_threads(1)
def load_(**k): q = DiffusionPipeline.from_pretrained(card(), trust_remote_code=True, **k); q.set_progress_bar_config(disable=True); return q
def draw(q, **k): return q(**{**dict(class_labels=[1, 2], generator=torch.Generator().manual_seed(0), num_inference_steps=2, output_type="np"), **k}).images
def child(q, queue):
    try: queue.put(draw(q))
    except BaseException as e: queue.put(repr(e)[:200])
if __name__ == "__main__":
    p = load_(); A = draw(p)
    def same(name, f, tol=1e-5, known=False):
        r, e = refused(f); d = None if e is not None else np.abs(np.asarray(r) - A).max()
        check(name, e is None and d <= tol, short(e) if e is not None else f"differs by {d:.4f}" if d > tol else "")
    same("deepcopy", lambda: draw(copy.deepcopy(p)))
    same("pickle in this process", lambda: draw(pickle.loads(pickle.dumps(p))))
    def spawn():
        import torch.multiprocessing as mp; c = mp.get_context("spawn"); q = c.Queue(); x = c.Process(target=child, args=(p, q)); x.start(); r = q.get(timeout=150); x.join()
        if isinstance(r, str): raise RuntimeError(r)
        return r
    same("in a spawned process", spawn)
    same("from_pipe", lambda: draw((lambda q: (q.set_progress_bar_config(disable=True), q)[1])(type(p).from_pipe(p))))
    same("type(p)(**p.components, names)", lambda: draw(type(p)(**p.components, id2label=p.config.id2label, styles=p.config.styles)))
    def compiled():
        q = load_(); q.unet = torch.compile(q.unet, backend="eager"); draw(q); q.save_pretrained(W / "compiled"); return draw(DiffusionPipeline.from_pretrained(W / "compiled", trust_remote_code=True))
    same("compiled, saved, loaded", compiled)
    def compiled2(): q = load_(); q.unet.compile(backend="eager"); return draw(q)
    same("unet.compile()", compiled2)
    def variant():
        q = load_(); q.unet.half(); q.save_pretrained(W / "v16", variant="fp16"); r = DiffusionPipeline.from_pretrained(W / "v16", variant="fp16", trust_remote_code=True); return draw(r.to(torch.float32))
    same("variant fp16, saved and loaded", variant, 0.02)
    r = hf("sample", W / "v16", "--class_labels", "bag", "--num_images", "1", "--output_dir", W / "o16"); check("hfdiff sample of a folder with the fp16 variant alone: draws, or says what is missing", r.returncode == 0 or ("variant" in r.stderr or "fp16" in r.stderr), last(r))
    def twice(): q = load_(); q.save_pretrained(W / "t"); q.save_pretrained(W / "t"); return draw(DiffusionPipeline.from_pretrained(W / "t", trust_remote_code=True))
    same("saved twice to one folder", twice)
    def self_save(): q = DiffusionPipeline.from_pretrained(W / "t", trust_remote_code=True); q.save_pretrained(W / "t"); return draw(DiffusionPipeline.from_pretrained(W / "t", trust_remote_code=True))
    same("saved to the folder it came from", self_save)
    def shards(): q = load_(); q.save_pretrained(W / "sh", max_shard_size="1MB"); return draw(DiffusionPipeline.from_pretrained(W / "sh", trust_remote_code=True))
    same("shards of 1 MB", shards); r = hf("sample", W / "sh", "--class_labels", "bag", "--num_images", "1", "--output_dir", W / "osh"); check("hfdiff sample of shards", r.returncode == 0, last(r))
    def pickle_w(): q = load_(); q.save_pretrained(W / "bin", safe_serialization=False); return draw(DiffusionPipeline.from_pretrained(W / "bin", trust_remote_code=True))
    same("safe_serialization=False", pickle_w)
    for dt, tol in ((torch.float16, 0.1), (torch.bfloat16, 0.5)):
        same(f"torch_dtype {dt}", lambda: draw(load_(torch_dtype=dt)), tol); same(f".to({dt})", lambda: draw(load_().to(dt)), tol)
        r, e = refused(lambda: draw(load_(torch_dtype=dt), num_candidates=4, top_k=2)); check(f"choosing among candidates in {dt}", e is None and np.isfinite(r).all(), short(e))
        r, e = refused(lambda: draw(load_(torch_dtype=dt), clip_guidance_scale=.5)); check(f"CLIP guidance in {dt}", e is None and np.isfinite(r).all(), short(e))
        r, e = refused(lambda: draw(load_(torch_dtype=dt), image=Image.new("L", (28, 28), 99), mask=Image.new("L", (28, 28), 255))); check(f"image and mask in {dt}", e is None and np.isfinite(r).all(), short(e))
        r, e = refused(lambda: draw(load_(torch_dtype=dt), guidance_interval=(0.2, 5), guidance_rescale=.5)); check(f"interval and rescale in {dt}", e is None and np.isfinite(r).all(), short(e))
    same("torch_dtype 'auto'", lambda: draw(load_(torch_dtype="auto")))
    same("low_cpu_mem_usage False", lambda: draw(load_(low_cpu_mem_usage=False)))
    r, e = refused(lambda: draw(load_().to("meta"))); check("on meta: an error, not pictures", e is not None, short(e))
    r, e = refused(lambda: load_().enable_model_cpu_offload()); print("   info: enable_model_cpu_offload without accelerator:", short(e))
    same("enable_attention_slicing", lambda: draw((lambda q: (q.enable_attention_slicing(), q)[1])(load_())))
    same("without its CLIP", lambda: draw(load_(clip_model=None, clip_processor=None)))
    q = load_(clip_model=None, clip_processor=None); r, e = refused(draw, q, num_candidates=3); check("choosing without CLIP is refused in words", clean(e), short(e))
    r, e = refused(lambda: (load_(clip_model=None, clip_processor=None).save_pretrained(W / "nc"), draw(DiffusionPipeline.from_pretrained(W / "nc", trust_remote_code=True)))[1]); check("saved without CLIP loads back", e is None and np.abs(r - A).max() < 1e-5, short(e))
    np.random.seed(1); torch.manual_seed(1); s0 = torch.get_rng_state(); draw(p); check("a drawing with a generator leaves the global random state", torch.equal(s0, torch.get_rng_state()))
    p.unet.train(); B = draw(p); p.unet.eval(); check("a UNet left in train mode draws the same, or dropout is 0", np.abs(B - A).max() < 1e-5)
    done()
