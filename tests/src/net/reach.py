# Tries what a host does on its own account. argv: seconds, then what:target words; from=ADDRESS is the source of all. Prints {"word": "answer"}.
import json, os, socket, struct, sys, time

limit = float(sys.argv[1])

def family(address): return socket.AF_INET6 if ":" in address else socket.AF_INET

def stream(address, port, size):
    with socket.create_connection((address, port), limit, (source, 0) if source else None) as sock:
        sock.sendall(b"x" * (size - 3) + b"END")
        return sock.recv(100).decode()

def datagram(address, port, payload):
    with socket.socket(family(address), socket.SOCK_DGRAM) as sock:
        sock.settimeout(limit)
        sock.connect((address, port))
        sock.send(payload)
        return sock.recv(1000).decode()

def ping(address):
    v6 = ":" in address
    sock = socket.socket(family(address), socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if v6 else socket.IPPROTO_ICMP)
    sock.settimeout(limit)
    ident = os.getpid() & 0xFFFF
    data = struct.pack(">BBHHH", 128 if v6 else 8, 0, 0, ident, 1) + b"ping"
    if not v6:
        total = sum(struct.unpack(">6H", data))
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        data = data[:2] + struct.pack(">H", ~total & 0xFFFF) + data[4:]
    sock.sendto(data, (address, 0))
    end = time.monotonic() + limit
    while True:
        sock.settimeout(max(end - time.monotonic(), 0.001))  # Others' packets come here, too.
        got = sock.recv(1000)
        if not v6: got = got[(got[0] & 15) * 4:]
        if got[0] == (129 if v6 else 0) and got[4:6] == data[4:6]: return "pong"

def burst(address):
    # Different identifiers: each is a conversation of its own to connection tracking.
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    sock.settimeout(limit)
    for ident in list(range(100)) + [1] * 100:
        data = struct.pack(">BBHHH", 8, 0, 0, ident, 1)
        sock.sendto(data[:2] + struct.pack(">H", ~(0x800 + ident + 1) & 0xFFFF) + data[4:], (address, 0))
    count = 0
    try:
        while True: count += sock.recv(1000)[20] == 0
    except TimeoutError: return str(count)

def attempt(what, address):
    kind, _, argument = what.partition("/")
    port = int(argument or 443)
    if kind == "tcp": return stream(address, port, 10)
    if kind == "upload": return stream(address, port, 200_000)
    if kind == "udp": return datagram(address, port, b"y" * 100)
    if kind == "big": return datagram(address, port, b"y" * 5000)
    if kind == "ping": return ping(address)
    if kind == "burst": return burst(address)

answers = {}
source = next((word[5:] for word in sys.argv if word.startswith("from=")), None)
for word in sys.argv[2:]:
    if word.startswith("from="): continue
    what, _, address = word.partition(":")
    try: answers[word] = attempt(what, address)
    except OSError as error: answers[word] = "failed: " + type(error).__name__
print(json.dumps(answers))
