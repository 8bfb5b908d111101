"""A small web service that does as it is told: the tests' usual program."""
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

VERSION = "VERSION_MARK"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, body, kind="application/json"):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        last = url.path.rsplit("/", 1)[-1]
        if last == "healthz":
            broken = os.path.exists(os.path.join(os.environ["DATA_DIR"], "broken"))
            self.reply(500 if broken else 200, {"ok": not broken})
        elif last == "env":
            self.reply(200, dict(os.environ))
        elif last == "slow":
            time.sleep(float(query["s"][0]))
            self.reply(200, {"version": VERSION})
        elif last == "exit":
            os._exit(int(query["code"][0]))
        elif last == "events":
            self.stream(int(query.get("n", ["3"])[0]))
        elif last == "resolve":
            self.reply(200, sorted({entry[4][0] for entry in socket.getaddrinfo(query["name"][0], None)}))
        elif last == "hosts":
            with open("/etc/hosts", "rb") as hosts:
                self.reply(200, hosts.read(), "text/plain")
        elif last == "headers":
            self.reply(200, {name.lower(): value for name, value in self.headers.items()})
        else:
            self.reply(200, {"version": VERSION, "pid": os.getpid(), "path": self.path})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.reply(200, body, "application/octet-stream")

    def stream(self, count):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(count):
            self.wfile.write(f"data: {number}\n\n".encode())
            self.wfile.flush()
            time.sleep(0.2)

    def log_message(self, text, *arguments):
        print("request", text % arguments, flush=True)


def main():
    server = ThreadingHTTPServer((os.environ.get("HOST", "127.0.0.1"), int(os.environ["PORT"])), Handler)
    server.daemon_threads = False

    def stop(_signal, _frame):
        print("stopping", flush=True)
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"listening on {server.server_port}, version {VERSION}", flush=True)
    server.serve_forever()
    server.server_close()
    sys.exit(0)


main()
