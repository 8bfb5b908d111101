# Frames that belong to nothing, from the neighbour on the link, and every frame the host answers with that is neither
# ARP nor neighbour discovery nor a listener report. argv: interface host-mac what. Prints {"sent": n, "replies": [...]}.
import json, random, select, socket, sys, time

interface, mac, what = sys.argv[1], bytes.fromhex(sys.argv[2].replace(":", "")), sys.argv[3]
HOST4, HOST6, ME4, ME6 = "203.0.113.10", "2001:db8:1::10", "203.0.113.1", "2001:db8:1::1"
LINK_ME = "fe80::dead:1"
GUEST4, GUEST6 = "172.31.0.2", "fd31::2"
PORTS = (22, 80, 5432, 8080, 8081, 9000)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind((interface, 0))
me = wire.getsockname()[4]
frame4 = lambda packet: mac + me + b"\x08\x00" + packet
frame6 = lambda packet: mac + me + b"\x86\xdd" + packet

def martians():
    for port in PORTS:
        for source, target in ((ME4, "127.0.0.1"), ("127.0.0.1", HOST4), (HOST4, HOST4)):
            yield frame4(ip4(source, target, 6, tcp(source, target, 4000, port, SYN)))
            yield frame4(ip4(source, target, 17, udp(source, target, 4000, port)))
        for source, target in ((ME6, "::1"), ("::1", HOST6), (HOST6, HOST6)):
            yield frame6(ip6(source, target, 6, tcp(source, target, 4000, port, SYN)))
            yield frame6(ip6(source, target, 17, udp(source, target, 4000, port)))

def strays():
    for port in PORTS:
        for index, flags in enumerate((ACK, FIN, RST, 0, FIN | PSH | URG, SYN | ACK, SYN | FIN, SYN | RST, FIN | ACK)):
            yield frame4(ip4(ME4, HOST4, 6, tcp(ME4, HOST4, 4100 + index, port, flags)))
            yield frame6(ip6(ME6, HOST6, 6, tcp(ME6, HOST6, 4100 + index, port, flags)))
        if port not in allowed:
            # A SYN behind options: source routing, hop-by-hop, destination options.
            source_route = bytes([131, 7, 4]) + packed(GUEST4) + b"\0"
            yield frame4(ip4(ME4, HOST4, 6, tcp(ME4, HOST4, 4200, port, SYN), options=source_route))
            for header in (0, 60):
                extension = bytes([6, 0, 1, 4, 0, 0, 0, 0])
                yield frame6(ip6(ME6, HOST6, header, extension + tcp(ME6, HOST6, 4201 + header, port, SYN)))
            # A SYN in two fragments.
            segment = tcp(ME4, HOST4, 4300, port, SYN, b"A" * 64)
            yield frame4(ip4(ME4, HOST4, 6, segment[:24], ident=port, fragment=0x2000))
            yield frame4(ip4(ME4, HOST4, 6, segment[24:], ident=port, fragment=3))
            for sport in (20, 53, 67, 123, 443, 547):
                yield frame4(ip4(ME4, HOST4, 6, tcp(ME4, HOST4, sport, port, SYN)))
                yield frame6(ip6(ME6, HOST6, 6, tcp(ME6, HOST6, sport, port, SYN)))
        for sport in (53, 67, 123, 547, 4000):
            for target in (HOST4, "203.0.113.255", "255.255.255.255", "172.31.0.1"):
                yield frame4(ip4(ME4, target, 17, udp(ME4, target, sport, port)))
            for source in (ME6, LINK_ME):
                yield frame6(ip6(source, HOST6, 17, udp(source, HOST6, sport, port)))
    for protocol in range(256):
        if protocol not in (1, 2, 6, 17, 58): yield frame4(ip4(ME4, HOST4, protocol, bytes(24)))
    for target, port in (("224.0.0.251", 5353), ("224.0.0.252", 5355), ("239.255.255.250", 1900)):
        yield frame4(ip4(ME4, target, 17, udp(ME4, target, port, port), ttl=1))
    for target, port in (("ff02::fb", 5353), ("ff02::1:3", 5355)):
        yield frame6(ip6(LINK_ME, target, 17, udp(LINK_ME, target, port, port), hops=1))
    yield frame4(ip4(ME4, HOST4, 4, ip4(ME4, GUEST4, 6, tcp(ME4, GUEST4, 4400, 80, SYN))))

def messages():
    for kind in range(256):
        if kind != 8 or not allowed: yield frame4(ip4(ME4, HOST4, 1, icmp4(kind)))
    for kind in range(1, 256):
        if kind in (133, 134, 135, 136) or (kind == 128 and allowed): continue
        yield frame6(ip6(ME6, HOST6, 58, icmp6(ME6, HOST6, kind)))
    # Neighbour discovery from behind a router, and a question for a router.
    target = bytes(4) + packed(HOST6) + bytes([1, 1]) + me
    yield frame6(ip6(ME6, HOST6, 58, icmp6(ME6, HOST6, 135, rest=target), hops=64))
    yield frame6(ip6(LINK_ME, "ff02::2", 58, icmp6(LINK_ME, "ff02::2", 133, rest=bytes(4)), hops=255))

def forwarded():
    for port in PORTS:
        yield frame4(ip4(ME4, GUEST4, 6, tcp(ME4, GUEST4, 4500, port, SYN)))
        yield frame4(ip4(ME4, GUEST4, 17, udp(ME4, GUEST4, 4500, port)))
        yield frame6(ip6(ME6, GUEST6, 6, tcp(ME6, GUEST6, 4500, port, SYN)))
        yield frame6(ip6(ME6, GUEST6, 17, udp(ME6, GUEST6, 4500, port)))

def dhcp():
    everybody = b"\xff" * 6
    yield everybody + me + b"\x08\x00" + ip4(ME4, "255.255.255.255", 17, udp(ME4, "255.255.255.255", 67, 68))
    yield frame6(ip6(LINK_ME, sys.argv[4], 17, udp(LINK_ME, sys.argv[4], 547, 546)))

def not_dhcp():
    yield frame4(ip4(ME4, HOST4, 17, udp(ME4, HOST4, 67, 68)))
    yield frame6(ip6(ME6, HOST6, 17, udp(ME6, HOST6, 547, 546)))
    yield frame6(ip6(LINK_ME, HOST6, 17, udp(LINK_ME, HOST6, 547, 546)))

allowed = [int(port) for port in sys.argv[4].split(",") if port] if what in ("strays", "messages") and len(sys.argv) > 4 else []
frames = list(globals()[what]())
replies = []

def told(frame):
    kind = frame[12:14]
    if kind == b"\x08\x00":
        packet = frame[14:]
        head, protocol = (packet[0] & 15) * 4, packet[9]
        source, rest = str(ipaddress.ip_address(packet[12:16])), packet[head:]
        if protocol == 2: return None
    elif kind == b"\x86\xdd":
        protocol, source, rest = frame[20], str(ipaddress.ip_address(frame[22:38])), frame[54:]
        if protocol == 0 or (protocol == 58 and rest[0] in (133, 134, 135, 136, 143)): return None
    else: return None
    if protocol == 6: return "tcp %s:%d flags %d" % (source, struct.unpack(">H", rest[:2])[0], rest[13])
    if protocol == 17: return "udp %s:%d" % (source, struct.unpack(">H", rest[:2])[0])
    return "ip %s protocol %d type %d" % (source, protocol, rest[0])

def drain(seconds):
    while select.select([wire], [], [], seconds)[0]:
        data, address = wire.recvfrom(65536)
        if data[6:12] == mac and address[2] != socket.PACKET_OUTGOING:
            text = told(data)
            if text: replies.append(text)

for frame in frames:
    wire.send(frame)
    drain(0)
drain(0.5)
print(json.dumps({"sent": len(frames), "replies": sorted(replies)}))
