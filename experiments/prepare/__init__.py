"""Data sets fetched, or made of one's own text, in the form that training reads."""

from wsdjax.errors import UserError


class PrepareError(UserError):
    """What could not be prepared and what to do about it, in one line."""
