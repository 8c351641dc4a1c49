"""Every type of problem (RFC 9457) that this service answers with, declared once: the answers themselves, the pages at
`/api/problems/NAME`, the OpenAPI document and docs/api/problems.md are made of this table.

`type` is an absolute-path reference, `/api/problems/NAME`. RFC 9457 §3.1.1 allows a relative one, resolved against the
URL that was asked, and advises the full path. So it leads to the page of the very installation that answered, by
whatever name it is reached, and is the same string everywhere for a program that compares it.
"""

from typing import NamedTuple

from django.utils.translation import gettext

PATH = "/api/problems"


def _(message: str) -> str:
    """Marks a text for translation. Django's gettext_noop reads the settings, which are not there yet when gunicorn's
    configuration imports this."""
    return message


class ProblemType(NamedTuple):
    """`title` is the same in each occurrence; `meaning` says when it comes and what to do about it."""

    name: str
    status: int
    title: str
    meaning: str

    @property
    def uri(self) -> str:
        return f"{PATH}/{self.name}"


# The first of a status is what a problem with that status is that names no type.
TYPES: tuple[ProblemType, ...] = (
    ProblemType(
        "malformed-request",
        400,
        _("The request is malformed"),
        "The request, a header or the JSON of its body cannot be read. Sent again as it is, it fails again.",
    ),
    ProblemType(
        "invalid-query",
        400,
        _("The query has wrong parameters"),
        "A query parameter is unknown or has a wrong value. `errors` names each by `parameter`, with what was expected.",
    ),
    ProblemType(
        "idempotency-key-required",
        400,
        _("The Idempotency-Key is missing"),
        "This installation takes a POST or PATCH only with an `Idempotency-Key`, so that it can be sent again without harm.",
    ),
    ProblemType(
        "not-authenticated",
        401,
        _("Nobody is signed in"),
        "The request needs an API token in `Authorization: Bearer …`, or the session of a person who is signed in.",
    ),
    ProblemType(
        "invalid-token",
        401,
        _("The token is not valid"),
        "The API token is unknown, expired or revoked, or belongs to a person who was deactivated. Take another one.",
    ),
    ProblemType(
        "forbidden",
        403,
        _("This is not allowed"),
        "The caller is known and their role does not allow this. Who administers this service can give the role.",
    ),
    ProblemType(
        "csrf-failed",
        403,
        _("The CSRF token is missing or wrong"),
        "An unsafe request with a session's cookie needs the CSRF token in `X-CSRFToken`. With an API token none is needed.",
    ),
    ProblemType(
        "not-found",
        404,
        _("There is nothing here"),
        "No such resource exists, or it exists no more.",
    ),
    ProblemType(
        "not-covered-yet",
        404,
        _("No checkpoint covers this yet"),
        "The entry is in the log and the next checkpoint will cover it. Ask again after `Retry-After` seconds.",
    ),
    ProblemType(
        "covered-by-successor",
        404,
        _("No checkpoint of this log will cover this"),
        "The log was closed before a checkpoint covered the entry. The first entry of its successor states the tree with which it "
        "was closed, and so covers it: an export from this entry on holds both, with their proofs.",
    ),
    ProblemType(
        "method-not-allowed",
        405,
        _("The resource does not have this method"),
        "`Allow` names the methods that there are.",
    ),
    ProblemType(
        "not-acceptable",
        406,
        _("No acceptable representation"),
        "The `Accept` header excludes every media type that this resource has. `detail` names them.",
    ),
    ProblemType(
        "request-timeout",
        408,
        _("The request did not arrive in time"),
        "The server waited for the rest of the request and gave up. Send it again.",
    ),
    ProblemType(
        "concurrent-change",
        409,
        _("The task was changed at the same time"),
        "Somebody changed or deleted the same task meanwhile. Nothing was changed. Read it and send the change again.",
    ),
    ProblemType(
        "illegal-transition",
        409,
        _("The status cannot follow the present one"),
        "A completed task is reopened as `in_progress`, not as `pending`; every other change of status is taken.",
    ),
    ProblemType(
        "too-many-tasks",
        409,
        _("Too many tasks bear the label"),
        "A request renames or deletes a label on so many tasks as `detail` says. `manage.py labels` does it on any number.",
    ),
    ProblemType(
        "idempotency-key-in-use",
        409,
        _("The first request with this Idempotency-Key is under way"),
        "Send the request again after `Retry-After` seconds, with the same key: it gets the answer of the first.",
    ),
    ProblemType(
        "erased",
        410,
        _("The content was erased"),
        "The content was erased from the audit log, where an entry accounts for that. It does not come back.",
    ),
    ProblemType(
        "archived",
        410,
        _("The entries were archived"),
        "What is asked for stands in entries of the audit log that were moved to a file, which the detail names. Who administers "
        "this service has the file; it proves itself.",
    ),
    ProblemType(
        "stale-version",
        412,
        _("The task has another version"),
        "`If-Match` or `If-None-Match` excludes the present version, which `ETag` names. Read the task and decide anew.",
    ),
    ProblemType(
        "content-too-large",
        413,
        _("The body is too large"),
        "`detail` says how many bytes are taken.",
    ),
    ProblemType(
        "uri-too-long",
        414,
        _("The URL is too long"),
        "The first line of the request is longer than the server reads. Ask for less at once.",
    ),
    ProblemType(
        "unsupported-media-type",
        415,
        _("The body has a media type that is not taken"),
        "`Accept`, for a PATCH `Accept-Patch`, names what is taken.",
    ),
    ProblemType(
        "expectation-failed",
        417,
        _("The expectation cannot be met"),
        "Of what `Expect` may ask, `100-continue` is known alone.",
    ),
    ProblemType(
        "invalid-body",
        422,
        _("The body has wrong values"),
        "The body is well formed, and fields of it are unknown or wrong. `errors` points at each by a JSON Pointer.",
    ),
    ProblemType(
        "idempotency-key-reused",
        422,
        _("The Idempotency-Key is that of another request"),
        "A key belongs to one request: method, path, query, content type, `If-Match`, body. Take a new one for another request.",
    ),
    ProblemType(
        "precondition-required",
        428,
        _("The version has to be named"),
        "This installation takes a change only with `If-Match`, so that nobody overwrites what they have not seen.",
    ),
    ProblemType(
        "too-many-requests",
        429,
        _("Too many requests at once"),
        "As many of these as there may be are under way. Try again after `Retry-After` seconds.",
    ),
    ProblemType(
        "headers-too-large",
        431,
        _("The headers are too large"),
        "A header, or all of them together, is longer than the server reads.",
    ),
    ProblemType(
        "internal-error",
        500,
        _("Something went wrong on our side"),
        "The fault is the server's. Its log has it under `request_id`, which whoever runs this service will ask for.",
    ),
    ProblemType(
        "not-implemented",
        501,
        _("The server does not know how to read this"),
        "The body comes in a transfer coding that the server does not have. Send it plain or chunked.",
    ),
    ProblemType(
        "overloaded",
        503,
        _("More requests wait than can be served in time"),
        "The request was refused before anything was done. Try again after `Retry-After` seconds.",
    ),
    ProblemType(
        "database-unavailable",
        503,
        _("The database cannot be used"),
        "It is away or just starting. Nothing was changed unless the answer to a write was lost on its way. Try again.",
    ),
    ProblemType(
        "database-timeout",
        503,
        _("The database took too long"),
        "The request needed more time than one may take. Nothing was changed. Try again, or ask for less at once.",
    ),
    ProblemType(
        "locked",
        503,
        _("Somebody else is changing the same task"),
        "The change waited for another one that did not end in time. Nothing was changed. Try again.",
    ),
)

BY_NAME = {found.name: found for found in TYPES}
BY_STATUS = {found.status: found for found in reversed(TYPES)}


def named(status: int, name: str | None = None) -> ProblemType:
    """The type of that name, else the first of the status. Raises KeyError where the table has none."""
    found = BY_NAME[name] if name else BY_STATUS[status]
    if found.status != status:
        raise KeyError(f"{name} is a problem of status {found.status}, not {status}")
    return found


def document(found: ProblemType, detail: str, request_id: str, errors: list[dict] | None = None) -> dict:
    """The members of the answer, in the language that is active. There is no `instance`: `request_id` is what finds the
    occurrence in the log."""
    answer = {"type": found.uri, "title": gettext(found.title), "status": found.status, "detail": _told(detail)}
    if errors:
        answer["errors"] = [error | {"detail": _told(error["detail"])} for error in errors]
    answer["request_id"] = request_id
    return answer


def _told(detail) -> str:
    """A sentence as it stands in the code is looked up in the catalogue; one with values in it is lazy (`format_lazy`)."""
    return gettext(str(detail)) if isinstance(detail, str) else str(detail)
