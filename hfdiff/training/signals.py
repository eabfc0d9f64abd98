"""Stop when asked to: finish the step, save, and exit as the signal says; several processes end together."""

import os
import signal
import sys
from types import FrameType

import torch
from accelerate import Accelerator, PartialState

SIGNALS = tuple(signal.Signals[name] for name in ("SIGTERM", "SIGINT", "SIGHUP") if name in signal.Signals.__members__)


class StopSignals:
    """While entered, SIGTERM, SIGINT and SIGHUP (a closed terminal) are noted instead of ending the process.

    One that is ignored, as nohup has it, stays so.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.number = 0

    def __enter__(self) -> "StopSignals":
        heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        self.previous = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number

    def received(self) -> int:
        """The number of a signal that reached any process (0: none); all processes get the same answer."""
        if self.accelerator.num_processes == 1:
            return self.number
        number = torch.tensor([self.number], device=self.accelerator.device)
        return int(self.accelerator.gather(number).max().item())


def leave_together(code: int) -> int:
    """The exit code of one process; several wait for each other and end here."""
    state = PartialState()
    if state.num_processes > 1:
        state.wait_for_everyone()
        state.destroy_process_group()
        sys.stdout.flush()
        os._exit(code)  # gloo's threads now and then hang or abort the interpreter's own end
    return code
