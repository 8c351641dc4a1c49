from django.apps import AppConfig


class TaskPulseConfig(AppConfig):
    name = "taskpulse"
    verbose_name = "TaskPulse"
