"""Load, outages and roll-overs of the running roles: `make test-load`, some minutes. Not part of `make test`."""
