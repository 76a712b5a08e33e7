"""What a failed submission means: never, not now, or nobody knows."""

from __future__ import annotations

from enum import Enum

from hpcrunner.schedulers.contract import SubmitRefused


class Answer(Enum):
    """What a text means for the submission it came from."""

    NEVER = "NEVER"  # refused, and the same submission always will be
    NOT_NOW = "NOT_NOW"  # refused, nothing was submitted, may be taken later
    DOUBTFUL = "DOUBTFUL"  # refused, nothing was submitted, and the text fits both of these
    UNCERTAIN = "UNCERTAIN"  # the job may exist


def refused(words: str, answer: Answer, *, where: str) -> SubmitRefused:
    """The error for a submission that the scheduler did not take."""
    passing = answer in (Answer.NOT_NOW, Answer.DOUBTFUL)
    return SubmitRefused(
        f"refused ({words or 'no word why'})",
        where=where,
        remedy="it will be tried again" if passing else "change the request or the site's file",
        passing=passing,
        doubtful=answer is Answer.DOUBTFUL,
    )
