"""Speed and memory against the bound and against peers; `make bench`, benchmarks/README.md explains each number."""
