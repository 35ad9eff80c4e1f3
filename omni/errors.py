"""The one exception that means: the user can mend this."""


class UserError(Exception):
    """A mistake in what the user gave: a file, a key, a value, a checkpoint.

    The message says what is wrong, where (file, row, key), and what to do, in one line. The command prints it alone
    and exits with code 2; nothing else in omni catches it.
    """
