"""Publishing, with the unmodified clients of the Hub against one on the loopback interface (local_hub.py)."""

import contextlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from conftest import HF_HOME, TINY_FLAGS, make_image, png
from huggingface_hub import get_token
from huggingface_hub.utils import get_session
from local_hub import LocalHub, Repo
from safetensors.torch import load_file

import hfdiff.publish.hub as hub_module
from hfdiff.cli import main
from hfdiff.core.errors import BadInput
from hfdiff.data.loading import load_training_data
from hfdiff.models.loading import export_pipeline, find_pipeline, load_pipeline
from hfdiff.publish.card import write_card
from hfdiff.publish.folder import listing, loaded_by, write_model_folder
from hfdiff.publish.hub import HubError, push
from hfdiff.publish.proof import load_back
from hfdiff.publish.records import ModelRecords
from hfdiff.publish.redaction import public
from hfdiff.training.config import TrainConfig
from hfdiff.training.run_folder import RunFolder, save_config

pytestmark = pytest.mark.slow

ANN = ("models", "ann/clothes")


@pytest.fixture
def model(pipeline, tmp_path) -> Path:
    """A folder with a pipeline and its card, and things that are nobody else's business."""
    export_pipeline(pipeline, tmp_path / "clothes")
    save_config(RunFolder(tmp_path / "clothes"), TrainConfig(dataset="/home/jane/clothes"))
    write_card(ModelRecords.of(str(tmp_path / "clothes")))
    (tmp_path / "clothes" / "diary.txt").write_text("private")
    (tmp_path / "clothes" / "optimizer.bin").write_bytes(b"a pickle")
    return tmp_path / "clothes"


@pytest.fixture
def records(model) -> ModelRecords:
    return ModelRecords.of(str(model))


@pytest.fixture
def quick(monkeypatch) -> None:
    """Without the proof, which downloads everything, and without the client's waiting between its attempts."""
    monkeypatch.setattr(hub_module, "prove", lambda folder, sent: None)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return int(stop.value.code or 0)


def test_a_model_is_pushed_and_loaded_back_by_its_id(hub: LocalHub, model, capsys):
    assert run("push", str(model), "--repo_id", "ann/clothes") == 0
    said = capsys.readouterr().out
    repo = hub.repos[ANN]
    assert repo.private
    assert len(repo.commits) == 2
    listed = {line.split(None, 1)[1] for line in said.splitlines() if re.match(r" *[\d,]+  \S", line)}
    assert {name for name in listed if not name.startswith("bytes in")} == set(repo.files)
    assert {"README.md", "model_index.json", "class_style.py", "unet/unet.py"} < set(repo.files)
    assert not {"diary.txt", "optimizer.bin"} & set(repo.files)
    assert "loaded back in a process of its own" in said
    downloaded = load_pipeline("ann/clothes")
    here = load_pipeline(str(model)).unet.state_dict()
    assert all(torch.equal(value, here[name]) for name, value in downloaded.unet.state_dict().items())


@pytest.fixture
def then(hub, monkeypatch) -> Callable[[dict[str, bytes], bool], None]:
    """What somebody else does to the repository right after the push: in a commit of their own, or to ours."""
    send = hub_module.send

    def set_up(files: dict[str, bytes], own_commit: bool) -> None:
        def send_and_change(folder: Path, name: str, *rest, **more):
            sent = send(folder, name, *rest, **more)
            repo = hub.repos[ANN]
            changed = repo.files | {path: content or bytes(len(repo.files[path])) for path, content in files.items()}
            if own_commit:
                repo.commits.append((changed, "theirs"))
            else:
                repo.files.update(changed)
            return sent

        monkeypatch.setattr(hub_module, "send", send_and_change)

    return set_up


CANARY = b"import os, pathlib; pathlib.Path(os.environ['CANARY']).write_text(os.environ.get('HF_TOKEN', 'ran'))\n"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({WEIGHTS: b""}, f"{WEIGHTS} is another file there"),
        ({"README.md": b"another"}, "README.md is another file there"),
        ({"class_style.py": CANARY}, "class_style.py is another file there"),
        ({"unet/unet.py": CANARY}, "unet/unet.py is another file there"),
    ],
)
def test_a_commit_that_holds_anything_else_is_not_loaded(hub, records, then, tmp_path, monkeypatch, files, said):
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    then(files, False)
    with pytest.raises(
        HubError, match=re.escape(f"ann/clothes was sent, and does not load back as it is here: {said}")
    ):
        push(records, "ann/clothes")
    assert not (tmp_path / "canary").exists()


def test_code_that_was_not_sent_is_named(hub, records):
    hub.repos[ANN] = Repo(private=True, commits=[({"unet/more.py": CANARY}, "theirs")])
    with pytest.raises(HubError, match=r"unet/more\.py is there, and was not sent; delete it on the Hub"):
        push(records, "ann/clothes")


def test_a_commit_that_comes_between_runs_nothing_and_is_said(hub, records, then, tmp_path, monkeypatch):
    monkeypatch.setenv("CANARY", str(tmp_path / "canary"))
    monkeypatch.setattr(hub_module, "load_back", lambda here, there: runpy.run_path(str(there / "class_style.py")))
    then({"class_style.py": CANARY, WEIGHTS: b""}, True)
    with pytest.raises(HubError, match=r"commit \w{40} holds what was sent, but is not the last any more"):
        push(records, "ann/clothes")
    assert not (tmp_path / "canary").exists()


def test_a_folder_of_the_repositorys_name_does_not_stand_in(hub, records, model, then, tmp_path, monkeypatch):
    shutil.copytree(model, tmp_path / "here" / "ann" / "clothes")
    monkeypatch.chdir(tmp_path / "here")
    then({WEIGHTS: b""}, False)
    with pytest.raises(HubError, match=f"{WEIGHTS} is another file there"):
        push(records, "ann/clothes")


def test_a_model_is_loaded_back_without_token_home_and_hfdiff(records, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PYTHONPATH"):
        monkeypatch.setenv(name, "hf_canary")
    write_model_folder(records, tmp_path)
    shutil.copytree(tmp_path, tmp_path / "there", ignore=lambda *_: ["there"])
    look = "import os\nfrom pathlib import Path\nif any('hf_canary' in value for value in os.environ.values()):"
    look += "\n    raise SystemExit('a token')\nif any(Path.home().glob('.cache/huggingface/token')) or any("
    look += "path.name != 'modules' for path in Path.cwd().iterdir()):\n    raise SystemExit('not clean')\n"
    look += "try:\n    import hfdiff\nexcept ImportError:\n    pass\nelse:\n    raise SystemExit('hfdiff')\n"
    for folder in (tmp_path, tmp_path / "there"):
        file = folder / "class_style.py"
        file.write_text(look + file.read_text())
    load_back(tmp_path, tmp_path / "there")
    weights = tmp_path / "there" / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4000] + bytes(4000))
    with pytest.raises(ValueError, match="images differ by up to"):
        load_back(tmp_path, tmp_path / "there")


def test_pushing_again_unchanged_adds_no_commit(hub, records, quick, capsys):
    push(records, "ann/clothes")
    push(records, "ann/clothes", private=False)
    assert len(hub.repos[ANN].commits) == 2
    assert hub.repos[ANN].private  # what is there keeps its place
    assert "ann/clothes is there and private, and stays so" in capsys.readouterr().out


def test_what_is_private_does_not_go_into_a_public_repository(hub, records, quick):
    push(records, "ann/clothes", private=False)
    with pytest.raises(BadInput, match="ann/clothes is there and public; if it is yours, give --no_private"):
        push(records, "ann/clothes")


def test_what_was_taken_back_is_listed_and_taken_from_the_hub(hub, records, quick, capsys):
    (records.home / "notes.md").write_text("I was wrong.")
    push(records, "ann/clothes")
    assert "deleted" not in capsys.readouterr().out
    theirs = {"a_picture_of_theirs.png", "notes of mine.md", "unet/[1].txt"}
    odd = {"card/[1].png", "card/\x1b[2K\n.png", f"card/{'x' * 300}.png"}
    hub.repos[ANN].files.update(dict.fromkeys(theirs | odd, b""))
    (records.home / "notes.md").unlink()
    push(ModelRecords.of(records.model), "ann/clothes", confirm=lambda: False)
    assert "notes.md" in hub.repos[ANN].files
    push(ModelRecords.of(records.model), "ann/clothes")
    listed = [r"'card/\x1b[2K\n.png'", "card/[1].png", f"card/{'x' * 300}.png", "notes.md"]
    assert re.findall("deleted +(.+)", capsys.readouterr().out) == listed * 2
    assert not (odd | {"notes.md"}) & set(hub.repos[ANN].files)
    assert theirs < set(hub.repos[ANN].files)


def test_a_licence_that_the_hub_does_not_know_is_refused(hub, records, quick):
    records.readme.write_text(records.readme.read_text().replace("apache-2.0", "my-own"))
    with pytest.raises(BadInput, match="the Hub does not take this: .*'my-own'"):
        push(records, "ann/clothes")
    assert not hub.repos


def test_an_old_card_does_not_go_with_new_weights(hub, model, pipeline, quick):
    pipeline.unet.conv_out.bias.data += 1
    export_pipeline(pipeline, model / "new")
    shutil.copytree(model / "new", model, dirs_exist_ok=True)
    with pytest.raises(
        BadInput, match=r"is of other weights or numbers than this model's .*; hfdiff card writes it again"
    ):
        push(ModelRecords.of(str(model)), "ann/clothes")


def test_a_dry_run_sends_nothing(hub, model, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert run("push", str(model), "--repo_id", "ann/clothes", "--dry_run") == 0
    said = capsys.readouterr().out
    assert "unet/diffusion_pytorch_model.safetensors" in said
    assert said.rstrip().endswith("nothing was sent")
    assert not hub.requests


def test_at_a_terminal_nothing_is_sent_without_a_yes(hub, model, monkeypatch, quick, capsys):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "n")
    assert run("push", str(model), "--repo_id", "ann/clothes") == 0
    assert capsys.readouterr().err.startswith("send these files?")  # seen where the list goes to a file
    assert not hub.repos
    assert run("push", str(model), "--repo_id", "ann/clothes", "--yes") == 0
    assert ANN in hub.repos


def test_the_owner_is_the_tokens_own(hub, records, quick):
    push(records)
    assert list(hub.repos) == [ANN]


def test_half_precision_takes_half_the_room_and_draws_nearly_the_same(records, tmp_path):
    for name, half in (("whole", False), ("half", True)):
        (tmp_path / name).mkdir()
        write_model_folder(records, tmp_path / name, half=half)
    file = "unet/diffusion_pytorch_model.safetensors"
    assert (tmp_path / "half" / file).stat().st_size < 0.6 * (tmp_path / "whole" / file).stat().st_size
    drawn = [
        load_pipeline(str(tmp_path / name))("Bag", generator=torch.Generator().manual_seed(0), output_type="pt").images
        for name in ("whole", "half")
    ]
    assert (drawn[0] - drawn[1]).abs().max() < 0.01


def test_a_report_of_version_1_is_known_as_one_of_today(records):
    report = {"protocol": {"weights": records.fingerprint}, "metrics": {"recall": {"value": 0.5, "floor": 0.8}}}
    (records.home / "metrics.json").write_text(json.dumps(report))
    assert records.report["metrics"]["recall"] == {"value": 0.5, "real": 0.8}


@pytest.mark.parametrize("half", [False, True])
def test_a_published_folder_is_a_model_that_is_published_again(records, tmp_path, half):
    report = {"version": 2, "protocol": {"weights": records.fingerprint}, "metrics": {}}
    (records.home / "metrics.json").write_text(json.dumps(report))
    records.readme.write_text(re.sub("records: .*\n", "", records.readme.read_text()))  # a card of one's own
    for name, source in (("first", records), ("second", None)):
        (tmp_path / name).mkdir()
        write_model_folder(
            source or ModelRecords.of(str(tmp_path / "first")), tmp_path / name, name="ann/clothes", half=half
        )
    assert json.loads((tmp_path / "second" / "metrics.json").read_text()) == report
    assert listing(tmp_path / "first") == listing(tmp_path / "second")
    assert 'from_pretrained("ann/clothes"' in (tmp_path / "second" / "README.md").read_text()


FAULTS = [*(pytest.param(code, marks=pytest.mark.long) for code in (401, 403, 429, 500)), "cut"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hub_that_fails_at_any_request_loses_nothing(hub, records, quick, fault):
    before = {path: path.read_bytes() for path in records.home.rglob("*") if path.is_file()}
    push(records, "ann/clothes")
    count, pushed = len(hub.requests), 0
    assert count >= 4
    for number in range(1, count + 1):
        hub.clear()
        hub.fault = lambda method, path, number=number: fault if len(hub.requests) >= number else None
        with contextlib.suppress(BadInput, HubError):
            push(records, "ann/clothes")
            pushed += 1
        hub.fault = None
        push(records, "ann/clothes")
        assert "README.md" in hub.repos[ANN].files
    assert pushed == 0
    assert {path: path.read_bytes() for path in records.home.rglob("*") if path.is_file()} == before


def test_a_space_keeps_what_others_put_there(hub, records, quick, capsys):
    push(records, "ann/clothes", private=False)
    hub.repos[ANN].private = True
    hub.repos["spaces", "ann/clothes"] = Repo()
    hub.repos["spaces", "ann/clothes"].commits.append(({"config.yaml": b"", "notes.md": b""}, "mine"))
    push(records, "ann/clothes", private=False, space=True)
    assert {"config.yaml", "notes.md", "app.py"} < set(hub.repos["spaces", "ann/clothes"].files)
    assert "the Space reads a private model" in capsys.readouterr().out


@pytest.mark.long
def test_a_hub_that_fails_while_a_space_is_sent_keeps_the_model(hub, records, quick):
    push(records, "ann/clothes")
    before = len(hub.requests)
    push(records, "ann/clothes", space=True)
    unchanged = next(i for i, line in enumerate(hub.requests[before:]) if "spaces" in line or "space" in line)
    count = len(hub.requests) - before
    assert count - unchanged >= 3
    for number in range(unchanged + 1, count + 1):
        del hub.repos["spaces", "ann/clothes"]
        hub.requests.clear()
        hub.fault = lambda method, path, number=number: 500 if len(hub.requests) >= number else None
        with pytest.raises(HubError, match="the same command"):
            push(records, "ann/clothes", space=True)
        assert "README.md" in hub.repos[ANN].files
        hub.fault = None
        push(records, "ann/clothes", space=True)
        assert "app.py" in hub.repos["spaces", "ann/clothes"].files


@pytest.mark.parametrize("fault", [403, 404, 500, "cut"])
def test_a_hub_that_fails_while_the_model_is_loaded_back_is_named(hub, records, monkeypatch, fault):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)

    def fail(method: str, path: str) -> int | str | None:
        return fault if method == "GET" and "/resolve/" in path and "unet/" in path else None

    monkeypatch.setattr(hub, "fault", fail)
    with pytest.raises(HubError, match="ann/clothes was sent, and does not load back as it is here"):
        push(records, "ann/clothes")
    assert "README.md" in hub.repos[ANN].files


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--repo_id", "bob/clothes"), "may not write to bob/clothes"),
        (("--repo_id", "ann/two words"), "repo_id 'ann/two words'"),
        (("--repo_id", "a/b/c"), "repo_id 'a/b/c'"),
        (("--repo_id", ""), "repo_id ''"),
    ],
)
def test_names_that_cannot_be_are_refused(hub, model, quick, capsys, words, message):
    assert run("push", str(model), *words) == 2
    assert message in capsys.readouterr().err
    assert not hub.repos


def test_without_a_token_nothing_begins(hub, model, quick, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    assert get_token() is None
    assert run("push", str(model)) == 2
    assert "no token of the Hub on this machine" in capsys.readouterr().err


def test_what_is_no_model_is_refused(hub, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert run("push", str(tmp_path / "empty")) == 2
    assert "holds no pipeline" in capsys.readouterr().err
    assert run("card", "ann/nothing") == 2
    assert "'ann/nothing' is no folder on this machine" in capsys.readouterr().err
    assert run("push", str(tmp_path / "empty"), "--repo_id", "two words", "--dry_run") == 2


def test_a_card_that_lacks_fields_is_refused_by_their_names(hub, model, quick, capsys):
    readme = model / "README.md"
    readme.write_text(re.sub("(?m)^(license|pipeline_tag):.*\n", "", readme.read_text()))
    assert run("push", str(model)) == 2
    assert "lacks license, pipeline_tag" in capsys.readouterr().err


def test_a_card_that_shows_what_is_not_there_is_refused(hub, model, quick, capsys):
    (model / "card" / "classes_and_styles.png").unlink()
    assert run("push", str(model)) == 2
    assert "classes_and_styles.png, which is not there" in capsys.readouterr().err


def test_links_of_an_untrusted_folder_are_not_followed(hub, records, quick, tmp_path):
    (tmp_path / "key").write_bytes(png(make_image(0)))
    for name in ("training.json", "README.md", "unet/chat_template.jinja", "card/classes_and_styles.png"):
        link, kept = records.home / name, tmp_path / "kept"
        if link.exists():
            link.rename(kept)
        link.symlink_to(tmp_path / "key")
        with pytest.raises(BadInput, match=f"{name} is a link that leads out of the folder"):
            ModelRecords.of(records.model)
        link.unlink()
        if kept.exists():
            kept.rename(link)
    (tmp_path / "elsewhere").mkdir()
    (records.home / "best").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="best is a link that leads out of the folder"):
        ModelRecords.of(records.model)
    (records.home / "best").unlink()
    (records.home / "card" / "classes_and_styles.png").write_text("a private key")
    with pytest.raises(BadInput, match="classes_and_styles.png is no image"):
        push(ModelRecords.of(records.model), "ann/clothes")
    assert not hub.repos


def test_a_hub_that_is_down(model):
    script = f"from hfdiff.cli import main; main(['push', {str(model)!r}, '--repo_id', 'ann/clothes'])"
    down = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_ann"}
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | down, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.search("hfdiff: error: the Hub cannot be reached .*the same command tries again$", done.stderr.strip())


def test_records_say_nothing_of_the_machine():
    record = {
        "command": "accelerate launch train_scripts/train.py --dataset '/home/jane doe/cats' --init_from=~/old -x ../y",
        "model": "/home/jane/runs/a",
        "more": ["./../../home/jane/x", "file:///home/jane/x"],
        "list": ["/srv/data", 3, None, "plain"],
        "class": "T-shirt/top",
    }
    assert public(record) == {
        "command": "accelerate launch train_scripts/train.py --dataset cats --init_from=old -x y",
        "model": "a",
        "more": ["x", "x"],
        "list": ["data", 3, None, "plain"],
        "class": "T-shirt/top",
    }


def test_an_old_card_does_not_go_with_new_numbers(hub, records, quick):
    for name, record in (
        ("metrics.json", {"protocol": {"weights": records.fingerprint}, "metrics": {"recall": {"value": 0.5}}}),
        ("selection.json", {"weights": records.fingerprint, "top_k": 3}),
        ("training.json", {"images": 8}),
    ):
        (records.home / name).write_text(json.dumps(record))
        with pytest.raises(BadInput, match=f"of other weights or numbers .*{name}.*; hfdiff card writes it again"):
            push(ModelRecords.of(records.model), "ann/clothes")
        (records.home / name).unlink()
    assert not hub.repos


def test_a_repository_that_changes_after_the_list_is_left_alone(hub, records, quick):
    push(records, "ann/clothes")
    (records.home / "notes.md").write_text("New.")

    def made_public() -> bool:
        hub.repos[ANN].private = False
        return True

    with pytest.raises(BadInput, match="ann/clothes has just become public"):
        push(ModelRecords.of(records.model), "ann/clothes", confirm=made_public)

    def written_by_another() -> bool:
        hub.repos[ANN].commits.append((hub.repos[ANN].files | {"theirs.md": b""}, "theirs"))
        return True

    hub.repos[ANN].private = True
    with pytest.raises(HubError, match="412.*the same command tries again"):
        push(ModelRecords.of(records.model), "ann/clothes", confirm=written_by_another)
    assert "notes.md" not in hub.repos[ANN].files


def test_a_card_of_other_numbers_by_hand_is_refused(hub, records, quick):
    text = records.readme.read_text()
    result = """model-index:
- name: clothes
  results:
  - task: {type: unconditional-image-generation}
    dataset: {name: x, type: x}
    metrics:
    - {type: recall, value: 0.99}
"""
    records.readme.write_text(text.replace("---\n\n", f"{result}---\n\n", 1))
    with pytest.raises(BadInput, match="of other weights or numbers"):
        push(ModelRecords.of(records.model), "ann/clothes")
    records.readme.write_text(text.replace("tags:\n", "tags: 3\nothers:\n", 1))
    with pytest.raises(BadInput, match="README.md is no model card"):
        push(ModelRecords.of(records.model), "ann/clothes")
    assert not hub.repos


def test_a_card_that_tells_of_no_numbers_is_sent_as_it_is(hub, records, quick):
    head = "license: mit\nlibrary_name: diffusers\npipeline_tag: unconditional-image-generation"
    records.readme.write_text(f"---\n{head}\n---\n\nIn my own words.\n")
    (records.home / "training.json").write_text('{"images": 8}')
    push(ModelRecords.of(records.model), "ann/clothes")
    assert hub.repos[ANN].files["README.md"].decode().endswith("In my own words.\n")


def test_only_the_models_own_name_is_replaced():
    others = 'CLIPModel.from_pretrained("openai/clip") DiffusionPipeline.from_pretrained("%s", x) load_pipeline("%s")'
    more = 'DiffusionPipeline.from_pretrained("someone/else")'
    own, name = 'we\\"ird', "ann/x"
    assert loaded_by(f"{others % (own, own)} {more}", name) == f"{others % (name, name)} {more}"


def test_a_guide_is_halved_as_the_model_is(records, tmp_path):
    guided = load_pipeline(records.model)
    guided.register_modules(guide_unet=deepcopy(guided.unet))
    guided.save_pretrained(records.model)
    (tmp_path / "out").mkdir()
    write_model_folder(records, tmp_path / "out", half=True)
    own, guide = (
        load_file(tmp_path / "out" / name / "diffusion_pytorch_model.safetensors") for name in ("unet", "guide_unet")
    )
    assert {weight.dtype for weight in (*own.values(), *guide.values())} == {torch.float16}


@pytest.mark.parametrize("name", ["unet", "guide_unet"])
def test_weights_that_half_precision_cannot_hold_are_refused(records, pipeline, tmp_path, name):
    pipeline.register_modules(guide_unet=deepcopy(pipeline.unet))
    getattr(pipeline, name).conv_out.bias.data.fill_(1e5)
    export_pipeline(pipeline, tmp_path / "loud")
    with pytest.raises(BadInput, match="half precision cannot hold the weights"):
        write_model_folder(ModelRecords.of(str(tmp_path / "loud")), tmp_path / "out", half=True)
    assert not (tmp_path / "out").exists()


def test_curves_are_sent_without_what_they_say_of_the_machine(records, tmp_path, capsys):
    (records.home / "metrics.jsonl").write_text('{"images": 8, "note": "/home/jane/x"}\n')
    write_model_folder(records, tmp_path / "out")
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == '{"images": 8, "note": "x"}\n'
    (records.home / "metrics.jsonl").write_text('{"note": "hf_abcdefghijklmnopqrstuvwxyz"}\n')
    with pytest.raises(BadInput, match="metrics.jsonl holds a token of the Hub"):
        write_model_folder(ModelRecords.of(records.model), tmp_path / "secret")
    (records.home / "metrics.jsonl").write_text("API_KEY=secret\n")
    write_model_folder(ModelRecords.of(records.model), tmp_path / "damaged")
    assert not (tmp_path / "damaged" / "metrics.jsonl").exists()
    assert "metrics.jsonl is damaged, and left out" in capsys.readouterr().out


def test_a_hub_that_says_nothing_is_not_waited_for(hub, records, quick, monkeypatch):
    monkeypatch.setattr(hub_module, "TIMEOUT_SECONDS", 0.1)
    hub.fault = lambda method, path: "silent"
    with pytest.raises(HubError, match="timed out.*the same command tries again"):
        push(records, "ann/clothes")
    get_session().timeout = None


def test_what_is_no_hub_is_said(hub, records, quick, monkeypatch):
    monkeypatch.setattr("local_hub._Handler._route", lambda *_: (200, b"<html>a page</html>", {}))
    with pytest.raises(HubError, match="is no Hub"):
        push(records, "ann/clothes")


@pytest.mark.parametrize(
    ("secret", "what"),
    [
        ("hf_abcdefghijklmnopqrstuvwxyz", "a token of the Hub"),
        ("hf_ann", "your token of the Hub"),
        (f"{Path.home()}/notes", "a path of this machine"),
    ],
)
def test_a_card_with_a_secret_is_refused(hub, model, quick, secret, what):
    readme = model / "README.md"
    readme.write_text(readme.read_text() + secret)
    with pytest.raises(BadInput, match=f"README.md holds {what}"):
        push(ModelRecords.of(str(model)), "ann/clothes")
    assert not hub.repos


def publish_images(hub: LocalHub, folder: Path, cats: int = 16, dogs: int = 14) -> None:
    for name, count in (("cat", cats), ("dog", dogs)):
        (folder / "train" / name).mkdir(parents=True)
        for i in range(count):
            (folder / "train" / name / f"{i}.png").write_bytes(png(make_image(i)))
    hub.add_folder("datasets", "ann/pets", folder)


def test_a_dataset_of_the_hub_is_trained_on_and_the_model_pushed(hub, script, tmp_path, quick, capsys):
    """And where the Hub fails at the end, the run is whole and the same command tries again."""
    publish_images(hub, tmp_path / "pets")
    words = ["--dataset", "ann/pets", "--output_dir", str(tmp_path / "run"), *TINY_FLAGS, "--max_train_images", "32"]
    words += ["--push_to_hub", "--hub_model_id", "ann/pets-model"]
    hub.fault = lambda method, path: 500 if path == "/api/repos/create" else None
    assert script["main"](words) == 1
    assert "the same command tries again" in capsys.readouterr().err
    assert load_pipeline(str(tmp_path / "run")).class_names == ["cat", "dog"]
    hub.fault = None
    assert script["main"](words) == 0
    assert "is finished" in capsys.readouterr().out
    files = hub.repos["models", "ann/pets-model"].files
    assert "datasets:\n- ann/pets" in files["README.md"].decode()
    assert json.loads(files["training.json"])["data"]["classes"] == {"cat": 14, "dog": 13}
    assert str(tmp_path) not in b"".join(files.values()).decode(errors="ignore")
    assert load_training_data("ann/pets")[0].name == "ann/pets"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("what", ["model", "dataset"])
def test_a_hub_that_fails_at_any_request_of_loading_is_one_line(hub, records, tmp_path, quick, what, fault):
    """And leaves nothing in the cache that the next time would trip over."""
    if what == "model":
        push(records, "ann/clothes")
        load: Callable[[str], object] = find_pipeline
    else:
        publish_images(hub, tmp_path / "pets", 4, 4)
        load = load_training_data
    name = {"model": "ann/clothes", "dataset": "ann/pets"}[what]

    def from_nothing() -> str:
        """What is said of a failure."""
        hub.requests.clear()
        shutil.rmtree(HF_HOME)
        try:
            load(name)
        except BadInput as error:
            return str(error)
        return ""

    assert from_nothing() == ""
    for number in range(1, len(hub.requests) + 1):
        hub.fault = lambda method, path, number=number: fault if len(hub.requests) >= number else None
        said = from_nothing()
        assert re.match(f"unknown {what} '{name}'.* not found on the Hugging Face Hub", said) or not said
        hub.fault = None
        load(name)


def test_training_with_a_push_and_without_a_token_does_not_begin(start, tmp_path):
    with pytest.raises(BadInput, match="no token"):
        start("run", "--push_to_hub")
    assert not (tmp_path / "run").exists()


def test_a_card_that_was_never_written_is_written_first(hub, model, quick, capsys):
    (model / "README.md").unlink()
    shutil.rmtree(model / "card")
    assert run("push", str(model), "--dry_run") == 0
    assert f"the card: {model / 'README.md'}" in capsys.readouterr().out
