"""The exit codes of `arspm` and of the jobs' programs."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a program ended. `meaning`: for the help and the documentation."""

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "everything that was asked for is done"
    FAILED = 1, "an error, a failed stage or trial, a failed check of `arspm doctor`, or a question answered with no"
    USAGE = 2, "unknown or missing options or arguments; nothing was started"
    TEMPORARY = 75, "of a job only: storage, network or a node failed; the job is started again (EX_TEMPFAIL)"
    INTERRUPTED = 130, "stopped by Ctrl-C or `arspm cancel`; run the same command again to resume"


def table() -> list[str]:
    """Return the exit codes with their meanings, one per line."""
    return [f"{code:>3}  {code.meaning}" for code in ExitCode]
