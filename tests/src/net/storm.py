# Datagrams and SYNs to a host without end, also before it is there: to its addresses, to the broadcast address and to all
# nodes of the link, which need no neighbour that answers. A line asks for {"sent": n, "answers": n} since the last one.
# argv: source4 target4 broadcast4 source6 target6 interface.
import json, select, socket, sys, time

source4, target4, broadcast4, source6, target6, interface = sys.argv[1:]
SPORT, SINK, STREAM = 61001, 9001, 9000

def made(family, kind, protocol=0):
    sock = socket.socket(family, kind, protocol)
    sock.setblocking(False)
    return sock

udp4, udp6 = made(socket.AF_INET, socket.SOCK_DGRAM), made(socket.AF_INET6, socket.SOCK_DGRAM)
udp4.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
tcp4, tcp6 = made(socket.AF_INET, socket.SOCK_RAW, 6), made(socket.AF_INET6, socket.SOCK_RAW, 6)
icmp4, icmp6 = made(socket.AF_INET, socket.SOCK_RAW, 1), made(socket.AF_INET6, socket.SOCK_RAW, 58)
syn4, syn6 = tcp(source4, target4, SPORT, STREAM, SYN), tcp(source6, target6, SPORT, STREAM, SYN)
sent = answers = scope = 0

def from_host(sock, peer):
    return peer[0].split("%")[0] in (target4, target6)

def answered(sock, data, peer):
    if not from_host(sock, peer): return False
    if sock in (udp4, udp6): return True
    if sock.family == socket.AF_INET: data = data[(data[0] & 15) * 4:]
    if sock in (tcp4, tcp6): return int.from_bytes(data[2:4], "big") == SPORT
    return data[0] in ((3,) if sock is icmp4 else (1,))

print("ready")
checked = 0
while True:
    if time.time() - checked > 0.02:
        checked = time.time()
        try: scope = socket.if_nametoindex(interface)
        except OSError: scope = 0
    shots = [(udp4, b"storm", (target4, SINK)), (udp4, b"storm", (broadcast4, SINK)), (udp6, b"storm", (target6, SINK)),
             (tcp4, syn4, (target4, 0)), (tcp6, syn6, (target6, 0))]
    if scope: shots.append((udp6, b"storm", ("ff02::1", SINK, 0, scope)))
    for sock, data, target in shots:
        try: sock.sendto(data, target)
        except OSError: continue
        sent += 1
    ready = select.select([udp4, udp6, tcp4, tcp6, icmp4, icmp6, sys.stdin], [], [], 0.001)[0]
    for sock in ready:
        if sock is sys.stdin: continue
        try: data, peer = sock.recvfrom(2048)
        except OSError: continue
        answers += answered(sock, data, peer)
    if sys.stdin in ready:
        if not sys.stdin.readline(): break
        print(json.dumps({"sent": sent, "answers": answers}))
        sent = answers = 0
