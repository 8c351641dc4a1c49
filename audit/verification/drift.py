"""Drift: each live row of an audited model against its last event, be that recorded or still on its way."""

from collections.abc import Iterator

import orjson
from django.apps import apps
from django.db import connection
from django.db.models import OuterRef, Q, Subquery, TextField
from django.db.models.functions import Cast, JSONObject

from audit import redaction
from audit.last_states import digest, without_names
from audit.models import ArchivedSubject, Entry
from audit.verification.reading import read_only
from audit.verification.report import Finding
from tasks.audited import AuditedModel
from tasks.models import OutboxEvent, Task

_ROWS = 500


def audited_models() -> list[type[AuditedModel]]:
    return [model for model in apps.get_models() if issubclass(model, AuditedModel)]


def tables() -> dict[str, tuple[str, str, str]]:
    """Of each subject type: table, key column and the key's type, as SQL writes them."""
    quoted = connection.ops.quote_name
    return {
        model.subject_type: (quoted(model._meta.db_table), quoted(model._meta.pk.column), model._meta.pk.db_type(connection))
        for model in audited_models()
    }


def check(model: type[AuditedModel]) -> Iterator[Finding | int]:
    """Findings, and after each batch the number of rows looked at. A batch is one statement and so one snapshot: each
    change of a row stands in it together with its event."""
    last = None
    while True:
        rows = _with_last_event(model)
        with read_only():
            batch = list((rows if last is None else rows.filter(pk__gt=last))[:_ROWS])
            documents = model.documents(batch) if batch else []
        if not batch:
            return
        for row, document in zip(batch, documents, strict=True):
            wrong = _fault(row, document)
            if wrong is not None:
                yield Finding("drift", f"{model.subject_type} {row.pk}: {wrong}", row.entry_seq)
        yield len(batch)
        last = batch[-1].pk


def _with_last_event(model):
    kind, subject = model.subject_type, Cast(OuterRef("pk"), TextField())
    waiting = OutboxEvent.objects.filter(subject_type=kind, subject_id=subject).order_by("-version")
    recorded = Entry.objects.filter(_task_of(model), subject_type=kind, subject_id=subject).order_by("-seq")
    return model._base_manager.order_by("pk").annotate(
        waiting=Subquery(waiting.values("payload")[:1]),
        entry=Subquery(recorded.annotate(text=Cast("event_data", TextField())).values("text")[:1]),
        entry_seq=Subquery(recorded.values("seq")[:1]),
        archived=Subquery(
            ArchivedSubject.objects.filter(subject_type=kind, subject_id=subject).values(
                kept=JSONObject(version="version", deleted="deleted", document="document", fields="fields")
            )[:1]
        ),
    )


def _task_of(model):
    """The condition that the index on (task_id, seq) serves."""
    if model is Task:
        return Q(task_id=OuterRef("pk"))
    for field in model._meta.concrete_fields:
        if field.related_model is Task:
            return Q(task_id=OuterRef(field.attname))
    return Q(task_id=None)


def _fault(row: AuditedModel, document: dict) -> str | None:
    text = row.waiting or row.entry
    if text is None and row.archived is not None:
        return _fault_of_archived(row, document)
    if text is None:
        return f"version {row.version} of the row was never recorded, and no event of it waits in the outbox"
    where = "its event in the outbox" if row.waiting else "its last entry"
    try:
        event = orjson.loads(bytes(text) if row.waiting else text)
        if redaction.accounted_by(event) is not None:
            return None  # nothing is left to compare with
        version, said = int(event["sequence"]), dict(event["data"][row.subject_type])
    except (ValueError, TypeError, KeyError):
        return f"{where} is no event of it"
    if version != row.version:
        return f"the row is at version {row.version}, {where} at {version}"
    names = [name for name in said if name in document and without_names(said[name]) != without_names(document[name])]
    return f"{', '.join(sorted(names))} of the row: not as {where} says" if names else None


def _fault_of_archived(row: AuditedModel, document: dict) -> str | None:
    """What the last entry says is in the archive's file alone; here is its digest (audit/last_states.py)."""
    kept = row.archived
    if kept["deleted"]:
        return "the row is there, and its last entry, archived, is its deletion"
    if kept["version"] != row.version:
        return f"the row is at version {row.version}, its last entry, archived, at {kept['version']}"
    fields = (kept["fields"] or "").split()
    # Nothing to compare with: it was erased before, or has a field that the model has no more.
    if kept["document"] is None or not document.keys() >= set(fields):
        return None
    if digest(document, fields) != bytes.fromhex(kept["document"].removeprefix("\\x")):
        return "the row is not as its last entry, archived, says"
    return None
