#!/usr/bin/env python3
"""Plays every tests/talk/*.talk over a real socket, as written and with a write for every byte."""
import glob
import os

from lib import ROOT, Checks, Server
from lib_talk import Talk, play

LIMITS = 'message_size = 64K  recipients = 5  errors = 6  hops = 100'


def main():
    checks = Checks()
    with Server(limits=LIMITS) as server:
        for path in sorted(glob.glob(os.path.join(ROOT, 'tests/talk/*.talk'))):
            talk = Talk(path)
            if 'tls' in talk.options() and not server.certificate:
                checks.skip(talk.name, 'no openssl command to make a certificate')
                continue
            checks.run(talk.name, lambda: play(talk, server))
            if 'whole' not in talk.options():
                checks.run(talk.name + ', byte by byte', lambda: play(talk, server, one_by_one=True))
        checks.ok('the server is still there', server.alive())
        checks.run('it stops when asked', lambda: check_stop(server))
    return checks.done()


def check_stop(server):
    code = server.stop()
    assert code == 0, f'exit code {code}'


if __name__ == '__main__':
    raise SystemExit(main())
