"""`manage.py issue_token`."""

import io

import pytest
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import CommandError

from tasks import tokens
from tasks.tokens import ApiToken

pytestmark = pytest.mark.django_db


def issue(*arguments: str) -> str:
    out = io.StringIO()
    call_command("issue_token", *arguments, stdout=out)
    return out.getvalue().strip()


def test_it_prints_the_secret_and_keeps_its_digest():
    user = get_user_model().objects.create_user("ana")
    secret = issue("ana", "--name", "billing")
    token = ApiToken.objects.get(user=user)
    assert (token.name, bytes(token.digest)) == ("billing", tokens.digest(secret))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bob"], "no active user 'bob'"),
        (["away"], "no active user 'away'"),
        (["ana", "--name", "x" * 101], "1 to 100 characters, got 101"),
    ],
)
def test_it_refuses_who_is_not_there(arguments, message):
    people = get_user_model().objects
    people.create_user("ana")
    people.create_user("away", is_active=False)
    with pytest.raises(CommandError, match=message):
        issue(*arguments)
    assert not ApiToken.objects.exists()
