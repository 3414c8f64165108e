"""Whether a download has any chance: asked once, in seconds, where the client library would go on trying for long."""

from __future__ import annotations

import os
import socket
import threading
from urllib.parse import urlsplit

TIMEOUT_S = 3.0


def unreachable() -> str | None:
    """Why the server that Minari downloads from cannot be reached (its proxy, where one is set), or None if it can."""
    remote = os.environ.get("MINARI_REMOTE", "")
    default = "https://storage.googleapis.com" if remote.startswith(("gcp:", "gs:")) else "https://huggingface.co"
    proxies = (os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"))
    address = next((value for value in (*proxies, os.environ.get("HF_ENDPOINT")) if value), default)
    url = urlsplit(address if "://" in address else f"http://{address}")
    host, port = url.hostname or "huggingface.co", url.port or (443 if url.scheme == "https" else 80)
    failure = [f"no answer within {TIMEOUT_S:g} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, port), TIMEOUT_S).close()
            failure.clear()
        except OSError as error:
            failure[0] = error.strerror or str(error)

    # Looking up a name has no timeout of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    return f"no network was reached: {host}:{port}, {failure[0]}" if failure else None
