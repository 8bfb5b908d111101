# Packets byte by byte.
import ipaddress, struct

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32

def checksum(data):
    if len(data) % 2: data += b"\0"
    total = sum(struct.unpack(">%dH" % (len(data) // 2), data))
    while total > 0xFFFF: total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

def packed(address): return ipaddress.ip_address(address).packed

def pseudo(source, target, protocol, length):
    if ":" in target: return packed(source) + packed(target) + struct.pack(">II", length, protocol)
    return packed(source) + packed(target) + struct.pack(">BBH", 0, protocol, length)

def summed(source, target, protocol, data, at):
    value = checksum(pseudo(source, target, protocol, len(data)) + data)
    return data[:at] + struct.pack(">H", value) + data[at + 2:]

def tcp(source, target, sport, dport, flags, payload=b"", seq=1000):
    data = struct.pack(">HHIIBBHHH", sport, dport, seq, 1 if flags & ACK else 0, 0x50, flags, 64000, 0, 0) + payload
    return summed(source, target, 6, data, 16)

def udp(source, target, sport, dport, payload=b"question"):
    return summed(source, target, 17, struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload, 6)

def icmp4(kind, code=0, rest=b"\0\7\0\1abcd"):
    data = struct.pack(">BBH", kind, code, 0) + rest
    return data[:2] + struct.pack(">H", checksum(data)) + data[4:]

def icmp6(source, target, kind, code=0, rest=b"\0\7\0\1abcd"):
    return summed(source, target, 58, struct.pack(">BBH", kind, code, 0) + rest, 2)

def ip4(source, target, protocol, payload, ident=1, fragment=0, ttl=64, options=b""):
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, words * 4 + len(payload), ident, fragment, ttl, protocol, 0)
    head += packed(source) + packed(target) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload

def ip6(source, target, protocol, payload, hops=64):
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, hops) + packed(source) + packed(target) + payload
