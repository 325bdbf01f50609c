"""Speed and memory against the bound and against peers; `make bench`, benchmarks/README.md explains each number."""

import stages  # noqa: F401  # the path to the library and numpy's one BLAS thread, as the stages have them
