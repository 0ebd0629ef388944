"""Processor time of training steps, of several programs or settings in turns.

    python python/compare/processor_time.py 12 "--method=codi --question=40 --vocab=512" \
        "target/release/coconut" "target/release/coconut --apart"

Each variant is a program and flags of `coconut bench` beside the common ones; it runs in a process of its own, which takes
some steps when it is its turn. Neighbours on the machine stretch a step's time on the clock, and far less the time that
its threads compute. Ratios are medians over turns, to the last variant.
"""

import os
import subprocess
import sys
from statistics import median

STEPS = 5  # in a turn: the kernel counts in hundredths of a second


def processor_ms(worker):
    """User and system time of a process so far, its threads' together."""
    with open(f"/proc/{worker.pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return 1e3 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def steps(worker, n):
    worker.stdin.write("step\n" * n)
    worker.stdin.flush()
    for _ in range(n):
        worker.stdout.readline()


def main():
    turns, common, *variants = sys.argv[1:]
    workers = []
    for variant in variants:
        program, *flags = variant.split()
        command = [program, "bench", "--steps-only", "--stages=1", "--step-on-stdin", *common.split(), *flags]
        workers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        steps(workers[-1], 2)
    found = [[] for _ in workers]
    for _ in range(int(turns)):
        for worker, times in zip(workers, found):
            before = processor_ms(worker)
            steps(worker, STEPS)
            times.append((processor_ms(worker) - before) / STEPS)
    for worker in workers:
        worker.kill()
    for variant, times in zip(variants, found):
        ratio = median(a / b for a, b in zip(times, found[-1]))
        print(f"{variant:50} {median(times):8.1f} ms ({min(times):.0f} to {max(times):.0f})  {ratio:.3f}")


if __name__ == "__main__":
    main()
