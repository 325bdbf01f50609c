"""One short script per DVC stage, run as `python -m stages.NAME`.

The copy of the library beside these scripts comes first on the path: a queued experiment must import the code that was
queued, not the live workspace's.

numpy and scipy get one BLAS thread, since torch computes: after each short product OpenBLAS's threads spin and keep
torch's from the cores, which made fit_probe on digits ten times slower. Read when numpy is imported: so it stands here.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
