"""Capture by signals: `post_save` and `post_delete` of every audited model write the event of the row."""

from django.db.models.signals import post_delete, post_save

from tasks import deletion
from tasks.audited import AuditedModel


def on_save(sender, instance, created, using, **_):
    """Receiver of `post_save`: the event of one saved row."""
    if not isinstance(instance, AuditedModel):
        return
    before = instance.__dict__.pop("_before", None)
    if created:
        sender.record([(instance, None, "created")], using)
    elif before is not None and before["version"] != instance.version:
        # Without the people that the row has now.
        sender.record([(instance, sender.of_values(before), "updated")], using)
    instance.remember()


def on_delete(sender, instance, using, **_):
    """Receiver of `post_delete`: the event of one deleted row."""
    if isinstance(instance, AuditedModel):
        deletion.note(instance, using)


def connect() -> None:
    post_save.connect(on_save, dispatch_uid="taskpulse.capture.save")
    post_delete.connect(on_delete, dispatch_uid="taskpulse.capture.delete")
