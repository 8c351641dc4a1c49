"""Which status may follow which.

Work may be done without a word that it began, and laid down again. Only what is completed does not become pending as if
nobody had ever worked on it: it is reopened as in progress. The database keeps the same rule (`task_derive`), and keeps
`completed_at`: set when a task is completed, unchanged while it is, null when it is reopened.
"""

from tasks.models import Status

NEXT: dict[str, tuple[Status, ...]] = {
    Status.PENDING: (Status.IN_PROGRESS, Status.COMPLETED),
    Status.IN_PROGRESS: (Status.PENDING, Status.COMPLETED),
    Status.COMPLETED: (Status.IN_PROGRESS,),
}


def refusal(before: str, after: str) -> str | None:
    """Why a task may not go from one status to the other; None if it may."""
    if after == before or after in NEXT[before]:
        return None
    return f"a task that is {before} cannot become {after}; expected {' or '.join(NEXT[before])}"
