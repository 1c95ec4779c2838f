#!/bin/sh
# fuzz.sh list | all SECONDS | NAME SECONDS: builds the libFuzzer targets with ASan and UBSan, and runs them.
# The corpus of a target lies in tests/fuzz/corpus/NAME; what it finds anew is kept under build-fuzz/.
set -eu
cd "$(dirname "$0")/.."
folder=build-fuzz
if [ "${1:-list}" = list ]; then
    for file in tests/fuzz/fuzz_*.c; do name=${file##*/fuzz_}; echo "${name%.c}"; done
    exit 0
fi
name=$1
seconds=${2:-60}
[ -f $folder/build.ninja ] || CC=clang meson setup $folder . -Dfuzz=true -Db_sanitize=address,undefined -Db_lundef=false \
    -Dbuildtype=debugoptimized >$folder.log 2>&1 || { cat $folder.log >&2; exit 1; }
rm -f $folder.log
run_one() {
    ninja -C $folder "tests/fuzz/fuzz_$1" >$folder/ninja.log 2>&1 || { tail -30 $folder/ninja.log >&2; exit 1; }
    mkdir -p "$folder/corpus/$1" "$folder/findings/$1"
    seeds=tests/fuzz/corpus/$1
    dictionary=tests/fuzz/$1.dict
    [ -d "$seeds" ] || seeds=
    set -- "$1" ${seeds:+"$seeds"}
    target=$1
    shift
    [ -f "$dictionary" ] && set -- "$@" "-dict=$dictionary"
    if "$folder/tests/fuzz/fuzz_$target" "$folder/corpus/$target" "$@" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="$folder/findings/$target/" -print_final_stats=1 >"$folder/findings/$target.log" 2>&1; then
        echo "ok $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$folder/findings/$target.log") executions in $seconds s"
    else
        tail -40 "$folder/findings/$target.log"
        echo "not ok $target: its finding is in $folder/findings/$target/"
        return 1
    fi
}
if [ "$name" != all ]; then
    run_one "$name"
    exit
fi
passed=0 failed=0
for file in tests/fuzz/fuzz_*.c; do
    name=${file##*/fuzz_}
    if run_one "${name%.c}"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
