"""The cosigner: gets a witness's cosignature of the log's checkpoints (C2SP tlog-witness). One for each witness.

A witness cosigns only what contains all that it cosigned before, so that whoever trusts it need not trust that the log
shows everybody the same entries. Nothing waits for a witness: each has a thread of its own beside the relay, and what it
misses while it is away the next checkpoint brings, with a proof from what it saw last.
"""

import logging
from collections.abc import Callable

import requests
from django.db import connection

from audit import checkpoint_store, proofs, tile_store, witness
from audit.signed_note import MalformedNote, Unverified
from audit.witness import Witness
from taskpulse import metrics
from taskpulse.worker import DATABASE_FAULTS
from tasks.outage import Outage

logger = logging.getLogger("taskpulse.cosigner")

# Seconds between two looks at what is signed, and two tries with a witness that refused.
POLL, REFUSED_POLL = 0.5, 60.0
# Seconds for connecting and for each part of the answer (requests' `timeout`): a stop waits no longer than for one.
TIMEOUT = 5.0
# Of an answer: a hundred signature lines (signed_note.MOST_SIGNATURES), each as long as one of ML-DSA-44, some 3,300 bytes, by
# which a witness may cosign beside Ed25519 (tlog-cosignature, "Format"). Lines by keys that are not known are ignored.
MOST_BYTES = 409_600


class Refused(Exception):
    """The witness does not cosign, and asking again will not help: a person must look."""


class Cosigner:
    """`step()` sends the newest checkpoint, if there is a newer one, and says whether there is more; if not, wait `pause` s.

    `newest()` tells the log and size of the newest checkpoint, None where this process is not the one that signs.
    """

    def __init__(self, of: Witness, newest: Callable[[], tuple[int, int] | None]):
        self.pause = POLL
        self._witness, self._newest = of, newest
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "taskpulse"
        # The log and the size that the witness has cosigned of it.
        self._seen: tuple[int, int] | None = None
        self._outage = Outage(f"the witness {of.key.name}", 1.0, 60.0)
        self._database_outage = Outage(f"the database of the witness {of.key.name}")
        self._said: str | None = None

    def close(self) -> None:
        self._session.close()
        connection.close()

    def step(self) -> bool:
        self.pause = POLL
        newest = self._newest()
        if newest is None:
            self._stand_by()
        if newest in (None, self._seen):
            return False
        try:
            self._cosign(*newest)
        except DATABASE_FAULTS as error:
            connection.close()
            self._seen, self.pause = None, self._database_outage.failed(error)
        except requests.RequestException as error:
            self.pause = self._outage.failed(error)
        except Refused as error:
            self._refuse(error)
        else:
            self._database_outage.over()
        return False

    def _cosign(self, log: int, size: int) -> None:
        if self._seen is None or self._seen[0] != log:
            self._seen = log, checkpoint_store.cosigned(log, self._witness.key.name)
            if self._seen[1]:
                metrics.WITNESS_SIZE.set(log + self._seen[1] - 1, self._witness.key.name)
        stored, old = checkpoint_store.one(log, size), self._seen[1]
        if stored is None or old >= size:
            return
        status, content = self._send(log, old, stored)
        if status == requests.codes.conflict:
            # It saw more, or less, than we have its word for: its word was lost on the way, or the database was set back.
            old = _told(content, old, size)
            status, content = self._send(log, old, stored)
        self._outage.over()
        if status != requests.codes.ok:
            raise _refusal(status, content, old, size)
        self._keep(log, stored, content)

    def _send(self, log: int, old: int, stored: checkpoint_store.Stored) -> tuple[int, bytes]:
        """Status and content of the answer. Raises Refused, and RequestException: for a fault of the witness (5xx, 429) too."""
        path = proofs.consistency(old, stored.size, tile_store.nodes(log, stored.size))
        with self._session.post(
            f"{self._witness.url}/add-checkpoint", witness.submission(old, path, stored.note), timeout=TIMEOUT, stream=True,
            allow_redirects=False, headers={"Content-Type": "text/plain; charset=utf-8"},
        ) as answer:  # fmt: skip
            if answer.status_code >= 500 or answer.status_code == requests.codes.too_many_requests:
                answer.raise_for_status()
            content = b""
            for part in answer.iter_content(16_384):
                content += part
                if len(content) > MOST_BYTES:
                    raise Refused(f"it answers more than {MOST_BYTES:,} bytes")
            return answer.status_code, content

    def _keep(self, log: int, stored: checkpoint_store.Stored, content: bytes) -> None:
        key = self._witness.key
        try:
            found = witness.cosignature(stored.note, content, key)
        except (MalformedNote, Unverified) as error:
            raise Refused(f"its answer is no cosignature: {error}") from None
        checkpoint_store.cosign(log, stored.size, key.name, found.line())
        self._seen, self._said = (log, stored.size), None
        metrics.WITNESS_SIZE.set(log + stored.size - 1, key.name)
        metrics.WITNESS_REFUSED.set(0, key.name)

    def _stand_by(self) -> None:
        """What this process told of the witness is out of date; what that has cosigned is asked anew."""
        self._seen = None
        metrics.WITNESS_SIZE.forget(self._witness.key.name)
        metrics.WITNESS_REFUSED.forget(self._witness.key.name)

    def _refuse(self, error: Refused) -> None:
        """Said once; what it has cosigned is asked anew the next time."""
        self._seen, self.pause = None, REFUSED_POLL
        metrics.WITNESS_REFUSED.set(1, self._witness.key.name)
        if str(error) != self._said:
            logger.error("the witness %s does not cosign: %s", self._witness.key.name, error)
            self._said = str(error)


def _told(content: bytes, old: int, size: int) -> int:
    """From which size to prove, after a conflict about `old`. Raises Refused where there is none."""
    told = witness.told_size(content)
    if told is None or (told == old == 0):
        raise Refused("it answers 409 and names no other size")
    if told > size:
        raise Refused(f"it has cosigned {told} entries, and the log's newest checkpoint has {size}: entries were lost")
    if told == old:
        raise Refused(f"the {old} entries that it has cosigned are not the first {old} of this log: the log was changed")
    return told


def _refusal(status: int, content: bytes, old: int, size: int) -> Refused:
    if status == requests.codes.conflict:
        told = _told(content, old, size)
        return Refused(f"it answers 409 again, now for {told} entries: is another log of this name sent to it?")
    if status == requests.codes.unprocessable:
        return Refused(f"the checkpoint of {size} entries does not contain the {old} that it has cosigned: the log was changed")
    if status in (requests.codes.not_found, requests.codes.forbidden):
        what = "the log's origin" if status == requests.codes.not_found else "the key that signs"
        return Refused(f"it does not know {what} ({status}): give it the log's verifier key (`manage.py audit_key --show`)")
    return Refused(f"it answers {status}")
