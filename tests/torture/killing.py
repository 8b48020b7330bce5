"""Kills a piece of work again and again, and looks at what is left.

Half of the kills come at a random moment, and half at a file call: before it, after it, or in the
middle of what it writes. After each, the work is begun again in the same folder, and killed again,
until it ends. Then nothing may differ from work that nobody disturbed, nor be left over.
"""

import argparse
import builtins
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

KILLS_IN_A_ROW = 4


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is killed."""

    title: str
    work: Callable[[Path], object]  # begins it in a folder, or goes on
    opens: ModuleType  # the module that opens the files
    calls: tuple[str, ...]  # functions of `os` that are file calls, beside what is written
    most_calls: int  # about as many as the work makes
    longest: float  # seconds to a random moment
    done: Callable[[Path], int]  # how much is on the disk, which never falls
    faults: Callable[[Path, Path], list[str]]  # how a folder differs from one left undisturbed


def main(work: Work) -> None:
    """Reads the command line, prints counts and faults, and exits with 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=work.title)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    counts, faults = torture(work, given.kills, random.Random(given.seed))
    for name, count in counts.items():
        print(f"{count:5} {name}")
    print(f"{len(faults):5} faults")
    print(*faults, sep="\n")
    sys.exit(bool(faults))


def torture(work: Work, kills: int, draw: random.Random) -> tuple[Counter[str], list[str]]:
    """Counts what happened, and lists what went wrong."""
    counts, faults = Counter[str](), []
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary, "whole")
        work.work(whole)
        while counts["kills"] < kills:
            counts["folders"] += 1
            name = str(counts["folders"])
            folder, last = Path(temporary, name), 0
            for _ in range(KILLS_IN_A_ROW):
                at_call = draw.random() < 0.5
                call = draw.randint(1, work.most_calls) if at_call else 0
                when = draw.choice(("before", "halfway", "after"))
                moment = None if at_call else draw.uniform(0, work.longest)
                status = killed(work, folder, call, when, moment)
                if status == 0:
                    counts["ended before the kill"] += 1
                    break
                counts["kills"] += 1
                counts["at a file call" if at_call else "at a random moment"] += 1
                if status != -signal.SIGKILL:
                    faults.append(f"{name}: status {status}")
                if (now := work.done(folder)) < last:
                    faults.append(f"{name}: from {last} back to {now}")
                last = now
                counts["goes on from what was done"] += now > 0
                counts["temporary file after the kill"] += any(folder.rglob(".*.tmp"))
            work.work(folder)
            faults += [f"{name}: {fault}" for fault in work.faults(folder, whole)]
    return counts, faults


def killed(work: Work, folder: Path, call: int, when: str, moment: float | None) -> int:
    """Works in another process, which is forked here, once torch is imported; kills it."""
    pid = os.fork()
    if pid == 0:
        try:
            if call:
                die = Die(call, when)
                die.at(work.opens, "open")
                for name in work.calls:
                    die.at(os, name)
            work.work(folder)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    if moment is not None:
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Die:
    """Kills this process at a file call: `when` is before, halfway or after."""

    def __init__(self, call: int, when: str) -> None:
        self.left, self.when = call, when

    def at(self, module: object, name: str) -> None:
        """Counts the calls of a function of a module."""
        real = getattr(module, name, None) or getattr(builtins, name)

        def wrapped(*args: object, **options: object) -> object:
            self.left -= 1
            if self.left == 0 and self.when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*args, **options)
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return self.torn(result) if hasattr(result, "write") else result

        setattr(module, name, wrapped)

    def torn(self, file: object) -> object:
        """A file of which a write may stop halfway."""
        die = self

        class Torn:
            def write(self, content: bytes) -> int:
                die.left -= 1
                if die.left == 0:
                    size = {"before": 0, "halfway": len(content) // 2}.get(die.when, len(content))
                    file.write(content[:size])
                    file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                return file.write(content)

            def __enter__(self) -> "Torn":
                file.__enter__()
                return self

            def __exit__(self, *error: object) -> object:
                return file.__exit__(*error)

            def __getattr__(self, name: str) -> object:
                return getattr(file, name)

        return Torn()
