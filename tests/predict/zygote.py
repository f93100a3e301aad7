"""A process that has everything imported, and forks one prediction a line: OUT SECONDS. After SECONDS it is killed; 0: never.

python zygote.py MODEL INPUT
"""

import os
import signal
import sys
import time
from pathlib import Path


def main(model: str, source: str) -> None:
    import torch

    from autounet.job import Job
    from autounet.progress import Progress
    from autounet.stages.predict import predict
    from autounet.store.sweep import sweep

    torch.set_num_threads(1)
    for line in sys.stdin:
        name, seconds = line.split()
        out = Path(name)
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            sweep(out)  # as the command does first
            predict(Path(model), Path(source), out, Job(work=out, progress=Progress.silent(), device="cpu", threads=1))
            os._exit(0)
        ended, status = 0, 0
        while not ended and not (float(seconds) and time.monotonic() - start >= float(seconds)):
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.0005)
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{status} {time.monotonic() - start}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
