#!/usr/bin/env python3
"""Plays `agentd-shim run DIR` for the keeper's tests: lock, note of the start, held descriptors, an optional program."""
import array, fcntl, json, os, signal, socket, struct, subprocess, sys

folder = sys.argv[2]
os.chdir(folder)
lock = os.open("lock", os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.ftruncate(lock, 0)
os.write(lock, b"%d\n" % os.getpid())

names = [name for name in os.environ["AGENTD_HELD_FDS"].split(":") if name]
fds = list(range(3, 3 + len(names)))
start = {
    "pid": os.getpid(),
    "names": names,
    "inodes": [os.fstat(fd).st_ino for fd in fds],
    "env": sorted(os.environ),
    "stdin": os.readlink("/proc/self/fd/0"),
    "program": 0,
}
if os.path.exists("program") and not os.path.exists("program.pid"):
    start["program"] = subprocess.Popen(["sh", "-c", open("program").read()], close_fds=True).pid
    open("program.pid", "w").write(str(start["program"]))
with open("starts", "a") as out:
    out.write(json.dumps(start) + "\n")
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
if os.path.exists("leave"):
    os._exit(0)

if os.path.exists("ctl.sock"):
    os.unlink("ctl.sock")
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind("ctl.sock")
listener.listen(16)
while True:
    connection, _ = listener.accept()
    while True:
        message = connection.recv(65536)
        if not message:
            break
        seq = struct.unpack_from("<I", message, 8)[0]
        kind, body = 14, struct.pack("<HHIB", 13, 0, 1, 1)
        rights = []
        if message[3] == 1:
            continue
        if message[3] == 11:
            kind, body = 12, b"".join(struct.pack("<HHI", 8, 0, len(n)) + n.encode() for n in names)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        head = struct.pack("<HBBHHII", 0xA6E7, 1, kind, len(body), 0, 1, seq)
        connection.sendmsg([head + body], rights)
