"""The kinds of dataset. To add one: a function that yields its images, and a row of KINDS."""

KINDS = {"digits": None, "image_folder": None, "image_archive": None}
