"""What drf-spectacular is told of this API beside its views: how one signs in, shapes that no serializer has, paths."""

from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerFieldExtension

from tasks.api.serializers import PersonSerializer


class BearerScheme(OpenApiAuthenticationExtension):
    target_class = "tasks.api.authentication.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema):
        return {"type": "http", "scheme": "bearer", "description": "An API token, `tp_…`."}


class SessionScheme(OpenApiAuthenticationExtension):
    target_class = "tasks.api.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema):
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": "sessionid",
            "description": "The console's session; unsafe methods need X-CSRFToken.",
        }


class AssigneeShape(OpenApiSerializerFieldExtension):
    """Shown as an object; a body may give the bare id, and a change some of the object's members."""

    target_class = "tasks.api.serializers.AssigneeField"

    def map_serializer_field(self, auto_schema, direction):
        some = direction == "request" and self.target.parent.partial
        person = auto_schema.resolve_serializer(PersonSerializer(partial=some), direction).ref
        ways = [person, {"type": "null"}]
        if direction == "request":
            ways += [{"type": "integer"}, {"type": "string", "pattern": "^[0-9]+$"}]
        return {"oneOf": ways}


def without_trailing_slash(endpoints, **_):
    """A hook of drf-spectacular before its work: the paths as people write them; both forms are served."""
    return [(path.rstrip("/"), *rest) for path, *rest in endpoints]
