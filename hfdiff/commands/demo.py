"""`hfdiff demo`."""

import importlib.util
import socket
from pathlib import Path

import torch

from hfdiff.commands.flags import DemoFlags
from hfdiff.core.errors import BadInput, check_range
from hfdiff.models.loading import load_pipeline
from hfdiff.training.run_folder import home_of


def main(flags: DemoFlags) -> int:
    check_range("port", flags.port, 1, 65535)
    check_port(flags.port)
    if importlib.util.find_spec("gradio") is None:
        raise BadInput("the page needs Gradio: pip install 'hfdiff[demo]'")
    from hfdiff.publish.page import serve  # takes seconds, and is an extra

    pipeline = load_pipeline(flags.model)
    if not pipeline.class_names:
        raise BadInput("the model knows no classes, so there is nothing to choose; valid: a model with classes")
    if device := torch.accelerator.current_accelerator():
        pipeline.to(device)
    print(f"http://127.0.0.1:{flags.port}   (ctrl-C ends it)", flush=True)
    name = (home_of(flags.model) or Path(flags.model)).resolve().name
    serve(pipeline, name, server_name="127.0.0.1", server_port=flags.port, quiet=True)
    return 0


def check_port(port: int) -> None:
    """BadInput where the port of this machine is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(f"port {port} cannot be used: {error.strerror}; give another --port") from error
