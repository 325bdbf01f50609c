"""The campaign reads what the tests of `ingest` make: their helpers import each other by their bare names."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "ingest"))
