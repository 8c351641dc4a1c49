"""Whom to believe about a request's origin: the proxies that the settings name, and nobody else.

A proxy tells of the client in `X-Forwarded-For` and of the scheme in `X-Forwarded-Proto`. Anybody can send these, so they
count only on a connection that comes from a trusted proxy itself; and of the addresses in the first header, each proxy
adding the one that it saw, only the trusted end counts: the client is the last one that is no proxy of ours.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address

# Clients come again, and an address costs microseconds to parse. What is longer is not kept: its sender chose it.
_REMEMBERED, _LONGEST = 4_096, 500
Network = IPv4Network | IPv6Network


def trusting(networks: Sequence[Network], application: Callable) -> Callable:
    """The WSGI application, which sees behind these proxies the client's address and scheme."""
    if not networks:
        return application

    @lru_cache(_REMEMBERED)
    def is_trusted(address: str) -> bool:
        return _within(address, networks)

    @lru_cache(_REMEMBERED)
    def client(peer: str, forwarded: str) -> str:
        """From the last address backwards, the first that is no proxy; what is no address ends the search."""
        found = peer
        for item in reversed(forwarded.split(",")):
            address = _address(item.strip())
            if address is None:
                return found
            found = address
            if not is_trusted(address):
                return found
        return found

    def behind_proxies(environ: dict, start_response: Callable):
        peer = environ.get("REMOTE_ADDR", "")
        if is_trusted(peer):
            forwarded = environ.get("HTTP_X_FORWARDED_FOR", "")
            find = client if len(forwarded) <= _LONGEST else client.__wrapped__
            environ["REMOTE_ADDR"] = find(peer, forwarded)
            scheme = environ.get("HTTP_X_FORWARDED_PROTO", "").rpartition(",")[2].strip().lower()
            if scheme in ("http", "https"):
                environ["wsgi.url_scheme"] = scheme
        return application(environ, start_response)

    return behind_proxies


def _address(text: str) -> str | None:
    """Without a port and brackets ("10.0.0.1:80", "[::1]:80"), an IPv4 address in its own form; None for anything else."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return str(getattr(address, "ipv4_mapped", None) or address)


def _within(text: str, networks: Sequence[Network]) -> bool:
    address = _address(text)
    return address is not None and any(ip_address(address) in network for network in networks)
