"""A config with a field that no Branch has."""

from wsdjax.config import Branch, Constant


def get_config():
    return Branch(stepz=3, schedule=Constant())
