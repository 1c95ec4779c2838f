#!/bin/sh
# Compiles each file here with gcc and the house's flags: all must fail, but for compiles.c.
set -u
cd "$(dirname "$0")"
passed=0 failed=0
for file in *.c; do
    said=$(gcc -std=gnu17 -D_GNU_SOURCE -Wall -Wextra -Werror -Wswitch-enum -I ../../src -O1 -c -o /dev/null "$file" 2>&1)
    status=$?
    case $file:$status in
    compiles.c:0) verdict=ok ;;
    compiles.c:*) verdict="not ok" ;;
    *:0) verdict="not ok" ;;
    *) verdict=ok ;;
    esac
    # A refusal has to be for the reason the file is about, not for a missing header.
    case $said in *'No such file'*) verdict="not ok" ;; esac
    if [ "$verdict" = ok ]; then passed=$((passed + 1)); else failed=$((failed + 1)); echo "$said"; fi
    echo "$verdict $file"
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
