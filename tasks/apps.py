from django.apps import AppConfig
from django.db.backends.signals import connection_created


class TasksConfig(AppConfig):
    name = "tasks"

    def ready(self):
        from tasks import capture, context

        capture.connect()
        connection_created.connect(context.watch_connection, dispatch_uid="taskpulse.context")
