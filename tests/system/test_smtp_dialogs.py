#!/usr/bin/env python3
"""chasquid's dialogues (../shared/vectors/smtp-dialogs-chasquid) against Holdfast.

Texts are chasquid's and are not compared. A reply has to be of the class that chasquid gives (2, 3, 4, 5); where Holdfast's
code differs within the class, CODES says which code stands there and why. A step in CODES that is never met fails too."""
import ast
import json

from lib import Checks, Client, Closed, Server, shared, wait_until

NO_TLS = 'no openssl command to make a certificate'
OVER_TLS = {'auth_multi_dialog', 'auth_too_many_failures'}
KNOWN = {'auth_not_tls', 'bad_data', 'bad_data_dot', 'bad_data_dot_2', 'bad_data_dot_on_message_too_big', 'bad_mail_from',
         'bad_rcpt_to', 'data_dot_stuffing', 'empty_helo', 'helo', 'line_too_long', 'message_too_big', 'sendmail',
         'unknown_command', 'wrong_proto', *OVER_TLS}
# (dialogue, chasquid's expectation): our code.
CODES = {
    ('bad_data', '503 5.5.1 Sender not yet given'): 503,
    ('bad_data', '554 5.6.0 Error parsing message'): 550,       # message.malformed.header is 550 5.6.0
    ('bad_data_dot', '521 5.5.2 Error reading DATA: invalid line ending'): 550,     # refused at the true end, not cut off
    ('bad_data_dot_2', '521 5.5.2 Error reading DATA: invalid line ending'): 550,
    ('bad_data_dot_on_message_too_big', '521 5.5.2 Error reading DATA: invalid line ending'): 552,  # both are true; size came first
    ('line_too_long', '554'): 501,          # a command of 1,000 octets is read; the name in it is too long
    ('auth_multi_dialog', '534'): 504,      # RFC 4954 4: a mechanism that is not offered
    ('wrong_proto', '502 5.7.0 You hear someone cursing shoplifters'): 554,
}
# chasquid checks these while it reads the path; with us the sender's domain is policy's and the recipient's the directory's.
OTHER = {
    ('bad_mail_from', '501 5.1.8 Malformed sender domain (IDNA conversion failed)'): (250, 501),
    ('bad_rcpt_to', '501 5.1.2 Malformed destination domain (IDNA conversion failed)'): (501, 550),
    ('bad_rcpt_to', '550 5.1.3 Destination address is invalid'): (550, 553),
}


class Dialogue:
    def __init__(self, server, case):
        self.server, self.case = server, case
        self.client = None
        self.met = set()

    def expect(self, text):
        key = (self.case['name'], text)
        reply = self.client.reply()
        if key in CODES:
            self.met.add(key)
            right = reply.code == CODES[key]
        elif key in OTHER:
            self.met.add(key)
            right = reply.code in OTHER[key]
        else:
            right = str(reply.code) == text[:3]
        assert right, f'expected {text!r}, read {reply.lines[-1]!r}'

    def step(self, op, arg):
        if op in ('connect', 'connect_tls', 'close'):
            if self.client:
                self.client.close()
            self.client = None
        if op in ('connect', 'connect_tls'):
            tls = op == 'connect_tls'
            self.client = Client(self.server.address('submissions' if tls else 'smtp'), banner=False, tls=tls)
        elif op == 'send_line':
            self.send(arg.encode() + b'\r\n')
        elif op == 'send_raw_expr':
            self.send(expression(arg).encode())
        elif op in ('expect_exact', 'expect_regex'):
            self.expect(arg)
        elif op == 'read_until':
            while not self.client.line().startswith(arg):
                pass
        elif op not in ('note', 'close'):
            raise AssertionError(f'no such step: {op}')

    def send(self, data):
        try:
            self.client.send(data)
        except (BrokenPipeError, ConnectionResetError):
            pass    # closed early; the reply is still to be read

    def play(self):
        for number, step in enumerate(self.case['steps']):
            try:
                self.step(step['op'], step.get('arg', ''))
            except (AssertionError, OSError, Closed) as fault:
                raise AssertionError(f'step {number} {step["op"]} {step.get("arg", "")[:50]!r}: {fault}')
        if self.client:
            self.client.close()
        wanted = {key for key in {**CODES, **OTHER} if key[0] == self.case['name']}
        assert wanted == self.met, f'never met: {wanted - self.met}'
        if self.case.get('delivered'):
            self.check_delivered(self.case['delivered'].encode())

    def check_delivered(self, text):
        def found():
            return [mail for mail in self.server.mails('user', 'testserver') if mail.replace(b'\r\n', b'\n').endswith(b'\n' + text)]
        self.server.wait_mails('user', 1, 'testserver')
        wait_until('the delivered text', found)


def expression(text):
    """A Python expression of string literals, '+' and '*', without eval."""
    def value(node):
        if isinstance(node, ast.Expression):
            return value(node.body)
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return value(node.left) + value(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            return value(node.left) * value(node.right)
        raise AssertionError(f'not an expression we know: {text!r}')
    return value(ast.parse(text, mode='eval'))


def main():
    path = shared('vectors', 'smtp-dialogs-chasquid', 'dialogs.json')
    if not path:
        return 0
    with open(path, encoding='utf-8') as file:
        cases = json.load(file)
    checks = Checks()
    with Server(limits='message_size = 1M', extra='auth { delay = 0s }') as server:
        for case in cases:
            if case['name'] in OVER_TLS and not server.certificate:
                checks.skip(case['name'], NO_TLS)
            elif case['name'] not in KNOWN:
                checks.ok(case['name'], False, 'a dialogue that this test does not know')
            else:
                checks.run(case['name'], lambda: Dialogue(server, case).play())
        checks.ok('the server is still there', server.alive())
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
