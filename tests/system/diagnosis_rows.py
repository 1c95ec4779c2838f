#!/usr/bin/env python3
"""The fault matrix as an operator reads it: runs the tests of diagnosis and notes, fault by fault, the command that was typed and the
cause, the side and the steps that it printed.

usage: HOLDFAST=build/holdfast HOLDFAST_BUILD=build diagnosis_rows.py [--write]     --write: into docs/diagnosis.md
"""
import os
import re
import sys

import lib
import test_diagnosis
import test_diagnosis_faults
import test_diagnosis_host
import test_diagnosis_more
import test_diagnosis_rest
import test_diagnosis_tls

PARTS = (test_diagnosis, test_diagnosis_faults, test_diagnosis_host, test_diagnosis_tls, test_diagnosis_more, test_diagnosis_rest)
DOCS = os.path.join(lib.ROOT, 'docs', 'diagnosis.md')
INCIDENT = re.compile(r'^[0-9A-Z]{13}  \w+ +(?:receiving|sending): (\S+) \(side: (\w+)\)', re.M)
ATTEMPT = re.compile(r'cause (\S+) \((\w+)\)')
HOST = re.compile(r'^(\S+) \(side: (\w+)\)  at spool', re.M)
ROUTINE = ('holdfast why --in', 'holdfast retry', 'holdfast report', 'holdfast why --transcript')


class Notes:
    """What was typed and printed, and the first of it in each test that names a cause."""

    def __init__(self):
        self.printed, self.rows, self.name = [], {}, None

    def typed(self, words, text):
        self.printed.append((words, text))

    def seen(self, text):
        found = INCIDENT.search(text) or HOST.search(text) or ATTEMPT.search(text)
        words = next((words for words, printed in reversed(self.printed) if text and text in printed), None)
        if not found or not words or self.name in self.rows:
            return
        steps = test_diagnosis.steps(text)
        particular = [step for step in steps if not step.startswith(ROUTINE)]
        self.rows[self.name] = (words, found.group(1), found.group(2), particular[:2] or steps[:1])


def plain(text):
    text = re.sub(r'/tmp/holdfast-[^\s/]+(?:/spool)?', 'SPOOL', text)
    text = re.sub(r'\b(?=[A-Z]*\d)[0-9A-Z]{13}\b', 'ID', text)
    return re.sub(r'127\.0\.0\.1:\d+', '127.0.0.1:PORT', text)


def watch(notes):
    run, judged, sees = lib.Server.run, lib.Checks.run, test_diagnosis.sees

    def noted_run(server, *words):
        code, out, err = run(server, *words)
        notes.typed(' '.join(('holdfast', *words)), out + err)
        return code, out, err

    def noted_check(checks, name, test):
        notes.name, notes.printed = name, []
        return judged(checks, name, test)

    def noted_sees(text, *words):
        sees(text, *words)
        notes.seen(text)
    lib.Server.run, lib.Checks.run = noted_run, noted_check
    for part in PARTS:
        part.sees = noted_sees


def table(notes):
    lines = ['| fault | typed | cause | side | told to run |', '|---|---|---|---|---|']
    for name, (words, cause, side, steps) in notes.rows.items():
        told = ', '.join(f'`{plain(step)}`' for step in steps)
        lines.append(f'| {name} | `{plain(words)}` | `{cause}` | {side} | {told} |')
    return '\n'.join(lines)


def main():
    notes = Notes()
    watch(notes)
    failed = sum(part.main() for part in PARTS)
    text = table(notes)
    print(text)
    if '--write' in sys.argv and not failed:
        with open(DOCS) as file:
            page = file.read()
        page = re.sub(r'(<!-- rows -->\n).*?(\n<!-- end rows -->)', lambda found: found.group(1) + text + found.group(2), page, flags=re.S)
        with open(DOCS, 'w') as file:
            file.write(page)
    return failed


if __name__ == '__main__':
    raise SystemExit(main())
