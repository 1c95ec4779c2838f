"""Plays .talk files (see tests/talk/README.md for the language) over a real socket.

    from lib_talk import Talk, play
    play(Talk(path), server, one_by_one=False)      # AssertionError with file and line when the server says otherwise
"""
import os
import re

from lib import Client, Closed

ESCAPES = {'r': b'\r', 'n': b'\n', 't': b'\t', '\\': b'\\', '0': b'\0'}


def unescape(text):
    """\\r \\n \\t \\0 \\\\ \\xHH, and {N*TEXT} for TEXT N times (TEXT itself may hold escapes)."""
    def repeat(match):
        return match.group(2) * int(match.group(1))
    text = re.sub(r'\{(\d+)\*([^{}]*)\}', repeat, text)
    out, at = b'', 0
    while at < len(text):
        if text[at] != '\\':
            end = text.find('\\', at)
            end = len(text) if end < 0 else end
            out += text[at:end].encode()
            at = end
        elif text[at + 1] == 'x':
            out += bytes([int(text[at + 2:at + 4], 16)])
            at += 4
        else:
            out += ESCAPES[text[at + 1]]
            at += 2
    return out


class Talk:
    def __init__(self, path):
        self.name = os.path.basename(path)
        with open(path, encoding='utf-8') as file:
            self.steps = [(number, line.rstrip('\n')) for number, line in enumerate(file, 1)
                          if line.strip() and not line.startswith('#')]

    def options(self):
        return {word for _, line in self.steps if line.startswith('@option ') for word in line.split()[1:]}


class Player:
    def __init__(self, server, one_by_one):
        self.server, self.one_by_one = server, one_by_one
        self.client, self.outgoing, self.last = None, b'', None

    def flush(self):
        if self.outgoing:
            data, self.outgoing = self.outgoing, b''
            try:
                self.connection().send(data)
            except (BrokenPipeError, ConnectionResetError):
                pass    # the server may close early; what it said before that is still to be read

    def connection(self, name='smtp'):
        if self.client is None:
            self.client = Client(self.server.address(name), banner=False, tls=name == 'smtps', one_by_one=self.one_by_one)
        return self.client

    def expect(self, text):
        self.flush()
        self.last = self.connection().reply()
        last = self.last.lines[-1]
        assert last.startswith(text), f'expected {text!r}, read {last!r}'

    def directive(self, word, argument):
        self.flush()
        if word == 'connect':
            self.hang_up()
            self.connection(argument or 'smtp')
        elif word == 'tls':
            self.connection().start_tls()
        elif word == 'closed':
            rest = self.connection().rest()
            assert rest == b'', f'expected the end, read {rest!r}'
        elif word == 'end':
            self.connection().end()
        elif word == 'bytes':
            self.one_by_one = self.connection().one_by_one = argument != 'off'
        elif word != 'option':
            raise AssertionError(f'no such directive: @{word}')

    def hang_up(self):
        if self.client:
            self.client.close()
        self.client = None

    def step(self, line):
        if line.startswith('C: ') or line == 'C:':
            self.outgoing += unescape(line[3:]) + b'\r\n'
        elif line.startswith('C+ '):
            self.outgoing += unescape(line[3:])
        elif line.startswith('S: '):
            self.expect(line[3:])
        elif line.startswith('S? '):
            assert any(line[3:] in text for text in self.last.lines), f'{line[3:]!r} is not in {self.last.lines}'
        elif line.startswith('S! '):
            assert not any(line[3:] in text for text in self.last.lines), f'{line[3:]!r} is in {self.last.lines}'
        elif line.startswith('@'):
            word, _, argument = line[1:].partition(' ')
            self.directive(word, argument.strip())
        else:
            raise AssertionError(f'not a line of a talk: {line!r}')


def play(talk, server, one_by_one=False):
    player = Player(server, one_by_one)
    try:
        for number, line in talk.steps:
            try:
                player.step(line)
            except (AssertionError, OSError, Closed) as fault:
                raise AssertionError(f'{talk.name}:{number}: {line[:60]}: {fault}')
        player.flush()
    finally:
        player.hang_up()
