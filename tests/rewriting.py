"""How the owner of the tables would rewrite the log and cover it up: triggers disabled, the chain recomputed."""

import hashlib
import json
import random

from audit import leaf, merkle
from audit.models import LogHead
from audit.tile_writer import TileWriter, read_head
from tasks.events import canonical
from tests.signed_log import execute

TABLES = ("task_audit_log", "audit_log", "audit_checkpoint", "audit_tile", "audit_bundle")
COLUMNS = """seq, event_id, event_type, subject_type, subject_id, version, task_id, actor_id, occurred_at, processed_at, topic,
partition, "offset", digest"""


def disable_triggers(*tables: str) -> None:
    """Of these tables; of all of the log if none is named."""
    for table in tables or TABLES:
        execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")


def recompute(first: int = 1) -> None:
    """Digests and leaves from `first` on, and the heads, from what the entries hold now. Only the last log grows or shrinks."""
    heads = list(LogHead.objects.order_by("first_seq"))
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        _recompute(head, first, after.first_seq if after else 2**62)


def _recompute(head: LogHead, first: int, end: int) -> None:
    rows = execute(
        f"SELECT {COLUMNS}, event_data::text, leaf_hash FROM task_audit_log WHERE seq >= %s AND seq < %s ORDER BY seq",
        head.first_seq,
        end,
    )
    edge, changed = merkle.Edge(), []
    for *columns, event, leaf_hash in rows:
        if columns[0] >= first:
            digest = hashlib.sha256(canonical(json.loads(event))).digest()
            leaf_hash = merkle.leaf_hash(leaf.record(head.origin, *columns[:-1], digest))
            changed.append((columns[0], digest, leaf_hash))
        edge.append(bytes(leaf_hash))
    if changed:
        execute(
            "UPDATE task_audit_log e SET digest = n.digest, leaf_hash = n.leaf FROM unnest(%s::bigint[], %s::bytea[], %s::bytea[]) "
            "n (seq, digest, leaf) WHERE e.seq = n.seq",
            *map(list, zip(*changed, strict=True)),
        )
    LogHead.objects.filter(pk=head.pk).update(size=edge.size, edge=edge.to_bytes())


def rewrite_tiles() -> None:
    execute("DELETE FROM audit_tile")
    execute("DELETE FROM audit_bundle")
    head = read_head()
    writer = TileWriter(head.log)
    while writer.size < head.size:
        writer.advance(head.size)


def move(first: int, by: int) -> None:
    """Renumbers the entries from `first` on."""
    execute("UPDATE task_audit_log SET seq = seq + 1000000 WHERE seq >= %s", first)
    execute("UPDATE task_audit_log SET seq = seq - 1000000 + %s WHERE seq > 1000000", by)


def cover_up(rng: random.Random, first: int) -> None:
    recompute(first)
    if rng.random() < 0.5:
        rewrite_tiles()
