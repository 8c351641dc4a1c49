"""Each step says what was seen; the first that fails ends the run with status 1, the services' last lines, and nothing left."""

import secrets
import sys
import time

from tests.compose.stack import AUDIT_LOG, Failed, Stack

ONE_SHOTS = ("kafka-topics", "migrate", "database-roles")
ROLES = {"web": 1, "relay": 2, "consumer": 2}


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise Failed(what)


def refuses_without_secrets(stack: Stack) -> None:
    for name in stack.secrets:
        said = stack.refusal_without(name)
        expect(name in said and "missing a value" in said, f"without {name} compose says {said!r}")
    say(f"refused, by name, without each of {', '.join(stack.secrets)}")


def comes_up(stack: Stack) -> None:
    began = time.monotonic()
    stack.compose("up", "--detach")
    stack.wait_for(lambda: stack.answers("/readyz"), "the web role is ready")
    say(f"up and ready in {time.monotonic() - began:.1f} s")
    waited = stack.wait_for(
        lambda: all(healthy(stack, service, number) for service, number in ROLES.items()), "every role is healthy"
    )
    say(f"every container healthy {waited:.1f} s later: {', '.join(f'{name} {number}' for name, number in ROLES.items())}")


def healthy(stack: Stack, service: str, number: int) -> bool:
    states = [stack.inspect(container)["State"] for container in stack.containers(service)]
    return [state.get("Health", {}).get("Status") for state in states] == ["healthy"] * number


def is_confined(stack: Stack) -> None:
    for service in ROLES:
        for container in stack.containers(service):
            host = stack.inspect(container)["HostConfig"]
            expect(host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], f"{service} is not confined: {host}")
            expect("no-new-privileges:true" in host["SecurityOpt"] and host["Memory"] > 0, f"{service} is not confined: {host}")
            refused = stack.engine("exec", container, "touch", "/app/x", "/opt/x", "/var/tmp/x", check=False).stderr
            expect(refused.count("Read-only file system") == 3, f"{service} writes to its root: {refused!r}")
    say("every role: root read-only, no capability, no new privileges, memory limited")


def signs_in_as_little(stack: Stack) -> None:
    query = "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'taskpulse' AND pid <> pg_backend_pid() ORDER BY 1"
    psql = ["psql", "--host=/run/postgresql", "--username=taskpulse", "--no-align", "--tuples-only", "--command", query]
    roles = stack.compose("exec", "-T", "postgres", *psql, "taskpulse").stdout.split()
    expect(roles == ["taskpulse_web", "taskpulse_worker"], f"the database's roles in use: {roles}")
    say(f"in the database: {', '.join(roles)}, and not its owner")


def signs_in(stack: Stack) -> None:
    password = secrets.token_urlsafe(20)
    stack.manage(
        "createsuperuser", "--noinput", "--username", "admin", "--email", "admin@localhost", DJANGO_SUPERUSER_PASSWORD=password
    )
    stack.token = stack.manage("issue_token", "admin", "--name", "compose-test").splitlines()[-1]


def records(stack: Stack, method: str, path: str, body: dict, versions: list[int]) -> dict:
    """A change over the API, and its entries in the audit log, newest first. Gives the task."""
    status, task = stack.request(method, path, body)
    expect(status in (200, 201), f"{method} {path}: {status} {task}")
    history = f"/api/tasks/{task['id']}/history"
    waited = stack.wait_for(lambda: seen(stack, history) == versions, f"versions {versions} in {history}")
    say(f"{method} {status}; versions {versions} in the audit log {waited * 1000:.0f} ms later")
    return task


def seen(stack: Stack, history: str) -> list[int]:
    return [entry["version"] for entry in stack.request("GET", history)[1]]


def outlives_each_relay(stack: Stack, task: dict) -> None:
    """One of them was the active one."""
    versions = [1]
    for container in stack.containers("relay"):
        stack.engine("kill", container)
        versions.insert(0, versions[0] + 1)
        records(stack, "PATCH", f"/api/tasks/{task['id']}", {"title": f"version {versions[0]}"}, versions)
        stack.compose("up", "--detach", "--no-recreate", "relay")
    say("each relay killed in turn; the other took over")


def may_be_repeated(stack: Stack) -> None:
    for service in ONE_SHOTS:
        stack.compose("run", "--rm", "--no-deps", "-T", service)
    stack.compose("up", "--detach")
    say(f"{', '.join(ONE_SHOTS)} once more: nothing to do")


def is_upgraded(stack: Stack, task: dict) -> None:
    """By a second `up` with another image; a change is on its way meanwhile."""
    before = {service: stack.containers(service) for service in ROLES}
    path = f"/api/tasks/{task['id']}"
    status, _ = stack.request("PATCH", path, {"title": "version 4"})
    expect(status == 200, f"PATCH: {status}")
    image = stack.takes_next_image()
    began = time.monotonic()
    stack.compose("up", "--detach")
    stack.wait_for(lambda: stack.answers("/readyz"), "the web role is ready")
    took = time.monotonic() - began
    for service, number in ROLES.items():
        after = stack.containers(service)
        expect(len(after) == number and not set(after) & set(before[service]), f"{service} was not replaced: {after}")
        expect(all(stack.inspect(container)["Image"] == image for container in after), f"{service} runs the image before")
    say(f"upgraded by a second `up` in {took:.1f} s")
    records(stack, "PATCH", path, {"title": "version 5"}, [5, 4, 3, 2, 1])


def keeps_the_topics(stack: Stack) -> None:
    """Also when the broker's container is made anew: its data are in a volume."""
    stack.compose("up", "--detach", "--force-recreate", "--no-deps", "--wait", "kafka")
    topics = stack.compose(
        "exec", "-T", "kafka", "/opt/kafka/bin/kafka-topics.sh", "--bootstrap-server", "kafka:9092", "--describe"
    ).stdout
    described = {line.split("\t")[0].removeprefix("Topic: "): line for line in topics.splitlines() if line.startswith("Topic:")}
    events, checkpoints = described["task-events"], described["task-audit-checkpoints"]
    expect("PartitionCount: 12" in events and "retention.ms=604800000" in events, f"topic of the events: {events}")
    expect("PartitionCount: 1\t" in checkpoints and "retention.ms=-1" in checkpoints, f"topic of the checkpoints: {checkpoints}")
    say("the broker made anew keeps its topics, with partitions and retention")


def publishes_checkpoints(stack: Stack) -> None:
    consume = ["/opt/kafka/bin/kafka-console-consumer.sh", "--bootstrap-server", "kafka:9092", "--from-beginning"]
    only = ["--topic", "task-audit-checkpoints", "--max-messages", "1", "--timeout-ms", "60000"]
    published = stack.compose("exec", "-T", "kafka", *consume, *only).stdout
    expect(published.startswith(f"{AUDIT_LOG}\n") and f"\n\N{EM DASH} {AUDIT_LOG} " in published, f"checkpoint: {published!r}")
    say(f"a signed checkpoint on its topic, of size {published.splitlines()[1]}")


def main() -> int:
    try:
        with Stack() as stack:
            refuses_without_secrets(stack)
            comes_up(stack)
            is_confined(stack)
            signs_in(stack)
            task = records(stack, "POST", "/api/tasks", {"title": "version 1"}, [1])
            signs_in_as_little(stack)
            publishes_checkpoints(stack)
            outlives_each_relay(stack, task)
            may_be_repeated(stack)
            is_upgraded(stack, task)
            keeps_the_topics(stack)
            records(stack, "PATCH", f"/api/tasks/{task['id']}", {"title": "version 6"}, [6, 5, 4, 3, 2, 1])
    except Failed as error:
        print(f"compose-test: {error}", file=sys.stderr)
        return 1
    print("compose-test: passed, and taken down")
    return 0


if __name__ == "__main__":
    sys.exit(main())
