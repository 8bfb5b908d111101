# Counts datagrams on a port and never answers: an answer would make one leaked packet a conversation. argv: port.
# A line asks for {"count": n} since the last one.
import json, select, socket, sys

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
sock.bind(("0.0.0.0", int(sys.argv[1])))
sock.setblocking(False)
count = 0
print("ready")
while True:
    ready, _, _ = select.select([sock, sys.stdin], [], [])
    if sock in ready:
        try:
            while True:
                sock.recv(100)
                count += 1
        except BlockingIOError: pass
    elif sys.stdin in ready:
        if not sys.stdin.readline(): break
        print(json.dumps({"count": count}))
        count = 0
