"""`hfdiff demo`."""

import importlib.util
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from hfdiff.core.errors import BadInput, check_range
from hfdiff.models.loading import load_pipeline
from hfdiff.training.run_folder import home_of


@dataclass(frozen=True, kw_only=True)
class Demo:
    model: Annotated[str, tyro.conf.Positional]
    """A pipeline's folder, a run's folder, or a Hub id."""
    port: int = 7860
    """On 127.0.0.1: only this machine sees the page."""

    def main(self) -> int:
        check_range("port", self.port, 1, 65535)
        check_port(self.port)
        if importlib.util.find_spec("gradio") is None:
            raise BadInput("the page needs Gradio: pip install 'hfdiff[demo]'")
        from hfdiff.publish.page import serve  # takes seconds, and is an extra

        pipeline = load_pipeline(self.model)
        if not pipeline.class_names:
            raise BadInput("the model knows no classes, so there is nothing to choose; valid: a model with classes")
        if device := torch.accelerator.current_accelerator():
            pipeline.to(device)
        print(f"http://127.0.0.1:{self.port}   (ctrl-C ends it)", flush=True)
        name = (home_of(self.model) or Path(self.model)).resolve().name
        serve(pipeline, name, server_name="127.0.0.1", server_port=self.port, quiet=True)
        return 0


def check_port(port: int) -> None:
    """BadInput where the port of this machine is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(f"port {port} cannot be used: {error.strerror}; give another --port") from error
