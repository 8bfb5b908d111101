"""A web service that tries to do with files what it is asked to, and says what came of it."""
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

VERSION = "VERSION_MARK"


def read(path):
    with open(path, "rb") as file:
        return file.read(4096).decode(errors="replace")


def write(path):
    with open(path, "w") as file:
        file.write(os.environ["SERVICE_NAME"])
    return "written"


def change(path):
    os.chmod(path, 0o777)
    return "changed"


DEEDS = {"read": read, "write": write, "change": change, "list": lambda path: sorted(os.listdir(path))}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        deed = DEEDS.get(url.path.rsplit("/", 1)[-1])
        try:
            answer = {"ok": deed(os.path.expandvars(query["path"]))} if deed else {"version": VERSION, "pid": os.getpid()}
        except OSError as error:
            answer = {"refused": error.errno}
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, text, *arguments):
        print("request", text % arguments, flush=True)


sys.dont_write_bytecode = True
ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
