"""How a Kafka client proves who it is and whom it talks to: librdkafka's properties from the settings.

librdkafka would refuse some of this only when a client is made, or take it and connect without it; here it stops the start.
"""

from taskpulse.env import Environment

_SSL = {
    "KAFKA_SSL_CA_LOCATION": "ssl.ca.location",
    "KAFKA_SSL_CERTIFICATE_LOCATION": "ssl.certificate.location",
    "KAFKA_SSL_KEY_LOCATION": "ssl.key.location",
    "KAFKA_SSL_KEY_PASSWORD": "ssl.key.password",
}
_PASSWORD = {"KAFKA_SASL_USERNAME": "sasl.username", "KAFKA_SASL_PASSWORD": "sasl.password"}
_OAUTH = {
    "KAFKA_OAUTH_TOKEN_URL": "sasl.oauthbearer.token.endpoint.url",
    "KAFKA_OAUTH_CLIENT_ID": "sasl.oauthbearer.client.id",
    "KAFKA_OAUTH_CLIENT_SECRET": "sasl.oauthbearer.client.secret",
}
_OAUTH_OPTIONAL = {
    "KAFKA_OAUTH_SCOPE": "sasl.oauthbearer.scope",
    "KAFKA_OAUTH_EXTENSIONS": "sasl.oauthbearer.extensions",
    "KAFKA_OAUTH_CA_LOCATION": "https.ca.location",
}


def properties(env: Environment) -> dict[str, str]:
    """For every client. What is wrong goes to `env`: something that is needed, or something given that has no effect."""
    protocol, mechanism = env["KAFKA_SECURITY_PROTOCOL"], env["KAFKA_SASL_MECHANISM"]
    if protocol != "PLAINTEXT" and not env["KAFKA_BOOTSTRAP_SERVERS"]:
        env.problem(f"KAFKA_BOOTSTRAP_SERVERS is not set: expected HOST:PORT, since KAFKA_SECURITY_PROTOCOL is {protocol}")
    found = {"security.protocol": protocol}
    found |= _take(env, _SSL, protocol in {"SSL", "SASL_SSL"}, "KAFKA_SECURITY_PROTOCOL is SSL or SASL_SSL")
    sasl = protocol.startswith("SASL_")
    if sasl and mechanism:
        found["sasl.mechanism"] = mechanism
    elif sasl:
        env.problem(f"KAFKA_SASL_MECHANISM is not set: expected one, since KAFKA_SECURITY_PROTOCOL is {protocol}")
    elif mechanism:
        env.problem(f"KAFKA_SASL_MECHANISM has no effect: expected KAFKA_SECURITY_PROTOCOL to be SASL_SSL, not {protocol}")
    with_token = mechanism == "OAUTHBEARER"
    found |= _take(env, _PASSWORD, bool(mechanism) and not with_token, "KAFKA_SASL_MECHANISM is PLAIN or SCRAM", needed=sasl)
    found |= _take(env, _OAUTH, with_token, "KAFKA_SASL_MECHANISM is OAUTHBEARER", needed=sasl)
    found |= _take(env, _OAUTH_OPTIONAL, with_token, "KAFKA_SASL_MECHANISM is OAUTHBEARER")
    if with_token:
        found["sasl.oauthbearer.method"] = "oidc"  # the client credentials grant (RFC 6749, 4.4)
    if bool(env["KAFKA_SSL_CERTIFICATE_LOCATION"]) != bool(env["KAFKA_SSL_KEY_LOCATION"]):
        env.problem("KAFKA_SSL_CERTIFICATE_LOCATION and KAFKA_SSL_KEY_LOCATION: expected both or neither")
    return found


def _take(env: Environment, names: dict[str, str], applies: bool, when: str, needed: bool = False) -> dict[str, str]:
    for name in names:
        if not applies and env.named(name):
            env.problem(f"{name} has no effect: it counts only where {when}")
        elif applies and needed and not env.named(name):
            env.problem(f"{name} is not set: it is needed where {when}")
    return {librdkafkas: env[name] for name, librdkafkas in names.items() if applies and env[name]}
