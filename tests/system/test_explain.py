#!/usr/bin/env python3
"""`holdfast explain` as it is typed: a reply, a cause, a bounce from a file and from a pipe; and its accuracy (see
explain_accuracy.py), which must not fall under what docs/explaining.md promises."""
import json
import os
import subprocess
import sys

import explain_accuracy
from lib import HOLDFAST, Checks, shared

BOUNCE = b'''From: MAILER-DAEMON@a.example
To: me@a.example
Subject: failure notice

<you@b.example>:
Remote host said: 552 5.2.2 Mailbox over quota

--- Below this line is a copy of the message.

Return-Path: <me@a.example>
'''
MEMBERS = {'cause', 'side', 'kind', 'confidence', 'reason', 'meaning', 'advice'}


def run(*words, given=b''):
    done = subprocess.run([HOLDFAST, 'explain', *words], input=given, capture_output=True, timeout=30)
    return done.returncode, done.stdout.decode()


def guarded(checks):
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'explain_replies.tsv'), encoding='utf-8') as file:
        rows = [line.rstrip('\n').split('\t') for line in file if not line.startswith('#')]
    wrong = [(reply, wanted, got) for reply, wanted in rows
             for got in [explain_accuracy.ask(reply)['reason']] if got != wanted]
    checks.ok(f'{len(rows)} replies of many servers', len(rows) > 190 and not wrong, str(wrong[:5]))


def main():
    checks = Checks()
    status, text = run('451 4.7.1 Greylisted', '--json')
    answer = json.loads(text)
    checks.ok('a reply', status == 0 and MEMBERS <= answer.keys() and answer['cause'] == 'greylisted' and
              answer['kind'] == 'temporary', text)
    status, text = run('550', '5.1.1', 'no', 'such', 'user', 'here,', 'sorry,', 'try', 'elsewhere', 'if', 'you', 'can', '--json')
    checks.ok('typed without quotes', status == 0 and json.loads(text)['reason'] == 'userunknown', text)
    status, text = run('550 5.0.0 No', '--stage', 'connect', '--json')
    checks.ok('with its stage', status == 0 and json.loads(text)['reason'] == 'blocked', text)
    status, text = run('filter.timeout', '--json')
    answer = json.loads(text)
    checks.ok('a cause of ours', status == 0 and MEMBERS <= answer.keys() and answer['side'] == 'ours', text)
    status, text = run('451')
    checks.ok('451 for a reader', status == 0 and 'retry by schedule' in text and 'a receiver:' in text and 'dependency' in text, text)
    status, text = run('--mail', '-', '--json', given=BOUNCE)
    answer = json.loads(text)
    checks.ok('a bounce from a pipe', status == 0 and MEMBERS <= answer.keys() and answer['reason'] == 'mailboxfull' and
              answer['recipients'][0]['recipient'] == 'you@b.example', text)
    status, text = run('--mail', '-', given=BOUNCE + b'\x1b[2J\x00\xff')
    checks.ok('nothing moves the cursor', status == 0 and '\x1b' not in text, text)
    status, text = run('--mail', '/nonexistent/bounce')
    checks.ok('no such file', status == 2)
    guarded(checks)
    folder = shared('vectors', 'bounce-sisimai')
    if folder:
        mails, replies, mail_kinds, kinds = explain_accuracy.measure(folder)
        for score, least in ((mails, 85), (replies, 90), (mail_kinds, 97), (kinds, 97)):
            print(score)
            checks.ok(f'{score.name} over {least} %', score.percent() > least, str(score))
    else:
        checks.skipped += 1  # its SKIP line is printed
    return checks.done()


if __name__ == '__main__':
    sys.exit(main())
