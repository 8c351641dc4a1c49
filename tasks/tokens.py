"""API tokens: a random secret of which only the SHA-256 is kept."""

import hashlib
import secrets

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

PREFIX = "tp_"


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class ApiToken(models.Model):
    """What a program signs in with. `id` is public: events name it as `authid`."""

    id = models.CharField(primary_key=True, max_length=20, editable=False)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_tokens")
    name = models.CharField(max_length=100)
    digest = models.BinaryField(unique=True, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "API token"

    def __str__(self) -> str:
        return f"{self.name} ({self.id})"

    @classmethod
    def issue(cls, user, name: str, expires_at=None) -> tuple["ApiToken", str]:
        """The token and its secret, 256 random bits, which is shown once and kept nowhere."""
        secret = PREFIX + secrets.token_urlsafe(32)
        token = cls.objects.create(
            id="tok_" + secrets.token_hex(8), user=user, name=name, digest=digest(secret), expires_at=expires_at
        )
        return token, secret
