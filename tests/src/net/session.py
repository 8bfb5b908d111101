# Connections held open, spoken on when told. argv: seconds, then address/port words. A line makes each say something:
# {"word": "answer"}.
import json, socket, sys

limit = float(sys.argv[1])
sessions = {}
for word in sys.argv[2:]:
    address, _, port = word.partition("/")
    sock = sessions[word] = socket.create_connection((address, int(port)), 5)
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
