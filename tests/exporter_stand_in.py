"""Stand-in for node-cert-exporter: `exporter_stand_in.py --listen=HOST:PORT --path=DIRECTORY`."""

from __future__ import annotations

import argparse
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from cryptography import x509


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen")
    parser.add_argument("--path", type=Path)
    options, _ = parser.parse_known_args()
    host, _, port = options.listen.rpartition(":")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ends = {path: x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
                    for path in options.path.iterdir()}  # fmt: skip
            series = (f'ssl_certificate_expiry_seconds{{path="{path}"}} {end - time.time():e}\n'
                      for path, end in ends.items())  # fmt: skip
            body = "".join(["# seconds left\n", *series]).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main()
