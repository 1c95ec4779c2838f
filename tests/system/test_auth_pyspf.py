#!/usr/bin/env python3
"""SPF against pyspf: the scenarios of RFC 7208's suite that a name server can serve, and generated zones, each asked of both.
Where the two differ the case is named with its reason, or the test fails. SKIP without python3-spf."""
import json
import os
import random
import subprocess
import sys

try:
    import spf
except ImportError:
    if sys.executable != '/usr/bin/python3' and os.path.exists('/usr/lib/python3/dist-packages/spf.py'):
        os.execv('/usr/bin/python3', ['/usr/bin/python3', *sys.argv])
    print('ok pyspf # SKIP python3-spf is not installed\n0 passed, 0 failed, 1 skipped')
    raise SystemExit(0)

import logging

from lib import HOLDFAST, Checks, shared
from lib_dns import EMPTY, NXDOMAIN, SERVFAIL, ScriptedDns, pack_data

logging.disable(logging.CRITICAL)
SEED = int(os.environ.get('HOLDFAST_SEED', '7208'))
ZONES, ASKED_OF_EACH = 60, 5
PY_TYPES = {'A', 'AAAA', 'MX', 'TXT', 'PTR'}


class World:
    """One zone for both: a name server for us, a table for pyspf."""

    def __init__(self):
        self.server = ScriptedDns({})

    def load(self, rows):
        self.rows = rows
        self.server.script = dict(rows)

    def table(self, name, kind, strict=True, timeout=20):
        """In place of pyspf's own DNSLookup."""
        name = name.lower().rstrip('.')
        row = self.rows.get((name, kind), self.rows.get((name, None), NXDOMAIN))
        if row == SERVFAIL:
            raise spf.TempError('DNS SERVFAIL')
        if row in (EMPTY, NXDOMAIN) or kind not in PY_TYPES:
            return []
        return [((name, kind), self.value(kind, one)) for one in ([row] if isinstance(row, (str, bytes)) else row)]

    @staticmethod
    def value(kind, text):
        if kind == 'MX':
            preference, host = text.split()
            return int(preference), host
        if kind == 'TXT':
            return (text if isinstance(text, bytes) else text.encode(),)
        return text

    def theirs(self, ip, helo, sender):
        spf.DNSLookup = self.table
        asked = spf.query(i=ip, s=sender, h=helo, receiver='mx.example', strict=True, querytime=20)
        result, _, self.words = asked.check()
        return result

    def ours(self, ip, helo, sender):
        done = subprocess.run([HOLDFAST, 'spf', '--ip', ip, '--helo', helo, '--from', sender, '--json', '--resolver',
                               f'127.0.0.1@{self.server.port}'], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise AssertionError(f'exit {done.returncode}: {done.stderr[:200]}')
        return json.loads(done.stdout)

    def close(self):
        self.server.close()


# ------------------------------------------------------------------ the suite of RFC 7208

def suite_rows(zonedata):
    """{(name, type): row}, or None when a server of ours cannot say it (aliases, time-outs, names beyond DNS)."""
    rows = {}
    for name, records in zonedata.items():
        name = name.lower().rstrip('.')
        rows.setdefault((name, None), EMPTY)
        has_txt = any(isinstance(one, dict) and 'TXT' in one for one in records)
        for record in records:
            if not isinstance(record, dict):
                return None
            for kind, value in record.items():
                if value == 'TIMEOUT' or kind == 'CNAME':
                    return None
                if kind == 'SPF' and has_txt or value == 'NONE':
                    continue
                add(rows, name, 'TXT' if kind == 'SPF' else kind, value)
    return rows


def add(rows, name, kind, value):
    if kind == 'MX':
        value = f'{value[0]} {value[1] or "."}'
    if kind == 'TXT':
        value = (value if isinstance(value, str) else ''.join(value)).encode('latin-1', 'replace')
    if kind == 'AAAA' or kind in PY_TYPES:
        pack_data(kind, value)
        rows[(name, kind)] = (*rows.get((name, kind), ()), value)


def suite(checks, world):
    path = shared('vectors', 'spf-rfc7208', 'rfc7208-tests.json')
    if not path:
        checks.skip('the suite of RFC 7208', 'see above')
        return
    same, served, unlike = 0, 0, []
    for scenario in json.load(open(path)):
        try:
            rows = suite_rows(scenario['zonedata'])
        except (ValueError, UnicodeError):
            rows = None
        if rows is None:
            continue
        world.load(rows)
        for name, case in scenario['tests'].items():
            if not case.get('helo') or '\0' in case.get('mailfrom', ''):
                continue
            served += 1
            world.server.script = dict(rows)
            ours, theirs = world.ours(case['host'], case['helo'], case.get('mailfrom') or '<>')['result'], world.theirs(
                case['host'], case['helo'], case.get('mailfrom', ''))
            right = case['result'] if isinstance(case['result'], list) else [case['result']]
            if ours == theirs or (ours in right and theirs in right):
                same += 1
            else:
                unlike.append(f'{name}: {ours} here, {theirs} there, {right} is right')
    checks.ok(f'the suite of RFC 7208: {same} of {served} alike', served > 100 and not unlike, '; '.join(unlike[:5]))


# ------------------------------------------------------------------ generated zones

NAMES = [f'{word}.example' for word in ('a', 'b', 'c', 'd', 'e', 'f', 'sub.a', 'no', 'sick')]


def make_term(dice, name):
    mark = dice.choice(['', '', '+', '-', '~', '?'])
    other = dice.choice(NAMES)
    length = dice.choice(['', '', '/24', '/32', '/0', '//64', '/16//48', '/33', '/'])
    macro = dice.choice(['%{i}', '%{ir}', '%{s}', '%{l}', '%{d}', '%{d2}', '%{d1r}', '%{h}', '%{v}', '%{o}', '%{lr-}', '%%', '%_', '%{x}', '%'])
    return mark + dice.choice([f'a{length}', f'a:{other}{length}', f'mx{length}', f'mx:{other}', f'include:{other}', f'include:{other}',
                               f'exists:{macro}.{other}', f'exists:{other}', 'ip4:192.0.2.0/24', 'ip4:192.0.2.1', 'ip4:1.2.3', 'ip4:198.51.100.7/31',
                               'ip6:2001:db8::/32', 'ip6:2001:db8::1/129', 'all', f'ptr:{other}', 'ptr', 'nonsense', 'A:' + other])


def make_record(dice, name):
    terms = [make_term(dice, name) for _ in range(dice.choice([0, 1, 1, 2, 3, 6]))]
    if dice.random() < 0.2:
        terms.insert(dice.randrange(len(terms) + 1), f'redirect={dice.choice(NAMES)}')
    if dice.random() < 0.1:
        terms.insert(dice.randrange(len(terms) + 1), dice.choice(['exp=exp.example', 'unknown=x', 'redirect=', 'exp=', 'redirect=a.example']))
    if dice.random() < 0.5:
        terms.append(dice.choice(['-all', '~all', '?all', '+all']))
    head = 'v=spf1' if dice.random() < 0.95 else dice.choice(['V=SPF1', 'v=spf10', 'v=spf1;', ' v=spf1'])
    return ' '.join([head, *terms]) + dice.choice(['', '', '', ' '])


def make_zone(dice):
    rows = {('sick.example', None): SERVFAIL}
    for name in NAMES[:-2]:
        rows[(name, None)] = EMPTY
        if dice.random() < 0.9:
            rows[(name, 'TXT')] = make_record(dice, name)
        if dice.random() < 0.05:
            rows[(name, 'TXT')] = (make_record(dice, name), make_record(dice, name), 'something else')
        if dice.random() < 0.6:
            rows[(name, 'A')] = tuple(dice.sample(['192.0.2.1', '192.0.2.77', '198.51.100.7', '203.0.113.1'], dice.choice([1, 2])))
        if dice.random() < 0.3:
            rows[(name, 'AAAA')] = '2001:db8::1'
        if dice.random() < 0.5:
            rows[(name, 'MX')] = tuple(f'{10 + at} {dice.choice(NAMES[:-1])}.' for at in range(dice.choice([1, 1, 2, 3])))
    rows[('1.2.0.192.in-addr.arpa', 'PTR')] = dice.choice(['a.example.', 'sub.a.example.', 'no.example.'])
    return rows


def reason_of(ours, theirs, words):
    """Why we may differ; None: we may not. `words` are pyspf's."""
    if theirs == 'permerror' and 'recursion' in words:
        return 'pyspf refuses a record that includes itself as it reads it; only the limit of look-ups ends that (RFC 7208 4.6.4)'
    if theirs == 'permerror' and 'Void lookup limit' in words:
        return 'pyspf counts each question without an answer; here it is the terms that are counted, as RFC 7208 4.6.4 has it'
    if ours['result'] == 'permerror' and theirs == 'temperror':
        return 'a record in error is in error before anything is asked (RFC 7208 4.6)'
    return None


def generated(checks, world):
    dice = random.Random(SEED)
    unlike, named, seen = [], {}, {}
    for number in range(ZONES):
        rows = make_zone(dice)
        world.load(rows)
        for _ in range(ASKED_OF_EACH):
            ip = dice.choice(['192.0.2.1', '192.0.2.77', '198.51.100.7', '203.0.113.9', '2001:db8::1'])
            sender, helo = f'{dice.choice(["joe", "x-y", "joe+tag"])}@{dice.choice(NAMES[:6])}', dice.choice(NAMES)
            ours, theirs = world.ours(ip, helo, sender), world.theirs(ip, helo, sender)
            seen[theirs] = seen.get(theirs, 0) + 1
            if ours['result'] == theirs:
                continue
            reason = reason_of(ours, theirs, world.words)
            if reason:
                named[reason] = named.get(reason, 0) + 1
            else:
                unlike.append(f'zone {number} (HOLDFAST_SEED={SEED}) {ip} {helo} {sender}: {ours["result"]} ({ours["problem"]}; '
                              f'{ours["mechanism"]}) here, {theirs} there: {json.dumps({f"{name} {kind}": row for (name, kind), row in rows.items()})}')
    for reason, count in named.items():
        print(f'# {count} differ: {reason}')
    print(f'# results seen: {seen}')
    checks.ok(f'{ZONES * ASKED_OF_EACH} generated questions', not unlike and len(seen) >= 5, '\n'.join(unlike[:3]))


def main():
    checks, world = Checks(), World()
    suite(checks, world)
    generated(checks, world)
    world.close()
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
