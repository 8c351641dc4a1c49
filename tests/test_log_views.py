"""The served log: what an independent client makes of it, headers, who may read it, and an entry's proof."""

import gzip
import json

import pytest
import rfc8785
from django.test import Client

from audit import checkpoint_store
from audit.checkpoint import Checkpoint, open_checkpoint
from audit.checkpointer import Refused
from audit.merkle import leaf_hash
from audit.models import Entry, LogHead, Tile
from audit.tlog_proof import TlogProof
from tests import proof_verification
from tests.api_client import Api, api, problem
from tests.recording import grow_log
from tests.test_checkpointer import KEY, every_entry, signed, start  # noqa: F401 (fixtures)
from tests.tlog_client import Log, sha256

VKEY = str(KEY.verifier)


@pytest.fixture
def worker(start):  # noqa: F811 (a fixture)
    return start()


def fetch(caller: Api, **headers):
    def get(path: str) -> bytes:
        response = caller.get(f"/audit/{path}", **headers)
        assert response.status_code == 200, (path, response.status_code)
        if response.headers.get("Content-Encoding") == "gzip":
            return gzip.decompress(response.content)
        return response.content

    return get


def test_an_independent_client_finds_every_entry_and_tile(worker):
    for more in (1, 255, 1, 300):
        grow_log(more)
        worker.step()
        size, entries = Log(fetch(api("auditor")), VKEY).check()
        assert size == LogHead.objects.get().size
        assert [json.loads(entry)[2] for entry in entries] == list(range(1, size + 1))
    assert Log(fetch(api("auditor"), Accept_Encoding="gzip"), VKEY).check()[1] == entries


def test_types_and_caching(worker, settings):
    grow_log(257)
    worker.step()
    auditor = api("auditor")
    checkpoint = auditor.get("/audit/checkpoint")
    assert checkpoint["Content-Type"] == "text/plain; charset=utf-8"
    assert checkpoint["Cache-Control"] == "no-cache"
    for path in ("0/000", "0/001.p/1", "1/000.p/1", "entries/000", "entries/001.p/1"):
        response = auditor.get(f"/audit/tile/{path}")
        assert response["Content-Type"] == "application/octet-stream"
        assert response["Cache-Control"] == "private, max-age=31536000, immutable"
        assert "Authorization" in response["Vary"]
        assert "Content-Encoding" not in response
    settings.AUDIT_LOG_PUBLIC = True
    response = Client().get("/audit/tile/entries/000", headers={"Accept-Encoding": "br, gzip"})
    assert response["Cache-Control"] == "public, max-age=31536000, immutable"
    assert (response["Content-Encoding"], response["Vary"]) == ("gzip", "Accept-Encoding")
    for header in ("gzip;q=0", "br", "identity", "gzip; q=0.0"):
        assert "Content-Encoding" not in Client().get("/audit/tile/entries/000", headers={"Accept-Encoding": header})


def test_only_what_a_checkpoint_states_is_there(worker):
    grow_log(3)
    worker.step()
    grow_log(2)
    auditor = api("auditor")
    for path in ("0/000.p/3", "0/000.p/1", "entries/000.p/3", "entries/000.p/2"):
        assert auditor.get(f"/audit/tile/{path}").status_code == 200
    for path in (
        "0/000.p/4", "0/000.p/5", "entries/000.p/4", "0/000", "entries/000", "1/000.p/1", "0/001", "0/001.p/1", "63/000", "0/0",
        "0/000.p/03", "0/000/", "a/000", "0/x999/x999/x999/x999/x999/x999/999", "0/000.p/256",
    ):  # fmt: skip
        problem(auditor.get(f"/audit/tile/{path}"), 404)
    for path in ("/audit/2/checkpoint", "/audit/checkpoint/2", "/audit/checkpoint/", f"/audit/{'9' * 30}/checkpoint", "/audit/"):
        problem(auditor.get(path), 404)
    assert auditor.get("/audit/checkpoint/3").content == auditor.get("/audit/checkpoint").content
    assert auditor.get("/audit/1/checkpoint").status_code == 200
    problem(auditor.send("POST", "/audit/checkpoint", b""), 405)


def test_a_tile_that_was_stored_and_could_not_be_signed_is_not_served(worker, monkeypatch):
    def refuse(_):
        raise Refused("fork", "the log contradicts what was signed")

    grow_log(3)
    worker.step()
    monkeypatch.setattr(worker, "_check", refuse)
    grow_log(260)
    worker.step()
    assert Tile.objects.filter(level=0, number=0).exists()
    auditor = api("auditor")
    for path in ("0/000", "entries/000", "1/000.p/1", "0/001.p/7", "0/000.p/4"):
        problem(auditor.get(f"/audit/tile/{path}"), 404)
    for path in ("0/000.p/3", "entries/000.p/3"):
        assert auditor.get(f"/audit/tile/{path}").status_code == 200


def test_it_is_for_auditors_unless_it_is_public(worker, settings):
    grow_log(1)
    worker.step()
    for path in ("checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"):
        assert Client().get(f"/audit/{path}").status_code == 401
        assert api("member").get(f"/audit/{path}").status_code == 403
        assert api("auditor").get(f"/audit/{path}", Accept="text/html").status_code == 200
    settings.AUDIT_LOG_PUBLIC = True
    for path in ("checkpoint", "tile/0/000.p/1", "tile/entries/000.p/1"):
        assert Client().get(f"/audit/{path}").status_code == 200
    assert Client().get(f"/api/audit/{Entry.objects.get().event_id}/proof").status_code == 401


def test_cosignatures_stand_on_the_checkpoint(worker):
    grow_log(1)
    worker.step()
    checkpoint_store.cosign(1, 1, "example.org/w", "— example.org/w AAAAAAAA\n")
    checkpoint_store.cosign(1, 1, "example.org/w", "— example.org/w BBBBBBBB\n")
    served = api("auditor").get("/audit/checkpoint").content.decode()
    assert served == checkpoint_store.latest(1).note.decode() + "— example.org/w AAAAAAAA\n"


def test_the_proof_of_each_entry_holds_offline(worker):
    grow_log(40)
    worker.step()
    auditor = api("auditor")
    for entry in Entry.objects.all():
        response = auditor.get(f"/api/audit/{entry.event_id}/proof", Accept="text/plain")
        assert response["Content-Type"] == "text/plain; charset=utf-8"
        assert response["Content-Disposition"] == f'attachment; filename="{entry.event_id}.tlog-proof"'
        proof = TlogProof.parse(response.content)
        checkpoint, _ = open_checkpoint(proof.checkpoint, [KEY.verifier])
        proof_verification.verify_inclusion(proof.index, checkpoint.size, leaf_hash(proof.extra), proof.path, checkpoint.root)
        record = json.loads(proof.extra)
        assert (record[2], record[3], proof.index) == (entry.seq, str(entry.event_id), entry.seq - 1)
        assert record[15] == sha256(rfc8785.dumps(entry.event_data)).hex()


def test_no_proof_before_a_checkpoint(worker, settings):
    settings.CHECKPOINT_SECONDS = 17
    grow_log(1)
    worker.step()
    grow_log(1)
    response = api("auditor").get(f"/api/audit/{Entry.objects.get(seq=2).event_id}/proof")
    assert problem(response, 404)["detail"] == "No checkpoint covers this entry yet."
    assert response["Retry-After"] == "17"
    problem(api("auditor").get("/api/audit/nothing/proof"), 404)


def test_a_successor_has_a_place_of_its_own(worker, start):  # noqa: F811 (a fixture)
    grow_log(3)
    worker.step()
    LogHead.objects.create(origin="taskpulse/audit/4", first_seq=4)
    grow_log(2)
    text = Checkpoint("taskpulse/audit/4", 2, bytes(32)).text
    checkpoint_store.add(4, Checkpoint.parse(text), signed(2))
    auditor = api("auditor")
    assert auditor.get("/audit/checkpoint")["Link"] == '</audit/4/checkpoint>; rel="successor-version"'
    assert "Link" not in auditor.get("/audit/4/checkpoint")
    assert Log(fetch(auditor), VKEY).check()[0] == 3
    assert len(auditor.get("/audit/4/tile/0/000.p/2").content) == 64
    problem(auditor.get("/audit/4/tile/0/000.p/3"), 404)
    proof = TlogProof.parse(auditor.get(f"/api/audit/{Entry.objects.get(seq=5).event_id}/proof").content)
    assert (proof.index, len(proof.path)) == (1, 1)
