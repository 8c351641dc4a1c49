"""People as documents show them: who they are, and the name that they had when the change was made."""

from django.contrib.auth import get_user_model
from django.db.models.base import ModelState


def names(rows, *relations: str) -> dict:
    """The user names of the people to whom these relations of the rows lead, by key; one statement where one is not at hand."""
    found, missing = {}, set()
    for row in rows:
        for relation in relations:
            field = row._meta.get_field(relation)
            key = getattr(row, field.attname)
            if key is None:
                continue
            if field.is_cached(row):
                found[key] = getattr(row, relation).get_username()
            else:
                missing.add(key)
    missing -= found.keys()
    if missing:
        people = field.related_model._base_manager.filter(pk__in=missing)
        found |= people.values_list("pk", "username")
    return found


def person(key, names: dict) -> dict | None:
    return None if key is None else {"id": str(key), "name": names[key]}


def of_values(**values):
    """A user as `from_db` makes one of these columns, the others deferred, without what `Model.__init__` costs: a request
    makes one to three."""
    user = get_user_model().__new__(get_user_model())
    user._state = ModelState()
    user._state.adding, user._state.db = False, "default"
    user.__dict__.update(values)
    return user
