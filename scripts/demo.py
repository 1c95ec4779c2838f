#!/usr/bin/env python3
"""The demonstration: one message is deferred because a filter is down, healed, relayed, deferred by the next hop, retried by
the schedule and delivered. Two Holdfast servers and a real clamd on free loopback ports; only retry times are shortened.

usage: demo.py [--once] HOLDFAST"""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PATIENCE_S = 60
EICAR_SIGNATURE = 'Demo.Eicar:0:*:' + rb'X5O!P%@AP[4\PZX54(P^)7CC)7}$EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*'.hex()


def say(text):
    print(f'\n== {text}', flush=True)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def wait_until(what, check):
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        value = check()
        if value:
            return value
        time.sleep(0.05)
    raise SystemExit(f'demo: gave up waiting: {what}')


def can_connect(address):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        return probe.connect_ex(address) == 0


class Client:
    """A plain SMTP client that shows its dialogue."""

    def __init__(self, port):
        self.socket = socket.create_connection(('127.0.0.1', port), timeout=PATIENCE_S)
        self.file = self.socket.makefile('rb')

    def read(self):
        while True:
            line = self.file.readline().decode().rstrip('\r\n')
            print(f'   S: {line}', flush=True)
            if line[3:4] != '-':
                return line

    def say(self, line, show=True):
        if show:
            print(f'   C: {line}', flush=True)
        self.socket.sendall(line.encode() + b'\r\n')
        return self.read()

    def send(self, sender, recipient, subject):
        self.read()
        self.say('EHLO client.example')
        self.say(f'MAIL FROM:<{sender}>')
        reply = self.say(f'RCPT TO:<{recipient}>')
        if reply.startswith('250'):
            self.say('DATA')
            body = f'From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: {subject}\r\n\r\nHello.\r\n.'
            print('   C: (the message) .')
            reply = self.say(body, show=False)
        self.say('QUIT')
        self.socket.close()
        return reply


class Demo:
    def __init__(self, binary, folder):
        self.binary, self.folder, self.running = binary, folder, []
        self.port, self.next_port = free_port(), free_port()
        self.web = free_port()
        self.config = os.path.join(folder, 'holdfast.conf')
        self.next_config = os.path.join(folder, 'next.conf')
        self.clamd_socket = os.path.join(folder, 'clamd.sock')
        self.users = os.path.join(folder, 'next-users')

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, 'w') as file:
            file.write(text)
        return path

    def configure(self):
        self.write('holdfast.conf', f'''hostname = "mx.demo.example"
spool = "{self.folder}/spool"
listen smtp {{ address = "127.0.0.1:{self.port}" }}
relay {{ from = {{"127.0.0.0/8"}} }}
route "shop.example" {{ via = "smtp:127.0.0.1:{self.next_port}"  tls = may }}
filter clamav {{ speaks = clamd  address = "unix:{self.clamd_socket}"  timeout = 10s  on_fault = defer }}
retry {{ schedule = {{2s, 3s, 5s}}  warn_after = 4h  expire_after = 5d }}
web {{ address = "127.0.0.1:{self.web}" }}
''')
        self.write('next.conf', f'''hostname = "mail.shop.example"
spool = "{self.folder}/next-spool"
listen smtp {{ address = "127.0.0.1:{self.next_port}" }}
domain "shop.example" {{ users = "file:{self.users}"  deliver = "maildir:{self.folder}/mail/{{domain}}/{{user}}" }}
''')
        os.mkdir(os.path.join(self.folder, 'mail'))

    def start(self, name, *command):
        log = open(os.path.join(self.folder, name + '.log'), 'ab')
        self.running.append(subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
        return self.running[-1]

    def start_clamd(self):
        database = os.path.join(self.folder, 'signatures')
        os.makedirs(database, exist_ok=True)
        self.write('signatures/demo.ndb', EICAR_SIGNATURE + '\n')
        config = self.write('clamd.conf', f'DatabaseDirectory {database}\nLocalSocket {self.clamd_socket}\nForeground yes\n')
        self.start('clamd', 'clamd', '-c', config)
        wait_until('clamd', lambda: os.path.exists(self.clamd_socket) and can_connect(self.clamd_socket))

    def holdfast(self, *words, config=None):
        done = subprocess.run([self.binary, *words, '-c', config or self.config], capture_output=True, text=True)
        return done.stdout + done.stderr

    def show(self, *words):
        print(f'   $ holdfast {" ".join(words)}')
        print('\n'.join('   ' + line for line in self.holdfast(*words).rstrip().split('\n')), flush=True)

    def queue(self):
        try:
            return json.loads(self.holdfast('queue', '--json'))
        except json.JSONDecodeError:
            return []

    def delivered(self):
        folder = os.path.join(self.folder, 'mail/shop.example/bob/new')
        return os.path.isdir(folder) and [os.path.join(folder, name) for name in os.listdir(folder)]

    def stop(self):
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def story(self):
        say('Two servers start: mx.demo.example scans with clamd and relays; mail.shop.example is the next hop.')
        self.configure()
        self.start('mx', self.binary, 'serve', '-c', self.config)
        self.start('next', self.binary, 'serve', '-c', self.next_config)
        wait_until('the servers', lambda: can_connect(('127.0.0.1', self.port)) and can_connect(('127.0.0.1', self.next_port)))

        say('1. clamd is not running. The message is not accepted unscanned: the client reads 451 and the cause.')
        reply = Client(self.port).send('alice@client.example', 'bob@shop.example', 'hold fast')
        expect(reply.startswith('451') and 'filter.unreachable' in reply, 'a 451 with filter.unreachable', reply)
        self.show('why', '--in')

        say('2. The operator starts clamd. The client comes back and reads 250.')
        self.start_clamd()
        reply = wait_until('the breaker to notice that clamd is back', self.retry_as_client)
        message = reply.split()[-1].rstrip('.')

        say('3. The next hop has a fault of its own: its users file is missing. It answers 451, we keep the message.')
        wait_until('the first attempt', lambda: any(row['attempts'] > 0 for row in self.queue()))
        self.show('queue')

        say('4. The next hop is mended. The schedule retries by itself, and the message is delivered.')
        self.write('next-users', 'bob\n')
        path = wait_until('the delivery', self.delivered)[0]
        wait_until('the end of the story', lambda: not self.queue())
        print(f'   {path}')
        with open(path, newline='') as file:
            print(''.join('   | ' + line for line in file))

        say('5. Both stories, in one command.')
        wait_until('the record of the end', lambda: 'message.ended' in self.holdfast('why', message))
        self.show('why', message)
        story = self.holdfast('why', message)
        for fact in ('filter.unreachable', 'message.accepted', 'delivery.deferred', 'delivery.done'):
            expect(fact in story, f'{fact} in the story', story)

    def retry_as_client(self):
        reply = Client(self.port).send('alice@client.example', 'bob@shop.example', 'hold fast')
        return reply if reply.startswith('250') else None


def expect(condition, what, got):
    if not condition:
        raise SystemExit(f'demo: expected {what}, got:\n{got}')


def main():
    arguments = [word for word in sys.argv[1:] if word != '--once']
    if len(arguments) != 1:
        raise SystemExit(__doc__)
    if not shutil.which('clamd'):
        raise SystemExit('demo: clamd is not installed (Debian package clamav-daemon)')
    folder = tempfile.mkdtemp(prefix='holdfast-demo-')
    demo = Demo(os.path.abspath(arguments[0]), folder)
    try:
        demo.story()
        if '--once' not in sys.argv:
            say(f'The servers run on until you press Ctrl-C. Try: {demo.binary} status -c {demo.config}')
            print(f'   page and metrics: http://127.0.0.1:{demo.web}/   state: {folder}')
            signal.pause()
    except KeyboardInterrupt:
        pass
    finally:
        demo.stop()
        shutil.rmtree(folder, ignore_errors=True)
    say('Done: deferred, healed, relayed, deferred by the next hop, retried, delivered. Nothing was lost.')


if __name__ == '__main__':
    main()
