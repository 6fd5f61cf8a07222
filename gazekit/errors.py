"""What a user is told: the one exception for what they can mend, and warnings of one line."""

import warnings


class InputError(ValueError):
    """Something a user gave is wrong; the message is one line that says what to do about it.

    The command line prints the message alone and exits non-zero; the traceback stays behind
    ``--traceback``. Any other exception is a defect of gazekit and keeps its traceback.
    """


def one_line_warnings() -> None:
    """Print warnings as one line, without the place in the code that raised them; for the command line."""
    warnings.formatwarning = lambda message, *_, **__: f"gazekit: {' '.join(str(message).split())}\n"
