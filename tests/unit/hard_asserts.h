/* cmocka's asserts jump, which must not cross the stacks of fibers: here a failed one ends the
 * process, which fails the test as well. Include behind cmocka.h. */
#ifndef TESTS_HARD_ASSERTS_H
#define TESTS_HARD_ASSERTS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#undef assert_true
#undef assert_false
#undef assert_null
#undef assert_non_null
#undef assert_int_equal
#undef assert_string_equal
#undef assert_memory_equal
#undef fail_msg

#define fail_msg(...)                                                                              \
    do {                                                                                           \
        fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, __func__);                              \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fputc('\n', stderr);                                                                       \
        abort();                                                                                   \
    } while (0)
#define assert_true(condition)                                                                     \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg("not so: %s", #condition);                                                    \
    } while (0)
#define assert_false(condition) assert_true(!(condition))
#define assert_null(pointer) assert_true((pointer) == NULL)
#define assert_non_null(pointer) assert_true((pointer) != NULL)
#define assert_int_equal(a, b)                                                                     \
    do {                                                                                           \
        const long long a_ = (long long)(a), b_ = (long long)(b);                                  \
        if (a_ != b_)                                                                              \
            fail_msg("%s is %lld, not %lld", #a, a_, b_);                                          \
    } while (0)
#define assert_string_equal(a, b)                                                                  \
    do {                                                                                           \
        if (strcmp((a), (b)) != 0)                                                                 \
            fail_msg("%s is \"%s\"", #a, (a));                                                     \
    } while (0)
#define assert_memory_equal(a, b, count) assert_true(memcmp((a), (b), (count)) == 0)

#endif
