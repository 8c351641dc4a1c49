from django.apps import AppConfig
from django.conf import settings
from django.db.models.signals import post_migrate


class AuditConfig(AppConfig):
    name = "audit"
    verbose_name = "Audit"

    def ready(self):
        post_migrate.connect(make_first_log, sender=self, dispatch_uid="audit.first_log")


def make_first_log(using, apps, **_):
    """The first log's head. Its origin is explicit everywhere, so that a second log is a row and not a redesign."""
    from audit.models import LogHead

    if not LogHead.objects.using(using).exists():
        LogHead.objects.using(using).create(origin=settings.AUDIT_LOG_ORIGIN, first_seq=1)
