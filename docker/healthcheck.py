"""Whether the servers of `anmi ui` answer: exit code 0 when they do. The container's HEALTHCHECK."""

import os
import urllib.request

URLS = ["http://127.0.0.1:3000/server_info", "http://127.0.0.1:5000/health"]
REMOTE = os.environ.get("ANMI_MLFLOW", "").startswith(("http://", "https://"))

for url in URLS[:1] if REMOTE else URLS:
    # Raises, and so exits with 1, when nobody answers or the answer is an error.
    urllib.request.urlopen(url, timeout=5).close()
