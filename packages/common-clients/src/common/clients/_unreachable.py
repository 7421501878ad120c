"""Why there is no connection."""

from __future__ import annotations

import errno
import socket
import ssl

# X509_V_ERR_…: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/
_CERTIFICATE = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is signed by itself, which tls= does not trust",
    19: "its certificate comes from an authority that tls= does not trust",
    20: "its certificate comes from an authority that tls= does not trust",
    21: "its certificate comes from an authority that tls= does not trust",
    23: "its certificate was revoked",
    62: "its certificate is for another host",
    64: "its certificate is for another address",
}
_NETWORK = {
    errno.ECONNREFUSED: "nobody listens there",
    errno.ECONNRESET: "the connection was reset",
    errno.EHOSTUNREACH: "there is no route",
    errno.ENETUNREACH: "there is no route",
    errno.EMFILE: "this process has no file descriptors left",
}


def why_unreachable(error: BaseException) -> str:
    """Return why, as far as codes of the operating system and of OpenSSL tell; never a text.

    Args:
        error: What httpx raised; what it was raised from is looked at.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        each = queue.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, ssl.SSLCertVerificationError):
            return _CERTIFICATE.get(each.verify_code, "its certificate is not valid")
        if isinstance(each, ssl.SSLError):
            return f"there is no TLS with it ({each.reason or 'no reason given'})"
        if isinstance(each, socket.gaierror):
            return "its name is not known"
        if isinstance(each, OSError) and each.errno in _NETWORK:
            return _NETWORK[each.errno]
        if isinstance(each, BaseExceptionGroup):  # one for each address of a name
            queue += each.exceptions
        queue += (each.__cause__, each.__context__)
    return "the connection was closed"
