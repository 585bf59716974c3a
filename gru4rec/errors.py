"""The two ways a job can end other than well."""


class GRU4RecError(Exception):
    """The run failed (exit 1). The message says what is wrong, where, and what to do."""


class InputError(GRU4RecError):
    """Bad settings or bad input (exit 2). The message names the file, the row or the setting."""
