"""A scripted name server on loopback. Only the standard library.

    names = ScriptedDns({('good.example', 'MX'): '10 mx.good.example', ('sick.example', None): SERVFAIL})
    names.port, names.close()

A row for (name, None) stands for every type of that name; what has no row does not exist (NXDOMAIN). Alias('other.example')
is a CNAME; TRUNCATED says "come by TCP", where nobody listens. Rows may be changed while it runs; TTLs are one second (ttl=). dead = True: nothing is answered at all; delay_s: each
answer takes so long.
"""
import ipaddress
import socket
import struct
import threading
import time

SILENT, SERVFAIL, NXDOMAIN, EMPTY, REFUSED, TRUNCATED = 'silent', 'SERVFAIL', 'NXDOMAIN', 'EMPTY', 'REFUSED', 'TRUNCATED'
RCODES = {EMPTY: 0, TRUNCATED: 0, SERVFAIL: 2, NXDOMAIN: 3, REFUSED: 5}
TC = 0x0200
TYPES = {'A': 1, 'NS': 2, 'CNAME': 5, 'SOA': 6, 'PTR': 12, 'MX': 15, 'TXT': 16, 'AAAA': 28, 'TLSA': 52}
NAMES = {number: name for name, number in TYPES.items()}


def pack_name(name):
    labels = [label.encode() for label in name.rstrip('.').split('.') if label]
    return b''.join(bytes([len(label)]) + label for label in labels) + b'\0'


def pack_data(kind, text):
    if kind in ('A', 'AAAA'):
        return ipaddress.ip_address(text).packed
    if kind == 'MX':
        preference, host = text.split()
        return struct.pack('>H', int(preference)) + pack_name(host)
    if kind == 'TXT':
        data = text if isinstance(text, bytes) else text.encode()
        return b''.join(bytes([len(part)]) + part for part in (data[at:at + 255] for at in range(0, len(data), 255))) or b'\0'
    return pack_name(text)


class Alias(str):
    """A CNAME to that name."""


def unpack_question(packet):
    """(name, type number, offset behind the question)."""
    labels, at = [], 12
    while packet[at]:
        labels.append(packet[at + 1:at + 1 + packet[at]].decode('latin-1').lower())
        at += 1 + packet[at]
    return '.'.join(labels), struct.unpack('>H', packet[at + 1:at + 3])[0], at + 5


def make_query(name, kind):
    return struct.pack('>HHHHHH', 4711, 0x0100, 1, 0, 0, 0) + pack_name(name) + struct.pack('>HH', TYPES[kind], 1)


class ScriptedDns:
    def __init__(self, script, dead=False, ttl=1, address=('127.0.0.1', 0)):
        self.script, self.dead, self.ttl, self.delay_s = dict(script), dead, ttl, 0
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.port = self.socket.getsockname()[1]
        self.asked = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                packet, peer = self.socket.recvfrom(4096)
                answer = self.answer(packet)
                time.sleep(self.delay_s)
                if answer and not self.dead:
                    self.socket.sendto(answer, peer)
            except OSError:
                return

    def answer(self, packet):
        name, number, end = unpack_question(packet)
        kind = NAMES.get(number, '?')
        row = self.script.get((name, kind), self.script.get((name, None), NXDOMAIN))
        self.asked.append((name, kind))
        if row == SILENT:
            return None
        rows = [] if row in RCODES else [row] if isinstance(row, str) else row
        flags = 0x8180 | RCODES.get(row if isinstance(row, str) else '', 0) | (TC if row == TRUNCATED else 0)
        header = packet[:2] + struct.pack('>HHHHH', flags, 1, len(rows), 0, 0)
        answers = b''.join(b'\xc0\x0c' + struct.pack('>HHIH', TYPES['CNAME'] if isinstance(text, Alias) else number, 1, self.ttl, len(data)) + data
                           for text, data in ((text, pack_data('CNAME' if isinstance(text, Alias) else kind, text)) for text in rows))
        return header + packet[12:end] + answers

    def close(self):
        self.socket.close()
