"""Kept answers: what an unsafe request with an `Idempotency-Key` was answered, for as long as it may be sent again.

An answer is written by the transaction of the change that it tells of (`tasks/api/idempotency.py`), never changed, and
swept after KEPT_HOURS by a worker beside the relay.
"""

from django.db import InterfaceError, OperationalError, connection, models
from django.db.models.functions import Now

from taskpulse.metrics import ANSWERS_SWEPT
from tasks.outage import Outage

KEPT_HOURS = 24
# Answers that are deleted in one transaction.
BATCH = 1_000
# By the index on `created_at`. Two sweepers at once wait for each other's rows for the length of a batch.
_SWEEP = f"""
DELETE FROM tasks_kept_answer WHERE digest = ANY (ARRAY(
  SELECT digest FROM tasks_kept_answer WHERE created_at < now() - interval '{KEPT_HOURS} hours' ORDER BY created_at LIMIT %s))
"""  # noqa: S608 (a constant)


class KeptAnswer(models.Model):
    """`digest` is the SHA-256 of caller and key: a key may tell something, and has no other use here."""

    digest = models.BinaryField(primary_key=True)
    # Whose request it was, for erasure. No foreign key: it would lock the person's row, and an answer is gone in a day.
    user_id = models.IntegerField()
    fingerprint = models.BinaryField()
    status = models.SmallIntegerField()
    headers = models.JSONField()
    body = models.BinaryField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "tasks_kept_answer"
        indexes = [models.Index(fields=["created_at"], name="tasks_kept_answer_created_at")]

    def __str__(self) -> str:
        return f"answer {self.status} of {self.created_at:%Y-%m-%d %H:%M}"


class Sweeper:
    """`step()` deletes one batch of the answers that have had their time and says whether there may be more; if not, wait
    `pause` s. A database that is away is waited for."""

    PAUSE = 60.0

    def __init__(self):
        self._outage = Outage("sweeping kept answers", 1.0, self.PAUSE)
        self.pause = self.PAUSE

    def step(self) -> bool:
        try:
            with connection.cursor() as cursor:
                cursor.execute(_SWEEP, [BATCH])
                swept = cursor.rowcount
        except (OperationalError, InterfaceError) as error:
            connection.close()
            self.pause = self._outage.failed(error)
            return False
        self._outage.over()
        self.pause = self.PAUSE
        ANSWERS_SWEPT.inc(swept)
        return swept == BATCH

    def close(self) -> None:
        """Nothing is open between two steps; its thread closes the connection."""
