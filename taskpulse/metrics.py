"""Every metric that TaskPulse itself makes, each declared once; deploy/README.md says what to do when one is wrong.

Names follow Prometheus' rules (https://prometheus.io/docs/practices/naming/): base units, `_total` for counters. Labels
come from short fixed lists, or are the numbers of the topic's partitions. A gauge is a `Reading`: it is there only in
the process that knows it, since the web role's processes share their files and would show a 0 for each of them.
"""

from prometheus_client import Counter, Histogram

from taskpulse.instruments import AgeHistogram, Reading

# Every role

# 1; the labels are what one wants to know after a roll-out: which version runs where.
BUILD = Reading("taskpulse_build_info", "Version, Python and source revision that run", ["version", "python", "revision"])
# 1 for a part that `manage.py up` started, which is nothing for production; 0 for one that the environment names.
EMBEDDED = Reading("taskpulse_embedded", "1 for an embedded PostgreSQL or Kafka, 0 for one of your own", ["part"])
# postgresql, migrations, kafka: the checks of /readyz, as a number that an alert can wait for.
DEPENDENCY_UP = Reading("taskpulse_dependency_up", "1 for a dependency that answers as it should", ["dependency"])

# Web

# More of them means more load than the web role can serve in time.
WEB_REFUSED = Counter("taskpulse_web_refused", "Requests answered with 503 because too many waited")
# Outcomes: answered again, in flight, another request. The last two are a client's fault; many in flight, one without patience.
KNOWN_KEYS = Counter("taskpulse_idempotency_known_keys", "Requests whose Idempotency-Key was known, by outcome", ["outcome"])
# 0, unless code runs before its migrations. (django-prometheus calls it django_migrations_unapplied_total: a gauge whose
# name says counter, read once at the start. Its own are read with each scrape of the web role.)
UNAPPLIED = Reading("django_migrations_unapplied", "Migrations of this code that are not applied", ["connection"])

# Outbox: read by relay and consumer at the scrape, the same from each of them (use max, not sum)

# Exact up to 10,000; above, PostgreSQL's own estimate for its planner: a count would read the whole backlog each time.
OUTBOX_PENDING = Reading("taskpulse_outbox_pending", "Changes committed and not yet in the audit log")
# The one number that says whether anything is late, whatever the cause.
OUTBOX_OLDEST_AGE = Reading("taskpulse_outbox_oldest_age_seconds", "Age of the oldest change not yet in the audit log")
# True events that wait for a person.
OUTBOX_HELD = Reading("taskpulse_outbox_held", "Outbox events held, by the relay or the recorder, until a person releases them")

# Relay

# 1 in the process that publishes, 0 in a standby: the sum is 1.
RELAY_ACTIVE = Reading("taskpulse_relay_active", "1 in the relay that publishes, 0 in a standby")
# Acknowledged by Kafka, repeats included.
PUBLISHED = Counter("taskpulse_relay_published", "Outbox events that Kafka acknowledged, repeats included")
# The loss barrier found them neither recorded nor on their way.
REPUBLISHED = Counter("taskpulse_relay_republished", "Published events that were lost on the way and go out again")
# Held, since no later try would change the broker's verdict (too large, invalid).
REFUSED = Counter("taskpulse_relay_refused", "Outbox events held because the broker refuses them for good")

# Beside the relay: what was kept for retries is thrown away after a day.
ANSWERS_SWEPT = Counter("taskpulse_idempotency_answers_swept", "Kept answers deleted after their 24 hours")

# Consumer

# Messages between the group's committed offset and the end of each partition, owned by this process or not.
CONSUMER_LAG = Reading("taskpulse_consumer_lag", "Messages that the group has not committed", ["group", "partition"])
# Entries of the audit log.
RECORDED = Counter("taskpulse_recorder_recorded", "Events recorded in the audit log")
# Normal after a crash or a rebalance.
REPEATED = Counter("taskpulse_recorder_repeated", "Messages of events already recorded")
# They come again in order.
REORDERED = Counter("taskpulse_recorder_reordered", "Events that came before an earlier version and were sent back")
# The log could not take them: they wait for a person.
HELD = Counter("taskpulse_recorder_held", "True events that the audit log could not take")
# Reasons: audit.models.DeadLetter.Reason.
DEAD_LETTERS = Counter("taskpulse_dead_letters", "Messages that are no true event, by reason", ["reason"])
# On the disk, indexes included, read by relay and consumer at the scrape; and the bytes of messages up to which they are kept.
DEAD_LETTER_BYTES = Reading("taskpulse_dead_letter_bytes", "Size of the table of dead letters")
DEAD_LETTER_LIMIT = Reading("taskpulse_dead_letter_limit_bytes", "Size up to which dead letters keep the bytes of messages")
# From the change's own time, which its transaction gave it, to the entry: what is left of that transaction is in it.
# Both times are the database's.
COMMIT_TO_ENTRY = AgeHistogram(
    "taskpulse_commit_to_entry_seconds",
    "Seconds from a change to its entry in the audit log",
    [0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 15, 60, 300, 1800, 3600],
)

# Checkpoints: in the relay that signs them

# Recorded (all there are), signed and published should be the same but for a moment.
CHECKPOINT_SIZE = Reading(
    "taskpulse_checkpoint_entries", "Entries of the log, and those that the newest checkpoint covers", ["state"]
)
CHECKPOINTS = Counter("taskpulse_checkpoint_signed", "Checkpoints of the audit log signed")
# A person must look: key (the wrong one), fork (the log contradicts what was signed), tampered (so do the entries).
CHECKPOINT_REFUSED = Reading("taskpulse_checkpoint_refused", "1 while no checkpoint can be signed, by reason", ["reason"])
# Witnesses cosign what contains all that they cosigned before: one that lags is away, one that refuses has seen another log.
WITNESS_SIZE = Reading("taskpulse_witness_entries", "Entries of the log that a witness has cosigned", ["witness"])
WITNESS_REFUSED = Reading("taskpulse_witness_refused", "1 while a witness refuses to cosign", ["witness"])

# Relay and consumer, by role

# How full the batches are: always full means that the role is at its limit.
BATCH_EVENTS = Histogram(
    "taskpulse_batch_events", "Events or messages in a batch", ["role"], buckets=[1, 2, 5, 10, 50, 100, 500, 1000, 2000, 10_000]
)
# The relay's: from the selection to the marks. The consumer's: one transaction, its retries included.
BATCH_SECONDS = Histogram(
    "taskpulse_batch_duration_seconds",
    "Seconds that a batch took",
    ["role"],
    buckets=[0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30],
)
