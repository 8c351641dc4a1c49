from django.apps import AppConfig
from django.db.backends.signals import connection_created


class TasksConfig(AppConfig):
    name = "tasks"
    # Stands before each page's name in the console's breadcrumbs.
    verbose_name = "TaskPulse"

    def ready(self):
        from tasks import capture, context

        capture.connect()
        connection_created.connect(context.watch_connection, dispatch_uid="taskpulse.context")
