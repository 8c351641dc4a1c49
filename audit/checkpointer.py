"""The checkpointer: signs what the log has come to, and publishes it. It runs in the relay role, which alone has the key.

What it signs can be relied upon: each entry's leaf is recomputed, the tree must be the head's, it must contain the
newest checkpoint of the database and, from the start of a process on, the newest one on the topic. Otherwise it signs
nothing, says why, and goes on looking: a log that was tampered with, or that a restore set back, must not be certified.
One is active, by advisory lock; should two ever be, PostgreSQL takes no second checkpoint of a size, and none smaller.
"""

import logging
import time

from confluent_kafka import KafkaException
from django.conf import settings
from django.db import IntegrityError, connection, transaction

from audit import checkpoint_store, successor
from audit.checkpoint import NEXT_KEY, Checkpoint, key_for, open_checkpoint
from audit.checkpoint_topic import CheckpointTopic
from audit.key_ring import KeyRing
from audit.signed_note import MalformedNote, Note, SigningKey, Unverified
from audit.tile_store import MissingTile
from audit.tile_writer import Head, Tampered, TileWriter, read_head
from taskpulse import metrics
from taskpulse.worker import DATABASE_FAULTS
from tasks.active_lock import LEASE, ActiveLock
from tasks.outage import Outage

logger = logging.getLogger("taskpulse.checkpointer")

# Seconds between two looks at the head, two tries for the lock, and two looks at a log that cannot be signed.
POLL, STANDBY_POLL, REFUSED_POLL = 0.5, 2.0, 10.0
# Who holds it signs, or ends the log (`manage.py audit_log new`).
LOCK = "checkpoints"
# Published at once.
_BATCH = 100
# Another signer that was faster is one conflict, and then it is known what it wrote.
_MOST_CONFLICTS = 2
_BROKER_FAULTS = (KafkaException, OSError)


class Refused(Exception):
    """Nothing can be signed until a person has looked. `reason` is a word for the metric: key or fork."""

    def __init__(self, reason: str, text: str):
        super().__init__(text)
        self.reason = reason


class Checkpointer:
    """`step()` does one unit of work and says whether there is more at once; if not, wait `pause` seconds.

    `key` signs; `previous`, if given, signed until now and hands over to it.
    """

    def __init__(self, key: SigningKey, previous: SigningKey | None = None):
        self.pause = 0.0
        self._given = [given for given in (key, previous) if given is not None]
        self._key, self._previous = key, previous
        self._keys = [given.verifier for given in self._given]
        # Log and size of the newest checkpoint, for the cosigners in their threads; None while this process does not sign.
        self.newest: tuple[int, int] | None = None
        self._lock = ActiveLock(LOCK, 2 * LEASE)  # it waits for half of that after a failure
        self._topic = CheckpointTopic()
        self._database_outage, self._broker_outage = (
            Outage("the checkpointer's database"),
            Outage("publishing checkpoints", 1.0, 30.0),
        )
        self._said: str | None = None
        self._conflicts = 0
        self._next_publication = 0.0
        self._forget()

    def _forget(self) -> None:
        """Whatever is known of the log is asked anew."""
        self._writer: TileWriter | None = None
        self._last: Checkpoint | None = None
        self._hands_over = False
        self._to_contain: list[tuple[Checkpoint, str]] = []
        self._lacking: list[tuple[Checkpoint, bytes]] = []
        self._published = 0
        self._signed_at = float("-inf")
        self.newest = None

    def close(self) -> None:
        self._topic.close()
        self._lock.release()
        connection.close()

    def step(self) -> bool:
        self.pause = POLL
        try:
            if not self._lock.acquire():
                self._stand_by()
                return False
            more = self._work()
        except DATABASE_FAULTS as error:
            connection.close()
            self._forget()
            self.pause = self._database_outage.failed(error)
            return False
        except _BROKER_FAULTS as error:
            # What stands on the topic is not known: nothing is signed that might contradict it.
            self._forget()
            self.pause = self._broker_outage.failed(error)
            return False
        except (Refused, Tampered, MissingTile) as error:
            self._refuse(getattr(error, "reason", "tampered"), str(error))
            return False
        except IntegrityError as error:
            self._conflict(str(error).splitlines()[0])
            return False
        self._database_outage.over()
        return more

    def _stand_by(self) -> None:
        """Another one signs, and tells how that goes: what this one told is out of date."""
        self._forget()
        self._said = None
        self.pause = STANDBY_POLL
        metrics.CHECKPOINT_REFUSED.replace({})
        metrics.CHECKPOINT_SIZE.replace({})

    def _conflict(self, text: str) -> None:
        """Another one was faster: ask what it signed. Again and again: it is no signer that wrote what is in the way."""
        self._conflicts += 1
        if self._conflicts > _MOST_CONFLICTS:
            self._refuse("tampered", f"a tile, bundle or checkpoint that this process did not write is in the way: {text}")
            return
        logger.warning("no checkpoint this time: %s", text)
        self._forget()

    def _refuse(self, reason: str, text: str) -> None:
        self._forget()
        self.pause = REFUSED_POLL
        metrics.CHECKPOINT_REFUSED.replace({(reason,): 1})
        if text != self._said:
            logger.error("no checkpoint is signed: %s", text)
            self._said = text

    def _work(self) -> bool:
        head = read_head()
        if head is None:
            return False
        metrics.CHECKPOINT_SIZE.set(head.log + head.size - 1, "recorded")
        if self._writer is None or self._writer.log != head.log:
            self._forget()
            self._open(head)
        self._publish(head)
        if not self._is_due(head):
            return False
        self._writer.advance(head.size)
        if self._writer.size < head.size:
            return True
        self._check(head)
        self._store_again(head)
        if self._last is None or self._last.size < head.size:
            self._sign(head)
        self._publish(head)
        return False

    def _open(self, head: Head) -> None:
        """Finds out what must not be contradicted. Raises Refused, and the broker's faults."""
        self._use_keys_of(head)
        stored = checkpoint_store.latest(head.log)
        if stored is not None:
            self._last = self._own(stored.note, stored.size)
            self._to_contain.append((self._last, "the newest checkpoint that is stored"))
        ring = checkpoint_store.ring(self._keys)
        outside = self._topic.newest(head.origin, ring)
        self._broker_outage.over()
        if stored is None and outside is None:
            self._check_succession(head, ring)
        if outside is not None:
            self._to_contain.append((outside, f"the newest checkpoint on the topic {settings.KAFKA_CHECKPOINT_TOPIC}"))
        self._published = outside.size if outside else self._last.size - 1 if self._last else 0
        for checkpoint, where in self._to_contain:
            if checkpoint.size > head.size:
                raise Refused(
                    "fork",
                    f"the log has {head.size} entries, {where} {checkpoint.size}: entries were lost, as by a restore of an "
                    "older database. `manage.py audit_log new --reason …` opens a successor",
                )
        stored_size = self._last.size if self._last else 0
        if outside is not None and outside.size > stored_size:
            self._lacking = self._topic.above(head.origin, ring, stored_size)
        self._writer = TileWriter(head.log)
        self.newest = self._last and (head.log, self._last.size)
        for checkpoint, state in ((self._last, "signed"), (outside, "published")):
            if checkpoint is not None:
                metrics.CHECKPOINT_SIZE.set(head.log + checkpoint.size - 1, state)

    def _use_keys_of(self, head: Head) -> None:
        key, *previous = (key_for(given, head.origin) for given in self._given)
        if key is None:
            name = self._given[0].name
            raise Refused("key", f"the signing key (AUDIT_SIGNING_KEY) is of {name!r}, the log is {head.origin!r}")
        self._key, self._previous = key, previous[0] if previous else None

    def _check_succession(self, head: Head, ring: KeyRing) -> None:
        """The first checkpoint of a successor is not signed unless its first entry tells what was promised before."""
        before = successor.predecessor(head)
        if before is not None and (doubt := successor.doubt(head, self._topic.newest(before, ring))):
            raise Refused("fork", doubt)

    def _own(self, note: bytes, size: int) -> Checkpoint:
        """The newest stored checkpoint, if it is by our key; or by the previous one, which then hands over with the next."""
        for key in (self._key, self._previous):
            if key is None:
                continue
            try:
                checkpoint, _ = open_checkpoint(note, [key.verifier])
            except (MalformedNote, Unverified):
                continue
            if checkpoint.size != size or checkpoint.origin != self._key.verifier.name:
                break
            self._hands_over = key is self._previous
            return checkpoint
        raise Refused(
            "key",
            f"the newest checkpoint, of {size} entries, is not by the key {self._key.verifier}. If the key was changed, give the "
            "one before too (AUDIT_PREVIOUS_SIGNING_KEY): it names the new one in its last checkpoint",
        )

    def _is_due(self, head: Head) -> bool:
        new = head.size - (self._last.size if self._last else 0)
        waited = time.monotonic() - self._signed_at
        return new >= settings.CHECKPOINT_ENTRIES or (new > 0 and waited >= settings.CHECKPOINT_SECONDS)

    def _check(self, head: Head) -> None:
        """Raises Tampered unless the entries give the head's tree, and Refused unless that contains what was signed."""
        if self._writer.edge().to_bytes() != head.edge:
            raise Tampered("the entries do not give the tree of the log's head")
        for checkpoint, where in self._to_contain:
            if self._writer.root_at(checkpoint.size) != checkpoint.root:
                raise Refused(
                    "fork",
                    f"{where} says otherwise of the first {checkpoint.size} entries: the log was changed, or restored and gone on. "
                    "`manage.py audit_log new --reason …` opens a successor",
                )
        self._to_contain.clear()

    def _store_again(self, head: Head) -> None:
        """What was signed and stands on the topic, where the database was set back to before it and has the same entries:
        otherwise it would for ever lack what others hold. Raises Refused."""
        for checkpoint, note in self._lacking:
            if self._writer.root_at(checkpoint.size) != checkpoint.root:
                raise Refused("fork", f"the topic has two histories of the first {checkpoint.size} entries: the log was changed")
            with transaction.atomic():
                checkpoint_store.add(head.log, checkpoint, note)
        if self._lacking:
            checkpoint, note = self._lacking.pop()
            self._last, self.newest = self._own(note, checkpoint.size), (head.log, checkpoint.size)
            logger.info("checkpoints up to that of %d entries are stored again, from the topic", checkpoint.size)
            self._lacking.clear()

    def _sign(self, head: Head) -> None:
        extensions = (f"{NEXT_KEY}{self._key.verifier}",) if self._hands_over else ()
        signers = (self._previous, self._key) if self._hands_over else (self._key,)
        checkpoint = Checkpoint(head.origin, head.size, self._writer.edge().root(), extensions)
        note = bytes(Note(checkpoint.text, tuple(signer.sign(checkpoint.text) for signer in signers)))
        with transaction.atomic():
            checkpoint_store.add(head.log, checkpoint, note)
        if self._hands_over:
            logger.info("the checkpoint of %d entries hands over to the key %s", head.size, self._key.verifier)
        self._last, self._hands_over, self._said, self._conflicts = checkpoint, False, None, 0
        self._signed_at, self.newest = time.monotonic(), (head.log, head.size)
        metrics.CHECKPOINT_REFUSED.replace({})
        metrics.CHECKPOINTS.inc()
        metrics.CHECKPOINT_SIZE.set(head.log + head.size - 1, "signed")

    def _publish(self, head: Head) -> None:
        """What is signed and not on the topic, in order. An outage delays nothing else."""
        if self._last is None or self._published >= self._last.size or time.monotonic() < self._next_publication:
            return
        try:
            while found := checkpoint_store.after(head.log, self._published, _BATCH):
                self._topic.publish(head.origin, [stored.note for stored in found])
                self._published = found[-1].size
                metrics.CHECKPOINT_SIZE.set(head.log + self._published - 1, "published")
        except _BROKER_FAULTS as error:
            self._next_publication = time.monotonic() + self._broker_outage.failed(error)
        else:
            self._broker_outage.over()
