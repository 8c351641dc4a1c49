"""The web role without its counting and timing of requests and statements, which no setting switches off."""

from unittest.mock import patch

from taskpulse.wsgi import application

# isort: split
# Django is set up by now.
from taskpulse import access
from taskpulse.postgresql import base

__all__ = ["application"]


def _nothing(*_):
    pass


# Raises AttributeError where there is no such name any more.
patch.object(access, "_instruments", lambda *_: (_nothing, _nothing)).start()
patch.object(base.DatabaseWrapper, "get_connection_params", base.base.DatabaseWrapper.get_connection_params).start()
