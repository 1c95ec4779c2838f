/*
 * The line on which the worker asks the parent for files, with a parent that loses an answer, gives
 * one late, or goes: each costs its own question and no other.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "app/processes.h"

enum deed { ANSWERS, REFUSES, LOSES, GOES };

/* A parent with a plan, one deed a question; what it lost it gives before its next answer. */
struct parent_side {
    int end;
    const enum deed *deeds;
    unsigned count;
    char last_path[64];
};

static void *parent_main(void *argument)
{
    struct parent_side *side = argument;
    uint32_t lost[4];
    unsigned lost_count = 0;

    for (unsigned i = 0; i < side->count; i++) {
        static struct broker_question question;
        const int file = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (!broker_receive(side->end, &question) || file < 0)
            break;
        snprintf(side->last_path, sizeof side->last_path, "%.60s", question.path);
        bool sent = true;
        if (side->deeds[i] == LOSES)
            lost[lost_count++] = question.number;
        while (side->deeds[i] == ANSWERS && lost_count > 0)
            sent = sent && broker_answer(side->end, lost[--lost_count], file, 0);
        if (side->deeds[i] == ANSWERS)
            sent = sent && broker_answer(side->end, question.number, file, 0);
        if (side->deeds[i] == REFUSES)
            sent = broker_answer(side->end, question.number, -1, ENOENT);
        close(file);
        if (side->deeds[i] == GOES || !sent)
            break;
    }
    close(side->end);
    return NULL;
}

static pthread_t begin(struct parent_side *side)
{
    int ends[2];
    pthread_t thread;

    assert_true(channel_pair(ends));
    side->end = fcntl(ends[0], F_DUPFD_CLOEXEC, 10);
    const int other = fcntl(ends[1], F_DUPFD_CLOEXEC, 10);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(dup2(other, WORKER_BROKER), WORKER_BROKER);
    close(other);
    assert_int_equal(pthread_create(&thread, NULL, parent_main, side), 0);
    return thread;
}

static void expect_file(const char *path)
{
    const int file = broker_ask(path);

    assert_true(file >= 0);
    close(file);
}

static void test_answers(void **state)
{
    static const enum deed deeds[] = {ANSWERS, REFUSES, ANSWERS};
    struct parent_side side = {.deeds = deeds, .count = 3};
    char too_long[BROKER_PATH_ROOM + 1];

    (void)state;
    const pthread_t thread = begin(&side);
    expect_file("/a");
    assert_int_equal(broker_ask("/b"), -1);
    assert_int_equal(errno, ENOENT);
    memset(too_long, 'x', sizeof too_long - 1);
    too_long[sizeof too_long - 1] = 0;
    assert_int_equal(broker_ask(too_long), -1); /* not even asked */
    assert_int_equal(errno, ENAMETOOLONG);
    expect_file("/c");
    pthread_join(thread, NULL);
    assert_string_equal(side.last_path, "/c");
    close(WORKER_BROKER);
}

static void test_an_answer_is_lost(void **state)
{
    static const enum deed deeds[] = {LOSES, ANSWERS, REFUSES};
    struct parent_side side = {.deeds = deeds, .count = 3};

    (void)state;
    const pthread_t thread = begin(&side);
    assert_int_equal(broker_ask("/lost"), -1);
    assert_int_equal(errno, ETIMEDOUT);
    const int before = dup(STDIN_FILENO); /* the lowest that is free */
    close(before);
    expect_file("/next"); /* behind the late answer to the first, whose file is closed */
    const int after = dup(STDIN_FILENO);
    close(after);
    assert_int_equal(after, before);
    assert_int_equal(broker_ask("/third"), -1);
    assert_int_equal(errno, ENOENT);
    pthread_join(thread, NULL);
    close(WORKER_BROKER);
}

static void test_the_parent_goes(void **state)
{
    static const enum deed deeds[] = {GOES};
    struct parent_side side = {.deeds = deeds, .count = 1};

    (void)state;
    const pthread_t thread = begin(&side);
    assert_int_equal(broker_ask("/a"), -1);
    assert_int_equal(errno, EACCES);
    pthread_join(thread, NULL);
    assert_int_equal(broker_ask("/b"), -1); /* and no signal for it */
    close(WORKER_BROKER);
}

/* Who does not read holds up nobody for long. */
static void test_nobody_reads(void **state)
{
    static struct channel_packet packet = {.kind = CHANNEL_SAID};
    int ends[2];
    unsigned sent = 0;

    (void)state;
    assert_true(channel_pair(ends));
    while (sent < 100000 && channel_send(ends[0], &packet))
        sent++;
    assert_true(sent > 0 && sent < 100000);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_an_answer_is_lost),
        cmocka_unit_test(test_the_parent_goes),
        cmocka_unit_test(test_nobody_reads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
