"""Whose certificates a connection trusts. The only file that knows truststore."""

from __future__ import annotations

import functools
import os
import ssl

__all__ = ["trusted"]


@functools.cache
def trusted() -> ssl.SSLContext:
    """The system's own certificates, which know the user's company and antivirus too; once per process."""
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context()
    try:
        import truststore  # here: it costs time, and only https needs it
    except ImportError:
        return ssl.create_default_context()
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
