# Conversations held open, spoken on when told. argv: seconds, then [udp:]address/port words. A line makes each say something:
# {"word": "answer"}.
import json, socket, sys

limit = float(sys.argv[1])
sessions = {}
for word in sys.argv[2:]:
    address, _, port = word.removeprefix("udp:").partition("/")
    if word.startswith("udp:"):
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(5)
        sock.connect((address, int(port)))
    else: sock = socket.create_connection((address, int(port)), 5)
    sessions[word] = sock
    sock.sendall(b"helloEND")
    sock.recv(100)
    sock.settimeout(limit)
print("ready")
for _ in sys.stdin:
    answers = {}
    for word, sock in sessions.items():
        try:
            sock.sendall(b"onceEND")
            answers[word] = sock.recv(100).decode()
        except OSError as error: answers[word] = "failed: " + type(error).__name__
    print(json.dumps(answers))
