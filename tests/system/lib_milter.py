"""A milter for tests: the filter's side of the protocol (version 6), one thread a connection, only the standard library.

    class Mine(Milter):
        def mail(self, sender, words):                # every step returns an answer: CONTINUE unless told otherwise
            return reply('550 5.7.1 no') if sender == 'bad@a.example' else CONTINUE
        def end(self):                                # changes and then an answer, as packets
            return [add_header('X-A', 'b'), ACCEPT]
    with MilterServer(Mine) as milters:               # milters.address; milters.sessions: one object a connection
        ...
"""
import socket
import struct
import threading

CONTINUE, ACCEPT, REJECT, TEMPFAIL, DISCARD, SHUTDOWN, SKIP, PROGRESS = b'c', b'a', b'r', b't', b'd', b'4', b's', b'p'
ACTIONS_ALL = 0x1ff
STEPS = {'NO_CONNECT': 1, 'NO_HELO': 2, 'NO_MAIL': 4, 'NO_RCPT': 8, 'NO_BODY': 0x10, 'NO_HEADERS': 0x20, 'NO_EOH': 0x40,
         'MUTE_HEADERS': 0x80, 'NO_UNKNOWN': 0x100, 'NO_DATA': 0x200, 'SKIP': 0x400, 'MUTE_CONNECT': 0x1000, 'MUTE_HELO': 0x2000,
         'MUTE_MAIL': 0x4000, 'MUTE_RCPT': 0x8000, 'MUTE_DATA': 0x10000, 'MUTE_EOH': 0x40000, 'MUTE_BODY': 0x80000,
         'LEADING_SPACE': 0x100000}


def texts(*words):
    return b''.join(word.encode() + b'\0' for word in words)


def reply(text):
    return b'y' + texts(text)


def add_header(name, value):
    return b'h' + texts(name, value)


def insert_header(index, name, value):
    return b'i' + struct.pack('!I', index) + texts(name, value)


def change_header(index, name, value):
    return b'm' + struct.pack('!I', index) + texts(name, value)


def add_recipient(path):
    return b'+' + texts(path)


def delete_recipient(path):
    return b'-' + texts(path)


def change_sender(path):
    return b'e' + texts(path)


def replace_body(data):
    return b'b' + data


def quarantine(why):
    return b'q' + texts(why)


class Milter:
    """What one connection of the server sees. `said`: the letters of all commands; `macros`: the latest of each name."""
    version, actions, steps, lists = 6, ACTIONS_ALL, 0, b''

    def __init__(self, owner):
        self.owner, self.said, self.macros = owner, '', {}
        self.sender, self.recipients, self.headers, self.content = '', [], [], b''

    def connect(self, name, family, port, address):
        return CONTINUE

    def helo(self, name):
        return CONTINUE

    def mail(self, sender, words):
        return CONTINUE

    def rcpt(self, recipient, words):
        return CONTINUE

    def data(self):
        return CONTINUE

    def header(self, name, value):
        return CONTINUE

    def eoh(self):
        return CONTINUE

    def body(self, chunk):
        return CONTINUE

    def unknown(self, line):
        return CONTINUE

    def end(self):
        return [CONTINUE]

    def forget(self):
        self.sender, self.recipients, self.headers, self.content = '', [], [], b''

    def handle(self, command, data):
        """The packets that answer one command; None: no answer belongs to it; False: the connection is over."""
        words = [word.decode(errors='replace') for word in data.split(b'\0')[:-1]]
        self.said += command
        if command == 'O':
            return [b'O' + struct.pack('!III', self.version, self.actions, self.steps) + self.lists]
        if command == 'D':
            self.macros.update(zip([data[1:].split(b'\0')[0].decode()] + words[2::2], words[1::2]))
            return None
        if command == 'A':
            self.forget()
            return None
        if command == 'K':
            self.forget()
            self.macros = {}
            return None
        if command == 'Q':
            return False
        if command == 'C':
            name, rest = data.split(b'\0', 1)
            port, = struct.unpack('!H', rest[1:3]) if len(rest) > 3 else (0,)
            return [self.connect(name.decode(), rest[:1].decode(), port, rest[3:-1].decode())]
        if command == 'H':
            return [self.helo(words[0])]
        if command == 'M':
            self.sender = words[0].strip('<>')
            return [self.mail(self.sender, words[1:])]
        if command == 'R':
            answer = self.rcpt(words[0].strip('<>'), words[1:])
            if answer == CONTINUE:
                self.recipients.append(words[0].strip('<>'))
            return [answer]
        if command == 'T':
            return [self.data()]
        if command == 'L':
            self.headers.append((words[0], words[1]))
            return [self.header(words[0], words[1])]
        if command == 'N':
            return [self.eoh()]
        if command == 'B':
            self.content += data
            return [self.body(data)]
        if command == 'U':
            return [self.unknown(words[0])]
        if command == 'E':
            answer = self.end()
            self.forget()
            return answer
        return [CONTINUE]

    def muted(self, command):
        names = {'C': 'CONNECT', 'H': 'HELO', 'M': 'MAIL', 'R': 'RCPT', 'T': 'DATA', 'L': 'HEADERS', 'N': 'EOH', 'B': 'BODY'}
        return command in names and self.steps & STEPS['MUTE_' + names[command]]


class MilterServer:
    def __init__(self, kind, port=0):
        self.kind, self.sessions, self.faults = kind, [], []
        self.lock = threading.Lock()
        self.listener = socket.create_server(('127.0.0.1', port), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.address = f'127.0.0.1:{self.port}'
        self.connections = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.connections.append(connection)
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection):
        session = self.kind(self)
        with self.lock:
            self.sessions.append(session)
        try:
            with connection, connection.makefile('rb') as file:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while True:
                    head = file.read(5)
                    if len(head) < 5:
                        return
                    length, = struct.unpack('!I', head[:4])
                    answers = session.handle(chr(head[4]), file.read(length - 1))
                    if answers is False:
                        return
                    if answers is None or session.muted(chr(head[4])):
                        continue
                    for answer in answers:
                        if answer is None:      # a crash
                            return
                        connection.sendall(answer if isinstance(answer, bytearray) else struct.pack('!I', len(answer)) + answer)
        except OSError:
            pass
        except Exception as fault:      # pylint: disable=broad-except
            self.faults.append(repr(fault))

    def said(self):
        return ' '.join(session.said for session in self.sessions)

    def close(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()
        with self.lock:
            for connection in self.connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.close()
