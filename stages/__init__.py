"""One short script per DVC stage, run as `python -m stages.NAME`.

The copy of the library beside these scripts comes first on the path: a queued experiment must import the code that was
queued, not the live workspace's.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
