#!/usr/bin/env python3
"""What hostile mail costs: each shape of message and of dialogue is sent small and eight times as large, and the worker's CPU time may not
grow as its square. Times themselves are never asserted: only growth, and only where the large one costs enough to be measured."""
import glob
import socket
import threading

from lib import Checks, Client, Server, wait_until
from lib_dns import EMPTY, ScriptedDns

checks = Checks()
SMALL, FACTOR = 60_000, 8
MOST = 4 * FACTOR           # linear is FACTOR, quadratic its square: 64
WORTH_S = 0.25              # what costs less than this when it is large is dear to nobody
SIGNATURE = (b'DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=d%d.example; s=s; h=%s; bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; b='
             + b'A' * 342 + b'==\r\n')
HEAD = b'From: a@x.example\r\nSubject: x\r\n'
EHLO, MAIL = b'EHLO c.example\r\n', b'EHLO c.example\r\nMAIL FROM:<a@x.example>\r\n'
LETTER = b'DATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n'


def arc(i):
    return (b'ARC-Seal: i=%d; a=rsa-sha256; t=1; cv=pass; d=x.example; s=s; b=QUFB\r\nARC-Message-Signature: i=%d; a=rsa-sha256; d=x.example; s=s; h=from; bh=QUFB; b=QUFB\r\n'
            b'ARC-Authentication-Results: i=%d; x; none\r\n' % (i, i, i))


MESSAGES = {
    'many fields': lambda n: b'X-A: x\r\n' * (n // 8) + HEAD + b'\r\nx\r\n',
    'one field of many lines': lambda n: HEAD + b'X-A: x\r\n' + b' x\r\n' * (n // 4) + b'\r\nx\r\n',
    'many authors': lambda n: b'From: ' + b',\r\n '.join(b'a@d%d.example' % i for i in range(n // 20)) + b'\r\n\r\nx\r\n',
    'a comment in a comment in a comment': lambda n: b'From: a@x.example ' + b'(\r\n ' * (n // 4) + b'\r\n\r\nx\r\n',
    'groups of authors': lambda n: b'From: ' + b'g:;,\r\n ' * (n // 7) + b'a@x.example\r\n\r\nx\r\n',
    'many signatures': lambda n: b''.join(SIGNATURE % (i, b'from') for i in range(n // 500)) + HEAD + b'\r\nx\r\n',
    'a signature of many fields': lambda n: SIGNATURE % (1, b'from' + b':\r\n x-a' * (n // 14)) + b'X-A: x\r\n' * (n // 16) + HEAD + b'\r\nx\r\n',
    'many tags': lambda n: b'DKIM-Signature: ' + b'a=b;\r\n ' * (n // 7) + b'\r\n' + HEAD + b'\r\nx\r\n',
    'a long chain of seals': lambda n: b''.join(arc(i) for i in range(1, n // 280)) + HEAD + b'\r\nx\r\n',
    'forged results': lambda n: b'Authentication-Results: mx.test; spf=pass\r\n' * (n // 43) + HEAD + b'\r\nx\r\n',
    'empty lines': lambda n: SIGNATURE % (1, b'from') + HEAD + b'\r\nx' + b'\r\n' * (n // 2) + b'x\r\n',
    'dots': lambda n: HEAD + b'\r\n' + b'..\r\n' * (n // 4),
    'part in part in part': lambda n: HEAD + b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b0\r\n\r\n'
    + b''.join(b'--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n' % (i, i + 1) for i in range(n // 60)) + b'\xc3\xa9\r\n',
    'many parts': lambda n: HEAD + b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n' + b'--b\r\n\r\n\xc3\xa9\r\n' * (n // 12) + b'--b--\r\n',
}
DIALOGUES = {
    'recipients': lambda n: MAIL + b''.join(b'RCPT TO:<r%d@far.example>\r\n' % i for i in range(n // 60)) + LETTER,
    'unknown recipients': lambda n: MAIL + b''.join(b'RCPT TO:<n%d@rcpt.test>\r\n' % i for i in range(n // 60)) + b'QUIT\r\n',
    'chunks of one octet': lambda n: MAIL + b'RCPT TO:<b@far.example>\r\nBDAT 14\r\nSubject: x\r\n\r\n' + b'BDAT 1\r\nx' * (n // 60) + b'BDAT 0 LAST\r\nQUIT\r\n',
    'unknown commands': lambda n: EHLO + b'XYZZY\r\n' * (n // 60) + b'QUIT\r\n',
    'transactions begun': lambda n: EHLO + b'MAIL FROM:<a@x.example>\r\nRSET\r\n' * (n // 60) + b'QUIT\r\n',
}


def cpu_s(pid):
    total = 0
    for path in glob.glob(f'/proc/{pid}/task/*/schedstat'):
        try:
            with open(path) as file:
                total += int(file.read().split()[0])
        except OSError:
            continue        # a thread that ended
    return total / 1e9


def converse(server, data):
    """Everything at once, as a client that waits for nothing; the server's last words."""
    last = [b'']
    with socket.create_connection(server.address('smtp'), timeout=60) as connection:
        def listen():
            try:
                while piece := connection.recv(65536):
                    last[0] = (last[0] + piece)[-500:]
            except OSError as fault:
                last[0] += repr(fault).encode()
        listener = threading.Thread(target=listen)
        listener.start()
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        listener.join(60)
    return last[0]


def send(server, message):
    with Client(server.address('smtp')) as client:
        for line in ('EHLO c.example', 'MAIL FROM:<a@x.example> BODY=8BITMIME', 'RCPT TO:<b@far.example>', 'DATA'):
            client.command(line)
        return client.command(message.replace(b'\r\n.', b'\r\n..') + b'.').lines[0].encode()


def cost(server, play, payload):
    before = cpu_s(server.worker_pid)
    said = play(server, payload)
    # The worker goes on for a moment: deliveries, the journal.
    wait_until('the worker to be quiet', lambda: quiet(server))
    return cpu_s(server.worker_pid) - before, said


def quiet(server):
    first = cpu_s(server.worker_pid)
    threading.Event().wait(0.03)
    return cpu_s(server.worker_pid) - first < 0.002


def grows(server, name, play, make):
    small = min(cost(server, play, make(SMALL))[0] for _ in range(2))
    large, said = cost(server, play, make(SMALL * FACTOR))
    if large > MOST * small and large > WORTH_S:        # once more, on a machine that is busy with other things
        large = min(large, cost(server, play, make(SMALL * FACTOR))[0])
    print(f'# {name}: {small * 1000:.1f} ms, eight times as large {large * 1000:.1f} ms: {said[-60:]!r}')
    checks.ok(f'{name}: the cost does not grow as the square of the size', large <= WORTH_S or large <= MOST * small, f'{small} s, then {large} s')
    checks.ok(f'{name}: an answer', said.strip(), said)


names = ScriptedDns({('', 'NS'): 'ns.example.', ('c.example', None): EMPTY, ('_dmarc.x.example', 'TXT'): 'v=DMARC1; p=none'})
try:
    # Mail for elsewhere goes to a port where nobody listens, and may have to be converted: it waits.
    with Server(limits='recipients = 100000  errors = 1000000',
                extra='relay { from = {"192.0.2.0/24", "127.0.0.0/8"}  via = "smtp:127.0.0.1:9" }\nchecks { spf = record  dkim = record  dmarc = record  arc = record }\n'
                      f'resolver {{ forward = {{"127.0.0.1@{names.port}"}} }}\n') as the_server:
        for the_name, the_shape in MESSAGES.items():
            grows(the_server, the_name, send, the_shape)
        for the_name, the_shape in DIALOGUES.items():
            grows(the_server, the_name, converse, the_shape)
        checks.ok('the server lives', the_server.alive())
finally:
    names.close()
raise SystemExit(checks.done())
