"""What is served beside the checkpoints is what the entries say: tiles, entry bundles and cosignatures, by verify_audit."""

import gzip
from collections import Counter

import pytest
from django.db import connection, transaction

from audit import leaf, tile_store, tiles
from audit.merkle import Edge
from audit.models import Bundle, Cosignature, LogHead, Tile
from audit.signed_note import COSIGNATURE, SigningKey
from audit.tile_writer import TileWriter
from audit.verification import served_log
from audit.verification.verifier import Options, Verifier
from tests.rewriting import disable_triggers
from tests.signed_log import Log, execute, grow

WITNESS = SigningKey("w.example.org", bytes(32), COSIGNATURE)


@pytest.fixture
def log(db) -> Log:
    """Two full tiles, and 8 entries more."""
    log = Log()
    grow(300)
    log.sign()
    grow(220)
    log.sign()
    disable_triggers("audit_tile", "audit_bundle", "audit_cosignature", "audit_log")
    return log


def found(log: Log, **options) -> list[tuple]:
    """What is wrong with what is served: place and text."""
    findings = log.verify(**options).findings
    return [(finding.seq, finding.until, finding.detail) for finding in findings if finding.check == "served"]


def test_what_is_served_is_counted(log):
    report = log.verify()
    assert not report.tampered, [str(finding) for finding in report.findings]
    assert (report.checks["served"].result, report.checks["served"].detail) == (
        "sound", "2 tiles, 2 entry bundles, 0 cosignatures",
    )  # fmt: skip


def rewrite_bundle(records: list[bytes], number: int = 0) -> None:
    Bundle.objects.filter(number=number).update(records=tile_store.compress(tiles.bundle(records)))


def test_a_record_in_a_bundle_is_the_entrys(log):
    records = tiles.records_of(gzip.decompress(tile_store.read_bundle(1, 0)))
    rewrite_bundle([*records[:6], records[6].replace(b"task.created", b"task.deleted"), *records[7:]])
    assert found(log) == [(7, None, "its record in the entry bundle is another")]
    assert log.verify().first_bad.seq == 7
    for wrong in (records[:-1], [*records, records[-1]], []):
        rewrite_bundle(wrong)
        ((first, last, text),) = found(log)
        assert (first, last) == (1, 256)
        assert f"holds {len(wrong)} records, and there are 256 entries" in text


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"rubbish",
        gzip.compress(b"\0\5abc"),
        gzip.compress(b"\0" * (256 * (2 + leaf.MAX_RECORD) + 1)),
        gzip.compress(b"") + b"x",
    ],
    ids=["nothing", "rubbish", "a part", "too much", "more behind it"],  # a gzip's own bytes hold the time
)
def test_a_bundle_that_is_none_is_named(log, raw):
    Bundle.objects.filter(number=1).update(records=raw)
    ((first, last, text),) = found(log)
    assert (first, last, text.startswith("the entry bundle is none")) == (257, 512, True)


def test_the_root_of_a_tile_is_that_of_its_hashes(log):
    execute("UPDATE audit_tile SET root = sha256(root) WHERE number = 1")
    assert found(log) == [(257, 512, "the root that is stored with the tile is not that of its hashes")]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("INSERT INTO audit_tile SELECT 1, 0, 2, hashes, root FROM audit_tile WHERE number = 0", "the tile 0/2 of the log"),
        ("INSERT INTO audit_tile SELECT 1, 1, 0, hashes, root FROM audit_tile WHERE number = 0", "the tile 1/0 of the log"),
        ("INSERT INTO audit_tile SELECT 1, 9, 2::bigint ^ 50, hashes, root FROM audit_tile WHERE number = 0", "the tile 9/"),
        ("INSERT INTO audit_tile (log, level, number, hashes) VALUES (1, 0, 2, '')", "the tile 0/2 of the log"),
        ("UPDATE audit_tile SET root = NULL WHERE number = 1", "the tile 0/1 is missing, and a checkpoint covers it"),
        ("DELETE FROM audit_tile WHERE number = 0", "the tile 0/0 is missing, and a checkpoint covers it"),
        ("INSERT INTO audit_bundle VALUES (1, 7, '')", "the entry bundle has no tile"),
        ("DELETE FROM audit_bundle WHERE number = 1", "the tile has no entry bundle"),
        ("INSERT INTO audit_tile SELECT 5, 0, 0, hashes, root FROM audit_tile WHERE number = 0", "tiles of a log that begins with"),
        ("INSERT INTO audit_bundle VALUES (5, 0, '')", "there are entry bundles of a log that begins with entry 5"),
        ("INSERT INTO audit_cosignature VALUES (1, 301, 'w', 'x')", "a cosignature by w of 301 entries"),
    ],
)
def test_there_are_the_tiles_of_the_entries_and_no_others(log, statement, said):
    execute(statement)
    texts = [text for _, _, text in found(log)]
    assert any(said in text for text in texts), texts


def test_a_log_that_has_a_successor_ends_with_a_narrow_tile(log):
    writer = TileWriter(1)
    writer.advance(520)
    writer.close_log()
    assert found(log) == [(None, None, "the tile 0/2 of the log that begins with entry 1 holds more than its entries")]
    LogHead.objects.create(origin="taskpulse/audit/521", first_seq=521)
    assert found(log) == []
    rewrite_bundle([*tiles.records_of(gzip.decompress(tile_store.read_bundle(1, 2, 8))), b"more"], 2)
    assert found(log) == [(513, 768, "the entry bundle holds 9 records, and there are 8 entries")]
    Tile.objects.filter(number=2).update(hashes=Tile.objects.get(number=0).hashes)
    assert "the tile 0/2 of the log that begins with entry 1 holds more than its entries" in [text for _, _, text in found(log)]


@pytest.fixture
def large(db) -> int:
    """A log of 256 full tiles, and the one above them; its entries are nowhere. Returns its first entry."""
    first, above = 1_000_000, Edge()
    LogHead.objects.create(origin="large", first_seq=first, size=65_536)
    made, roots = [], []
    for number in range(256):
        edge, hashes = Edge(), [number.to_bytes(4, "big") + at.to_bytes(28, "big") for at in range(256)]
        for value in hashes:
            edge.append(value)
        roots.append(edge.root())
        above.append(edge.root())
        made.append(Tile(log=first, level=0, number=number, hashes=b"".join(hashes), root=edge.root()))
    Tile.objects.bulk_create([*made, Tile(log=first, level=1, number=0, hashes=b"".join(roots), root=above.root())])
    Bundle.objects.bulk_create([Bundle(log=first, number=number, records=b"") for number in range(256)])
    disable_triggers("audit_tile")
    return first


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (None, None),
        ("UPDATE audit_tile SET root = sha256(root) WHERE level = 1", "the tile 1/0 does not hold the roots of those below it"),
        ("UPDATE audit_tile SET hashes = set_byte(hashes, 40, 255) WHERE level = 1", "the tile 1/0 does not hold the roots"),
        ("UPDATE audit_tile SET root = sha256(root) WHERE number = 9", "the tile 1/0 does not hold the roots of those below it"),
        ("DELETE FROM audit_tile WHERE level = 1", "the tile 1/0 is missing, and a checkpoint covers it"),
    ],
)
def test_an_upper_tile_holds_the_roots_of_those_below_it(large, statement, said):
    if statement:
        execute(statement)
    seen = Counter()
    findings = list(served_log.check_log(connection.connection, large, 65_536, seen))
    assert [finding.detail.startswith(said) for finding in findings] == ([True] if said else [])
    assert seen["tiles"] == (0 if said and "missing" in said else 1)
    assert all((finding.seq, finding.until) == (large, large + 65_535) for finding in findings)


def cosign(log: Log, size: int, key: SigningKey = WITNESS, **columns) -> None:
    checkpoint = next(checkpoint for checkpoint in log.held if checkpoint.size == size)
    line = key.sign(checkpoint.text).line()
    Cosignature.objects.create(**{"log": 1, "size": size, "witness": key.verifier.name, "line": line} | columns)


def verify(log: Log, *keys: SigningKey):
    return Verifier([log.key.verifier, *(key.verifier for key in keys)], [], Options()).run()


def test_a_cosignature_holds_by_its_witness_key(log):
    cosign(log, 300)
    report = verify(log, WITNESS)
    assert not report.tampered
    assert report.checks["served"].detail.endswith("1 cosignatures")
    assert not [text for text in report.not_proved if "cosignatures" in text]
    assert [text for text in verify(log).not_proved if "1 cosignatures are by the witnesses that they name" in text]
    forged = WITNESS.sign(log.held[0].text.replace("300", "301")).line()
    execute("UPDATE audit_cosignature SET line = %s", forged)
    ((finding),) = verify(log, WITNESS).findings
    assert finding.detail.startswith("the cosignature of the checkpoint of 300 entries by w.example.org: the signature by")
    assert not verify(log).tampered  # by whoever has no key of the witness


@pytest.mark.parametrize("line", ["", "\n", "x\n", "— w.example.org AAAA\n", "{}{}", "{}\n", "— v.example.org {rest}"])
def test_a_cosignature_is_one_line_of_its_witness(log, line):
    """Else what is served as the cosigned checkpoint is no signed note."""
    true = WITNESS.sign(log.held[0].text).line()
    with transaction.atomic():
        cosign(log, 300, line=line.format(true, true, rest=true.split(" ")[2]))
        ((finding),) = log.verify().findings
        assert finding.detail.startswith("the cosignature of the checkpoint of 300 entries by w.example.org: ")


def test_a_sample_says_that_bundles_were_not_looked_at(log):
    report = log.verify(share=0.000001)
    assert "0 entry bundles" in report.checks["served"].detail
    assert [text for text in report.not_proved if "entry bundles" in text]
    report = log.verify(from_seq=521)
    assert not report.tampered
