"""Tiles: paths, places and proofs from them, and that the writer takes nothing on trust that it reads."""

import gzip

import pytest
from django.db import DatabaseError, connection, transaction
from hypothesis import given
from hypothesis import strategies as st

from audit import proofs, tile_store, tile_writer, tiles
from audit.merkle import HASH_SIZE, leaf_hash
from audit.models import Bundle, Entry, LogHead, Tile
from audit.tile_writer import Tampered, TileWriter, read_head
from audit.tiles import Place
from tests import proof_verification
from tests.recording import grow_log
from tests.test_merkle import tree_head
from tests.test_proofs import ENTRIES, ROOTS, read


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("0/000", Place(0, 0)), ("0/005.p/12", Place(0, 5, 12)), ("63/999", Place(63, 999)),
        ("8/x001/x234/067", Place(8, 1234067)),  # the specification's example
        ("1/x001/000.p/255", Place(1, 1000, 255)), ("entries/x123/456", Place(None, 123456)),
        ("entries/000.p/1", Place(None, 0, 1)),
    ],
)  # fmt: skip
def test_paths(path, place):
    assert Place.parse(path) == place
    assert str(place) == path


@pytest.mark.parametrize(
    "path",
    [
        "", "0", "0/", "/000", "0/0", "0/00", "0/0000", "00/000", "64/000", "-1/000", "a/000", "data/000", "0/x000", "0/x000/001",
        "0/001/002", "0/x01/002", "0/x001/x002", "0/000.p", "0/000.p/", "0/000.p/0", "0/000.p/01", "0/000.p/256", "0/000.p/-1",
        "0/000/", "0/000.p/1/", "0/٠٠٠", "0/000\n", "entries/000.p/1.p/2", "0/x000/x001/000", "Entries/000",
        "0/" + "x999/" * 9 + "999",
    ],
)  # fmt: skip
def test_what_is_the_path_of_no_tile(path):
    assert Place.parse(path) is None


@given(st.none() | st.integers(0, 63), st.integers(0, 2**55 - 1), st.integers(1, 256))
def test_any_path_leads_back(level, number, width):
    assert Place.parse(str(Place(level, number, width))) == Place(level, number, width)


def test_the_specifications_tree_of_70000():
    found = list(tiles.places(70_000))
    assert sum(place.level == 0 and place.width == 256 for place in found) == 273
    assert [place for place in found if place.width < 256] == [Place(0, 273, 112), Place(1, 1, 17), Place(2, 0, 1)]
    assert list(tiles.places(256)) == [Place(0, 0), Place(1, 0, 1)]
    assert list(tiles.places(0)) == []
    assert all(place.end <= 70_000 for place in found)


def read_from_tiles(level: int, number: int, width: int) -> bytes:
    return b"".join(read(level * 8, number * 256 + place) for place in range(width))


@given(st.integers(1, 300), st.data())
def test_proofs_from_tiles_are_the_proofs(size, data):
    index = data.draw(st.integers(0, size - 1))
    nodes = tiles.nodes(size, read_from_tiles)
    assert proofs.root(size, nodes) == ROOTS[size]
    assert proofs.inclusion(index, size, nodes) == proofs.inclusion(index, size, read)
    assert proofs.consistency(index, size, nodes) == proofs.consistency(index, size, read)
    assert tiles.edge_of(size, nodes).root() == ROOTS[size]


@given(st.lists(st.binary(max_size=300), max_size=256))
def test_any_bundle_comes_apart_again(records):
    assert tiles.records_of(tiles.bundle(records)) == records


@pytest.mark.parametrize("raw", [b"\0", b"\0\2a", b"\0\1ab", b"\0\1a\0"])
def test_what_is_no_bundle(raw):
    with pytest.raises(ValueError, match="within a record"):
        tiles.records_of(raw)


# What the database holds.


@pytest.fixture
def small_tiles(db, monkeypatch):
    """Tiles of 4 hashes: several levels of them with few entries."""
    for module in (tiles, tile_store, tile_writer):
        monkeypatch.setattr(module, "WIDTH", 4)
    monkeypatch.setattr(tiles, "HEIGHT", 2)


def leaf_records() -> list[bytes]:
    return [record for _, record, _ in tile_store.entries(1, 0, 10_000)]


def written(size: int | None = None) -> TileWriter:
    writer, head = TileWriter(1), read_head()
    size = head.size if size is None else size
    while writer.size < size:
        writer.advance(size)
    assert size < head.size or writer.edge().to_bytes() == head.edge
    return writer


def test_every_tile_of_a_growing_log(small_tiles):
    for more in (1, 3, 1, 11, 5, 60, 1):
        grow_log(more)
        records, writer = leaf_records(), written()
        assert writer.edge().root() == tree_head(records)
        for level in range(4):
            span = 4**level
            for number in range(len(records) // span // 4 + 1):
                hashes = [tree_head(records[at * span : (at + 1) * span]) for at in range(number * 4, len(records) // span)][:4]
                for width in range(1, len(hashes) + 1):
                    assert tiles.split(tile_store.read_tile(1, level, number, width)) == hashes[:width]
                if len(hashes) < 4:
                    with pytest.raises(tile_store.MissingTile):
                        tile_store.read_tile(1, level, number, len(hashes) + 1)
        for number in range(len(records) // 4 + 1):
            wanted = records[number * 4 :][:4]
            for width in range(1, len(wanted) + 1):
                raw = gzip.decompress(tile_store.read_bundle(1, number, width))
                assert tiles.records_of(raw) == wanted[:width]
            if len(wanted) < 4:
                with pytest.raises(tile_store.MissingTile):
                    tile_store.read_bundle(1, number, len(wanted) + 1)
    assert Tile.objects.count() == 20 + 5 + 1
    assert Bundle.objects.count() == 20


def test_roots_and_proofs_of_every_size_from_stored_tiles(small_tiles):
    grow_log(70)
    records, writer = leaf_records(), written()
    for size in range(1, 71):
        assert writer.root_at(size) == tree_head(records[:size])
        nodes = tile_store.nodes(1, size)
        path = proofs.inclusion(size // 2, size, nodes)
        proof_verification.verify_inclusion(size // 2, size, leaf_hash(records[size // 2]), path, tree_head(records[:size]))


def test_a_writer_goes_on_where_the_last_one_ended(small_tiles):
    grow_log(23)
    written(14)
    assert TileWriter(1).size == 12
    assert written().edge().root() == tree_head(leaf_records())


def test_a_log_of_real_tiles(db):
    grow_log(300)
    records, writer = leaf_records(), written()
    assert writer.edge().root() == tree_head(records)
    assert len(tile_store.read_tile(1, 0, 0)) == 8192
    assert tile_store.read_tile(1, 1, 0, 1) == tree_head(records[:256])
    assert tile_store.read_tile(1, 0, 1, 44) == b"".join(map(leaf_hash, records[256:]))
    assert tiles.records_of(gzip.decompress(tile_store.read_bundle(1, 0))) == records[:256]
    assert ENTRIES[0] not in records


def test_a_closed_log_keeps_its_last_tile_without_its_entries(small_tiles):
    grow_log(6)
    records = leaf_records()
    written().close_log()
    edit("DELETE FROM task_audit_log")
    assert tile_store.read_tile(1, 0, 1, 2) == b"".join(map(leaf_hash, records[4:]))
    assert tile_store.read_tile(1, 0, 1, 1) == leaf_hash(records[4])
    assert tiles.records_of(gzip.decompress(tile_store.read_bundle(1, 1, 1))) == records[4:5]
    assert proofs.root(6, tile_store.nodes(1, 6)) == tree_head(records)
    with pytest.raises(tile_store.MissingTile):
        tile_store.read_tile(1, 0, 1, 3)


def edit(statement: str, *parameters) -> None:
    """As the owner of the database can, who switches off what is in the way."""
    with connection.cursor() as cursor:
        for table in ("task_audit_log_00000", "audit_tile"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute(statement, parameters)
        for table in ("task_audit_log_00000", "audit_tile"):
            cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER audit_no_truncate")
            cursor.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER audit_append_only")


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE task_audit_log SET actor_id = 'somebody' WHERE seq = 5", "entry 5 is not what its leaf hash says"),
        ("UPDATE task_audit_log SET digest = sha256('') WHERE seq = 5", "entry 5 is not what its leaf hash says"),
        ("UPDATE task_audit_log SET digest = 'short' WHERE seq = 5", "entry 5: a digest is 32 bytes"),
        ("UPDATE task_audit_log SET leaf_hash = sha256('') WHERE seq = 5", "entry 5 is not what its leaf hash says"),
        ("DELETE FROM task_audit_log WHERE seq = 5", "entry 5 is missing"),
        ("DELETE FROM task_audit_log WHERE seq = 9", "entry 9 is missing"),
    ],
)
def test_what_was_changed_is_named(small_tiles, statement, reason):
    grow_log(9)
    edit(statement)
    with pytest.raises(Tampered, match=reason):
        written()


def test_a_missing_tile_below_is_seen(small_tiles):
    grow_log(15)
    writer = written()
    grow_log(1)
    edit("DELETE FROM audit_tile WHERE level = 0 AND number = 1")
    with pytest.raises(Tampered, match="of the 4 tiles below a tile there are 3"):
        writer.advance(16)


def test_the_tables_are_append_only(small_tiles):
    grow_log(5)
    written()
    assert LogHead.objects.get().size == Entry.objects.count() == 5
    for table in ("audit_tile", "audit_bundle"):
        for statement in (f"UPDATE {table} SET number = 7", f"DELETE FROM {table}", f"TRUNCATE {table}"):
            with pytest.raises(DatabaseError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(statement)
    with pytest.raises(DatabaseError), transaction.atomic():
        Tile.objects.create(log=1, level=64, number=0, hashes=bytes(HASH_SIZE))
