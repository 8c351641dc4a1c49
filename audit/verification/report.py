"""What a verification found, and what it rests on."""

from dataclasses import asdict, dataclass, field

# Findings kept of each check; beyond, they are counted.
KEPT = 100


class CannotCheck(Exception):
    """The log could not be verified: that says nothing of whether it is sound."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `seq` is the entry concerned, `until` the last one where only a range can be named."""

    check: str
    detail: str
    seq: int | None = None
    until: int | None = None

    def __str__(self) -> str:
        if self.seq is None:
            return f"{self.check}: {self.detail}"
        place = f"entry {self.seq}" if self.until in (None, self.seq) else f"entries {self.seq} to {self.until}"
        return f"{self.check}: {place}: {self.detail}"


@dataclass(slots=True)
class Check:
    """One check: what was looked at, in words, and the trust that it rests on. `compared` is False where there was nothing
    to compare with; `unchecked` counts what could not be looked at for want of a key."""

    name: str
    rests_on: str
    detail: str = ""
    compared: bool = True
    wrong: int = 0
    unchecked: int = 0

    @property
    def result(self) -> str:
        return "tampered" if self.wrong else "sound" if self.compared else "not compared"


@dataclass(slots=True)
class Pin:
    """How much of one log, whose entries are `first` to `last`, checkpoints held outside the database cover: up to the entry
    `until`; None where there is none."""

    origin: str
    first: int
    last: int
    until: int | None = None

    @property
    def open(self) -> tuple[int, int] | None:
        """The entries that none covers."""
        first = self.first if self.until is None else self.until + 1
        return (first, self.last) if first <= self.last else None


@dataclass(frozen=True, slots=True)
class Loss:
    """Entries `first` to `last` of a log, as they were signed for, are not here: it was closed with the entry `closed`, and entry
    `accounted_by`, the first of its successor, says so. That is on record, and no tampering that was hidden."""

    origin: str
    first: int
    last: int
    closed: int
    accounted_by: int

    def __str__(self) -> str:
        lost = f"{self.origin}: entries {self.first} to {self.last} as they were signed for"
        return f"{lost}. The log was closed with entry {self.closed}; accounted for by entry {self.accounted_by}"


@dataclass(slots=True)
class Report:
    checks: dict[str, Check] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    entries: int = 0
    recomputed: int = 0
    pins: list[Pin] = field(default_factory=list)
    losses: list[Loss] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def check(self, name: str, rests_on: str) -> Check:
        return self.checks.setdefault(name, Check(name, rests_on))

    def add(self, *findings: Finding) -> None:
        for finding in findings:
            check = self.checks[finding.check]
            check.wrong += 1
            if check.wrong <= KEPT:
                self.findings.append(finding)

    @property
    def pinned(self) -> int | None:
        """The entry up to which all are covered by checkpoints held outside the database, in each log that there is until
        there; None where there is none."""
        until = None
        for pin in self.pins:
            until = pin.until or until
            if pin.open:
                break
        return until

    @property
    def tampered(self) -> bool:
        return any(check.wrong for check in self.checks.values())

    @property
    def first_bad(self) -> Finding | None:
        """The finding of the lowest `seq`, one that names a single entry before one that names a range; else any. Of drift
        and of what is served only where the log itself is sound: rows and tiles that say otherwise are a consequence of entries
        that are gone."""
        findings = [finding for finding in self.findings if finding.check not in ("drift", "served")] or self.findings
        placed = [finding for finding in findings if finding.seq is not None]
        if not placed:
            return next(iter(findings), None)
        return min(placed, key=lambda finding: (finding.seq, finding.until or finding.seq))

    def as_json(self) -> dict:
        first = self.first_bad
        return {
            "result": "tampered" if self.tampered else "lost" if self.losses else "sound",
            "entries": self.entries,
            "recomputed": self.recomputed,
            "pinned_until": self.pinned,
            "pins": [
                {"origin": pin.origin, "first_seq": pin.first, "last_seq": pin.last, "pinned_until": pin.until} for pin in self.pins
            ],
            "first_bad": first and asdict(first),
            "losses": [asdict(loss) for loss in self.losses],
            "findings": [asdict(finding) for finding in self.findings],
            "checks": [
                {
                    "name": check.name,
                    "result": check.result,
                    "detail": check.detail,
                    "wrong": check.wrong,
                    "rests_on": check.rests_on,
                }
                for check in self.checks.values()
            ],
            "not_proved": self.not_proved,
            "seconds": round(self.seconds, 3),
        }


def in_words(report: Report) -> str:
    """For a person at a terminal."""
    lines = [
        f"{check.name:<12} {check.result:<13} {check.detail}\n{'':<12} {'':<13} rests on {check.rests_on}"
        for check in report.checks.values()
    ]
    if report.tampered:
        lines += ["", f"TAMPERED. First: {report.first_bad}"]
        lines += [f"  {finding}" for finding in report.findings if finding is not report.first_bad]
        hidden = sum(check.wrong for check in report.checks.values()) - len(report.findings)
        lines += [f"  … and {hidden:,} more"] if hidden else []
    else:
        pinned = (
            "nothing outside the database pins it" if report.pinned is None else f"pinned from outside up to entry {report.pinned}"
        )
        lines += ["", f"SOUND: {report.entries:,} entries, {pinned}."]
    lines += ["", *(f"LOST: {loss}." for loss in report.losses)] if report.losses else []
    lines += ["", "Not proved:", *(f"- {text}" for text in report.not_proved)]
    rate = report.entries / report.seconds if report.seconds else 0
    return "\n".join([*lines, "", f"{report.seconds:.1f} s, {rate:,.0f} entries/s"])
