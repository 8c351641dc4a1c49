"""What a host's name or address tells of where it is."""

from ipaddress import ip_address


def is_local(host: str) -> bool:
    """A socket's directory, or an address of this machine."""
    if not host or host.startswith("/"):
        return True
    name = host.strip("[]").lower().rstrip(".")
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def is_public(host: str) -> bool:
    """A name that others than this network may know: neither a private address nor a name of one label."""
    name = host.strip("[]").lower().strip(".")
    if is_local(name):
        return False
    try:
        return not ip_address(name).is_private
    except ValueError:
        return name == "*" or ("." in name and not name.endswith((".local", ".internal", ".test")))
