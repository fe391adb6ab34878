"""Answers on 8080 where the broker and Connect that the configuration names can be reached."""

import http.server
import os
import re
import signal
import socket


def places():
    with open(os.environ["CONFIG_FILEPATH"]) as file:
        text = file.read()
    broker = re.search(r'brokers: \["([^"]+):(\d+)"\]', text)
    connect = re.search(r'url: "http://([^"]+):(\d+)"', text)
    return [found.groups() for found in (broker, connect)]


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            for host, port in places():
                socket.create_connection((host, int(port)), timeout=2).close()
            status, said = 200, b"{}"
        except OSError as error:
            status, said = 503, str(error).encode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(said)


signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Page).serve_forever()
