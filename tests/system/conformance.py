#!/usr/bin/env python3
"""Prints which case of which corpus passes, and where we differ and why: `./run conformance`. With --write it makes
docs/conformance.md of it. The unit programs test_*_vectors do the work; their lines are

    corpus NAME: N passed, N differ, N failed
    differs NAME: CASE: REASON
    not ok ...
    N passed, N failed                     (programs of one corpus print only this)
"""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('HOLDFAST_BUILD', os.path.join(ROOT, 'build'))
SHARED = os.environ.get('HOLDFAST_SHARED', os.path.join(ROOT, '..', 'shared'))

# (program, what it runs when it does not say so itself)
PROGRAMS = (('spf_vectors', 'spf-rfc7208'), ('dkim_vectors', 'dkim-chasquid, dkim-dkimpy, rspamd 116_dkim'), ('arc_vectors', 'arc'),
            ('auth_vectors', ''), ('dane_vectors', ''))
WHAT = {
    'spf-rfc7208': 'SPF: the test suite of RFC 7208 (openspf, pyspf)',
    'dkim-chasquid, dkim-dkimpy, rspamd 116_dkim': 'DKIM: chasquid, dkimpy (examples of RFC 6376 and 8463), rspamd',
    'arc': 'ARC: ValiMail, validation and sealing',
    'dmarc-mailauth': 'DMARC: mailauth',
    'rspamd 115_dmarc': 'DMARC: rspamd',
    'rspamd 117_spf': 'SPF: rspamd',
    'rspamd 321_arc_check': 'ARC: rspamd',
    'authres-go-msgauth': 'Authentication-Results: go-msgauth',
    'mta-sts-chasquid': 'MTA-STS patterns: chasquid',
    'dane-openssl': 'DANE: OpenSSL (usages 0 and 1 are unusable for SMTP, RFC 7672 3.1.3)',
}
# What those programs check for by themselves, with the answer we give and why.
BY_DESIGN = {
    'dkim-chasquid, dkim-dkimpy, rspamd 116_dkim': (
        ('chasquid 09-limited_body', 'l= leaves a part of the body unsigned: "policy", not "pass" (RFC 6376 8.2)'),
        ('rspamd limits', 'the sizes of h= and of keys beyond which nothing is verified are each implementation\'s (RFC 6376 6.1.1, 8.12)')),
}


def run(program):
    path = os.path.join(BUILD, 'tests', 'unit', 'test_' + program)
    done = subprocess.run([path], capture_output=True, text=True, timeout=600, env={**os.environ, 'HOLDFAST_SHARED': SHARED})
    return done.stdout


def table():
    """([corpus, passed, differ, failed], [(corpus, case, reason)], lines that failed)."""
    rows, reasons, failures = [], [], []
    for program, name in PROGRAMS:
        text = run(program)
        named = re.findall(r'^corpus (.+): (\d+) passed, (\d+) differ, (\d+) failed$', text, re.M)
        if not named:
            closing = re.findall(r'^(\d+) passed, (\d+) failed', text, re.M)[-1]
            named = [(name, closing[0], '0', closing[1])]
        rows += [[corpus, int(passed), int(differ), int(failed)] for corpus, passed, differ, failed in named]
        found = re.findall(r'^differs ([^:\n]+): (.*?): (.*)$', text, re.M)
        reasons += found
        failures += re.findall(r'^not ok .*$', text, re.M)
    for corpus, cases in BY_DESIGN.items():
        reasons += [(corpus, case, reason) for case, reason in cases]
    return rows, reasons, failures


def markdown(rows, reasons):
    lines = ['# Conformance', '', 'Made by `./run conformance --write` from material that others published; what each corpus is, and where it is from, '
             'is told in its own README. *Differ* counts the cases where we answer otherwise because the standard asks for it.', '',
             '| corpus | what | cases | pass | differ | fail |', '|---|---|---:|---:|---:|---:|']
    for corpus, passed, differ, failed in rows:
        lines.append(f'| {corpus} | {WHAT.get(corpus, "")} | {passed + differ + failed} | {passed} | {differ} | {failed} |')
    lines += ['', '## Where we differ, and why', '', '| corpus | case | reason |', '|---|---|---|']
    lines += [f'| {corpus} | {case} | {reason} |' for corpus, case, reason in reasons]
    return '\n'.join(lines) + '\n'


def main():
    if not os.path.isdir(os.path.join(SHARED, 'vectors')):
        print('SKIP ../shared is absent\n0 passed, 0 failed, 1 skipped')
        return 0
    rows, reasons, failures = table()
    width = max(len(row[0]) for row in rows)
    print(f'{"corpus":{width}}  cases  pass  differ  fail')
    for corpus, passed, differ, failed in rows:
        print(f'{corpus:{width}}  {passed + differ + failed:5}  {passed:4}  {differ:6}  {failed:4}')
    for corpus, case, reason in reasons:
        print(f'differs: {corpus}: {case}: {reason}')
    for line in failures:
        print(line)
    if '--write' in sys.argv:
        with open(os.path.join(ROOT, 'docs', 'conformance.md'), 'w') as file:
            file.write(markdown(rows, reasons))
    print(f'{sum(row[1] + row[2] for row in rows)} passed, {sum(row[3] for row in rows)} failed, 0 skipped')
    return 1 if any(row[3] for row in rows) else 0


if __name__ == '__main__':
    sys.exit(main())
