# A SYN to every TCP port of an address, and what comes back. argv: source target rounds.
# Prints {"open": [...], "closed": n, "sent": n, "seconds": s}.
import json, select, socket, sys, time

source, target, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
v6 = ":" in target
family = socket.AF_INET6 if v6 else socket.AF_INET
raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP)
raw.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE
raw.bind((source, 0))
raw.setblocking(False)
SPORT = 61000
state, sent = {}, 0
base = tcp(source, target, SPORT, 0, SYN)
(base_sum,) = struct.unpack(">H", base[16:18])

def segment(port):
    # Only the port differs: the sum of the rest is known (RFC 1624).
    value = (~base_sum & 0xFFFF) + port
    value = ~((value & 0xFFFF) + (value >> 16)) & 0xFFFF
    return base[:2] + struct.pack(">H", port) + base[4:16] + struct.pack(">H", value) + base[18:]

def drain():
    while True:
        try: data, peer = raw.recvfrom(2048)
        except BlockingIOError: return
        if not v6: data = data[(data[0] & 15) * 4:]
        if len(data) < 14: continue
        sport, dport = struct.unpack(">HH", data[:4])
        if dport != SPORT or ipaddress.ip_address(peer[0].split("%")[0]) != ipaddress.ip_address(target): continue
        flags = data[13]
        if flags & RST: state.setdefault(sport, "closed")
        elif flags & SYN: state[sport] = "open"

begun = time.time()
for _ in range(rounds):
    for port in range(1, 65536):
        if port in state: continue
        while True:
            try:
                raw.sendto(segment(port), (target, 0))
                break
            except (BlockingIOError, OSError): select.select([raw], [raw], [], 0.01); drain()
        sent += 1
        if sent % 64 == 0: drain()
    quiet = time.time() + 0.5
    while time.time() < quiet: select.select([raw], [], [], 0.05); drain()
print(json.dumps({"open": sorted(port for port, what in state.items() if what == "open"),
                  "closed": sum(what == "closed" for what in state.values()), "sent": sent,
                  "seconds": round(time.time() - begun, 1)}))
