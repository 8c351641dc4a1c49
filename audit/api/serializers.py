"""The published shape of an audit entry; PostgreSQL writes it (`audit.api.queries`)."""

from rest_framework import serializers


class ActorSerializer(serializers.Serializer):
    id = serializers.CharField(allow_null=True)
    name = serializers.CharField(allow_null=True)
    type = serializers.CharField(allow_null=True, help_text="user, system, database or model.")


class WatermarkSerializer(serializers.Serializer):
    version = serializers.IntegerField(help_text="The task's last committed version, its deletion included.")
    audited_version = serializers.IntegerField(help_text="The last version of which the audit log has the entry; 0 for none.")


class EntrySerializer(serializers.Serializer):
    seq = serializers.IntegerField(help_text="The place in the log: 1, 2, 3 … without a gap.")
    event_id = serializers.UUIDField()
    event_type = serializers.CharField()
    subject = serializers.CharField(help_text="Kind and id: `task/0199…`.")
    task_id = serializers.UUIDField(allow_null=True)
    version = serializers.IntegerField(allow_null=True, help_text="The subject's version; null for an act without a row.")
    actor = ActorSerializer(allow_null=True)
    request_id = serializers.CharField(allow_null=True)
    reason = serializers.CharField(allow_null=True)
    changes = serializers.DictField(help_text='By field: `{"from": …, "to": …}`.')
    redacted_by = serializers.UUIDField(
        allow_null=True, help_text="The event `audit.redacted` by which reason, changes and content were erased; else null."
    )
    event_data = serializers.DictField(help_text="The whole event (CloudEvents 1.0).")
    occurred_at = serializers.DateTimeField()
    processed_at = serializers.DateTimeField()
    digest = serializers.CharField(help_text="SHA-256 of the event's canonical bytes, hexadecimal.")
