#!/usr/bin/env python3
"""./run fuzz list | slice | all SECONDS | NAME SECONDS | merge [NAME...]

Builds the libFuzzer targets with ASan and UBSan and runs them. The corpus of a target lies in tests/fuzz/corpus/NAME and is
played first; what is found anew is kept under build-fuzz/corpus. `merge` brings what of that adds coverage into the
repository, minimised and bounded. Totals of all runs since the build folder was made lie in build-fuzz/totals.json;
--write puts them into docs/fuzzing.md.

`slice` is for a test run that has to end the same way each time: every corpus is played, then each target does a fixed
number of executions from a fixed seed, and keeps nothing. Exploring is for the others."""
import argparse
import concurrent.futures
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(ROOT, 'build-fuzz')  # --build names another
SOURCES = os.path.join(ROOT, 'tests', 'fuzz')
CORPUS_BYTES, CORPUS_FILES, INPUT_BYTES = 48 * 1024, 64, 4096  # of one target in the repository
# After its corpus a target of the slice does so many executions more: what takes about a second, for most the first number.
SLICE_EXECUTIONS = 5000
SLICE_OF_SLOW = {'bounce': 1000, 'clamd': 2000, 'config_include': 2000, 'deliver': 500, 'deliver_tls': 500, 'dkim_sign': 400, 'explain': 2000,
                 'filters': 1500, 'lmtp': 1500, 'login_talk': 1500, 'receive': 700, 'recovery': 60, 'scram': 1500, 'spool': 1500,
                 'starttls': 500, 'tls_store': 300, 'vouched': 1500}
SLICE_SEED, SLICE_GUARD_S = 451, 120  # the guard ends a target on a machine that stands still, not a slice that is well
DICTIONARY_OF = {'deliver_tls': 'deliver', 'dkim_sign': 'dkim', 'starttls': 'receive'}  # those without one of their own
LOCK = threading.Lock()


def targets():
    return sorted(os.path.basename(path)[5:-2] for path in glob.glob(os.path.join(SOURCES, 'fuzz_*.c')))


def build(names):
    environment = {**os.environ, 'CC': 'clang'}
    if not os.path.exists(os.path.join(BUILD, 'build.ninja')):
        made = subprocess.run(['meson', 'setup', BUILD, ROOT, '-Dfuzz=true', '-Db_sanitize=address,undefined', '-Db_lundef=false',
                               '-Dbuildtype=debugoptimized'], env=environment, capture_output=True, text=True)
        if made.returncode:
            sys.exit(made.stdout + made.stderr)
    with open(os.path.join(BUILD, 'build.ninja'), encoding='utf-8') as file:
        known = file.read()
    if any(f'build tests/fuzz/fuzz_{name}:' not in known for name in names):  # new since
        subprocess.run(['meson', 'setup', '--reconfigure', '-Dfuzz=true', BUILD, ROOT], env=environment, stdout=subprocess.DEVNULL, check=True)
    made = subprocess.run(['ninja', '-C', BUILD, *(f'tests/fuzz/fuzz_{name}' for name in names)], capture_output=True, text=True)
    if made.returncode:
        sys.exit('\n'.join(made.stdout.split('\n')[-40:]))


def seeds_of(name):
    folder = os.path.join(SOURCES, 'corpus', name)
    return [folder] if os.path.isdir(folder) else []


def without_chance():
    """What lets a program's addresses be the same each time, where the machine allows that: libFuzzer's choices hang on them, too."""
    fixed = ['setarch', '--addr-no-randomize']
    try:
        return fixed if subprocess.run([*fixed, 'true'], stderr=subprocess.DEVNULL).returncode == 0 else []
    except FileNotFoundError:
        return []


def command(name, folders, *options):
    dictionary = os.path.join(SOURCES, DICTIONARY_OF.get(name, name) + '.dict')
    if os.path.exists(dictionary):
        options += (f'-dict={dictionary}',)
    return [os.path.join(BUILD, 'tests', 'fuzz', 'fuzz_' + name), *folders, '-timeout=60', '-rss_limit_mb=2048', *options]


def run(name, folders, *options, before=()):
    """Runs one target, with what is to stand before its command. Returns (executions, edges, features, seconds), or None when it found something."""
    findings = os.path.join(BUILD, 'findings', name)
    os.makedirs(findings, exist_ok=True)
    began = time.monotonic()
    done = subprocess.run([*before, *command(name, folders, f'-artifact_prefix={findings}/', '-print_final_stats=1', *options)], cwd=BUILD,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    took, said = time.monotonic() - began, done.stdout.decode(errors='replace')
    with open(os.path.join(BUILD, 'findings', name + '.log'), 'w', encoding='utf-8') as log:
        log.write(said)
    if done.returncode:
        with LOCK:
            print('\n'.join(said.split('\n')[-40:]))
            print(f'not ok {name}: its finding is in {os.path.relpath(findings, ROOT)}/', flush=True)
        return None
    executions = int(re.search(r'stat::number_of_executed_units: *(\d+)', said).group(1))
    edges, features = re.findall(r'cov: (\d+) ft: (\d+)', said)[-1]
    with LOCK:
        print(f'ok {name}: {executions} executions, {edges} edges, {features} features in {took:.1f} s', flush=True)
    return executions, int(edges), int(features), took


def explore(name, seconds):
    """For so long, from what was found before; what is found is kept."""
    found = os.path.join(BUILD, 'corpus', name)
    os.makedirs(found, exist_ok=True)
    seen = run(name, [found, *seeds_of(name)], f'-max_total_time={seconds}')
    if seen:
        with LOCK:
            note(name, seen[0], seconds, seen[1], seen[2])
    return seen


def play_slice(name):
    """The same executions each time: the corpus in the order of its names, then a fixed number from a fixed seed. It puts nothing
    down, and takes no hints from what the target compares: nonces and keys differ from run to run."""
    inputs = [os.path.join(folder, file) for folder in seeds_of(name) for file in sorted(os.listdir(folder))]
    executions = len(inputs) + 1 + SLICE_OF_SLOW.get(name, SLICE_EXECUTIONS)  # libFuzzer counts all
    with tempfile.TemporaryDirectory() as nothing, tempfile.NamedTemporaryFile('w') as listed:
        listed.write(','.join(inputs))
        listed.flush()
        return run(name, [nothing], *([f'-seed_inputs=@{listed.name}'] if inputs else []), f'-runs={executions}', f'-seed={SLICE_SEED}',
                   '-reload=0', '-use_cmp=0', '-use_memmem=0', f'-max_total_time={SLICE_GUARD_S}', before=without_chance())


def totals():
    try:
        with open(os.path.join(BUILD, 'totals.json'), encoding='utf-8') as file:
            return json.load(file)
    except FileNotFoundError:
        return {}


def note(name, executions, seconds, edges, features):
    rows = totals()
    row = rows.setdefault(name, {'executions': 0, 'seconds': 0, 'edges': 0, 'features': 0})
    row['executions'] += executions
    row['seconds'] += seconds
    row['edges'], row['features'] = max(edges, row['edges']), max(features, row['features'])
    with open(os.path.join(BUILD, 'totals.json'), 'w', encoding='utf-8') as file:
        json.dump(rows, file, indent=1, sort_keys=True)


def merge(name):
    """The corpus in the repository becomes some of the smallest inputs that together reach the most, within its bounds. What
    was put there by hand stays, above all what a finding left, called found-*."""
    folder, made = os.path.join(SOURCES, 'corpus', name), os.path.join(BUILD, 'merged', name)
    shutil.rmtree(made, ignore_errors=True)
    os.makedirs(made)
    os.makedirs(os.path.join(BUILD, 'corpus', name), exist_ok=True)
    subprocess.run(command(name, [made, *seeds_of(name), os.path.join(BUILD, 'corpus', name)], '-merge=1', f'-max_len={INPUT_BYTES}'),
                   cwd=BUILD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    os.makedirs(folder, exist_ok=True)
    kept = {file for file in os.listdir(folder) if not re.fullmatch(r'[0-9a-f]{40}', file)}
    for file in set(os.listdir(folder)) - kept:
        os.remove(os.path.join(folder, file))
    room = CORPUS_BYTES - sum(os.path.getsize(os.path.join(folder, file)) for file in kept)
    count = len(kept)
    paths = sorted(glob.glob(os.path.join(made, '*')), key=lambda path: (os.path.getsize(path), path))
    # From small to large evenly: small ones are quick, large ones reach the most.
    wanted = max(CORPUS_FILES - count, 1)
    chosen = paths if len(paths) <= wanted else [paths[i * len(paths) // wanted] for i in range(wanted)] + [paths[-1]]
    for path in reversed(chosen):
        size = os.path.getsize(path)
        if count >= CORPUS_FILES or size > min(room, INPUT_BYTES):
            continue
        shutil.copy(path, os.path.join(folder, os.path.basename(path)))
        room -= size
        count += 1
    print(f'{name}: {count} inputs, {CORPUS_BYTES - room} octets', flush=True)


def document():
    rows = totals()
    lines = ['| target | reads | executions | seconds | edges | features | corpus | found |', '|---|---|---|---|---|---|---|---|']
    for name in targets():
        row = rows.get(name, {'executions': 0, 'seconds': 0, 'edges': 0, 'features': 0})
        folder = os.path.join(SOURCES, 'corpus', name)
        files = os.listdir(folder) if os.path.isdir(folder) else []
        found = sum(file.startswith('found-') for file in files)
        lines.append(f'| {name} | {about(name)} | {row["executions"]:,} | {row["seconds"]:,} | {row["edges"]:,} | {row["features"]:,} '
                     f'| {len(files)} | {found or ""} |')
    executions = sum(rows[name]['executions'] for name in targets() if name in rows)
    seconds = sum(rows[name]['seconds'] for name in targets() if name in rows)
    lines += ['', f'Together {executions:,} executions in {seconds:,} s.', '']
    path = os.path.join(ROOT, 'docs', 'fuzzing.md')
    text = open(path, encoding='utf-8').read()
    with open(path, 'w', encoding='utf-8') as out:
        out.write(text[:text.index('| target |')] + '\n'.join(lines))


def about(name):
    """The first sentence of the comment that a target begins with, up to its colon or full stop."""
    text = open(os.path.join(SOURCES, f'fuzz_{name}.c'), encoding='utf-8').read()
    comment = re.match(r'/\*(.*?)\*/', text, re.S).group(1)
    words = ' '.join(word for word in comment.split() if word != '*')
    return re.split(r'[.:;](?: |$)', words, maxsplit=1)[0].replace('|', '/')


def main():
    global BUILD
    parser = argparse.ArgumentParser(prog='./run fuzz', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', nargs='?', default='list', help='list, slice, all, merge, or the name of a target')
    parser.add_argument('rest', nargs='*', help='seconds, each; for merge: names')
    parser.add_argument('--jobs', type=int, default=os.cpu_count() or 1, help='targets at once')
    parser.add_argument('--write', action='store_true', help='put the totals into docs/fuzzing.md')
    parser.add_argument('--build', type=os.path.abspath, default=BUILD, help='a build folder made with -Dfuzz=true')
    options = parser.parse_args()
    BUILD = options.build
    if options.what == 'list':
        print('\n'.join(targets()))
        return 0
    if options.what == 'merge':
        names = options.rest or targets()
        build(names)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(merge, names))
        return 0
    several = options.what in ('all', 'slice')
    names = targets() if several else [options.what]
    if not set(names) <= set(targets()):
        sys.exit(f'fuzz: no target is called {options.what}; ./run fuzz list names them')
    seconds = int(options.rest[0]) if options.rest else 60
    build(names)
    one = play_slice if options.what == 'slice' else lambda name: explore(name, seconds)
    names = sorted(names, key=lambda name: name not in SLICE_OF_SLOW)  # the slow ones first
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        passed = sum(result is not None for result in pool.map(one, names))
    if options.write:
        document()
    if several:
        print(f'{passed} passed, {len(names) - passed} failed')
    return 0 if passed == len(names) else 1


if __name__ == '__main__':
    sys.exit(main())
