"""Which addresses stay within this machine."""

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether only this machine's processes reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
