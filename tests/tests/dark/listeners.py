# What a careless host has open: TCP 9000 and UDP 9001 on all addresses. Every caller is answered and written down.
import os, selectors, socket

log = os.open("/var/log/callers", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
selector = selectors.DefaultSelector()
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for kind, port in ((socket.SOCK_STREAM, 9000), (socket.SOCK_DGRAM, 9001)):
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6: sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        if kind == socket.SOCK_STREAM: sock.listen(64)
        sock.setblocking(False)
        selector.register(sock, selectors.EVENT_READ, kind)

while True:
    for key, _ in selector.select():
        try:
            if key.data == socket.SOCK_STREAM:
                peer, address = key.fileobj.accept()
                peer.close()
            else:
                data, address = key.fileobj.recvfrom(2048)
                key.fileobj.sendto(b"answer", address)
            os.write(log, b"%d %s\n" % (key.data, address[0].encode()))
        except OSError: pass
