# Asks the machine outside without pause, over TCP, UDP and ICMP of both families, once all of it has answered. Whatever is
# not answered is a line in /var/log/outbound; the number of questions is in /run/outbound. argv: addresses.
import json, os, subprocess, sys, time

words = [f"{what}:{address}" for address in sys.argv[1:] for what in ("tcp/443", "udp/53", "ping")]
asked, answered_once = 0, False
while True:
    told = json.loads(subprocess.run([sys.executable, "/usr/local/lib/reach.py", "2", *words], capture_output=True).stdout)
    lost = [f"{time.time():.2f} {word} {answer}" for word, answer in told.items() if answer.startswith("failed")]
    answered_once = answered_once or not lost
    if not answered_once: continue
    asked += len(words)
    with open("/var/log/outbound", "a") as log: log.writelines(f"{line}\n" for line in lost)
    with open("/run/outbound.new", "w") as count: count.write(f"{asked}\n")
    os.rename("/run/outbound.new", "/run/outbound")
