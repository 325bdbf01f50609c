"""Run benchmarks and print their tables: `python -m benchmarks [NAME ...] [--quick]`."""

import argparse
import importlib
import sys
import time

from benchmarks.measure import pick_device, save, show
from headstart.memory import keep_freed_memory

# in this order; each module: main(device, quick) -> rows, precision of the numbers
NAMES = (
    "step",
    "compiled",
    "authors",
    "lightly_peer",
    "views",
    "nt_xent",
    "autoencoder",
    "probe",
    "neighbours",
    "diagnostics",
    "prepare",
    "startup",
    "sweeps",
    "concurrent_runs",
    "precision",
)


def main() -> None:
    """Measure what the command line names, everything without names; exit status 1 where a bar is missed."""
    parser = argparse.ArgumentParser(description="Speed and memory, measured side by side")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all where none is named")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that all runs; nothing is saved")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(NAMES):
        sys.exit(f"error: {min(unknown)!r} is no benchmark; one of {', '.join(NAMES)}")
    device, missed = pick_device(), []
    keep_freed_memory()  # as the stages do
    for name in arguments.names or NAMES:
        started = time.perf_counter()
        rows, precision = importlib.import_module(f"benchmarks.{name}").main(device, arguments.quick)
        print(f"\n## {name} ({precision}, {time.perf_counter() - started:.0f} s)\n\n{show(rows)}", flush=True)
        if not arguments.quick:
            save(name, rows, device, precision)
        missed += [f"{name}: {row.case}" for row in rows if row.met is False]
    if missed and not arguments.quick:
        sys.exit("bars missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
