"""Errors that are for people: one line that says what is wrong, where, and what to do.

Each class carries the exit code of the command that ends with it.
"""


class UserError(Exception):
    """Something the person who ran the command can mend: bad usage or configuration."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration file or an override is wrong."""


class DataError(UserError):
    """A data set, a raster or a prepared store is wrong."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, or belongs to another model."""

    exit_code = 4


class TrainingError(UserError):
    """Training can't go on: a loss that is not finite, memory or disk that ran out."""

    exit_code = 5


class Stopped(UserError):
    """The run was asked to stop and did so cleanly."""

    def __init__(self, message: str, *, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # the shell's convention: 130 for SIGINT, 143 for SIGTERM
