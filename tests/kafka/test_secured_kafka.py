"""Each way of signing in, at an Apache Kafka that takes nobody without TLS.

SECURED_KAFKA names what starts one ("SCRIPT DIRECTORY PORT"): the script takes `start DIRECTORY PORT`, `stop DIRECTORY`, and
in KAFKA_EXTRA more lines of server.properties.
"""

import base64
import json
import os
import subprocess
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from taskpulse import kafka, kafka_security
from taskpulse.declarations import DECLARED
from taskpulse.env import Environment
from tests.certificates import make_authority, sign
from tests.wrong_settings import wrong

pytestmark = pytest.mark.skipif(not os.environ.get("SECURED_KAFKA"), reason="SECURED_KAFKA names no script that starts one")

PASSWORD = "hunter2-in-transit"
_MODULE = "org.apache.kafka.common.security"
_TOKEN_MODULE = f'{_MODULE}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker"'
# Later lines count. The broker's own validator of tokens takes unsigned ones, which is enough to see that ours arrive.
BROKER = """
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller},SASL_SSL://127.0.0.1:{secured},SSL://127.0.0.1:{tls}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://localhost:{secured},SSL://localhost:{tls}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
ssl.keystore.type=PEM
ssl.keystore.location={directory}/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={directory}/root.pem
listener.name.ssl.ssl.client.auth=required
listener.name.sasl_ssl.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_plain="{password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;
listener.name.sasl_ssl.oauthbearer.sasl.jaas.config={token_module};
"""


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """The directory of the certificates and the two ports: with SASL, and with client certificates."""
    script, home, port = os.environ["SECURED_KAFKA"].split()
    directory = tmp_path_factory.mktemp("certificates")
    make_authority(directory, "root")
    make_authority(directory, "other")
    sign(directory, "server", "localhost")
    sign(directory, "client", "taskpulse")
    (directory / "broker.pem").write_text((directory / "server.key").read_text() + (directory / "server.pem").read_text())
    port = int(port)
    lines = BROKER.format(
        port=port,
        controller=port + 1,
        secured=port + 2,
        tls=port + 3,
        directory=directory,
        password=PASSWORD,
        module=_MODULE,
        token_module=_TOKEN_MODULE,
    )
    subprocess.run([script, "start", home, str(port)], env=os.environ | {"KAFKA_EXTRA": lines}, check=True, timeout=120)
    try:
        _add_scram_users(f"127.0.0.1:{port}")
        yield directory, port + 2, port + 3
    finally:
        subprocess.run([script, "stop", home], check=True, timeout=60)


def _add_scram_users(servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": servers})
    for name, mechanism in (("scram256", ScramMechanism.SCRAM_SHA_256), ("scram512", ScramMechanism.SCRAM_SHA_512)):
        user = UserScramCredentialUpsertion(name, ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
        for future in admin.alter_user_scram_credentials([user]).values():
            future.result(20)


@pytest.fixture
def issuer():
    """Issues unsigned tokens (RFC 7519, 6) for the client's right secret; yields its address."""

    class Issuer(BaseHTTPRequestHandler):
        def do_POST(self):
            known = "Basic " + base64.b64encode(f"taskpulse:{PASSWORD}".encode()).decode()
            granted = self.headers["Authorization"] == known
            now = int(time.time())
            token = ".".join([_part({"alg": "none"}), _part({"sub": "taskpulse", "iat": now, "exp": now + 600}), ""])
            answer = {"access_token": token, "token_type": "Bearer", "expires_in": 600} if granted else {"error": "invalid_client"}
            self.send_response(200 if granted else 401)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Issuer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/token"
    server.shutdown()


def _part(document: dict) -> str:
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


@pytest.fixture
def use(secured, settings, tmp_path):
    """Makes these variables the settings of Kafka's clients."""
    directory, with_sasl, with_certificate = secured

    def use(**variables: str) -> None:
        port = with_certificate if variables["KAFKA_SECURITY_PROTOCOL"] == "SSL" else with_sasl
        common = {"KAFKA_BOOTSTRAP_SERVERS": f"localhost:{port}", "KAFKA_SSL_CA_LOCATION": str(directory / "root.pem")}
        env = Environment(tmp_path, DECLARED, common | variables)
        settings.KAFKA_SECURITY = kafka_security.properties(env)
        assert wrong(env) == []
        settings.KAFKA_BOOTSTRAP_SERVERS = env["KAFKA_BOOTSTRAP_SERVERS"]

    return use


def ways(directory, token_url: str) -> dict[str, dict[str, str]]:
    sasl = {"KAFKA_SECURITY_PROTOCOL": "SASL_SSL"}
    return {
        "PLAIN": sasl | {"KAFKA_SASL_USERNAME": "plain", "KAFKA_SASL_PASSWORD": PASSWORD},
        "SCRAM-SHA-256": sasl | {"KAFKA_SASL_USERNAME": "scram256", "KAFKA_SASL_PASSWORD": PASSWORD},
        "SCRAM-SHA-512": sasl | {"KAFKA_SASL_USERNAME": "scram512", "KAFKA_SASL_PASSWORD": PASSWORD},
        "OAUTHBEARER": sasl
        | {"KAFKA_OAUTH_TOKEN_URL": token_url, "KAFKA_OAUTH_CLIENT_ID": "taskpulse", "KAFKA_OAUTH_CLIENT_SECRET": PASSWORD},
        "": {
            "KAFKA_SECURITY_PROTOCOL": "SSL",
            "KAFKA_SSL_CERTIFICATE_LOCATION": str(directory / "client.pem"),
            "KAFKA_SSL_KEY_LOCATION": str(directory / "client.key"),
        },
    }


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", ""])
def test_each_kind_of_client_signs_in(use, secured, issuer, mechanism):
    use(**ways(secured[0], issuer)[mechanism], **({"KAFKA_SASL_MECHANISM": mechanism} if mechanism else {}))
    topic = f"secured-{uuid.uuid4().hex[:8]}"
    kafka.ensure_topic(topic, partitions=1)
    producer, reports = Producer(kafka.producer_settings()), []
    producer.produce(topic, b"signed in", on_delivery=lambda error, _: reports.append(error))
    assert producer.flush(30) == 0
    assert reports == [None]
    consumer = Consumer(kafka.consumer_settings(topic))
    consumer.subscribe([topic])
    message = consumer.poll(30)
    consumer.close()
    assert message.value() == b"signed in"


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512", "OAUTHBEARER"])
def test_a_wrong_password_opens_nothing(use, secured, issuer, mechanism):
    way = ways(secured[0], issuer)[mechanism]
    use(KAFKA_SASL_MECHANISM=mechanism, **{name: "wrong" if value == PASSWORD else value for name, value in way.items()})
    with pytest.raises(KafkaException):
        AdminClient(kafka.admin_settings()).list_topics(timeout=3)


def test_a_broker_that_nobody_vouches_for_is_not_spoken_to(use, secured, issuer):
    way = ways(secured[0], issuer)["PLAIN"] | {"KAFKA_SSL_CA_LOCATION": str(secured[0] / "other.pem")}
    use(KAFKA_SASL_MECHANISM="PLAIN", **way)
    with pytest.raises(KafkaException):
        AdminClient(kafka.admin_settings()).list_topics(timeout=3)
