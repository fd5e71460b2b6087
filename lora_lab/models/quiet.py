"""Libraries kept quiet: transformers, and what writes to standard error past Python."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quietly() -> Iterator[None]:
    """A block in which transformers prints nothing; its settings are put back afterwards."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def silent_stderr() -> Iterator[None]:
    """A block in which nothing is written to this process's standard error, not even by C++ code.

    On some machines onnxruntime's import warns of a device that is not a graphics card, before its
    warnings can be switched off.

    Source:
        https://github.com/microsoft/onnxruntime/issues/27092
    """
    try:
        before = os.dup(2)
    except OSError:  # a program without a terminal has none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
