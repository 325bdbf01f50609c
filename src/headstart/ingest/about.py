"""What is known of a published dataset."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class About:
    """What is known of a dataset without having it.

    num_images: by split as published; image_size: pixels, in words; the other fields: as its page or paper states them.
    """

    title: str
    classes: int
    num_images: dict[str, int] = field(hash=False)
    image_size: str
    licence: str
    citation: str
    homepage: str
