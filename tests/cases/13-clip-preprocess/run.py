"""CLIP and SigLIP see pictures as their own processors prepare them. Sources: google-research/big_vision#91, immich-apple-silicon PR#122, huggingface/transformers#30282 and PR#11994, allenai/mmc4#12. Right: cosine above 0.999 with transformers' own processor and model, square and not."""
import sys; sys.path.insert(0, str(__import__("pathlib").Path(__file__).resolve().parents[1])); from common import *
import torch, transformers as T
from hfdiff.pipelines import Scorer
torch.manual_seed(0); torch.set_num_threads(1)
class Tok:
    unk_token_id = pad_token_id = bos_token_id = eos_token_id = 0
class Proc:
    def __init__(self, ip): self.image_processor, self.tokenizer = ip, Tok()
v = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8)
t = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, vocab_size=50, max_position_embeddings=16)
clip = T.CLIPModel(T.CLIPConfig(vision_config=v, text_config=t, projection_dim=16)).eval()
sig = T.SiglipModel(T.SiglipConfig(vision_config=v, text_config=t)).eval()
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
def procs():
    yield "CLIP", clip, CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    import transformers.models.siglip as S, importlib
    for mod, name in (("transformers.models.siglip.image_processing_pil_siglip", "SiglipImageProcessorPil"), ("transformers.models.siglip.image_processing_siglip", "SiglipImageProcessor")):
        try: yield "SigLIP " + name, sig, getattr(importlib.import_module(mod), name)(size={"height": 32, "width": 32}); break
        except Exception as e: print("   info:", name, short(e))
    yield "CLIP, bilinear", clip, CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, resample=2)
    yield "CLIP, no centre crop, squashed", clip, CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    yield "CLIP, resize 40 then crop 32", clip, CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    yield "CLIP, do_normalize False", clip, CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_normalize=False)
rng = np.random.default_rng(0)
def smooth(h, w): # a picture with structure: blurred noise
    a = rng.random((h // 8 + 2, w // 8 + 2, 3)).astype(np.float32); return np.asarray(Image.fromarray((a * 255).astype(np.uint8)).resize((w, h), Image.BICUBIC))
for name, model, ip in procs():
    for h, w in ((32, 32), (64, 64), (28, 28), (96, 48), (48, 96)):
        a = smooth(h, w); px = ip(images=[Image.fromarray(a)], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            f = model.get_image_features(pixel_values=px); f = torch.nn.functional.normalize(getattr(f, "pooler_output", f), dim=-1)
            g, e = refused(Scorer(model, Proc(ip)).images, torch.from_numpy(a).permute(2, 0, 1)[None] / 255)
        c = float((f * g).sum()) if e is None else 0; check(f"{name}, {h}x{w}", c > 0.999, short(e) if e is not None else f"cosine {c:.4f}")
done()
