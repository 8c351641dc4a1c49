"""Tasks of a small company, made as people make them: created, assigned, worked on, completed, sometimes deleted."""

import random
from datetime import UTC, datetime, timedelta

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import transaction

from tasks import context
from tasks.context import Actor, Context
from tasks.models import Comment, Priority, Status, Task, Watcher

PEOPLE = (
    ("ana", "Ana", "Horvat"),
    ("ben", "Ben", "Okafor"),
    ("chen", "Chen", "Li"),
    ("dora", "Dora", "Lindqvist"),
    ("emil", "Emil", "Rossi"),
)
# A field of work: its labels, what is done, and what it is done to.
FIELDS = (
    (
        ("billing", "finance"),
        ("Reconcile", "Correct", "Send", "Check", "Refund"),
        ("the invoices of {month}", "the VAT on order {number}", "the payment reminders",
         "the duplicate charge on account {number}", "the {month} statement for {customer}"),
    ),
    (
        ("bug", "web"),
        ("Fix", "Reproduce", "Investigate", "Write a test for"),
        ("the time-out on the checkout page", "the login loop in Safari", "broken links in the footer",
         "the wrong total when a coupon is used twice", "error 502 after midnight on server {number}"),
    ),
    (
        ("support",),
        ("Answer", "Call back", "Escalate", "Follow up on"),
        ("{customer} about their delivery", "{customer}'s question on data export", "ticket {number}",
         "the complaint of {customer}"),
    ),
    (
        ("infrastructure", "security"),
        ("Upgrade", "Rotate", "Document", "Move", "Monitor"),
        ("the database to the next minor release", "the signing keys", "the backup of host {number}", "the restore procedure",
         "the certificates that expire in {month}"),
    ),
    (
        ("hiring", "people"),
        ("Prepare", "Schedule", "Review"),
        ("the interview with candidate {number}", "the onboarding in {month}",
         "the job advertisement for support", "the team's holiday plan"),
    ),
    (
        ("marketing", "docs"),
        ("Draft", "Review", "Publish", "Translate"),
        ("the {month} newsletter", "the page for {customer}", "the release notes", "the guide to the first five minutes"),
    ),
)  # fmt: skip
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December")
CUSTOMERS = (
    "Northwind",
    "Blue Harbour",
    "Café Sörensen",
    "Ōkami Trading",
    "Müller & Söhne",
    "Green Valley School",
    "Atlas Freight",
)
DETAILS = (
    "Reported this morning; see the mail thread for the details.", "Please agree the date with the customer first.",
    "It happened twice last week. **Do not** restart the service before looking at the logs.",
    "Steps:\n\n1. collect the figures\n2. compare them with the ledger\n3. tell finance what differs", "",
)  # fmt: skip
STEPS = ("Collect the facts", "Agree on a date", "Do it", "Have it reviewed", "Tell everybody concerned")
REMARKS = (
    "{person} has called: they need it this week.", "Waiting for an answer from {customer}.",
    "Same as last month, see the notes there.",
    "The figures of {month} are in the shared folder.\n\nPlease have a look before Friday.", "Done on my side.", "👍",
)  # fmt: skip
REASONS = ("weekly planning", "asked for by the customer", "stand-up", "triage", None, None)
BATCH = 500


class Demo:
    """`run` writes in batches, each one person's work in one transaction; counts what it did."""

    def __init__(self, seed: int):
        self._random = random.Random(seed)  # noqa: S311 (examples, not secrets)
        self.people = _people()
        self.created = self.changed = self.deleted = self.comments = 0

    def run(self, tasks: int) -> None:
        # Small numbers too are spread over all people.
        size = max(1, min(BATCH, tasks // (2 * len(self.people)) or 1))
        while self.created < tasks:
            batch = self._create(min(size, tasks - self.created))
            batch = self._assign(batch)
            self._progress(batch)
            self._talk(batch)
            self._edit(batch)
            self._delete(batch)

    def _as_somebody(self):
        """The context of one person's request."""
        person = self._random.choice(self.people)
        return context.use(Context(actor=Actor.of_user(person), reason=self._random.choice(REASONS))), person

    def _create(self, number: int) -> list[Task]:
        acting, person = self._as_somebody()
        tasks: list[Task] = []
        parents: list[Task] = []
        for _ in range(number):
            if parents and self._random.random() < 0.15:
                tasks.append(self._subtask(self._random.choice(parents), person))
            else:
                task = self._task(person)
                parents.append(task)
                tasks.append(task)
        with acting, transaction.atomic():
            # Parents first: a subtask's parent must be there.
            tasks.sort(key=lambda task: task.parent_id is not None)
            Task.objects.bulk_create(tasks)
        self.created += number
        return tasks

    def _task(self, person) -> Task:
        choice = self._random.choice
        labels, verbs, objects = choice(FIELDS)
        values = {"month": choice(MONTHS), "customer": choice(CUSTOMERS), "number": self._random.randint(100, 9_999)}
        day = datetime.now(UTC).replace(hour=16, minute=0, second=0, microsecond=0)
        due = day + timedelta(days=self._random.randint(-10, 45)) if self._random.random() < 0.6 else None
        return Task(
            title=f"{choice(verbs)} {choice(objects).format(**values)}",
            description=choice(DETAILS),
            priority=self._random.choices(Priority.values, (3, 5, 2))[0],
            labels=sorted(self._random.sample(labels, self._random.randint(1, len(labels)))),
            category=labels[0] if self._random.random() < 0.7 else None,
            due_at=due,
            created_by=person,
        )

    def _subtask(self, parent: Task, person) -> Task:
        return Task(
            title=f"{self._random.choice(STEPS)}: {parent.title}"[:255],
            priority=parent.priority,
            labels=parent.labels,
            due_at=parent.due_at,
            parent=parent,
            created_by=person,
        )

    def _assign(self, tasks: list[Task]) -> list[Task]:
        """Most tasks get somebody; the others wait."""
        theirs: dict = {}
        for task in tasks:
            if self._random.random() < 0.8:
                theirs.setdefault(self._random.choice(self.people), []).append(task)
        for assignee, assigned in theirs.items():
            self._update(assigned, assignee=assignee)
        return [task for assigned in theirs.values() for task in assigned]

    def _progress(self, tasks: list[Task]) -> None:
        started = [task for task in tasks if self._random.random() < 0.6]
        self._update(started, status=Status.IN_PROGRESS)
        done = [task for task in started if self._random.random() < 0.6]
        self._update(done, status=Status.COMPLETED)
        self._update([task for task in done if self._random.random() < 0.05], status=Status.IN_PROGRESS)

    def _talk(self, tasks: list[Task]) -> None:
        """Some are talked about, and watched by who did; a remark is corrected now and then."""
        choice = self._random.choice
        for person in self.people:
            mine = [task for task in tasks if self._random.random() < 0.12]
            values = {"month": choice(MONTHS), "customer": choice(CUSTOMERS), "person": choice(self.people).first_name}
            said = [Comment(task=task, author=person, body=choice(REMARKS).format(**values)) for task in mine]
            with context.use(Context(actor=Actor.of_user(person))), transaction.atomic():
                Comment.objects.bulk_create(said)
                Watcher.objects.bulk_create([Watcher(task=task, user=person) for task in mine])
                corrected = [comment.pk for comment in said if self._random.random() < 0.1]
                self.changed += Comment.objects.filter(pk__in=corrected).update(body=choice(REMARKS).format(**values))
            self.comments += len(said)

    def _edit(self, tasks: list[Task]) -> None:
        """A few single edits, as in a form."""
        for task in self._random.sample(tasks, len(tasks) // 20):
            acting, person = self._as_somebody()
            with acting:
                task = Task.objects.get(pk=task.pk)
                task.description = f"{task.description}\n\n{person.first_name}: talked about it, see the notes.".strip()
                task.priority = Priority.HIGH
                task.save()
            self.changed += 1

    def _delete(self, tasks: list[Task]) -> None:
        """Some were duplicates; with a parent go its subtasks."""
        acting, _ = self._as_somebody()
        with acting:
            total, _ = Task.objects.filter(pk__in=[task.pk for task in tasks if self._random.random() < 0.02]).delete()
        self.deleted += total

    def _update(self, tasks: list[Task], **values) -> None:
        acting, _ = self._as_somebody()
        with acting:
            self.changed += Task.objects.filter(pk__in=[task.pk for task in tasks]).update(**values)


def _people() -> list:
    """The same people in every run, members, without a password."""
    people = []
    members, _ = Group.objects.get_or_create(name="member")
    for username, first, last in PEOPLE:
        person, new = get_user_model().objects.get_or_create(username=username, defaults={"first_name": first, "last_name": last})
        if new:
            person.set_unusable_password()
            person.save(update_fields=["password"])
            person.groups.add(members)
        people.append(person)
    return people
