"""`hfdiff demo`."""

import importlib.util
import os
import socket
from pathlib import Path

import torch
from huggingface_hub import constants

from hfdiff.commands.flags import DemoFlags
from hfdiff.core.errors import BadInput, check_range
from hfdiff.models.loading import load_pipeline
from hfdiff.pipelines import ClassStylePipeline
from hfdiff.publish.records import ModelRecords
from hfdiff.training.run_folder import home_of

HOSTS = ("127.0.0.1", "localhost")
COLAB = "COLAB_RELEASE_TAG"  # set on Colab, whose proxy has other names, and lets in the notebook's user alone


def main(flags: DemoFlags) -> int:
    check_range("port", flags.port, 1, 65535)
    check_port(flags.port)
    if importlib.util.find_spec("gradio") is None:
        raise BadInput("the page needs Gradio: pip install 'hfdiff[demo]'")
    drop_settings("GRADIO_")  # the page's are given below, and no others
    from hfdiff.publish.page import serve  # takes seconds, and is an extra

    pipeline = load_pipeline(flags.model)
    if not pipeline.class_names:
        raise BadInput("the model knows no classes, so there is nothing to choose; valid: a model with classes")
    if device := torch.accelerator.current_accelerator(check_available=True):
        pipeline.to(device)
    print(f"http://127.0.0.1:{flags.port}   (ctrl-C ends it)", flush=True)
    name = (home_of(flags.model) or Path(flags.model)).resolve().name
    measured = first_screen_of(flags.model, pipeline)
    drop_tokens()
    address = {"server_name": HOSTS[0], "server_port": flags.port, "root_path": ""}
    serve(pipeline, name, () if COLAB in os.environ else HOSTS, measured, **address, quiet=True)
    return 0


def first_screen_of(model: str, pipeline: ClassStylePipeline) -> list[tuple[str, ...]]:
    """The five numbers of the report beside a model, as texts; none where it is absent or damaged, which is said."""
    home = home_of(model)
    try:
        return ModelRecords(model, home, pipeline).first_screen if home else []
    except BadInput as error:
        print(f"warning: {error}")
        return []


def drop_settings(*prefixes: str) -> None:
    """Forget what the environment sets under names that begin so."""
    for name in [name for name in os.environ if name.startswith(prefixes)]:
        del os.environ[name]


def drop_tokens() -> None:
    """Put the user's tokens of the Hub out of reach of this process: the model is loaded, and the page needs none."""
    drop_settings("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_")
    constants.HF_TOKEN_PATH = constants.HF_STORED_TOKENS_PATH = os.environ["HF_TOKEN_PATH"] = os.devnull


def check_port(port: int) -> None:
    """BadInput where the port of this machine is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(f"port {port} cannot be used: {error.strerror}; give another --port") from error
