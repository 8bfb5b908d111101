"""The service that is measured: answers GET and POST with its version and pid."""
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERSION = "VERSION_MARK"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", "0")))
        body = f"{VERSION} {os.getpid()} ".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *_arguments):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


Server((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
