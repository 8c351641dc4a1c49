"""What the benchmark of the API's features sends: a figure of another request than the named one is worse than none."""

import pytest

from tests.benchmarks import api, features

START = {"create": b"POST /api/tasks ", "update": b"PATCH /api/tasks/", "list": b"GET /api/tasks ", "get": b"GET /api/tasks/"}


@pytest.mark.parametrize(
    ("variant", "operation"),
    [(one, operation) for one in (features.USUAL, *features.VARIANTS) for operation in one.operations],
    ids=lambda value: getattr(value, "name", value),
)
def test_each_turn_sends_its_operation_with_its_headers(monkeypatch, variant, operation):
    sent = []
    monkeypatch.setattr(api.load, "drive", lambda port, next_request, *_: sent.extend([next_request(), next_request()]) or _LOAD)
    monkeypatch.setattr(api, "OPERATIONS", (operation,))
    asked = features.Asked(variant, _Side(0, "token", [f"task-{n}" for n in range(4)], None, None))
    features._measure([asked], 1, 0.1)
    ours = [request for request in sent if request.startswith(START[operation])]
    assert len(ours) >= 4
    assert len({*ours}) == len(ours) or operation in ("list", "get")
    assert all(f"{name}: ".encode() in request for request in ours for name in variant.headers)


class _Side(api.Side):
    def cpu(self) -> tuple[float, float, float]:
        return 0.0, 0.0, 0.0


_LOAD = api.load.Load(requests=2, seconds=0.1, latencies=[1.0, 2.0], client_cpu_us=1.0)
