/* Compiler words used everywhere. */
#ifndef BASE_MACROS_H
#define BASE_MACROS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* The caller has to use the result. gcc refuses even a cast to void, which is why gcc is the gate.
 */
#define MUST_USE __attribute__((warn_unused_result))
#define CLEANUP(function) __attribute__((cleanup(function)))
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))
#define UNUSED __attribute__((unused))
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))
#define CONTAINER_OF(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))
#define MIN_OF(a, b) ((a) < (b) ? (a) : (b))
#define MAX_OF(a, b) ((a) > (b) ? (a) : (b))

/* gcc says by a macro which sanitizer it builds with, clang by a feature test. */
#ifdef __has_feature
#define CLANG_HAS_FEATURE(name) __has_feature(name)
#else
#define CLANG_HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || CLANG_HAS_FEATURE(address_sanitizer)
#define UNDER_ADDRESS_SANITIZER 1
#endif
#if defined(__SANITIZE_THREAD__) || CLANG_HAS_FEATURE(thread_sanitizer)
#define UNDER_THREAD_SANITIZER 1
#endif

/* A broken invariant of ours ends the process, in production too: what is not acknowledged is then
 * deferred by the client, what is acknowledged is in the spool. Input must never reach one. */
#define INVARIANT(condition)                                                                       \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: broken invariant: %s\n", __FILE__, __LINE__, #condition);      \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
