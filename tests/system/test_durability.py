#!/usr/bin/env python3
"""The promise of the 250. (1) By strace: the sync that covers a message has returned before its 250 is written. (2) By
kill -9 under load, over and over: every acknowledged message is in the Maildir exactly once, no other one is there twice."""
import os
import random
import re
import shutil
import threading

from lib import Checks, Client, Closed, Server, wait_until

checks = Checks()
ROUNDS = 30 if os.environ.get('HOLDFAST_FULL') else 6
WRITERS = 8


def send(client, token, sender='a@client.test', to='alice@rcpt.test'):
    """One message on an open session; its reply at the dot."""
    for line, code in ((f'MAIL FROM:<{sender}>', 250), (f'RCPT TO:<{to}>', 250), ('DATA', 354)):
        reply = client.command(line)
        if reply.code != code:
            return reply
    client.send(f'Subject: {token}\r\n\r\n{token}\r\n.\r\n')
    return client.reply()


def sync_before_reply():
    trace = os.path.join(os.environ.get('TMPDIR', '/tmp'), f'holdfast-order-{os.getpid()}.trace')
    strace = ('strace', '-f', '-s', '4096', '-e', 'trace=pwritev,pwritev2,pwrite64,fdatasync,fsync,sendto,sendmsg,write,writev', '-o', trace)
    with Server(command=strace) as server:
        with Client(server.address('smtp')) as client:
            client.command('EHLO c.example')
            ids = [send(client, f'order-{number}').lines[-1].split()[-1].rstrip('.') for number in range(20)]
            client.command('QUIT')
        with open(f'/proc/{server.process.pid}/task/{server.process.pid}/children') as file:
            children = [int(pid) for pid in file.read().split()]
        for pid in children:
            os.kill(pid, 15)
        wait_until('strace to end', lambda: server.process.poll() is not None)
    with open(trace) as file:
        lines = file.read().split('\n')
    os.unlink(trace)
    wrong = [message for number, message in enumerate(ids) if not sync_came_first(lines, f'order-{number}', message)]
    checks.ok('by strace, the sync that covers a message returns 0 before its 250 is written', len(ids) == 20 and not wrong, f'{len(wrong)} of 20: {wrong[:3]}')


def sync_came_first(lines, token, message):
    """The write that holds the message, then a sync of the same thread that returned 0, then the 250."""
    reply = next((index for index, line in enumerate(lines) if f'Accepted as {message}' in line), None)
    write = next((index for index, line in enumerate(lines) if re.search(r'\bpwritev?2?(64)?\(', line) and f'{token}\\r' in line), None)
    if reply is None or write is None or write > reply:
        return False
    thread = lines[write].split()[0]
    return any(line.split()[:1] == [thread] and re.search(r'f(data)?sync(\(| resumed).*= 0$', line) for line in lines[write:reply])


class Load:
    """Writers that send numbered messages until the server is gone; what was acknowledged is kept."""

    def __init__(self):
        self.acknowledged, self.sent = set(), set()
        self.lock = threading.Condition()
        self.next = 0

    def token(self):
        with self.lock:
            self.next += 1
            token = f'T{self.next:06d}E'
            self.sent.add(token)
            return token

    def writer(self, address):
        try:
            with Client(address) as client:
                client.command('EHLO c.example')
                while True:
                    token = self.token()
                    if send(client, token).code == 250:
                        with self.lock:
                            self.acknowledged.add(token)
                            self.lock.notify_all()
        except (Closed, OSError, AssertionError):
            return

    def run_until_killed(self, server, more):
        aim = len(self.acknowledged) + more
        writers = [threading.Thread(target=self.writer, args=(server.address('smtp'),)) for _ in range(WRITERS)]
        for thread in writers:
            thread.start()
        with self.lock:
            reached = self.lock.wait_for(lambda: len(self.acknowledged) >= aim, timeout=60)
        server.kill()
        for thread in writers:
            thread.join(60)
        return reached


def count_tokens(server):
    counts = {}
    for mail in server.mails('alice'):
        for token in set(re.findall(r'T\d{6}E', mail.decode())):
            counts[token] = counts.get(token, 0) + 1
    return counts


def killed_under_load():
    chance = random.Random(int(os.environ.get('HOLDFAST_SEED', '1')))
    load = Load()
    server = Server()
    try:
        for number in range(ROUNDS):
            if number > 0:
                server.start()
            if not load.run_until_killed(server, chance.randrange(1, 400)):
                checks.ok(f'round {number} acknowledged mail', False, 'the load stalled')
                return
        server.start()
        wait_until('every acknowledged message in the Maildir', lambda: not load.acknowledged - set(count_tokens(server)), 60)
        server.stop()
        counts = count_tokens(server)
    finally:
        server.kill()
        shutil.rmtree(server.folder, ignore_errors=True)
    lost = load.acknowledged - set(counts)
    twice = {token for token, count in counts.items() if count > 1}
    print(f'# {ROUNDS} kills, {len(load.sent)} sent, {len(load.acknowledged)} acknowledged, {len(counts)} delivered')
    checks.ok('after kill -9 no acknowledged message is lost', not lost, sorted(lost)[:5])
    checks.ok('after kill -9 no message is there twice', not twice, sorted(twice)[:5])
    checks.ok('what was not acknowledged is at most what was in flight', len(set(counts) - load.acknowledged) <= ROUNDS * WRITERS)


def main():
    if shutil.which('strace'):
        checks.run('order of sync and reply', sync_before_reply)
    else:
        checks.skip('order of sync and reply', 'strace is not installed')
    killed_under_load()
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
