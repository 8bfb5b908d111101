# What a host outside talks to: a name server that says the question again, UDP 53, and TCP 443, which sends a line.
import selectors, socket

selector = selectors.DefaultSelector()
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for kind, port in ((socket.SOCK_DGRAM, 53), (socket.SOCK_STREAM, 443)):
        sock = socket.socket(family, kind)
        if family == socket.AF_INET6: sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM: sock.listen(64)
        selector.register(sock, selectors.EVENT_READ, kind)
print("ready")
while True:
    for key, _ in selector.select():
        if key.data == socket.SOCK_STREAM:
            peer, _ = key.fileobj.accept()
            try: peer.sendall(b"hello\n")
            except OSError: pass
            peer.close()
        else:
            data, peer = key.fileobj.recvfrom(2048)
            try: key.fileobj.sendto(data, peer)
            except OSError: pass  # The host went away meanwhile, and the cable with it.
