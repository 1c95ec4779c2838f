"""A scripted next hop and a scripted name server, for tests of what Holdfast sends.

    def script(hop):                       # one call a connection, in a thread of its own
        hop.say('220 hop'); hop.greet('PIPELINING')
        ...
    with NextHop(script) as hop:           # hop.port; hop.messages: [(from, [to], body)]; hop.faults
    with Names({('b.example', 'MX'): ['0 .']}) as names:   # names.address for resolver { forward = ... }
"""
import socket
import ssl
import struct
import threading

from lib import PATIENCE_S

TYPES = {'A': 1, 'NS': 2, 'CNAME': 5, 'SOA': 6, 'PTR': 12, 'MX': 15, 'TXT': 16, 'AAAA': 28}


class Hop:
    """One connection of the client, seen from the next hop."""

    def __init__(self, owner, connection):
        self.owner, self.socket, self.pending = owner, connection, b''
        self.socket.settimeout(PATIENCE_S)
        self.lines = []

    def say(self, text):
        self.raw(text.encode() + b'\r\n')

    def raw(self, data):
        self.socket.sendall(data)

    def line(self):
        """The next line without CR LF; '' at the end of the connection."""
        while b'\n' not in self.pending:
            data = self.socket.recv(65536)
            if not data:
                return ''
            self.pending += data
        line, self.pending = self.pending.split(b'\n', 1)
        self.lines.append(line.rstrip(b'\r').decode(errors='replace'))
        return self.lines[-1]

    def quiet(self, wait_s=0.3):
        """Does nothing come for this long?"""
        if self.pending:
            return False
        self.socket.settimeout(wait_s)
        try:
            data = self.socket.recv(65536)
            self.pending += data
            return not data
        except (socket.timeout, ssl.SSLWantReadError):
            return True
        finally:
            self.socket.settimeout(PATIENCE_S)

    def start_tls(self, certificate, key):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.pending = b''

    def body(self):
        """What follows 354, up to and without the final dot; deliberately lax about line ends."""
        data = b''
        while True:
            for end in (b'\r\n.\r\n', b'\n.\n', b'\r.\r'):
                at = (b'\r\n' + self.pending).find(end)
                if at >= 0:
                    whole = b'\r\n' + self.pending
                    self.pending = whole[at + len(end):]
                    return whole[2:at + 2]
            data = self.socket.recv(65536)
            if not data:
                return None
            self.pending += data

    def serve(self, extensions=(), changing=None, **replies):
        """An ordinary dialogue; replies by verb (mail, rcpt, data, dot, ehlo, quit) in place of the usual ones. None: closes.
        changing: a dict of such replies that the test may change while the connection is open."""
        usual = {'mail': '250 ok', 'rcpt': '250 ok', 'rset': '250 ok', 'quit': '221 bye', 'noop': '250 ok',
                 'data': '354 go', 'ehlo': '\r\n'.join(['250-hop', *('250-' + word for word in extensions), '250 HELP'])}
        usual.update(replies)
        sender, recipients = None, []
        while True:
            line = self.line()
            verb = line[:4].lower()
            now = {**usual, **(changing or {})}
            if not line or now.get(verb, '500 what?') is None:
                return
            if verb == 'mail':
                sender, recipients = line[10:].split('>')[0].lstrip('<'), []
            elif verb == 'rcpt':
                recipients.append(line[8:].split('>')[0].lstrip('<'))
            self.say(now.get(verb, '500 what?'))
            if verb == 'quit':
                return
            if verb == 'data' and usual['data'].startswith('354'):
                body = self.body()
                if body is None or usual.get('dot', '250 taken') is None:
                    return
                answer = usual.get('dot', '250 taken')
                if answer.startswith('250'):
                    self.owner.messages.append((sender, recipients, body))
                self.say(answer)


class NextHop:
    def __init__(self, script, port=0, host='127.0.0.1'):
        self.script = script
        self.listener = socket.create_server((host, port), family=socket.AF_INET6 if ':' in host else socket.AF_INET)
        self.port = self.listener.getsockname()[1]
        self.messages, self.faults, self.hops = [], [], []
        self.thread = threading.Thread(target=self._accept, daemon=True)
        self.thread.start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            hop = Hop(self, connection)
            self.hops.append(hop)
            threading.Thread(target=self._serve, args=(hop,), daemon=True).start()

    def _serve(self, hop):
        try:
            self.script(hop)
        except (OSError, ssl.SSLError):
            pass    # the client may leave when it likes
        except AssertionError as fault:
            self.faults.append(str(fault))
        finally:
            hop.socket.close()

    def forget(self):
        """What was taken, and the connections, which a client may have kept."""
        hops, self.hops, self.messages = self.hops, [], []
        for hop in hops:
            try:
                hop.socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass    # it has ended

    def close(self):
        """The thread that accepts ends first: it would go on with whoever gets the descriptor next."""
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass        # it is closed already
        self.thread.join(5)
        self.listener.close()

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.close()


def pack_name(name):
    return b''.join(bytes([len(label)]) + label.encode() for label in name.split('.') if label) + b'\0'


def pack_data(kind, value):
    if kind == 'A':
        return socket.inet_aton(value)
    if kind == 'AAAA':
        return socket.inet_pton(socket.AF_INET6, value)
    if kind == 'MX':
        preference, host = value.split()
        return struct.pack('!H', int(preference)) + pack_name(host)
    if kind == 'TXT':
        return b''.join(bytes([len(part)]) + part for part in (value.encode()[i:i + 255] for i in range(0, len(value), 255)))
    return pack_name(value)


class Names:
    """zone: {(name, type): [values]}; a value list may be 'SERVFAIL' or 'DROP'. Names with no entry at all: NXDOMAIN."""

    def __init__(self, zone):
        self.zone = {(name.lower(), kind): values for (name, kind), values in zone.items()}
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(('127.0.0.1', 0))
        self.address = '127.0.0.1@%d' % self.socket.getsockname()[1]
        self.asked = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                packet, client = self.socket.recvfrom(4096)
            except OSError:
                return
            answer = self._answer(packet)
            if answer:
                self.socket.sendto(answer, client)

    def _answer(self, packet):
        labels, at = [], 12
        while packet[at]:
            labels.append(packet[at + 1:at + 1 + packet[at]].decode(errors='replace'))
            at += packet[at] + 1
        number, = struct.unpack('!H', packet[at + 1:at + 3])
        question, name = packet[12:at + 5], '.'.join(labels).lower()
        kind = next((word for word, value in TYPES.items() if value == number), str(number))
        self.asked.append((name, kind))
        values = self.zone.get((name, kind), [])
        if values == 'DROP':
            return None
        known = any(entry[0] == name for entry in self.zone)
        code = 2 if values == 'SERVFAIL' else 0 if known else 3
        values = [] if values == 'SERVFAIL' else values
        records = b''.join(b'\xc0\x0c' + struct.pack('!HHIH', number, 1, 60, len(data)) + data
                           for data in (pack_data(kind, value) for value in values))
        flags = struct.pack('!HHHHH', 0x8580 | code, 1, len(values), 0, 0)
        return packet[:2] + flags + question + records

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.socket.close()
