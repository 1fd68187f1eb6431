"""A command that runs in several processes at once, each with devices of its own."""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Iterator

import jax

from experiments.cli import programs
from wsdjax.errors import UserError
from wsdjax.files import explained
from wsdjax.placement import processes


@contextlib.contextmanager
def together(given: argparse.Namespace) -> Iterator[None]:
    """Joins the other processes, if there are any, and leaves with them: what ends one, ends all.

    The first one speaks for all; what the others print is lost.
    """
    flags = ("coordinator", "process_count", "process_id")
    processes.start(*(getattr(given, flag, None) for flag in flags))
    with contextlib.ExitStack() as quiet:
        if not processes.is_first():
            logging.getLogger("wsdjax").setLevel(logging.ERROR)
            quiet.enter_context(contextlib.redirect_stdout(None))
        quiet.enter_context(programs.kept(given))
        try:
            yield
        except processes.Lost as error:
            processes.fail(str(error), error.code)
            raise
        except jax.errors.JaxRuntimeError as error:
            # Most likely what is left of an operation that another process has not finished.
            processes.wait_for_cause()
            processes.fail(str(error), 1)
            raise
        except BaseException as error:
            code = 2 if isinstance(error, UserError | OSError) else 1
            said = explained(error) if isinstance(error, OSError) else error
            processes.fail(str(said) or type(error).__name__, code)
            raise
        processes.end()
