"""The one exception that a user can cause."""


class UserError(Exception):
    """Says in one line what is wrong, what is allowed and what to do; commands print it and exit with status 1."""
