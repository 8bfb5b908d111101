#!/usr/bin/env python3
"""Stands in for cloudflared: takes its arguments and no others, answers what its metrics listener answers, and connects
nowhere. The folder `cf` beside it says how it does, and is told what it saw; it never writes down a secret."""
import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "cf")


def control(key, default):
    try:
        with open(os.path.join(FOLDER, "control.json")) as file:
            return json.load(file).get(key, default)
    except FileNotFoundError:
        return default


def tell(name, what):
    path = os.path.join(FOLDER, f"{os.getpid()}.{name}")
    with open(path + ".new", "w") as file:
        json.dump(what, file)
    os.rename(path + ".new", path)


def arguments():
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("command", choices=["tunnel"])
    parser.add_argument("--config", required=True)
    parser.add_argument("--no-autoupdate", action="store_true", required=True)
    parser.add_argument("--metrics", required=True)
    parser.add_argument("--grace-period", choices=["30s"], required=True)
    parser.add_argument("--protocol", choices=["auto", "quic", "http2"], required=True)
    parser.add_argument("run", choices=["run"])
    parser.add_argument("--token-file")
    return parser.parse_args()


def settings(path):
    """As much YAML as there is: keys with plain or JSON values, and the list of rules."""
    found, rules = {}, []
    with open(path) as file:
        for line in file:
            if line.startswith("#") or line.strip() == "ingress:":
                continue
            key, _, value = line.strip().removeprefix("- ").partition(": ")
            value = json.loads(value)
            if line.startswith("  - "):
                rules.append({key: value})
            elif line.startswith("    "):
                rules[-1][key] = value
            else:
                found[key] = value
    return found, rules


class Handler(BaseHTTPRequestHandler):
    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        time.sleep(control("delay", 0))
        count = control("connections", 0)
        if self.path == "/ready":
            status = 200 if count else 503
            body = {"status": status, "readyConnections": count, "connectorId": "c"}
            self.reply(status, json.dumps(body, separators=(",", ":")).encode())
        elif self.path == "/metrics":
            self.reply(200, f"# TYPE x gauge\ncloudflared_tunnel_ha_connections {max(count, 1)}\n".encode())
        elif self.path == "/config":
            ingress = control("ingress", self.server.rules)
            body = {"version": -1, "config": {"ingress": ingress, "warp-routing": {}, "originRequest": {}}}
            self.reply(200, json.dumps(body).encode())
        elif self.path == "/healthcheck":
            self.reply(200, b"OK\n")
        else:
            self.reply(404, b"")

    def log_message(self, text, *arguments):
        pass


def main():
    options = arguments()
    # The real one takes whatever it is told of for its metrics listener, and ends.
    assert not any(name.startswith("LISTEN_") for name in os.environ), "told of descriptors that are no listeners"
    found, rules = settings(options.config)
    path = options.token_file or found["credentials-file"]
    with open(path, "rb") as file:
        secret = file.read()
    if not options.token_file:
        assert json.loads(secret)["TunnelID"] == found["tunnel"], "credentials of another tunnel"
    # What a careless program does: the log that is shown must not tell it.
    print("starting with", secret.decode(), flush=True)
    host, port = options.metrics.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.rules = rules
    server.daemon_threads = True

    def stop(_signal, _frame):
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    seen = {"argv": sys.argv, "env": dict(os.environ), "secret_sha256": hashlib.sha256(secret).hexdigest(), "uid": os.getuid()}
    tell("started", {**seen, "settings": found, "rules": rules})
    server.serve_forever()
    server.server_close()
    tell("ended", {})


main()
