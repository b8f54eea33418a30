"""Mistakes that a user can mend, and the exit codes that tell them apart. Imports nothing."""

BAD_DATA, NO_INPUT, CANNOT_CREATE, IO_ERROR, LOCKED, REFUSED = 65, 66, 73, 74, 75, 77  # sysexits.h


class LockedError(OSError):
    """Somebody else is writing there; the message names the host and the process id."""


class RefusedError(ValueError):
    """Not done because it would not be safe; the message names what would have been run or opened."""


def exit_code(error: Exception) -> int:
    """The sysexits code of a mistake that the user can mend."""
    if isinstance(error, LockedError):
        return LOCKED
    if isinstance(error, RefusedError):
        return REFUSED
    if isinstance(error, FileNotFoundError):
        return NO_INPUT
    if isinstance(error, PermissionError | FileExistsError):
        return CANNOT_CREATE
    return IO_ERROR if isinstance(error, OSError) else BAD_DATA
