"""What the page answers, and to whom: it runs as `hfdiff demo` does it, amid an environment that asks for more."""

import http.client
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import CATS, HUB, ROOT, tiny_unet
from test_page import serving

from hfdiff.models.config import ObjectiveConfig
from hfdiff.models.loading import make_pipeline
from hfdiff.models.objectives import make_objective
from hfdiff.publish.page import ROUTES

pytestmark = pytest.mark.slow

# The page, and a thread that tells of its process once it is there.
PROGRAM = """
import gc, json, os, sys, threading, time, urllib.request
from pathlib import Path
from hfdiff.cli import main

port = os.environ["GRADIO_SERVER_PORT"]

def routes(router, prefix=""):
    for route in router.routes:
        path = prefix + getattr(route, "path", "")
        inner = getattr(route, "original_router", route)  # FastAPI's own kind of mount
        if getattr(inner, "routes", None):
            yield from routes(inner, path)
        else:
            yield from (f"{method} {path}" for method in getattr(route, "methods", None) or ["GET"])

def tell():
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}").close()
            break
        except OSError:
            time.sleep(0.2)
    from hfdiff.publish.page import Page
    from huggingface_hub import get_token
    from huggingface_hub.utils import get_stored_tokens
    app, = (one.server_app for one in gc.get_objects() if type(one) is Page)
    found = {"routes": list(routes(app)), "environ": dict(os.environ), "token": get_token()}
    found["stored"] = get_stored_tokens()
    Path(sys.argv[1] + ".new").write_text(json.dumps(found))
    Path(sys.argv[1] + ".new").rename(sys.argv[1])

threading.Thread(target=tell, daemon=True).start()
main(["demo", "ann/pets", "--port", port])
"""
ASKED_FOR = {
    "GRADIO_ALLOWED_PATHS": "/etc",
    "GRADIO_LOCAL_DEV_MODE": "1",
    "GRADIO_MCP_SERVER": "true",
    "GRADIO_NUM_WORKERS": "1",
    "GRADIO_PROFILING": "1",
    "GRADIO_ROOT_PATH": "https://evil.example",
    "GRADIO_RUN_HISTORY": "true",
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_SHARE": "true",
    "HF_TOKEN": "hf_ann",  # the model is hers, and private
    "HUGGING_FACE_HUB_TOKEN": "hf_older",
}
STORED = "hf_stored"
FIELDS = [["cat"], 1, 1, 2, 0, 1, 0, 0]  # classes, guidance, guidance to styles, steps, seed, count, styles


class Served(NamedTuple):
    """The page: its port, what its process tells, and what it prints to the terminal."""

    port: int
    told: dict[str, Any]
    terminal: Path

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, dict[str, str]]:
        """Status, text (not of a stream, which may have no end) and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        content = json.dumps(body) if method == "POST" else None
        connection.request(method, path, content, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        stream = "event-stream" in answer.headers.get("Content-Type", "")
        text = "" if stream else answer.read().decode(errors="replace")
        connection.close()
        return answer.status, text, dict(answer.headers.items())

    def draw(self, data: list[Any]) -> list[dict[str, Any]]:
        """The messages that the button gets for these fields."""
        session = os.urandom(8).hex()
        body = {"data": data, "fn_index": 0, "session_hash": session}
        assert self.ask("POST", "/gradio_api/queue/join", body)[0] == 200
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", f"/gradio_api/queue/data?session_hash={session}")
        messages = [json.loads(line[5:]) for line in connection.getresponse() if line.startswith(b"data:")]
        connection.close()
        return messages


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("page")
    scheduler = make_objective(ObjectiveConfig()).scheduler()
    make_pipeline(tiny_unet(num_classes=2), scheduler, CATS, (), ("thick", "slanted")).save_pretrained(place / "pets")
    HUB.add_folder("models", "ann/pets", place / "pets")
    HUB.repos["models", "ann/pets"].private = True
    (place / "hf").mkdir()
    (place / "hf" / "token").write_text(STORED)
    (place / "hf" / "stored_tokens").write_text(f"[mine]\nhf_token = {STORED}\n")
    environment = ASKED_FOR | {"HF_HOME": str(place / "hf"), "TMPDIR": str(place)}
    words = [sys.executable, "-c", PROGRAM, str(place / "told.json")]
    with (place / "terminal").open("w") as terminal, serving(words, None, environment, terminal) as address:
        for _ in range(300):
            if (place / "told.json").exists():
                break
            time.sleep(0.1)
        told = json.loads((place / "told.json").read_text())
        yield Served(int(address.rpartition(":")[2]), told, place / "terminal")


def documented() -> set[str]:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    return set(
        re.findall(r"`((?:GET|HEAD|POST) /[^`]*)`", text.partition("## The page's routes")[2].partition("\n## ")[0])
    )


def test_the_page_answers_the_routes_that_are_written_down(page):
    """Every route of the running application is asked, as a visitor would; what is not needed meets the guard."""
    asset = re.search(r"/assets/[\w-]+\.js", page.ask("GET", "/")[1])[0]
    file = re.search(r'"path": "([^"]+)"', json.dumps(page.draw(FIELDS)))[1]
    there = {
        "/assets/{path:path}": asset,
        "/static/{path:path}": "/static/img/logo_nosize.svg",
        "/gradio_api/file={path_or_url:path}": f"/gradio_api/file={file}",
    }
    answered = set()
    for route in page.told["routes"]:
        method, path = route.split(" ", 1)
        status, text, _ = page.ask(method, there.get(path) or re.sub(r"{[^}]*}", "1", path), {})
        if status not in (403, 404, 405):
            answered.add(route)
        elif route not in ROUTES:
            assert (status, text) == (403, "" if method == "HEAD" else "refused: no part of the page"), route
    assert len(page.told["routes"]) > 60
    assert answered == set(ROUTES) == documented()


def test_what_gradio_can_be_told_to_add_is_not_there(page):
    """Without the guard too: neither the user's runs, nor tools for agents, nor measurements."""
    added = [route for route in page.told["routes"] if re.search("run-history|mcp|profiling", route)]
    assert not added


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/run-history/buckets"),
        ("GET", "/gradio_api/run-history/records?bucket_id=ann/x"),
        ("POST", "/gradio_api/run-history/connect"),
        ("GET", "/gradio_api/runs"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api//upload"),
        ("POST", "/gradio_api/%75pload"),
        ("POST", "/assets/../gradio_api/upload"),
        ("GET", "/gradio_api/mcp/"),
        ("GET", "/gradio_api/file=/etc/hostname"),
        ("GET", "/gradio_api/file=/etc/../etc/hostname"),
        ("GET", "/gradio_api/file=https://evil.example"),
        ("GET", "/openapi.json"),
        ("OPTIONS", "/gradio_api/queue/join"),
        ("PUT", "/"),
    ],
)
def test_what_is_no_part_of_the_page_is_refused(page, method, path):
    assert page.ask(method, path, {"bucket_id": "ann/x"})[0] in (403, 404)


def test_settings_of_the_environment_do_not_count(page):
    ours = {"GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR"}
    assert {name for name in page.told["environ"] if name.startswith("GRADIO_")} == ours
    status, text, _ = page.ask("GET", "/")
    assert status == 200
    assert "evil.example" not in text
    assert f'"root":"http://127.0.0.1:{page.port}"' in text
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", page.port + 1, timeout=5).connect()  # a worker's


def test_no_token_is_in_reach_of_the_page(page):
    """Of those that the model was loaded with."""
    assert page.told["token"] is None
    assert page.told["stored"] == {}
    tokens = (ASKED_FOR["HF_TOKEN"], ASKED_FOR["HUGGING_FACE_HUB_TOKEN"], STORED)
    assert not [value for value in page.told["environ"].values() if any(token in value for token in tokens)]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "127.0.0.2:{port}", ""]
)
def test_another_host_is_refused(page, host):
    status, text, headers = page.ask("GET", "/", Host=host.format(port=page.port))
    assert (status, text) == (400, "Invalid host header")
    assert not [name for name in headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://localhost:9999"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://localhost:{port}"},  # the page is asked for by the other name
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "image"},  # another port of this machine
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "iframe"},
    ],
)
def test_another_site_is_refused(page, headers):
    given = {name: value.format(port=page.port) for name, value in headers.items()}
    preflight = {"Access-Control-Request-Method": "POST", **given}
    for method, path, sent in (
        ("GET", "/", given),
        ("POST", "/gradio_api/queue/join", given),
        ("OPTIONS", "/gradio_api/queue/join", preflight),
    ):
        status, _, answered = page.ask(method, path, {}, **sent)
        assert status == 403
        assert not [name for name in answered if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:{port}"},
        {"Origin": "http://localhost:{port}", "Host": "localhost:{port}"},
        {"Origin": "http://localhost:9000", "Host": "localhost:9000"},  # forwarded by ssh
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Dest": "document"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "document"},  # a link to the page
    ],
)
def test_the_page_itself_is_answered(page, headers):
    given = {name: value.format(port=page.port) for name, value in headers.items()}
    assert page.ask("GET", "/", **given)[0] == 200


ODD = (
    (0, None, "the classes are no list of names"),
    (0, "cat", "the classes are no list of names"),
    (0, [["cat"]], "the classes are no list of names"),
    (0, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, "Cannot move /etc/passwd"),
    (0, ["<img src=http://e.example/x>"], "unknown class '<img src=http://e.example/x>'"),
    (0, ["cat", "cat"], "a class is named twice"),
    *(
        (field, value, "a field is empty, or holds no number")
        for field in range(1, 8)
        for value in (None, "x", [1], True)
    ),
    (1, 1e300, "guidance_scale 1e+300; valid"),
    (3, float("inf"), "cannot convert float infinity"),
    (3, 10**30, "valid: 1 to 100"),
    (4, -1, "seed -1; valid"),
    (5, 0, "0 images; valid"),
    (6, float("nan"), "strength nan of style 'thick'; valid"),
    (6, -1, "strength -1 of style 'thick'; valid"),
)


def test_odd_requests_get_an_error_and_leave_no_traceback(page):
    for field, value, message in ODD:
        last = page.draw([value if i == field else given for i, given in enumerate(FIELDS)])[-2]
        assert (last["msg"], last["success"]) == ("process_completed", False)
        assert message in unescape(last["output"]["error"])
        assert "<" not in last["output"]["error"]  # the browser takes it for HTML
    assert "needed: 8, got: 1" in page.draw(FIELDS[:1])[-2]["output"]["error"]
    join = "/gradio_api/queue/join"
    bodies = ([], {}, {"data": FIELDS, "fn_index": "x"}, {"data": FIELDS, "fn_index": 9, "session_hash": "a"})
    assert [page.ask("POST", join, body)[0] for body in bodies] == [422, 422, 422, 500]
    assert page.ask("GET", "/gradio_api/queue/data?session_hash=unknown")[0] == 200
    assert page.draw(FIELDS)[-2]["success"]
    said = page.terminal.read_text()
    assert "Traceback" not in said
    assert f"POST '{join}': KeyError" in said
