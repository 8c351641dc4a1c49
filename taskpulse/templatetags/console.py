from django import template
from django.utils import timezone

from tasks.outbox import COUNTED

register = template.Library()


@register.filter
def bounded(count: int) -> str:
    """A count that was taken up to one more than COUNTED."""
    return f"{COUNTED:,}+" if count > COUNTED else f"{count:,}"


@register.filter
def utc(moment) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


@register.filter
def age(moment) -> str:
    """How long ago, in its two greatest units."""
    seconds = max(int((timezone.now() - moment).total_seconds()), 0)
    parts = []
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, seconds = divmod(seconds, length)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])
