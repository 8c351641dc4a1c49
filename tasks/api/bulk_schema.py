"""What the OpenAPI document says of `/api/tasks/bulk`."""

from django.conf import settings
from drf_spectacular.utils import PolymorphicProxySerializer, extend_schema, extend_schema_view
from rest_framework import serializers

from tasks.api.bulk import MOST_BYTES
from tasks.api.operations import CREATE, DELETE, MOST, UPDATE
from tasks.api.schema import REASON, SAFE_RETRY, ProblemSerializer, problems
from tasks.api.serializers import TaskChangeSerializer, TaskSerializer

_VERSION = "Done only if the task is at this version; as If-Match."


class CreateOperationSerializer(serializers.Serializer):
    op = serializers.ChoiceField([CREATE])
    task = TaskSerializer()


class UpdateOperationSerializer(serializers.Serializer):
    op = serializers.ChoiceField([UPDATE])
    id = serializers.UUIDField()
    version = serializers.IntegerField(required=False, min_value=1, help_text=_VERSION)
    task = TaskChangeSerializer(partial=True)


class DeleteOperationSerializer(serializers.Serializer):
    op = serializers.ChoiceField([DELETE])
    id = serializers.UUIDField()
    version = serializers.IntegerField(required=False, min_value=1, help_text=_VERSION)


_OPERATION = PolymorphicProxySerializer(
    component_name="Operation",
    serializers={CREATE: CreateOperationSerializer, UPDATE: UpdateOperationSerializer, DELETE: DeleteOperationSerializer},
    resource_type_field_name="op",
    many=False,
)


class BulkSerializer(serializers.Serializer):
    atomic = serializers.BooleanField(required=False, default=True, help_text="All or nothing.")
    operations = serializers.ListField(
        child=_OPERATION, min_length=1, max_length=MOST, help_text="One for a task at most; creations and updates first."
    )


class OperationResultSerializer(serializers.Serializer):
    index = serializers.IntegerField(min_value=0, help_text="Which operation.")
    status = serializers.IntegerField(help_text="As if it had been a request of its own: 201, 200, 204, 404, 409, 412, 422, 428.")
    task = TaskSerializer(required=False, help_text="As the operation leaves it; none where it was deleted or refused.")
    problem = ProblemSerializer(required=False, help_text="Why it was refused; `errors` point into the whole body.")


describe_bulk = extend_schema_view(
    create=extend_schema(
        operation_id="tasks_bulk",
        summary="Create, change and delete up to 1,000 tasks",
        description="All or nothing: one that cannot be done refuses all, by one problem whose `errors` point into each "
        "(`#/operations/3/task/title`), of the type that they share or else `invalid-body`. With `atomic` false the others are "
        "done, in one transaction, and each operation has its result. A body has "
        f"{settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes at most, and the texts of the tasks that it names {MOST_BYTES:,} as JSON; "
        "else nothing is done. 429: other bulk requests are under way.",
        parameters=[REASON, *SAFE_RETRY],
        request=BulkSerializer,
        responses={200: OperationResultSerializer(many=True), **problems(400, 404, 409, 412, 413, 415, 422, 428, 429)},
    )
)
