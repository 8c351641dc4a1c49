"""The log for transparency-log clients (C2SP tlog-tiles): checkpoint, tiles, entry bundles; and an entry's proof.

The first log stands at `/audit/`, a successor that begins with entry N at `/audit/N/`: what was cached once stays true.
"""

import gzip

from django.conf import settings
from django.db import connection
from django.http import Http404, HttpResponse
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy as _
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema

from audit import checkpoint_store, proofs, tile_store
from audit.tiles import Place
from audit.tlog_proof import TlogProof
from taskpulse.compression import takes_gzip
from taskpulse.errors import Problem
from taskpulse.roles import Right
from tasks.api.negotiation import JsonNegotiation
from tasks.api.permissions import RolePermission
from tasks.api.schema import problems
from tasks.api.views import ApiViewSet, task_key

TEXT = "text/plain; charset=utf-8"
_FIRST_LOG = 1
# A log's numbers are bigints.
_MOST = 2**63 - 1
# Place, and which log: the one that holds it is the last that begins no later.
_ENTRY = """
SELECT e.seq, l.first_seq FROM task_audit_log e CROSS JOIN LATERAL
  (SELECT first_seq FROM audit_log WHERE first_seq <= e.seq ORDER BY first_seq DESC LIMIT 1) l
WHERE e.event_id = %s ORDER BY e.seq DESC LIMIT 1
"""
_ARCHIVE = "SELECT file FROM audit_archive WHERE %s BETWEEN first_seq AND last_seq"
_SUCCESSOR = "SELECT min(first_seq) FROM audit_log WHERE first_seq > %s"


class AnyRepresentation(JsonNegotiation):
    """There is one representation, and no client of these resources asks for another."""

    def select_renderer(self, request, renderers, format_suffix=None):
        return renderers[0], None


class AuditorUnlessPublic(RolePermission):
    """AUDIT_LOG_PUBLIC opens the log to everybody; it holds ids, times and digests, no content of a task."""

    def has_permission(self, request, view) -> bool:
        return settings.AUDIT_LOG_PUBLIC or super().has_permission(request, view)


class LogViewSet(ApiViewSet):
    content_negotiation_class = AnyRepresentation
    permission_classes = [AuditorUnlessPublic]
    rights = {"GET": Right.READ_AUDIT}

    def get_authenticators(self):
        """What is for everybody is the same for everybody: nothing of a session may keep it out of a shared cache."""
        return [] if settings.AUDIT_LOG_PUBLIC else super().get_authenticators()

    @extend_schema(exclude=True)
    def checkpoint(self, request, log=None, size=None):
        """The newest checkpoint, or the one of a size, with the cosignatures of its witnesses."""
        first = _number(log) if log else _FIRST_LOG
        found = checkpoint_store.one(first, _number(size)) if size else checkpoint_store.latest(first)
        if found is None:
            raise Http404
        response = HttpResponse(found.cosigned, content_type=TEXT)
        response["Cache-Control"] = "no-cache"
        if (successor := _successor(first)) is not None:
            # RFC 5829; a client of the old log sees its checkpoints end.
            response["Link"] = f'</audit/{successor}/checkpoint>; rel="successor-version"'
        return response

    @extend_schema(exclude=True)
    def tile(self, request, path, log=None):
        place, first = Place.parse(path), _number(log) if log else _FIRST_LOG
        if place is None:
            raise Http404
        # Only what a checkpoint states, of full tiles too: they are stored before it is known whether they can be signed, and
        # what is served once is kept in caches as the truth.
        newest = checkpoint_store.latest(first)
        if newest is None or place.end > newest.size:
            raise Http404
        try:
            return _immutable(_bundle(request, first, place) if place.level is None else _tile(first, place))
        except tile_store.MissingTile:
            raise Http404 from None


def _tile(log: int, place: Place) -> HttpResponse:
    raw = tile_store.read_tile(log, place.level, place.number, place.width)
    return HttpResponse(raw, content_type="application/octet-stream")


def _bundle(request, log: int, place: Place) -> HttpResponse:
    raw = tile_store.read_bundle(log, place.number, place.width)
    zipped = takes_gzip(request._request.META.get("HTTP_ACCEPT_ENCODING", ""))
    response = HttpResponse(raw if zipped else gzip.decompress(raw), content_type="application/octet-stream")
    if zipped:
        response["Content-Encoding"] = "gzip"
    response["Vary"] = "Accept-Encoding"
    return response


def _immutable(response: HttpResponse) -> HttpResponse:
    response["Cache-Control"] = f"{'public' if settings.AUDIT_LOG_PUBLIC else 'private'}, max-age=31536000, immutable"
    if not settings.AUDIT_LOG_PUBLIC:
        response["Vary"] = ", ".join(filter(None, [response.get("Vary"), "Authorization, Cookie"]))
    return response


def _number(digits: str) -> int:
    number = int(digits) if len(digits) < 20 else _MOST + 1
    if number > _MOST:
        raise Http404
    return number


def _successor(log: int) -> int | None:
    with connection.cursor() as cursor:
        cursor.execute(_SUCCESSOR, [log])
        return cursor.fetchone()[0]


class ProofViewSet(ApiViewSet):
    """`/api/audit/{event_id}/proof`: that the entry is in the log, to be checked offline."""

    content_negotiation_class = AnyRepresentation
    rights = {"GET": Right.READ_AUDIT}

    @extend_schema(
        operation_id="audit_proof_retrieve",
        summary="Prove that an entry is in the log",
        description="A C2SP tlog-proof: the entry's index, its inclusion in the newest checkpoint, and that checkpoint. Its extra "
        "data is the leaf record. 404, with Retry-After, until a checkpoint covers the entry; without, "
        "where the log was closed before one did: an export has it.",
        parameters=[OpenApiParameter("event_id", OpenApiTypes.UUID, OpenApiParameter.PATH, description="The event's id.")],
        responses={(200, "text/plain"): OpenApiResponse(OpenApiTypes.STR, description="The proof."), **problems(404, 410)},
    )
    def retrieve(self, request, event_id):
        key = task_key(event_id)
        with connection.cursor() as cursor:
            cursor.execute(_ENTRY, [key])
            row = cursor.fetchone()
        if row is None:
            raise Http404
        seq, log = row
        newest, index = checkpoint_store.latest(log), seq - log
        if newest is None or newest.size <= index:
            if (successor := _successor(log)) is not None:
                told = _(
                    "The log ended before a checkpoint covered this entry; entry {successor}, which opens its successor, does. "
                    "Export it: {path}"
                )
                detail = format_lazy(told, successor=successor, path=f"/api/audit/export?from={seq}")
                raise Problem(404, detail, type="covered-by-successor")
            headers = {"Retry-After": str(settings.CHECKPOINT_SECONDS)}
            raise Problem(404, "No checkpoint covers this entry yet.", headers=headers, type="not-covered-yet")
        try:
            proof = prove(log, index, newest)
        except (tile_store.MissingTile, ValueError):
            raise _no_proof(seq) from None
        response = HttpResponse(bytes(proof), content_type=TEXT)
        response["Content-Disposition"] = f'attachment; filename="{key}.tlog-proof"'
        return response


def _no_proof(seq: int) -> Problem:
    """Of an entry that was there, and is covered."""
    with connection.cursor() as cursor:
        cursor.execute(_ARCHIVE, [seq])
        row = cursor.fetchone()
    if row is not None:
        return Problem(410, f"Entry {seq} is archived: {row[0]} holds it and its proof.", type="archived")
    return Problem(500, f"Entry {seq} has no proof any more: a column or a tile is not what was written. verify_audit names it.")


def prove(log: int, index: int, checkpoint: checkpoint_store.Stored) -> TlogProof:
    """The proof that the leaf `index` of a log is in the tree of a checkpoint, with the leaf record. Raises MissingTile, and
    ValueError where the entry is not there or its columns make no record."""
    ((_, record, _),) = tile_store.entries(log, index, 1)
    path = proofs.inclusion(index, checkpoint.size, tile_store.nodes(log, checkpoint.size))
    return TlogProof(index, tuple(path), checkpoint.cosigned, record)
