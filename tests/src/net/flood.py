# Sends datagrams to address and port without end. A line asks for {"sent": n} since the last one. argv: address port.
import json, select, socket, sys

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
target, sent = (sys.argv[1], int(sys.argv[2])), 0
print("ready")
while True:
    for _ in range(50):
        try: sock.sendto(b"flood", target)
        except OSError: continue
        sent += 1
    # Half a millisecond: thousands a second, and the host under test still gets a processor.
    if select.select([sys.stdin], [], [], 0.0005)[0]:
        if not sys.stdin.readline(): break
        print(json.dumps({"sent": sent}))
        sent = 0
