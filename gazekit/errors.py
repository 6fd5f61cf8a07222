"""The one exception for what a user can mend: bad input, a missing file, an unknown name."""


class InputError(ValueError):
    """Something a user gave is wrong; the message is one line that says what to do about it.

    The command line prints the message alone and exits non-zero; the traceback stays behind
    ``--traceback``. Any other exception is a defect of gazekit and keeps its traceback.
    """
