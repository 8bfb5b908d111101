"""Asks the same address over and over until stdin ends: two threads on new connections, two on kept ones."""
import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit

url = urlsplit(sys.argv[1])
ended = threading.Event()
lock = threading.Lock()
answered, failures = 0, []


def ask(connection):
    connection.request("GET", url.path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{response.status}: {body[:200]!r}")


def client(keep):
    global answered
    connection = None
    while not ended.is_set():
        try:
            connection = connection or http.client.HTTPConnection(url.hostname, url.port, timeout=20)
            ask(connection)
            with lock:
                answered += 1
                if answered == 20:
                    open("/var/tmp/load.answered", "w").write("yes")
        except Exception as error:
            with lock:
                failures.append(f"{time.time()}: {error!r}")
            keep_now = False
        else:
            keep_now = keep
        if not keep_now and connection:
            connection.close()
            connection = None
        time.sleep(0.005)


threads = [threading.Thread(target=client, args=(number % 2 == 0,)) for number in range(4)]
for thread in threads:
    thread.start()
sys.stdin.read()
ended.set()
for thread in threads:
    thread.join()
print(json.dumps({"answered": answered, "failures": failures[:5]}))
