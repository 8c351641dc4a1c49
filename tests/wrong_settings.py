"""What `Environment.stop_if_wrong` says."""

from django.core.exceptions import ImproperlyConfigured

from taskpulse.env import Environment


def wrong(environment: Environment, complete: bool = False) -> list[str]:
    """What is said to be wrong, problem by problem."""
    try:
        environment.stop_if_wrong(complete)
    except ImproperlyConfigured as error:
        first, *others = str(error).splitlines()
        if not others:
            return [first]
        assert first == f"{len(others)} settings are wrong:"
        assert all(line.startswith("  ") for line in others)
        return [line.strip() for line in others]
    return []
