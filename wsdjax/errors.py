"""Errors that whoever runs this can mend."""


class UserError(Exception):
    """An error whose message says what is wrong, where, and what to do."""


class ConfigError(UserError, ValueError):
    """A config that cannot be run; the message names the field, its value and what is allowed."""
