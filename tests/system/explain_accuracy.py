#!/usr/bin/env python3
"""How often `holdfast explain` agrees with the labelled bounces of others (../shared/vectors/bounce-sisimai):

  (a) a whole mail -> its reason                         (199 rows)
  (b) a reply -> its reason, rows whose text gives the label away left out   (106 rows)
  (c) temporary against permanent: the class of the labelled reply, for (a) and (b)

Usage: explain_accuracy.py [-v] ; -v prints every row that disagrees. Half of the files (by the first byte of the SHA-1 of the
name: even) were read while the rules were written; the other half is reported by itself. The reply given for (b) is the text with
the labelled code and status before it when the text lacks them; pseudo codes of the labelling tool (X.0.9xx) are never given."""
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from lib import HOLDFAST, shared

PSEUDO = re.compile(r'[245]\.0\.9\d\d')


def ask(*words):
    done = subprocess.run([HOLDFAST, 'explain', *words, '--json'], capture_output=True, timeout=60)
    assert done.returncode == 0, (words, done.stderr)
    return json.loads(done.stdout)


def is_read(row):
    return hashlib.sha1(row['file'].encode()).digest()[0] % 2 == 0


def reply_of(row):
    text, code = row['diagnostic_text'], row['smtp_reply']
    status = '' if PSEUDO.match(row['dsn_expected']) else row['dsn_expected']
    before = [code] if code not in text or (status and status not in text) else []
    return ' '.join(before + ([status] if status and status not in text else []) + [text])


def recipient_of(answer, row):
    rows = answer['recipients']
    return rows[min(int(row['rcpt_index']), len(rows)) - 1]


class Score:
    def __init__(self, name):
        self.name, self.right, self.rows, self.wrong = name, [0, 0], [0, 0], []

    def add(self, row, wanted, got):
        half = 0 if is_read(row) else 1
        self.rows[half] += 1
        self.right[half] += wanted == got
        if wanted != got:
            self.wrong.append(f'{row["file"]} {row["rcpt_index"]}: labelled {wanted}, explained {got}')

    def percent(self):
        return 100.0 * sum(self.right) / max(sum(self.rows), 1)

    def __str__(self):
        halves = ', '.join(f'{name} {right}/{rows} ({100.0 * right / max(rows, 1):.1f} %)'
                           for name, right, rows in zip(('read half', 'held out half'), self.right, self.rows))
        return f'{self.name}: {sum(self.right)}/{sum(self.rows)} = {self.percent():.1f} %   [{halves}]'


def measure(folder):
    with open(os.path.join(folder, 'labels.tsv'), encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file, delimiter='\t', quoting=csv.QUOTE_NONE))
    mails = Score('(a) whole mail -> reason')
    replies = Score('(b) reply -> reason, no leak')
    mail_kinds = Score('(c) temporary or permanent, whole mail')
    kinds = Score('(c) temporary or permanent, reply')
    plain = [row for row in rows if row['smtp_reply'] and row['diagnostic_text'] and not row['label_leak'] and
             row['reason'] not in ('feedback', 'vacation', 'delivered')]
    with ThreadPoolExecutor(2) as pool:
        for row, answer in zip(rows, pool.map(lambda row: ask('--mail', os.path.join(folder, 'eml', row['file'])), rows)):
            one = recipient_of(answer, row)
            mails.add(row, row['reason'], one['reason'])
            if row['smtp_reply'][:1] in ('4', '5'):
                mail_kinds.add(row, 'permanent' if row['smtp_reply'][0] == '5' else 'temporary', one['kind'])
        for row, answer in zip(plain, pool.map(lambda row: ask(reply_of(row)), plain)):
            replies.add(row, row['reason'], answer['reason'])
            kinds.add(row, 'permanent' if row['smtp_reply'][0] == '5' else 'temporary', answer['kind'])
    return mails, replies, mail_kinds, kinds


def main():
    folder = shared('vectors', 'bounce-sisimai')
    if not folder:
        return 0
    for score in measure(folder):
        print(score)
        if '-v' in sys.argv:
            print('\n'.join('    ' + line for line in score.wrong))
    return 0


if __name__ == '__main__':
    sys.exit(main())
