"""What no OpenAPI document can say of a request that is valid by itself: each with the reason why it is refused all the same.

Loaded by schemathesis (schemathesis.toml). Only an answer that gives one of these reasons, and no other, is passed over, by
the check that valid data are accepted; and what is wrong within a batch, by the check that wrong data are refused.
"""

import re

import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import RejectedPositiveData

# By status: what each sentence of the problem must be like.
_REASONS = {
    400: [
        # A cursor is opaque: one that nobody gave out is refused, whatever its form.
        r"cursor: expected one that a Link header .*",
        # An entity tag's pattern, which schemathesis does not follow in its coverage phase: it sends `0`.
        r"If-(None-)?Match: expected .*",
        # Parameters that exclude or need each other.
        r"(fields|expand): no such parameter; there are version, as_of\.",
        r"limit: expected at most \d+ with expand.*",
        r"version: expected it or as_of, not both\.",
        r"(type|request_id|changed): needs a narrower search; .*",
        r"until: expected a time after since\.",
        # Quotes that match are no regular language that people could read.
        r"\w+: expected values separated by commas, one that holds a comma or a line break in double quotes\.",
    ],
    # The state of the task, at that moment or now.
    410: [r"The content of version \d+ was erased.*"],
    412: [r".*"],
    # How long a URL may be is the server's to say.
    414: [r".*"],
    422: [
        # References to rows that are not there, or not where they may be.
        r"there is no (active )?(person|task) .*",
        r"subtasks are one level deep.*",
        r"a task cannot be its own parent",
        # A key is one request's for a day.
        r"The Idempotency-Key was used for another request .*",
        # A name that is taken; a change of some members of a person, where there is none.
        r"there is a label of this name already",
        r"expected an id in it",
    ],
}


def _sentences(problem: dict) -> list[str]:
    return [error["detail"] for error in problem.get("errors", [])] or [problem["detail"]]


@schemathesis.hook
def filter_failure(context, failure, case, response) -> bool:
    if isinstance(failure, AcceptedNegativeData) and case.path == "/api/tasks/bulk":
        # With `atomic` false the answer is 200, and each operation has a status of its own.
        return not any(result["status"] >= 400 for result in response.json())
    if not isinstance(failure, RejectedPositiveData):
        return True
    reasons = _REASONS.get(response.status_code, [])
    return not all(any(re.fullmatch(reason, said, re.S) for reason in reasons) for said in _sentences(response.json()))
