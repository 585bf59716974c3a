"""The two ways a job can end other than well, and what must not be said of it."""

import re


class GRU4RecError(Exception):
    """The run failed (exit 1). The message says what is wrong, where, and what to do."""


class InputError(GRU4RecError):
    """Bad settings or bad input (exit 2). The message names the file, the row or the setting."""


# The password of a URI may itself hold "/" or "@", where it was not escaped; a lone token before "@" is one over HTTP.
_CREDENTIALS = re.compile(r"(://)[^\s'\"/@]*:[^\s'\"]*@|(https?://)[^\s'\"/@]+@")


def masked(text: str, instead: str = "***@") -> str:
    """`text` with `instead` in the place of the credentials that URIs in it carry, so that it may be shown and kept."""
    return _CREDENTIALS.sub(lambda found: (found[1] or found[2]) + instead, text)
