"""How a Kafka client proves who it is: what the settings allow is what librdkafka takes."""

import pytest
from confluent_kafka.admin import AdminClient

from taskpulse import kafka_security
from taskpulse.declarations import DECLARED
from taskpulse.env import Environment
from tests.wrong_settings import wrong

PASSWORD = {"KAFKA_SASL_USERNAME": "taskpulse", "KAFKA_SASL_PASSWORD": "hunter2"}
TOKEN = {
    "KAFKA_OAUTH_TOKEN_URL": "https://issuer/token", "KAFKA_OAUTH_CLIENT_ID": "taskpulse", "KAFKA_OAUTH_CLIENT_SECRET": "hunter2",
}  # fmt: skip


@pytest.fixture
def properties(tmp_path):
    """What librdkafka gets, and what is said to be wrong."""

    def properties(**variables: str) -> tuple[dict, list[str]]:
        env = Environment(tmp_path, DECLARED, {"KAFKA_BOOTSTRAP_SERVERS": "kafka:9093"} | variables)
        return kafka_security.properties(env), wrong(env)

    return properties


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"security.protocol": "PLAINTEXT"}),
        ({"KAFKA_SECURITY_PROTOCOL": "ssl"}, {"security.protocol": "SSL"}),
        *(
            (
                {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": mechanism, **PASSWORD},
                {
                    "security.protocol": "SASL_SSL", "sasl.mechanism": mechanism, "sasl.username": "taskpulse",
                    "sasl.password": "hunter2",
                },
            )
            for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
        ),
        (
            {
                "KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "KAFKA_SASL_MECHANISM": "OAUTHBEARER", **TOKEN, "KAFKA_OAUTH_SCOPE": "kafka",
                "KAFKA_OAUTH_EXTENSIONS": "logicalCluster=lkc-1",
            },
            {
                "security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": "https://issuer/token", "sasl.oauthbearer.client.id": "taskpulse",
                "sasl.oauthbearer.client.secret": "hunter2", "sasl.oauthbearer.scope": "kafka",
                "sasl.oauthbearer.extensions": "logicalCluster=lkc-1",
            },
        ),
    ],
    ids=["plaintext", "ssl", "plain", "scram-256", "scram-512", "oauthbearer"],
)  # fmt: skip
def test_what_is_set_goes_to_librdkafka_which_takes_it(properties, variables, expected):
    found, problems = properties(**variables)
    assert (found, problems) == (expected, [])
    AdminClient({"bootstrap.servers": "127.0.0.1:1", "log_level": 0, **found})  # raises what librdkafka does not take


def test_tls_files_go_to_librdkafka(properties):
    files = {f"KAFKA_SSL_{name}_LOCATION": __file__ for name in ("CA", "CERTIFICATE", "KEY")}
    found, problems = properties(KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_KEY_PASSWORD="hunter2", **files)
    assert problems == []
    assert found == {
        "security.protocol": "SSL", "ssl.ca.location": __file__, "ssl.certificate.location": __file__,
        "ssl.key.location": __file__, "ssl.key.password": "hunter2",
    }  # fmt: skip


SASL = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        (SASL, "KAFKA_SASL_MECHANISM is not set"),
        (SASL | {"KAFKA_SASL_MECHANISM": "PLAIN", "KAFKA_SASL_USERNAME": "x"}, "KAFKA_SASL_PASSWORD is not set"),
        (SASL | {"KAFKA_SASL_MECHANISM": "OAUTHBEARER"} | PASSWORD, "KAFKA_SASL_USERNAME has no effect"),
        (SASL | {"KAFKA_SASL_MECHANISM": "OAUTHBEARER"}, "KAFKA_OAUTH_TOKEN_URL is not set"),
        (SASL | {"KAFKA_SASL_MECHANISM": "PLAIN"} | PASSWORD | TOKEN, "KAFKA_OAUTH_CLIENT_ID has no effect"),
        (SASL | {"KAFKA_SASL_MECHANISM": "GSSAPI"}, "KAFKA_SASL_MECHANISM: expected one of PLAIN, SCRAM-SHA-256"),
        ({"KAFKA_SASL_MECHANISM": "PLAIN"} | PASSWORD, "KAFKA_SASL_MECHANISM has no effect"),
        (PASSWORD, "KAFKA_SASL_PASSWORD has no effect"),
        ({"KAFKA_SSL_CA_LOCATION": __file__}, "KAFKA_SSL_CA_LOCATION has no effect"),
        (
            {"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_KEY_LOCATION": __file__},
            "KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION: expected both or neither",
        ),
        ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_BOOTSTRAP_SERVERS": ""}, "KAFKA_BOOTSTRAP_SERVERS is not set"),
        ({"KAFKA_BOOTSTRAP_SERVERS": "kafka"}, "KAFKA_BOOTSTRAP_SERVERS: expected HOST:PORT, several separated by commas"),
        ({"KAFKA_TOPIC": ".."}, "KAFKA_TOPIC: expected a topic's name"),
        ({"KAFKA_TOPIC": "x" * 250}, "KAFKA_TOPIC: expected a topic's name"),
        (SASL | {"KAFKA_OAUTH_TOKEN_URL": "issuer"}, "KAFKA_OAUTH_TOKEN_URL: expected https://HOST/PATH"),
    ],
)
def test_what_is_missing_or_has_no_effect_is_named(properties, variables, said):
    problems = properties(**variables)[1]
    assert [text for text in problems if text.startswith(said)]
    assert "hunter2" not in str(problems)


@pytest.mark.parametrize("servers", ["kafka:9092", "10.0.0.1:9092,b-2.kafka.example:9094", "[::1]:9092, localhost:9092"])
def test_brokers_are_named_with_their_ports(properties, servers):
    assert properties(KAFKA_BOOTSTRAP_SERVERS=servers)[1] == []
