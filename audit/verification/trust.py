"""What each check rests on, and what a verification does not prove."""

from collections.abc import Iterator

from audit.signed_note import VerifierKey
from audit.verification.report import Report

CHECKS = {
    "entries": "nothing but arithmetic; whoever rewrites an entry, its digest and its leaf together is found by the tree",
    "versions": "the entries; a whole task that was never recorded leaves no gap",
    "tree": "a checkpoint: whoever rewrites all entries above the newest one makes a tree that agrees",
    "head": "the database: it says how long the log is, and is held against the checkpoints",
    "checkpoints": "the verifier key, and that nobody else has the signing key",
    "outside": "whoever keeps those checkpoints: the brokers of the topic, and who gave the files",
    "drift": "the tables of tasks and outbox, which the database's owner can change together",
}


def _followed(report: Report, options) -> str:
    """Which versions were looked at: those of what was recomputed."""
    if report.recomputed == report.entries:
        return "each follows upon the one before"
    said = f"of the {report.recomputed:,} entries that were recomputed, each follows upon the one before"
    return said if options.from_seq == 1 else f"{said}; none before entry {options.from_seq} was looked at"


def _open(report: Report) -> Iterator[tuple[int, int]]:
    """What no checkpoint held outside covers, as spans that do not touch."""
    found: list[tuple[int, int]] = []
    for first, last in filter(None, (pin.open for pin in report.pins)):
        if found and found[-1][1] == first - 1:
            first, _ = found.pop()
        found.append((first, last))
    yield from found


def describe(report: Report, heads: list, keys: list[VerifierKey], options) -> None:
    """The checks in words, and what they leave open."""
    last, checks = heads[-1].last, report.checks
    checks["entries"].detail = f"{report.recomputed:,} of {report.entries:,} recomputed from event_data"
    checks["versions"].detail = _followed(report, options)
    checks["tree"].detail = f"{report.entries:,} leaves"
    checks["head"].detail = f"{len(heads)} log{'s' if len(heads) > 1 else ''}, up to entry {last}"
    signed = [head for head in heads if head.signed]
    checks["checkpoints"].compared = bool(signed)
    by_secret = {key.public: key for key in reversed(keys)}
    names = ", ".join(f"{key.name}+{key.key_id.hex()}" for key in reversed(by_secret.values()))
    checks["checkpoints"].detail = f"the newest of entry {signed[-1].log + signed[-1].signed - 1}, by {names}" if signed else "none"
    if checks["checkpoints"].unchecked:
        checks["checkpoints"].detail += f"; {checks['checkpoints'].unchecked:,} earlier ones not checked (give the key before)"
    say = report.not_proved.append
    if not checks["outside"].compared:
        say(
            "Nothing held outside the database was compared: whoever owns it can have cut the log off at an earlier checkpoint, "
            "with all that came after. Keep a checkpoint elsewhere and give it by --checkpoint."
        )
    above = "can still be cut off or made anew by whoever owns the database: no checkpoint held outside covers them"
    for first, until in _open(report):
        say(f"Entries {first} to {until} {above}.")
    if not last:
        say("The log is empty.")
    if report.recomputed < report.entries:
        open_ = report.entries - report.recomputed
        say(
            f"{open_:,} entries were not recomputed: their leaves are in the tree, their event_data and columns were not looked at."
        )
    say(
        "That an event is true: the log proves what was recorded, in which order, and that it was not changed since. Who the "
        "actor is, the service knew at that moment, and whoever had its database role could say."
    )
