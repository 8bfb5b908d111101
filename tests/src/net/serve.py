# Listens, answers, and tells who came. argv: tcp=1,2 udp=3,4 local=5. A line asks for what was seen since the last one:
# {"tcp": {"port": n}, "udp": {"port": n}}.
import json, selectors, socket, sys

ports = dict(word.split("=") for word in sys.argv[1:])
numbers = lambda key: [int(port) for port in ports.get(key, "").split(",") if port]
selector = selectors.DefaultSelector()
seen = {"tcp": {}, "udp": {}}

def listen(family, kind, address, port):
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6: sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_DGRAM: sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.bind((address, port))
    sock.setblocking(False)
    if kind == socket.SOCK_STREAM: sock.listen(512)
    selector.register(sock, selectors.EVENT_READ, ("listen" if kind == socket.SOCK_STREAM else "udp", port, [0]))

for port in numbers("tcp"):
    listen(socket.AF_INET, socket.SOCK_STREAM, "0.0.0.0", port)
    listen(socket.AF_INET6, socket.SOCK_STREAM, "::", port)
for port in numbers("local"):
    listen(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", port)
    listen(socket.AF_INET6, socket.SOCK_STREAM, "::1", port)
for port in numbers("udp"):
    listen(socket.AF_INET, socket.SOCK_DGRAM, "0.0.0.0", port)
    listen(socket.AF_INET6, socket.SOCK_DGRAM, "::", port)
selector.register(sys.stdin, selectors.EVENT_READ, ("stdin", 0, [0]))
print("ready")

def count(kind, port): seen[kind][str(port)] = seen[kind].get(str(port), 0) + 1

while True:
    for key, _ in selector.select():
        (kind, port, total), sock = key.data, key.fileobj
        try:
            if kind == "stdin":
                if not sys.stdin.readline(): sys.exit()
                print(json.dumps(seen))
                seen = {"tcp": {}, "udp": {}}
            elif kind == "listen":
                peer, _ = sock.accept()
                peer.setblocking(False)
                count("tcp", port)
                selector.register(peer, selectors.EVENT_READ, ("stream", port, [0]))
            elif kind == "udp":
                data, peer = sock.recvfrom(65535)
                count("udp", port)
                sock.sendto(b"answer %d" % len(data), peer)
            else:
                data = sock.recv(65536)
                total[0] += len(data)
                if data.endswith(b"END"):
                    sock.send(b"got %d" % total[0])
                elif not data:
                    selector.unregister(sock)
                    sock.close()
        except OSError:
            if kind == "stream":
                selector.unregister(sock)
                sock.close()
