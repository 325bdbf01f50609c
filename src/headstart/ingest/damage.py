"""Images that cannot be decoded: found before anything is kept, and told in one line."""

from collections.abc import Iterator, Sequence

import joblib

from headstart.errors import UserError
from headstart.ingest.decode import Encoded, quiet, why_unreadable
from headstart.ingest.formats import Listing, single

SHOWN = 3  # of a message's images
CHUNK = 64


class DamagedError(UserError):
    """Tells of images that cannot be decoded; rows: the name of each and why; advice: what to do."""

    def __init__(self, source: str, rows: Sequence[tuple[str, str]], advice: str):
        self.source, self.rows = source, list(rows)
        named = ", ".join(f"{name} ({reason})" for name, reason in self.rows[:SHOWN])
        more = f" and {len(self.rows) - SHOWN} more" if len(self.rows) > SHOWN else ""
        super().__init__(" ".join(f"{source}: {len(self.rows)} unreadable: {named}{more}; {advice}".split()))


def check(listing: Listing, source: str) -> None:
    """Raise DamagedError where an image cannot be decoded; source: what its message calls the images."""
    with quiet():
        parallel = joblib.Parallel(-1, backend="threading", return_as="generator_unordered")
        found = parallel(joblib.delayed(_reasons)(chunk, listing.crop_bottom) for chunk in _chunks(listing))
        reasons = {index: reason for part in found for index, reason in part}
    if reasons:
        rows = [(listing.names[index], reasons[index]) for index in sorted(reasons)]
        raise DamagedError(source, rows, "repair or remove them and run again, or set data.skip_unreadable")


def _reasons(chunk: list[tuple[int, Encoded]], crop_bottom: int) -> list[tuple[int, str]]:
    found = ((index, why_unreadable(data, crop_bottom)) for index, data in chunk)
    return [(index, reason) for index, reason in found if reason]


def _chunks(listing: Listing) -> Iterator[list[tuple[int, Encoded]]]:
    chunk: list[tuple[int, Encoded]] = []
    for item in listing.read():
        for one in single(*item):
            chunk.append(one)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    yield chunk
