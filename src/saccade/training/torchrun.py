"""`python -m saccade.training.torchrun`: torchrun that ends with a status instead of a traceback, and leaves time to
save after a signal."""

from __future__ import annotations

import sys

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, main

SAVING_S = 60
"""Between SIGTERM and SIGKILL of the processes; its own default is 30, less than our grace and a large checkpoint."""

if __name__ == "__main__":
    if hasattr(get_args_parser().parse_args(["program"]), "shutdown_timeout"):  # not in earlier versions of torch
        sys.argv[1:1] = ["--shutdown-timeout", str(SAVING_S)]
    try:
        main()
    except SignalException as stopped:
        sys.exit(128 + int(stopped.sigval))
    except ChildFailedError as failed:
        sys.exit(abs(failed.get_first_failure()[1].exitcode) or 1)
