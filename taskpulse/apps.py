from django.apps import AppConfig, apps
from django.db.models.signals import post_migrate


class TaskPulseConfig(AppConfig):
    name = "taskpulse"
    verbose_name = "TaskPulse"

    def ready(self):
        from taskpulse import checks, least_privilege, roles  # noqa: F401 (the checks register themselves)

        # Once for a `migrate`, when the tables of all apps are there.
        last = list(apps.get_app_configs())[-1]
        post_migrate.connect(roles.make_groups, sender=last, dispatch_uid="taskpulse.roles")
