"""The one error a user is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the thing (file, option, frame) and the remedy. The command line prints
    it as it is; assets turn it into a Dagster failure that is not retried.
    """
