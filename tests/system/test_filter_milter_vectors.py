#!/usr/bin/env python3
"""The cases of go-milter's integration tests (../shared/vectors/milter-go) against a running server: the milter that each folder
was written for is here in Python, the next hop tells what was sent on."""
import base64
import glob
import json
import os
import re
import subprocess

from lib import Checks, Client, Server, shared, wait_until
from lib_hop import NextHop
from lib_milter import (ACCEPT, CONTINUE, DISCARD, REJECT, TEMPFAIL, Milter, MilterServer, add_header, add_recipient,
                        change_header, change_sender, delete_recipient, insert_header, quarantine, replace_body, reply)

HEADER = ('From: <from@example.com>\r\nTo: <to@example.com>\r\nSubject: test\r\n'
          'Date: Fri, 10 Mar 2023 23:29:35 +0000 (UTC)\r\nMessage-ID: <id@example.com>\r\n')


def local(address):
    return address.split('@')[0]


class Auth(Milter):
    def mail(self, sender, words):
        if '{tls_version}' not in self.macros:
            return reply('500 No starttls')
        if self.macros.get('{auth_authen}') == 'user1@example.com':
            return reply('502 Ok')
        return reply('501 No authentication')


class Body(Milter):
    def end(self):
        return [replace_body(self.content), replace_body(b'two\r\n'), ACCEPT]


class Header(Milter):
    CHANGES = {
        'add-first': [insert_header(1, 'X-First1', 'Test'), insert_header(2, 'X-First2', 'Test')],
        'add-middle': [insert_header(3, 'X-Middle1', 'Test'), insert_header(4, 'X-Middle2', 'Test')],
        'add': [add_header('X-ADD1', 'Test'), add_header('X-ADD2', 'Test')],
        'change-to': [change_header(1, 'To', '<to@example.com>,\n <to@example.org>')],
        'del': [change_header(1, 'Subject', '')],
        'multi': [insert_header(1, 'X-First1', 'Test'), insert_header(2, 'X-First2', 'Test'), change_header(1, 'Subject', ''),
                  insert_header(5, 'X-Before-DATE', 'Test'), add_header('X-ADD1', 'Test'), add_header('X-ADD2', 'Test')],
        'multiline': [add_header('X-MultiLine', 'Line1\n\tLine2\n\tLine3')],
        'subject': [change_header(1, 'Subject', 'changed')],
    }

    def end(self):
        return [*self.CHANGES[local(self.sender)], ACCEPT]


class Macro(Milter):
    """Every message has an id of its own, and the macros of each step are those of this message."""
    seen = set()

    def end(self):
        macros = self.macros
        right = (macros.get('i') and macros['i'] not in self.seen and macros.get('j') == 'mx.test' and
                 macros.get('{mail_addr}') == 'from@example.com' and macros.get('{rcpt_addr}') == 'to@example.com' and
                 macros.get('{daemon_name}') == 'smtp' and macros.get('{if_addr}') == '127.0.0.1' and '[127.0.0.1]' in macros.get('_', ''))
        self.seen.add(macros.get('i'))
        return [ACCEPT if right else reply(f'554 5.3.5 {macros}')]


class MailFrom(Milter):
    def mail(self, sender, words):
        return {'custom': reply('555 5.0.0 custom'), 'discard': DISCARD, 'reject': REJECT,
                'temp-fail': TEMPFAIL}.get(local(sender), CONTINUE)

    def end(self):
        return {'change': [change_sender('<another@example.com>'), ACCEPT],
                'quarantine': [quarantine('by the test'), ACCEPT]}.get(local(self.sender), [ACCEPT])


class RcptTo(Milter):
    def rcpt(self, recipient, words):
        return {'custom': reply('555 5.0.0 custom'), 'discard': DISCARD, 'discard-one': DISCARD, 'reject': REJECT, 'reject-one': REJECT,
                'temp-fail': TEMPFAIL}.get(local(recipient), CONTINUE)

    def end(self):
        names = [local(recipient) for recipient in self.recipients]
        another = [add_recipient('<another@example.com>')]
        if 'add' in names:
            return [*another, ACCEPT]
        if 'change' in names:
            return [delete_recipient('<change@example.com>'), *another, ACCEPT]
        return [quarantine('by the test'), ACCEPT] if 'quarantine' in names else [ACCEPT]


class Whole(Milter):
    def mail(self, sender, words):
        return reply('550-5.7.1 We do not like you\r\n550 5.7.1 very much, please go away') if local(sender) == 'reject-me' else CONTINUE

    def rcpt(self, recipient, words):
        return REJECT if local(recipient) == 'other-spammer' else CONTINUE


MILTERS = {'auth': Auth, 'body': Body, 'header': Header, 'macro': Macro, 'mail-from': MailFrom, 'milter': Whole, 'rcpt-to': RcptTo}


# ------------------------------------------------------------------ the language of the cases

class Transaction:
    def __init__(self):
        self.steps, self.decision, self.at, self.custom, self.output = [], None, '*', [], []


def block(lines):
    """Lines up to the single dot, as they stand in a message."""
    found = []
    while lines and lines[0] != '.':
        found.append(lines.pop(0))
    lines.pop(0)
    return ''.join(line + '\r\n' for line in found)


def parse(text):
    lines, transactions = text.split('\n'), [Transaction()]
    while lines:
        line = lines.pop(0)
        now = transactions[-1]
        if line.startswith('# ') and (now.steps or now.decision):
            transactions.append(Transaction())
        elif line.startswith('DECISION '):
            now.decision, _, at = line[9:].partition('@')
            now.at = at or '*'
        elif now.decision == 'CUSTOM' and line:
            now.custom.append(line)
        elif line and not line.startswith('# '):
            word, _, rest = line.partition(' ')
            step = (word, block(lines) if word in ('HEADER', 'BODY') else rest)
            (now.output if now.decision else now.steps).append(step)
    return transactions


# ------------------------------------------------------------------ playing one

class Objection(Exception):
    def __init__(self, at, answer):
        super().__init__(f'{answer.lines} at {at}')
        self.at, self.answer = at, answer


def say(client, at, line):
    answer = client.command(line)
    if answer.code >= 400:
        raise Objection(at, answer)
    return answer


def play_prelude(client, case, server):
    say(client, 'HELO', 'EHLO localhost.local')
    words = [step[0] for step in case.steps]
    if 'STARTTLS' in words and server.certificate:
        say(client, 'HELO', 'STARTTLS')
        client.start_tls()
        say(client, 'HELO', 'EHLO localhost.local')
    for word, rest in case.steps:
        if word == 'AUTH':
            say(client, 'HELO', 'AUTH PLAIN ' + base64.b64encode(f'\0{rest}\0password1'.encode()).decode())


def play(client, case):
    """One message; the objections to single recipients are collected."""
    steps = [step for step in case.steps if step[0] in ('FROM', 'TO', 'RESET')]
    if not any(step[0] == 'TO' for step in steps):
        steps.append(('TO', '<to@example.com>'))
    refused, sent, taken = [], False, 0
    for word, rest in steps:
        if not sent and word != 'RESET':
            say(client, 'FROM', 'MAIL FROM:' + (rest if word == 'FROM' else '<from@example.com>'))
            sent = True
        if word == 'RESET':
            say(client, '*', 'RSET')
            sent, taken = False, 0
        if word == 'TO':
            answer = client.command('RCPT TO:' + rest)
            taken += answer.code < 400
            refused += [Objection('TO', answer)] if answer.code >= 400 else []
    if not taken:
        raise refused[0]
    given = dict(case.steps)
    say(client, 'DATA', 'DATA')
    client.send(given.get('HEADER', HEADER) + '\r\n' + given.get('BODY', 'body\r\n') + '.\r\n')
    answer = client.reply()
    if answer.code >= 400:
        raise Objection('EOM', answer)
    return answer


def decide(client, case):
    """The objection, or None; and the id of what was accepted, or None."""
    try:
        return None, re.search(r'Accepted as (\S+)', play(client, case).lines[-1]).group(1)
    except Objection as objection:
        return objection, None


def check_decision(case, objection):
    if case.decision in ('ACCEPT', 'DISCARD-OR-QUARANTINE'):
        assert objection is None, f'{objection}'
        return
    assert objection is not None, 'it was accepted'
    assert case.at in ('*', objection.at), f'wanted it at {case.at}: {objection}'
    if case.decision == 'CUSTOM':
        assert objection.answer.lines == case.custom, f'{objection}'
    else:
        assert objection.answer.code // 100 == (5 if case.decision == 'REJECT' else 4), f'{objection}'


def check_output(case, sent):
    sender, recipients, body = sent
    message = body.decode()
    header, _, content = message.partition('\r\n\r\n')
    header = re.sub(r'^Received:.*\r\n([ \t].*\r\n)*', 'Received: placeholder\r\n', header + '\r\n')
    wanted_to = [re.match(r'<(.*)>', rest).group(1) for word, rest in case.output if word == 'TO']
    assert not wanted_to or sorted(recipients) == sorted(wanted_to), f'sent to {recipients}'
    for word, rest in case.output:
        if word == 'FROM':
            assert sender == re.match(r'<(.*)>', rest).group(1), f'sent from {sender}'
        if word == 'HEADER':
            assert header == rest, f'header:\n{header}\nwanted:\n{rest}'
        if word == 'BODY':
            assert content == rest, f'body: {content!r}'


def play_file(path, server, hop):
    with open(path, encoding='utf-8') as file:
        cases = parse(file.read())
    door = 'submission' if any(step[0] == 'AUTH' for step in cases[0].steps) else 'smtp'
    with Client(server.address(door)) as client:
        for index, case in enumerate(cases):
            before = len(hop.messages)
            if index == 0:
                play_prelude(client, case, server)
            objection, number = decide(client, case)
            check_decision(case, objection)
            if case.decision == 'ACCEPT':
                wait_until('the message at the next hop', lambda: len(hop.messages) > before)
                check_output(case, hop.messages[before])
            elif case.decision == 'DISCARD-OR-QUARANTINE':
                check_kept_back(server, number)
                assert len(hop.messages) == before, 'it was sent on'


def check_kept_back(server, number):
    """Nothing is sent on: it is held, or the journal says that it was thrown away."""
    def kept():
        _, text, _ = server.run('queue', '--json')
        return (any(event.get('message') == number for event in server.events('message.discarded')) or
                any(row['message'] == number and row['state'] == 'held' for row in json.loads(text)))
    wait_until('it to be held or discarded', kept)


def play_folder(checks, folder, name):
    hash_ = subprocess.run(['openssl', 'passwd', '-6', 'password1'], capture_output=True, text=True, check=True).stdout.strip()
    with NextHop(lambda hop: (hop.say('220 hop'), hop.serve())) as hop, MilterServer(MILTERS[name]) as milters:
        users = ''
        if name == 'auth':
            users = 'domain "example.com" { users = "file:{folder}/logins"  deliver = "maildir:{folder}/mail/{user}" }\nauth { without_tls = yes }\n'
        extra = (f'{users}filter test {{ speaks = milter  address = "{milters.address}" }}\n'
                 f'relay {{ from = {{"127.0.0.0/8"}}  via = "smtp:127.0.0.1:{hop.port}" }}\n')
        server = Server(extra=extra, start=False)
        with open(os.path.join(server.folder, 'logins'), 'w', encoding='utf-8') as file:
            file.write(f'user1:{hash_}\n')
        with server:
            server.start()
            for path in sorted(glob.glob(os.path.join(folder, '*.testcase'))):
                checks.run(f'{name}/{os.path.basename(path)[:-9]}', lambda path=path: play_file(path, server, hop))
        checks.ok(f'{name}: the milter understood everything', not milters.faults, milters.faults)


def main():
    root = shared('vectors', 'milter-go')
    if not root:
        return 0
    checks = Checks()
    for name in sorted(MILTERS):
        play_folder(checks, os.path.join(root, name), name)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
